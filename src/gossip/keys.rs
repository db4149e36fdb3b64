//! Looking at the keys of every member, and changing them: one member asks another over a stream.
//!
//! ```text
//! asker                 asked
//! Hello         ──►
//!               ◄──     Ready     its nonce has never been used before
//! Order         ──►               bound to that nonce
//!               ◄──     Done      what the member has then, or why not
//! ```
//! All four are encrypted messages of [`seal`](super::seal), whatever a member demands otherwise: only who has a key that the other
//! understands can ask. An order that was recorded is worth nothing later, because it is bound to the nonce of the Ready that it
//! answers; nobody can put an old key back by repeating an old order.
//!
//! Whoever asks goes to each member itself, so nothing is relayed and an answer is a member's own.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::keyring::{Change, Key};
use super::seal::{Begun, Context, NO_CONTEXT, Purpose, Sealer, begin};
use super::wire::{FrameError, Garbage};
use crate::env::{BoxStream, Env};

/// What a member is asked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What to do with a key; nothing: only to tell.
    pub change: Option<(Change, String)>,
}

/// The keys that a member has.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// All of them, in base64.
    pub keys: Vec<String>,
    /// The one that it encrypts with.
    pub primary: String,
}

/// A member's answer: its keys, or why it did nothing.
pub type Answer = Result<Held, String>;

/// Carries out an order at this node.
///
/// # Errors
/// A text for people; then nothing was changed.
pub async fn here(env: &Env, sealer: &Sealer, order: &Order) -> Answer {
    if let Some((change, key)) = &order.change {
        let key = Key::parse(key).map_err(|error| error.to_string())?;
        sealer.change(env, *change, &key).await?;
        // Not which: that is nobody's who reads logs.
        tracing::info!(?change, "a key of gossip was changed");
    }
    let ring = sealer.ring().ok_or("this node does not encrypt its gossip")?;
    let keys = ring.keys().iter().map(|key| key.text().to_owned()).collect();
    Ok(Held { keys, primary: ring.primary().text().to_owned() })
}

/// Has the member at `addr` carry out an order.
///
/// # Errors
/// A text for people. After "no answer" the member may have done it.
pub async fn ask(
    env: &Env,
    sealer: &Sealer,
    cluster: u32,
    addr: SocketAddr,
    order: &Order,
    timeout: Duration,
) -> Answer {
    let order = postcard::to_stdvec(order).map_err(|error| error.to_string())?;
    let talk = async {
        let mut stream = env.network().connect(addr).await?;
        let hello = sealer.write(&mut *stream, Purpose::Hello, cluster, NO_CONTEXT, &[]).await?;
        let (_, ready) = expect(&mut stream, sealer, Purpose::Ready, cluster, hello).await?;
        let ordered = sealer.write(&mut *stream, Purpose::Order, cluster, ready, &order).await?;
        let (answer, _) = expect(&mut stream, sealer, Purpose::Done, cluster, ordered).await?;
        postcard::from_bytes::<Answer>(&answer).map_err(|_| Garbage::Malformed.into())
    };
    match env.timeout(timeout, talk).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err::<Held, FrameError>(error).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    }
}

/// Carries out the order of whoever has just said hello, which has been read but for its mark.
///
/// # Errors
/// When the stream breaks, or the other side has no key of ours.
pub async fn serve(
    env: &Env,
    sealer: &Sealer,
    cluster: u32,
    stream: &mut BoxStream,
) -> Result<(), FrameError> {
    let (_, hello) = sealer.read(&mut **stream, Purpose::Hello, cluster, NO_CONTEXT).await?;
    let ready = sealer.write(&mut **stream, Purpose::Ready, cluster, hello, &[]).await?;
    let (order, ordered) = expect(stream, sealer, Purpose::Order, cluster, ready).await?;
    let order: Order = postcard::from_bytes(&order).map_err(|_| Garbage::Malformed)?;
    let answer = here(env, sealer, &order).await;
    let answer = postcard::to_stdvec(&answer).map_err(|_| Garbage::Malformed)?;
    // The ring that answers is the new one: the asker has the key that it just told us of.
    sealer.write(&mut **stream, Purpose::Done, cluster, ordered, &answer).await?;
    Ok(())
}

async fn expect(
    stream: &mut BoxStream,
    sealer: &Sealer,
    purpose: Purpose,
    cluster: u32,
    context: Context,
) -> Result<(Vec<u8>, Context), FrameError> {
    match begin(&mut **stream).await? {
        Begun::Sealed(begun) if begun == purpose => {
            sealer.read(&mut **stream, purpose, cluster, context).await
        }
        Begun::Sealed(_) => Err(Garbage::Malformed.into()),
        Begun::Plain(_) => Err(Garbage::Unencrypted.into()),
    }
}
