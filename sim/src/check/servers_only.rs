//! SRV: only servers are members of the Raft configuration.
//!
//! A client agent has no log and no vote: as a voter it would be one that never answers, and every commit would need
//! one server more. Judged whenever a node takes up a configuration: each of its members must be a server that has
//! opened its store, in whichever life.
//!
//! Let pass: nothing that is seen. A configuration that no node takes up is not seen.

use std::collections::BTreeSet;

use driftline::env::Observed;

use super::view::View;
use super::{At, Check, Event, Findings};

/// The check's memory.
#[derive(Debug, Default)]
pub struct ServersOnly {
    servers: BTreeSet<u64>,
}

impl Check for ServersOnly {
    fn on(&mut self, at: At, event: &Event<'_>, _view: &View, findings: &mut Findings) {
        match event {
            Event::Observed(Observed::Recovered { raft_id, .. }) => {
                self.servers.insert(*raft_id);
            }
            Event::Observed(Observed::Membership { index, voters, learners }) => {
                let members = voters.iter().flatten().chain(learners);
                for stranger in members.filter(|member| !self.servers.contains(member)) {
                    let detail = format!(
                        "the configuration at index {index} has member {stranger:016x}, which is no server"
                    );
                    findings.add("SRV", at, detail);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::Bench;
    use super::*;

    fn membership(voters: &[u64], learners: &[u64]) -> Observed {
        Observed::Membership { index: 4, voters: vec![voters.to_vec()], learners: learners.to_vec() }
    }

    #[test]
    fn servers_may_be_members() {
        Bench::new(ServersOnly::default()).boots(3).says(0, membership(&[1, 2], &[3])).accepts();
    }

    #[test]
    fn a_member_that_is_no_server_is_rejected() {
        Bench::new(ServersOnly::default()).boots(2).says(0, membership(&[1, 2], &[9])).rejects("no server");
        Bench::new(ServersOnly::default()).boots(2).says(0, membership(&[1, 9], &[2])).rejects("no server");
    }
}
