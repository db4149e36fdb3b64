//! Push/pull: two members tell each other all they know, over a stream.
//!
//! Rumours are quick but may miss somebody; an exchange of everything at times makes sure that what one
//! member knows, all will (anti-entropy). Joining is such an exchange too: the first.
//!
//! The side that connects sends its state first, the other answers with its own and both merge what they
//! got. Each exchange runs in a task of its own and meets the loop only through a bounded channel, so a
//! slow or malicious peer costs nothing but its own connection, and that only for the stream timeout.
//!
//! What is merged is decided by the loop; this file only carries bytes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::members::TABLE_LIMIT;
use super::wire::{FrameError, Garbage, Intent, MAX_FRAME, OLDEST, Profile, read_frame, write_frame};
use crate::env::{BoxStream, Env};

/// How many exchanges may run at once. When so many run, further ones are refused: the peer tries again at
/// its next interval.
pub const MAX_EXCHANGES: usize = 128;
/// How large a program's state may be.
pub const MAX_USER_STATE: usize = MAX_FRAME - (8 << 20);

/// What a member knows about one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The newest life known.
    pub id: Identity,
    /// Foca's incarnation of it.
    pub incarnation: u16,
    /// Whether it lives.
    pub live: bool,
    /// Its profile's revision, name and bytes, if known.
    pub profile: Option<(u64, String, Bytes)>,
    /// The last order to leave.
    pub intent: Option<Intent>,
}

impl Record {
    /// The profile, if there is one and a node could have sent it.
    pub fn profile(&self) -> Option<Profile> {
        let (revision, name, meta) = self.profile.clone()?;
        let profile = Profile { id: self.id, revision, name, meta };
        profile.is_sane().then_some(profile)
    }
}

/// All that a member knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Whether the sender asks to join.
    pub join: bool,
    /// The sender.
    pub sender: Record,
    /// The others.
    pub members: Vec<Record>,
    /// Its program's state.
    pub user: Bytes,
}

impl State {
    /// As it stands in a frame.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    pub(super) fn decode(body: &[u8]) -> Result<State, FrameError> {
        let state: State = postcard::from_bytes(body).map_err(|_| Garbage::Malformed)?;
        if state.members.len() > TABLE_LIMIT {
            return Err(Garbage::Malformed.into());
        }
        Ok(state)
    }
}

/// Exchanges states with the member at `addr`: sends `ours` in the version that it is known to speak and returns theirs.
///
/// # Errors
/// A text for people. The peer may or may not have merged our state.
pub async fn initiate(
    env: &Env,
    addr: SocketAddr,
    version: u8,
    cluster: u32,
    ours: Vec<u8>,
    timeout: Duration,
) -> Result<State, String> {
    let talk = async {
        let mut stream = env.network().connect(addr).await.map_err(FrameError::Io)?;
        write_frame(&mut *stream, version, cluster, &ours).await?;
        // An answer has the version of its question.
        let (_, body) = read_frame(&mut *stream, version, cluster).await?;
        State::decode(&body)
    };
    match env.timeout(timeout, talk).await {
        Ok(result) => result.map_err(|error: FrameError| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    }
}

/// Serves one incoming exchange. `merge` hands their state to the loop and returns ours as it was before.
///
/// # Errors
/// A text for people; the peer sees its stream close. When another cluster asks it gets an empty frame of
/// ours, which tells it so.
pub async fn serve<F>(
    env: &Env,
    mut stream: BoxStream,
    newest: u8,
    cluster: u32,
    timeout: Duration,
    merge: impl FnOnce(State) -> F,
) -> Result<(), String>
where
    F: Future<Output = Option<Vec<u8>>>,
{
    let talk = async {
        let (version, theirs) = match read_frame(&mut *stream, newest, cluster).await {
            Ok((version, body)) => (version, State::decode(&body)?),
            Err(error) => {
                if matches!(error, FrameError::Garbage(Garbage::OtherCluster)) {
                    write_frame(&mut *stream, OLDEST, cluster, &[]).await?;
                }
                return Err(error);
            }
        };
        match merge(theirs).await {
            Some(ours) => write_frame(&mut *stream, version, cluster, &ours).await,
            None => Ok(()),
        }
    };
    match env.timeout(timeout, talk).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the peer took longer than {} ms", timeout.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let id = Identity { node_id: 1, addr: "127.0.0.1:1".parse().unwrap(), generation: 3, leaving: false };
        let sender = Record {
            id,
            incarnation: 2,
            live: true,
            profile: Some((1, "a".into(), Bytes::from_static(b"m"))),
            intent: Some(Intent { generation: 2, prune: true }),
        };
        let state = State { join: true, sender: sender.clone(), members: vec![sender], user: Bytes::new() };
        assert_eq!(State::decode(&state.encode()).unwrap(), state);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = State::decode(&bytes);
        }
    }
}
