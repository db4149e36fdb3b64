//! Which nodes a fault names, in one place: validation reads them, shrinking and the hunt change them.

use super::{FaultKind, MembershipChange, Shape, Target};

impl Target {
    pub(super) fn named(&mut self) -> Option<&mut u32> {
        match self {
            Target::Node(node) => Some(node),
            Target::Leader => None,
        }
    }
}

impl FaultKind {
    /// The numbers of all nodes that this fault names, to be read or changed.
    pub fn nodes_mut(&mut self) -> Vec<&mut u32> {
        match self {
            FaultKind::Partition { shape } => match shape {
                Shape::Split(nodes) | Shape::OneWay(nodes) => nodes.iter_mut().collect(),
                Shape::Clients(nodes) => nodes.iter_mut().collect(),
                Shape::Bridge(node) => vec![node],
                Shape::Link { from, to } => vec![from, to],
                Shape::Islands(groups) => groups.iter_mut().flatten().collect(),
                Shape::Leader | Shape::DeafLeader | Shape::MuteLeader | Shape::Ring => Vec::new(),
            },
            FaultKind::Stall { target }
            | FaultKind::Kill { target }
            | FaultKind::Clock { target, .. }
            | FaultKind::Disk { target, .. }
            | FaultKind::Vanish { target }
            | FaultKind::Move { target }
            | FaultKind::Slow { target, .. }
            | FaultKind::CrashLoop { target, .. }
            | FaultKind::FsyncFail { target, .. } => target.named().into_iter().collect(),
            FaultKind::Lag { links, .. }
            | FaultKind::Delay { links, .. }
            | FaultKind::Reorder { links, .. }
            | FaultKind::Duplicate { links, .. }
            | FaultKind::Loss { links, .. }
            | FaultKind::Bandwidth { links, .. }
            | FaultKind::Clog { links, .. }
            | FaultKind::BlackHole { links, .. }
            | FaultKind::Refusal { links }
            | FaultKind::Corrupt { links, .. } => links.named(),
            FaultKind::PowerLoss { nodes } | FaultKind::RestartStorm { nodes, .. } => nodes.iter_mut().collect(),
            FaultKind::LoseDisk { node }
            | FaultKind::Upgrade { node, .. }
            | FaultKind::RemovePeer { node, .. }
            | FaultKind::ForceLeave { node, .. }
            | FaultKind::SaveSnapshot { node, .. } => vec![node],
            FaultKind::Membership { change: MembershipChange::Leave(node) } => vec![node],
            FaultKind::Membership { change: MembershipChange::Add }
            | FaultKind::Transfer
            | FaultKind::CrashPoint { .. }
            | FaultKind::Hazard { .. }
            // What an experiment's own fault names is the experiment's business.
            | FaultKind::Own { .. } => Vec::new(),
        }
    }

    /// Whom this fault is aimed at, if it is one node, or whoever leads.
    pub fn target_mut(&mut self) -> Option<&mut Target> {
        match self {
            FaultKind::Stall { target }
            | FaultKind::Kill { target }
            | FaultKind::Clock { target, .. }
            | FaultKind::Vanish { target }
            | FaultKind::Move { target }
            | FaultKind::FsyncFail { target, .. } => Some(target),
            _ => None,
        }
    }

    /// The numbers of all nodes that this fault names.
    pub fn nodes(&self) -> Vec<u32> {
        self.clone().nodes_mut().into_iter().map(|node| *node).collect()
    }
}
