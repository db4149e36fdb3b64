//! The tokens that the agent itself uses, and what it remembers of others' rights.
//!
//! A token comes from the configuration, or from `PUT /v1/agent/token/…`, which wins for as long as the agent runs, and
//! with `acl.enable_token_persistence` beyond that: those are kept in one small file, which holds secrets and is as
//! well protected as the directory it is in.
//!
//! **What is remembered.** A client agent decides some things itself (who may see its members, who may register a service
//! with it) and asks a server which rights a token has. It believes the answer for `acl.token_ttl_ms`, and if no server
//! answers then, for longer: an agent that was cut off is still looked after by those who looked after it before. What
//! the *servers* decide (keys, sessions, the catalog, tokens) is never decided by what a client remembers. At most
//! [`MOST`] tokens are remembered; the one that was asked for first makes room.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::state::acl::{ANONYMOUS, GLOBAL_MANAGEMENT};

use crate::config::AclTokens;
use crate::env::{Disk, Env, Instant, replace};
use crate::secret::Secret;
use crate::state::acl::Holder;

/// Tokens whose rights are remembered at once.
pub const MOST: usize = 1024;

/// Name of the file in the node's directory.
const FILE_NAME: &str = "acl-tokens";

/// What a token of the agent's is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// For requests that show none.
    Default,
    /// For what the agent does by itself.
    Agent,
    /// For looking after it when no server answers.
    Recovery,
    /// For what the configuration defines without a token of its own.
    Files,
    /// For servers that copy rights from another datacenter. There is one datacenter, so it is kept and used for nothing.
    Replication,
    /// For answering DNS questions, which show none.
    Dns,
}

impl Purpose {
    /// The purpose that a client calls by this name; older names are taken too, and `recovery`, as Consul's command has it.
    pub fn named(name: &str) -> Option<Purpose> {
        match name {
            "default" | "acl_token" => Some(Purpose::Default),
            "agent" | "acl_agent_token" => Some(Purpose::Agent),
            "agent_recovery" | "recovery" | "agent_master" | "acl_agent_master_token" => {
                Some(Purpose::Recovery)
            }
            "config_file_service_registration" => Some(Purpose::Files),
            "replication" | "acl_replication_token" => Some(Purpose::Replication),
            "dns" => Some(Purpose::Dns),
            _ => None,
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The agent's tokens.
pub struct Tokens {
    env: Env,
    /// Those that were set by the API. An empty one says that there shall be none.
    set: Arc<Mutex<BTreeMap<Purpose, Secret>>>,
    remembered: Mutex<BTreeMap<[u8; 32], (Instant, Option<Holder>)>>,
    /// Whose turn it is to write the file.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Tokens {
    /// With those that were kept, if they are to be.
    pub async fn open(env: &Env, persistent: bool) -> Tokens {
        let disk = env.disk();
        let kept =
            if persistent { env.blocking(move || read(&*disk)).await } else { Ok(Ok(BTreeMap::new())) };
        let kept = kept.unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        let set = kept.unwrap_or_else(|error| {
            tracing::error!(%error, "the tokens that were kept cannot be read: those of the configuration count");
            BTreeMap::new()
        });
        let (set, writing) = (Arc::new(Mutex::new(set)), Arc::default());
        Tokens { env: env.clone(), set, remembered: Mutex::default(), writing }
    }

    fn set_ones(&self) -> MutexGuard<'_, BTreeMap<Purpose, Secret>> {
        locked(&self.set)
    }

    /// The token for a purpose; empty if there is none.
    pub fn of(&self, purpose: Purpose, configured: &AclTokens) -> Secret {
        if let Some(set) = self.set_ones().get(&purpose) {
            return set.clone();
        }
        match purpose {
            Purpose::Default => configured.default.clone(),
            Purpose::Agent => configured.agent.clone(),
            Purpose::Recovery => configured.agent_recovery.clone(),
            Purpose::Files => configured.config_file_service_registration.clone(),
            Purpose::Dns => configured.dns.clone(),
            Purpose::Replication => Secret::default(),
        }
    }

    /// Sets a token, and keeps it if that is wanted.
    ///
    /// # Errors
    /// When it could not be kept. It is in force all the same.
    pub async fn set(&self, purpose: Purpose, secret: Secret, persistent: bool) -> Result<(), String> {
        self.set_ones().insert(purpose, secret);
        if !persistent {
            return Ok(());
        }
        let (env, set, writing) = (self.env.clone(), self.set.clone(), self.writing.clone());
        // In a task of its own, one after the other: who gives up waiting must not let another write beside this, and the last
        // one writes what is in force then.
        let kept = self.env.spawn(async move {
            let _turn = writing.lock().await;
            let (disk, all) = (env.disk(), locked(&set).clone());
            env.blocking(move || write(&*disk, &all)).await.map_err(io::Error::other).flatten()
        });
        kept.await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| format!("the token is in force but could not be kept: {error}"))
    }

    fn rights(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], (Instant, Option<Holder>)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a token, and for how long it has been.
    pub fn remembered(&self, secret: &Secret) -> Option<(Duration, Option<Holder>)> {
        let now = self.env.now();
        self.rights().get(&secret.digest()).map(|(since, holder)| (now.since(*since), holder.clone()))
    }

    /// Remembers what a server said of a token.
    pub fn remember(&self, secret: &Secret, holder: Option<Holder>) {
        let now = self.env.now();
        let mut rights = self.rights();
        rights.insert(secret.digest(), (now, holder));
        if rights.len() > MOST
            && let Some(oldest) = rights.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| *key)
        {
            rights.remove(&oldest);
        }
    }
}

fn read(disk: &dyn Disk) -> io::Result<BTreeMap<Purpose, Secret>> {
    if !disk.exists(FILE_NAME)? {
        return Ok(BTreeMap::new());
    }
    let file = disk.open(FILE_NAME)?;
    let len = usize::try_from(file.len()?.min(1 << 20)).unwrap_or_default();
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)?;
    postcard::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn write(disk: &dyn Disk, tokens: &BTreeMap<Purpose, Secret>) -> io::Result<()> {
    let bytes = postcard::to_stdvec(tokens).map_err(io::Error::other)?;
    replace(disk, FILE_NAME, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::env_in_memory;

    #[tokio::test]
    async fn a_token_that_is_set_wins_and_is_kept_if_that_is_wanted() {
        let env = env_in_memory(1);
        let configured = AclTokens { agent: Secret::new("configured"), ..AclTokens::default() };
        for (persistent, after) in [(false, "configured"), (true, "set")] {
            let tokens = Tokens::open(&env, persistent).await;
            assert_eq!(tokens.of(Purpose::Agent, &configured).expose(), "configured");
            tokens.set(Purpose::Agent, Secret::new("set"), persistent).await.unwrap();
            assert_eq!(tokens.of(Purpose::Agent, &configured).expose(), "set");
            assert!(tokens.of(Purpose::Default, &configured).is_empty());
            let again = Tokens::open(&env, persistent).await;
            assert_eq!(again.of(Purpose::Agent, &configured).expose(), after);
        }
    }

    #[tokio::test]
    async fn so_many_are_remembered_and_no_more() {
        let tokens = Tokens::open(&env_in_memory(1), false).await;
        for number in 0..=MOST {
            tokens.remember(&Secret::new(number.to_string()), None);
        }
        assert_eq!(tokens.rights().len(), MOST);
        assert!(tokens.remembered(&Secret::new(MOST.to_string())).is_some());
    }
}
