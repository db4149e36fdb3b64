//! How autopilot is to behave: a configuration that is the same on all servers, because any of them may lead.
//!
//! What it means is the agent's (`agent::autopilot`); here it is kept, with the indexes that a compare-and-set needs.

use serde::{Deserialize, Serialize};

use super::query::{Asked, Indexed};
use super::tables::part;
use super::{Outcome, State};

/// The configuration, under Consul's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutopilotConfig {
    /// Whether dead servers are taken out of the Raft configuration.
    pub cleanup_dead_servers: bool,
    /// A server that was not heard for longer is not healthy. Nanoseconds.
    pub last_contact_threshold_ns: u64,
    /// Nor is one whose log is so many entries behind.
    pub max_trailing_logs: u64,
    /// Cleaning up leaves at least so many voters; 0: only who has been replaced is removed.
    pub min_quorum: u64,
    /// How long a server must be as it is before anything is done about it. Nanoseconds.
    pub server_stabilization_time_ns: u64,
}

impl AutopilotConfig {
    /// What holds until somebody says otherwise.
    pub const DEFAULT: AutopilotConfig = AutopilotConfig {
        cleanup_dead_servers: true,
        last_contact_threshold_ns: 200_000_000,
        max_trailing_logs: 250,
        min_quorum: 0,
        server_stabilization_time_ns: 10_000_000_000,
    };
}

/// A change of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AutopilotCommand {
    /// Another configuration.
    Set {
        /// All of it.
        config: AutopilotConfig,
        /// Only if the modify index is this; 0: only if nobody has set one yet.
        cas: Option<u64>,
    },
}

/// The configuration, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autopilot {
    /// What holds.
    pub config: AutopilotConfig,
    /// When one was first set; 0 if never.
    pub create_index: u64,
    /// When it was last changed.
    pub modify_index: u64,
}

impl Default for Autopilot {
    fn default() -> Autopilot {
        Autopilot { config: AutopilotConfig::DEFAULT, create_index: 0, modify_index: 0 }
    }
}

impl Autopilot {
    /// Applies a command at log index `index`.
    pub(super) fn apply(&mut self, index: u64, command: &AutopilotCommand) -> Outcome {
        let AutopilotCommand::Set { config, cas } = command;
        if cas.is_some_and(|cas| cas != self.modify_index) {
            return Outcome::ConditionFailed { index };
        }
        if self.modify_index == 0 || self.config != *config {
            let create_index = if self.create_index == 0 { index } else { self.create_index };
            *self = Autopilot { config: config.clone(), create_index, modify_index: index };
        }
        Outcome::Done { index }
    }

    /// The same as if set at log index `index`.
    pub(super) fn written_at(self, index: u64) -> Autopilot {
        Autopilot { config: self.config, create_index: index, modify_index: index }
    }

    /// Whether anybody ever set anything.
    pub(super) fn is_set(&self) -> bool {
        self.modify_index > 0
    }

    pub(super) fn digest(&self) -> u64 {
        part(7, self)
    }
}

/// See [`super::Query::AutopilotInForce`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutopilotInForce;

impl Asked for AutopilotInForce {
    type Found = Autopilot;

    fn ask(&self, state: &State) -> Indexed<Autopilot> {
        let autopilot = state.autopilot().clone();
        Indexed { index: autopilot.modify_index, value: autopilot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_the_index_of_the_last_change() {
        let mut autopilot = Autopilot::default();
        let set = |min_quorum, cas| AutopilotCommand::Set {
            config: AutopilotConfig { min_quorum, ..AutopilotConfig::DEFAULT },
            cas,
        };
        assert!(!autopilot.apply(3, &set(1, Some(7))).is_done());
        assert_eq!(autopilot, Autopilot::default());
        assert!(autopilot.apply(4, &set(1, Some(0))).is_done());
        assert!(autopilot.apply(5, &set(1, None)).is_done());
        assert_eq!((autopilot.create_index, autopilot.modify_index), (4, 4), "the same is no change");
        assert!(autopilot.apply(6, &set(2, Some(4))).is_done());
        assert_eq!((autopilot.create_index, autopilot.modify_index, autopilot.config.min_quorum), (4, 6, 2));
    }
}
