//! What is left of a request's body when the answer is there.
//!
//! A request may be refused before its body was read. Whoever still sends it then sees its connection break, perhaps
//! before it has read the answer; and whoever has sent it all takes the connection for one that can be used again. So
//! the rest is read and thrown away, within bounds; past them the answer says that the connection ends, as Go's
//! `net/http` does.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::soon;
use crate::env::Env;

/// So much is thrown away at most.
const MOST: usize = 8 << 20;
/// And for so long.
const WITHIN: Duration = Duration::from_secs(2);

/// A request's body. Clones are the same one, so that what a handler leaves of it can be read after it.
#[derive(Clone)]
pub struct Rest(Arc<Mutex<Incoming>>);

impl Rest {
    /// Of a body that nobody has read from.
    pub fn new(body: Incoming) -> Rest {
        Rest(Arc::new(Mutex::new(body)))
    }

    fn locked(&self) -> MutexGuard<'_, Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is left and throws it away. Whether that was all.
    pub async fn discard(mut self, env: &Env) -> bool {
        if self.is_end_stream() {
            return true;
        }
        let read = async {
            let mut read = 0;
            while let Some(frame) = self.frame().await {
                let Ok(frame) = frame else { return false };
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > MOST {
                    return false;
                }
            }
            true
        };
        soon(env, WITHIN, read).await.unwrap_or(false)
    }
}

impl Body for Rest {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut *self.locked()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.locked().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.locked().size_hint()
    }
}
