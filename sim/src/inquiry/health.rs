//! Whether autopilot has come to say of a healed cluster what it is: every server is there, healthy, and votes, and as many may
//! fail as a majority can do without. Asked of every node, because each answers for the leader.

use std::collections::BTreeSet;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;

use super::{Inquirer, LOOK_EVERY};
use crate::scenario::nodes::node_name;

const PATH: &str = "/v1/operator/autopilot/health";

/// What a node tells.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    healthy: bool,
    failure_tolerance: usize,
    servers: Vec<ToldServer>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ToldServer {
    name: String,
    healthy: bool,
    voter: bool,
}

/// What in an answer does not fit a cluster of these servers, all of which are well. A cluster that is well is told of with
/// 200, and any other with 429.
fn misfit(status: u16, body: &[u8], servers: &BTreeSet<String>) -> Option<String> {
    let told: Told = match serde_json::from_slice(body) {
        Ok(told) if status == 200 || status == 429 => told,
        _ => return Some(format!("{status} {}", String::from_utf8_lossy(body).trim())),
    };
    let named: BTreeSet<String> = told.servers.iter().map(|server| server.name.clone()).collect();
    let well = |server: &ToldServer| server.healthy && server.voter;
    let fits = status == 200
        && told.healthy
        && told.servers.iter().all(well)
        && (named.len(), &named) == (told.servers.len(), servers)
        && told.failure_tolerance == servers.len().saturating_sub(1) / 2;
    (!fits).then(|| format!("{status} {told:?}"))
}

impl Inquirer<'_> {
    /// Waits until every node says that all is well; what one says instead when the time is over.
    pub async fn health_lags(&self) -> Option<String> {
        let deadline = self.clients.now() + self.within.as_nanos() as u64;
        let servers = self.nodes.iter().filter(|node| !self.scenario.is_agent(**node));
        let servers: BTreeSet<String> = servers.map(|node| node_name(*node)).collect();
        for node in &self.nodes {
            loop {
                let answer = self.clients.call(self.env, *node, Method::GET, PATH, Bytes::new()).await;
                let wrong = match answer {
                    Ok(answer) => misfit(answer.status, &answer.body, &servers),
                    Err(error) => Some(error.to_string()),
                };
                match wrong {
                    None => break,
                    Some(wrong) if self.clients.now() > deadline => {
                        return Some(format!(
                            "n{node} does not say that all servers are well and vote: {wrong}"
                        ));
                    }
                    Some(_) => self.clients.sleep(LOOK_EVERY).await,
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_well_is_told_of_as_it_is() {
        let servers: BTreeSet<String> = ["n0", "n1", "n2"].map(str::to_owned).into();
        let server = |name: &str, healthy: bool, voter: bool| serde_json::json!({ "Name": name, "Healthy": healthy, "Voter": voter, "StableSince": "x" });
        let fits = |status: u16, tolerance: u64, last: &[(&str, bool, bool)]| {
            let mut all = vec![server("n0", true, true), server("n1", true, true)];
            all.extend(last.iter().map(|(name, healthy, voter)| server(name, *healthy, *voter)));
            let told = serde_json::json!({ "Healthy": status == 200, "FailureTolerance": tolerance, "Servers": all });
            misfit(status, told.to_string().as_bytes(), &servers).is_none()
        };
        assert!(fits(200, 1, &[("n2", true, true)]));
        assert!(!fits(200, 2, &[("n2", true, true)]));
        assert!(!fits(429, 1, &[("n2", false, true)]));
        assert!(!fits(200, 1, &[("n2", true, false)]));
        assert!(!fits(200, 1, &[]) && !fits(200, 1, &[("n2", true, true), ("n2", true, true)]));
        assert!(misfit(500, b"no leader", &servers).is_some());
    }
}
