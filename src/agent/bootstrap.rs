//! How the first servers found their cluster: exactly one cluster, whatever order they start in.
//!
//! With `bootstrap-expect N`, each waits until gossip shows N servers that expect N. Then one asks
//! all of them, itself included, to *promise* durably to found the cluster of exactly these N and no
//! other. Only when all N have promised does one of them, the one with the smallest id, write the
//! first log entry; the others get it from there. Two servers that saw different sets cannot both
//! succeed: the sets share a server (or there were two full sets, an operator's mistake that gossip
//! then shows as two cluster ids), and that server promises only once. If one of them already belongs
//! to a cluster, nothing is founded: its leader will take the others in.

use std::time::Duration;

use crate::gossip::Status;
use crate::raft::rpc::{Answer, Ask, Lane};
use crate::raft::{RaftNode, ServerInfo, cluster_id};

use super::meta::Meta;
use super::reconcile::Seen;

/// Which servers would found a cluster together, as gossip sees them; `None` while they are too few.
/// More than expected: those with the smallest ids, so that all choose the same.
pub fn founders(seen: &[(Seen, Meta)], expect: u32) -> Option<Vec<ServerInfo>> {
    let mut waiting: Vec<ServerInfo> = seen
        .iter()
        .filter(|(seen, meta)| seen.status == Status::Alive && meta.expect() == expect)
        .map(|(seen, _)| seen.server.clone())
        .collect();
    waiting.sort_by_key(|server| server.node_id);
    waiting.truncate(expect as usize);
    (waiting.len() == expect as usize).then_some(waiting)
}

/// Asks all founders to promise; founds if all did.
///
/// # Errors
/// Why not, in words; the caller tries again later.
pub async fn found_together(
    node: &RaftNode,
    founders: &[ServerInfo],
    within: Duration,
) -> Result<(), String> {
    match founders.first() {
        Some(first) if first.node_id == node.me().node_id => {}
        Some(first) => return Err(format!("{} is to found the cluster", first.name)),
        None => return Err("there are no founders".to_owned()),
    }
    let cluster = cluster_id(&founders.iter().map(|server| server.node_id).collect());
    for server in founders.iter().filter(|server| server.node_id != node.me().node_id) {
        let answer = node
            .pool()
            .call(server.addr, Some(server.node_id), Lane::Client, &Ask::Promise { cluster }, within)
            .await;
        match answer {
            Ok(Answer::Promise { cluster: promised }) if promised == cluster => {}
            Ok(Answer::Promise { cluster: promised }) => {
                return Err(format!("{} promised itself to cluster {promised:016x}", server.name));
            }
            Ok(Answer::WrongCluster { cluster }) => {
                return Err(format!("{} already belongs to cluster {cluster:016x}", server.name));
            }
            Ok(_) => return Err(format!("{} gave an answer that does not fit", server.name)),
            Err(error) => return Err(format!("{} does not promise to found it: {error}", server.name)),
        }
    }
    node.found(founders).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::meta::Role;
    use super::*;
    use std::net::SocketAddr;

    fn seen(node_id: u64, expect: u32, status: Status) -> (Seen, Meta) {
        let addr = SocketAddr::from(([10, 0, 0, node_id as u8], 8300));
        let server = ServerInfo { node_id, name: format!("n{node_id}"), addr, generation: 0 };
        let meta = Meta {
            role: Role::Server { rpc_addr: addr, expect },
            http_port: 0,
            datacenter: String::new(),
            version: String::new(),
            tags: Default::default(),
        };
        (Seen { server, status }, meta)
    }

    #[test]
    fn all_servers_choose_the_same_founders() {
        let mut seen: Vec<_> = [5, 3, 9, 1].map(|id| seen(id, 3, Status::Alive)).into();
        let chosen = founders(&seen, 3).unwrap();
        assert_eq!(chosen.iter().map(|s| s.node_id).collect::<Vec<_>>(), [1, 3, 5]);
        seen.reverse();
        assert_eq!(founders(&seen, 3).unwrap(), chosen);
    }

    #[test]
    fn the_dead_and_those_with_other_expectations_do_not_count() {
        let seen = [
            seen(1, 3, Status::Alive),
            seen(2, 3, Status::Failed),
            seen(3, 5, Status::Alive),
            seen(4, 3, Status::Alive),
        ];
        assert_eq!(founders(&seen, 3), None);
    }
}
