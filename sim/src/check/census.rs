//! CAT: once the cluster has healed, the catalog of every server says of the members what gossip says: each live one is
//! there with `serfHealth` passing, and nobody else passes; the service `consul` is that of servers, and of each that lives.
//!
//! The world asks every server for its own answer and gives the leader its time (module `world`): it looks when a
//! member or the leadership changes, and once a minute whatever happens.
//!
//! Let pass: what is entered while the storm goes on, since nobody promises when; and that a node that is gone is still
//! in the catalog, as long as it does not pass.

use std::collections::BTreeSet;

use serde::Deserialize;

/// The check that stands for a member's life.
const SERF_HEALTH: &str = "serfHealth";

/// A check as `/v1/health/state/any` shows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Shown {
    /// The name of its node.
    pub node: String,
    /// Its id.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// What it says.
    pub status: String,
}

/// What is wrong with what a server shows, if these nodes live.
pub fn disagreement(shown: &[Shown], live: &BTreeSet<String>) -> Option<String> {
    let health = shown.iter().filter(|check| check.check_id == SERF_HEALTH);
    let gone = health.clone().find(|check| check.status == "passing" && !live.contains(&check.node));
    if let Some(gone) = gone {
        return Some(format!("{:?}, which is gone, passes", gone.node));
    }
    live.iter().find_map(|node| match health.clone().find(|check| check.node == *node) {
        None => Some(format!("live {node:?} has no {SERF_HEALTH}")),
        Some(check) if check.status != "passing" => Some(format!("live {node:?} is {}", check.status)),
        Some(_) => None,
    })
}

/// An instance of the servers' own service as `/v1/catalog/service/consul` shows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Instance {
    /// The name of its node.
    pub node: String,
}

/// What is wrong with the servers that a server shows, if these live, and these live and are none.
pub fn misplaced(
    shown: &[Instance],
    servers: &BTreeSet<String>,
    clients: &BTreeSet<String>,
) -> Option<String> {
    let nodes: BTreeSet<&String> = shown.iter().map(|instance| &instance.node).collect();
    if let Some(stranger) = clients.iter().find(|client| nodes.contains(client)) {
        return Some(format!("{stranger:?}, which is a client, is entered as a server"));
    }
    let missing = servers.iter().find(|server| !nodes.contains(server));
    missing.map(|missing| format!("live {missing:?} is not entered as a server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(shown: &str) -> Option<String> {
        let live = ["n0", "n1"].map(str::to_owned);
        disagreement(&serde_json::from_str::<Vec<Shown>>(shown).unwrap(), &live.into())
    }

    #[test]
    fn a_catalog_that_follows_gossip_is_accepted() {
        let shown = r#"[
            {"Node": "n0", "CheckID": "serfHealth", "Status": "passing", "Output": "Agent alive and reachable"},
            {"Node": "n0", "CheckID": "service:web", "Status": "critical"},
            {"Node": "n1", "CheckID": "serfHealth", "Status": "passing"},
            {"Node": "n2", "CheckID": "serfHealth", "Status": "critical"},
            {"Node": "outside", "CheckID": "ping", "Status": "passing"}
        ]"#;
        assert_eq!(found(shown), None);
    }

    #[test]
    fn a_live_member_that_is_missing_or_critical_is_rejected() {
        let missing = r#"[{"Node": "n0", "CheckID": "serfHealth", "Status": "passing"},
                          {"Node": "n1", "CheckID": "ping", "Status": "passing"}]"#;
        assert_eq!(found(missing).unwrap(), r#"live "n1" has no serfHealth"#);
        let critical = r#"[{"Node": "n0", "CheckID": "serfHealth", "Status": "critical"}]"#;
        assert_eq!(found(critical).unwrap(), r#"live "n0" is critical"#);
    }

    #[test]
    fn servers_and_nobody_else_have_the_service_of_servers() {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let shown = |names: &[&str]| -> Vec<Instance> {
            names.iter().map(|node| Instance { node: (*node).to_owned() }).collect()
        };
        let found = |nodes: &[&str]| misplaced(&shown(nodes), &of(&["n0", "n1"]), &of(&["n5"]));
        assert_eq!(found(&["n0", "n1"]), None);
        assert_eq!(found(&["n2", "n1", "n0"]), None, "one that is gone may still be there, in any order");
        assert!(found(&["n0", "n1", "n5"]).unwrap().contains("\"n5\", which is a client"));
        assert!(found(&["n1"]).unwrap().contains("live \"n0\" is not"));
    }

    #[test]
    fn one_that_is_gone_and_passes_is_rejected() {
        let shown = r#"[{"Node": "n0", "CheckID": "serfHealth", "Status": "passing"},
                        {"Node": "n1", "CheckID": "serfHealth", "Status": "passing"},
                        {"Node": "n2", "CheckID": "serfHealth", "Status": "passing"}]"#;
        assert!(found(shown).unwrap().contains("\"n2\", which is gone"));
    }
}
