//! What a fault does, in words for somebody who has not seen the code. What is not told here says in the world's own words what it struck.

use crate::fault::Effect;
use crate::scenario::{ClockChange, DiskFault, Fault, FaultKind, Links, Spread, Target, Traffic};

/// What a fault does. `what` are the words of the world, which end with the node that it chose, if it chose one.
pub fn of_fault(fault: &Fault, what: &str) -> String {
    let node = what.rsplit_once(" on ").map_or(String::new(), |(_, node)| format!("{node}, "));
    match &fault.kind {
        FaultKind::Loss { percent, links } => {
            format!("{}: {percent} % of messages are lost", of_links(links))
        }
        FaultKind::Lag { links, spread } => format!("{}: {}", of_links(links), of_spread(spread)),
        FaultKind::Bandwidth { links, bytes_per_s } => {
            format!("{}: {bytes_per_s} bytes a second pass", of_links(links))
        }
        FaultKind::Clog { links, clogged_ms, free_ms } => {
            format!("{}: nothing for {clogged_ms} ms, then all for {free_ms} ms, in turn", of_links(links))
        }
        FaultKind::BlackHole { links, traffic } => format!("{}: {}", of_links(links), of_traffic(*traffic)),
        FaultKind::Refusal { links } => format!("{}: streams are refused and reset", of_links(links)),
        FaultKind::Corrupt { links, per_mille } => {
            format!("{}: bytes are changed in {per_mille} of 1000 messages", of_links(links))
        }
        FaultKind::Clock { change, .. } => format!("{node}{}", of_clock(change)),
        FaultKind::FsyncFail { syncs, .. } => format!("{node}{syncs} syncs fail"),
        FaultKind::Disk { fault, .. } => format!("{node}{}", of_disk(fault)),
        _ => what.to_owned(),
    }
}

/// What a rule does to a message.
pub fn of_effect(effect: &Effect) -> String {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    match effect {
        Effect::Block => "nothing passes".to_owned(),
        Effect::Lose(share) => format!("{} are lost", percent(*share)),
        Effect::Delay { min_ns, max_ns } => format!("{} to {} late", ms(*min_ns), ms(*max_ns)),
        Effect::Reorder { probability, max_ns } => {
            format!("{} are held back for up to {}", percent(*probability), ms(*max_ns))
        }
        Effect::Duplicate(share) => format!("{} of datagrams come twice", percent(*share)),
        Effect::Lag(spread) => of_spread(spread),
        Effect::Bandwidth(bytes) => format!("{bytes} bytes a second pass"),
        Effect::Clog { clogged_ns, free_ns, .. } => {
            format!("nothing for {}, then all for {}, in turn", ms(*clogged_ns), ms(*free_ns))
        }
        Effect::Swallow(traffic) => of_traffic(*traffic).to_owned(),
        Effect::Refuse => "streams are refused and reset".to_owned(),
        Effect::Corrupt(share) => format!("bytes are changed in {} of messages", percent(*share)),
    }
}

/// What a client knows of its lock: the lock, and the words. None for what only a check can read.
pub fn of_lock(note: &str) -> Option<(String, String)> {
    let (place, what) = note.split_once(": ")?;
    let (lock, session) = place.rsplit_once(' ')?;
    let words = match what.split_once(['(', ' ']).unwrap_or((what, "")) {
        ("Made", _) => "is made".to_owned(),
        ("Acquired", _) => "has the lock".to_owned(),
        ("Renewed", _) => "is renewed".to_owned(),
        ("Lost", _) => "is said to be gone".to_owned(),
        ("Seen", "None)") => "reads that nobody has the lock".to_owned(),
        ("Seen", holder) if holder.contains(session) => "reads that it has the lock".to_owned(),
        ("Seen", holder) => {
            format!("reads that another has the lock: {}", holder.split('"').nth(1).unwrap_or_default())
        }
        ("Releases", _) => "gives the lock back".to_owned(),
        ("Destroys", _) => "is ended by its client".to_owned(),
        _ => return None,
    };
    Some((lock.to_owned(), format!("session {session} {words}")))
}

fn ms(ns: u64) -> String {
    format!("{} ms", ns / 1_000_000)
}

fn of_target(target: &Target) -> String {
    match target {
        Target::Node(node) => format!("n{node}"),
        Target::Leader => "the leader".to_owned(),
    }
}

fn of_links(links: &Links) -> String {
    match links {
        Links::All => "all links".to_owned(),
        Links::Of(target) => format!("all links of {}", of_target(target)),
        Links::OutOf(target) => format!("what {} sends", of_target(target)),
        Links::Into(target) => format!("what {} is sent", of_target(target)),
        Links::One { from, to } => format!("what n{from} sends to n{to}"),
    }
}

fn of_spread(spread: &Spread) -> String {
    match spread {
        Spread::Constant { ms } => format!("{ms} ms late"),
        Spread::HeavyTail { min_ms, max_ms } => {
            format!("{min_ms} to {max_ms} ms late, most of them a little")
        }
    }
}

fn of_traffic(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Streams => "streams vanish, datagrams pass",
        Traffic::Datagrams => "datagrams vanish, streams pass",
    }
}

fn of_clock(change: &ClockChange) -> String {
    match change {
        ClockChange::Rate(ppm) => format!("its clock runs at ×{}", *ppm as f64 / 1e6),
        ClockChange::Jump(ms) => format!("its clock jumps {ms} ms ahead"),
        ClockChange::Step(ms) => format!("its wall clock jumps by {ms} ms"),
        ClockChange::RateSine { swing_ppm, period_ms } => {
            format!("its clock's rate swings by {swing_ppm} ppm, every {period_ms} ms")
        }
        ClockChange::RateWalk { step_ppm, every_ms } => {
            format!("its clock's rate wanders, {step_ppm} ppm a step, every {every_ms} ms")
        }
        ClockChange::WallSine { swing_ms, period_ms } => {
            format!("its wall clock swings by {swing_ms} ms, every {period_ms} ms")
        }
        ClockChange::WallWalk { step_ms, every_ms } => {
            format!("its wall clock wanders, {step_ms} ms a step, every {every_ms} ms")
        }
        ClockChange::Strobe { delta_ms, period_ms } => {
            format!("its wall clock jumps by {delta_ms} ms, to and fro, every {period_ms} ms")
        }
    }
}

fn of_disk(fault: &DiskFault) -> String {
    match fault {
        DiskFault::Slow { factor } => format!("its disk takes {factor} times as long"),
        DiskFault::Stall => "its disk does not answer".to_owned(),
        DiskFault::Full { left_bytes, everywhere } => {
            format!("{left_bytes} bytes are left{}", if *everywhere { " on every disk" } else { "" })
        }
        DiskFault::ReadError { reads, .. } => format!("{reads} reads fail"),
        DiskFault::WriteError { writes } => format!("{writes} writes fail"),
        DiskFault::ShortRead { reads, .. } => format!("{reads} reads find a file too short"),
        DiskFault::MisdirectedRead { reads, outdated: true, .. } => {
            format!("{reads} reads find what was there before")
        }
        DiskFault::MisdirectedRead { reads, .. } => format!("{reads} reads find sectors from elsewhere"),
        DiskFault::MisdirectedWrite { .. } => "a write lands elsewhere, then the power fails".to_owned(),
        DiskFault::BitRot { sectors } => format!("the power fails, and {sectors} sectors rot"),
        DiskFault::LyingSync => "syncs promise what they do not do, then the power fails".to_owned(),
        DiskFault::SyncCrash { power_loss, .. } => {
            format!(
                "{} in the middle of a sync",
                if *power_loss { "the power fails" } else { "the process dies" }
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strikes_a_node_names_the_node_and_no_type_of_ours() {
        let told = |kind: FaultKind, what: &str| of_fault(&Fault { at_ms: 0, for_ms: 1, kind }, what);
        let change = ClockChange::Rate(902_463);
        let clock = FaultKind::Clock { target: Target::Leader, change };
        assert_eq!(told(clock, "Rate(902463) on n2"), "n2, its clock runs at ×0.902463");
        let links = Links::Into(Target::Node(1));
        let hole = FaultKind::BlackHole { links, traffic: Traffic::Streams };
        let words = "what n1 is sent: streams vanish, datagrams pass";
        assert_eq!(told(hole, "Swallow(Streams) on Into(Node(1))"), words);
        let fault = DiskFault::WriteError { writes: 2 };
        let disk = FaultKind::Disk { target: Target::Leader, fault };
        assert_eq!(told(disk, "WriteError { writes: 2 } on n3"), "n3, 2 writes fail");
        let seen = of_lock("lock-1 7e19: Seen(Some(\"67ab\"))").unwrap();
        assert_eq!(
            seen,
            ("lock-1".to_owned(), "session 7e19 reads that another has the lock: 67ab".to_owned())
        );
        assert_eq!(of_lock("lock-1 7e19: Fenced { created: 36 }"), None);
        assert_eq!(told(FaultKind::Kill { target: Target::Leader }, "n0"), "n0");
    }
}
