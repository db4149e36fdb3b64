//! Push/pull: two members tell each other all they know, over a stream.
//!
//! Rumours are quick but may miss somebody; an exchange of everything at times makes sure that what one
//! member knows, all will (anti-entropy). Joining is such an exchange too: the first.
//!
//! The side that connects sends its state first, the other answers with its own and both merge what they
//! got. Each exchange runs in a task of its own and meets the loop only through a bounded channel, so a
//! slow or malicious peer costs nothing but its own connection, and that only for the stream timeout.
//!
//! Both halves are encrypted if the cluster's gossip is ([`seal`](super::seal)); orders about keys come over such streams too
//! ([`keys`]).
//!
//! What is merged is decided by the loop; this file only carries bytes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use super::allegiance::Belongs;
use super::identity::Identity;
use super::keys;
use super::members::TABLE_LIMIT;
use super::seal::{Begun, Context, NO_CONTEXT, Purpose, Sealer, begin, refuse};
use super::wire::{FrameError, Garbage, Intent, MAX_FRAME, OLDEST, Profile, read_frame, write_frame};
use crate::env::{BoxStream, Env};

/// How many exchanges may run at once. When so many run, further ones are refused: the peer tries again at
/// its next interval.
pub const MAX_EXCHANGES: usize = 128;
/// Of those that others begin, how many may come from one address.
pub const MAX_EXCHANGES_EACH: usize = 32;
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
    /// For how long it has been gone, if it does not live. Who does not say which cluster it is of does not say this either:
    /// then it counts as gone just now.
    #[serde(skip)]
    pub gone_for_ms: u64,
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
    /// Which cluster the sender is of, if it says so.
    #[serde(skip)]
    pub of: Option<Belongs>,
}

impl State {
    /// As it stands in a frame. Which cluster the sender is of, and how long the dead have been gone, were added behind the rest; who
    /// does not know of it passes over it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = postcard::to_stdvec(self).unwrap_or_default();
        if self.of.is_some() {
            bytes.extend(Belongs::encode(self.of));
            for record in self.members.iter().filter(|record| !record.live) {
                bytes.extend(postcard::to_stdvec(&record.gone_for_ms).unwrap_or_default());
            }
        }
        bytes
    }

    /// What stands in a frame.
    ///
    /// # Errors
    /// When it is no state, or one of more members than there may be.
    pub fn decode(body: &[u8]) -> Result<State, FrameError> {
        let (join, rest) = take(body)?;
        let (sender, rest) = take(rest)?;
        let (count, mut rest) = take::<u64>(rest)?;
        // Before they are read: in memory a record is many times as long as in a frame.
        if count > TABLE_LIMIT as u64 {
            return Err(Garbage::Malformed.into());
        }
        let mut members = Vec::new();
        for _ in 0..count {
            let (record, after) = take::<Record>(rest)?;
            members.push(record);
            rest = after;
        }
        let (user, rest) = take(rest)?;
        let (of, mut rest) = Belongs::decode(rest)?;
        for record in members.iter_mut().filter(|record| !record.live) {
            // A node that does not know of them adds none.
            if rest.is_empty() {
                break;
            }
            (record.gone_for_ms, rest) = take(rest)?;
        }
        Ok(State { join, sender, members, user, of })
    }
}

fn take<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), Garbage> {
    postcard::take_from_bytes(bytes).map_err(|_| Garbage::Malformed)
}

/// What both sides of an exchange need to know.
pub struct Terms {
    /// The version of the question, or the newest that is understood.
    pub version: u8,
    /// The cluster's number.
    pub cluster: u32,
    /// How long it may take.
    pub timeout: Duration,
    /// The node's keys.
    pub sealer: Sealer,
}

impl Terms {
    /// Writes a frame, encrypted if that is demanded or the other side does it. Gives what an answer to it refers to.
    async fn write(
        &self,
        stream: &mut BoxStream,
        version: u8,
        (seal, purpose, context): (bool, Purpose, Context),
        body: &[u8],
    ) -> Result<Context, FrameError> {
        if !seal {
            write_frame(&mut **stream, version, self.cluster, body).await?;
            return Ok(NO_CONTEXT);
        }
        let mut frame = Vec::new();
        write_frame(&mut frame, version, self.cluster, body).await?;
        self.sealer.write(&mut **stream, purpose, self.cluster, context, &frame).await
    }

    /// Reads a frame whose beginning was read. Gives its version, its body, and what an answer to it refers to.
    async fn read(
        &self,
        stream: &mut BoxStream,
        begun: Begun,
        (purpose, context): (Purpose, Context),
    ) -> Result<(u8, Vec<u8>, Context), FrameError> {
        let (version, body, context) = match begun {
            Begun::Sealed(is) if is == purpose => {
                let (frame, first) = self.sealer.read(&mut **stream, purpose, self.cluster, context).await?;
                let (version, body) = read_frame(&mut &frame[..], self.version, self.cluster).await?;
                (version, body, first)
            }
            Begun::Sealed(_) => return Err(Garbage::Malformed.into()),
            Begun::Plain(_) if !self.sealer.takes_plain() => return Err(Garbage::Unencrypted.into()),
            Begun::Plain(first) => {
                let first = [first];
                let mut whole = (&first[..]).chain(&mut **stream);
                let (version, body) = read_frame(&mut whole, self.version, self.cluster).await?;
                (version, body, NO_CONTEXT)
            }
        };
        Ok((version, body, context))
    }
}

/// Exchanges states with the member at `addr`: sends `ours` in the version that it is known to speak and returns theirs.
///
/// # Errors
/// A text for people. The peer may or may not have merged our state.
pub async fn initiate(env: &Env, addr: SocketAddr, terms: &Terms, ours: Vec<u8>) -> Result<State, String> {
    let talk = async {
        let mut stream = env.network().connect(addr).await.map_err(FrameError::Io)?;
        let question = (terms.sealer.seals(), Purpose::Question, NO_CONTEXT);
        let asked = terms.write(&mut stream, terms.version, question, &ours).await?;
        let begun = begin(&mut *stream).await?;
        // An answer has the version of its question.
        let (_, body, _) = terms.read(&mut stream, begun, (Purpose::Answer, asked)).await?;
        State::decode(&body)
    };
    match env.timeout(terms.timeout, talk).await {
        Ok(result) => result.map_err(|error: FrameError| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", terms.timeout.as_millis())),
    }
}

/// Serves one incoming stream: an exchange, or an order about keys. `merge` hands their state to the loop and returns
/// ours as it was before.
///
/// # Errors
/// Why not; the peer sees its stream close. When another cluster asks it gets an empty frame of ours, which tells it so;
/// when it has not our keys, it is told that.
pub async fn serve<F>(
    env: &Env,
    mut stream: BoxStream,
    terms: &Terms,
    merge: impl FnOnce(State) -> F,
) -> Result<(), FrameError>
where
    F: Future<Output = Option<Vec<u8>>>,
{
    let talk = async {
        let begun = begin(&mut *stream).await?;
        if begun == Begun::Sealed(Purpose::Hello) {
            let served = keys::serve(env, &terms.sealer, terms.cluster, &mut stream).await;
            if let Err(error) = &served {
                refuse(&mut *stream, error).await;
            }
            return served;
        }
        let sealed = matches!(begun, Begun::Sealed(_));
        let read = terms.read(&mut stream, begun, (Purpose::Question, NO_CONTEXT)).await;
        let answer = |asked| (sealed || terms.sealer.seals(), Purpose::Answer, asked);
        let (version, body, asked) = match read {
            Ok(read) => read,
            Err(error) => {
                if matches!(error, FrameError::Garbage(Garbage::OtherCluster)) && !sealed {
                    terms.write(&mut stream, OLDEST, answer(NO_CONTEXT), &[]).await?;
                }
                refuse(&mut *stream, &error).await;
                return Err(error);
            }
        };
        match merge(State::decode(&body)?).await {
            Some(ours) => terms.write(&mut stream, version, answer(asked), &ours).await.map(drop),
            None => Ok(()),
        }
    };
    match env.timeout(terms.timeout, talk).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("the peer took longer than {} ms", terms.timeout.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
        }
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
            gone_for_ms: 0,
        };
        let of = Some(Belongs { cluster: 7, sure: true });
        let dead = Record { live: false, gone_for_ms: 300, ..sender.clone() };
        let members = vec![dead.clone(), sender.clone(), Record { gone_for_ms: 5, ..dead.clone() }];
        let state = State { join: true, sender, members, user: Bytes::from_static(b"u"), of };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes).unwrap(), state);
        // As builds have written it that did not know how long anybody was gone, and as one that says nothing of itself.
        let ages = [300u64, 5].map(|age| postcard::to_stdvec(&age).unwrap().len()).iter().sum::<usize>();
        let mut gone_now = state.clone();
        gone_now.members.iter_mut().for_each(|record| record.gone_for_ms = 0);
        assert_eq!(State::decode(&bytes[..bytes.len() - ages]).unwrap(), gone_now);
        assert_eq!(
            State::decode(&State { of: None, ..state }.encode()).unwrap(),
            State { of: None, ..gone_now }
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = State::decode(&bytes);
        }
    }
}
