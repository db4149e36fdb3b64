//! Stand-in: replaced by the simulated world's scenario.
#![allow(missing_docs)]
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    pub seed: u64,
    pub nodes: u32,
    pub faults: Vec<String>,
    pub operations: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub nodes: Option<u32>,
    pub duration_s: Option<u64>,
    pub without: BTreeSet<String>,
}

impl Scenario {
    pub fn generate(seed: u64, limits: &Limits) -> Scenario {
        Scenario { seed, nodes: limits.nodes.unwrap_or(3), faults: Vec::new(), operations: Vec::new() }
    }
}
