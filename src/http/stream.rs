//! A client's stream with the server's patience built in.
//!
//! HTTP/1.1 lets a client be slow in four places: before its first request, between the first and the
//! last byte of a request's head, between requests, and in taking an answer. Each has a deadline here,
//! by the node's own clock; past it, reading or writing fails and the connection goes. (The fifth
//! place, a request's body, belongs to whoever reads it: see `Api::read_body`.) hyper has timers of
//! its own for some of these, but they run on the operating system's clock.
//!
//! While a request is being answered, nobody hurries the client: a blocking query is silent for
//! minutes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::env::{BoxStream, Env, Instant};

/// How long a connection may stand idle between two requests. Longer than the 90 seconds after which
/// Go's clients close one themselves, so that the usual client never writes into a closing connection.
const IDLE: Duration = Duration::from_secs(120);

/// Counts the beginnings and ends of requests on one connection: odd while one is being answered. Only
/// the connection's own task looks at it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Says that a request's head is complete, or that its answer is ready to be written.
    pub fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the [module](self).
pub struct PatientStream {
    stream: BoxStream,
    progress: Progress,
    seen: u64,
    patience: Duration,
    /// Between two requests; before the first there is less patience.
    idle: Duration,
    reading: Watchdog,
    writing: Watchdog,
}

impl PatientStream {
    /// Wraps a fresh connection. `patience` is for a request's head, and for each pause of a client
    /// that takes an answer.
    pub fn new(env: &Env, stream: BoxStream, progress: Progress, patience: Duration) -> PatientStream {
        PatientStream {
            stream,
            progress,
            seen: 0,
            patience,
            idle: patience,
            reading: Watchdog::new(env),
            writing: Watchdog::new(env),
        }
    }

    fn poll_write_side<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut BoxStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = write(Pin::new(&mut self.stream), cx) {
            self.writing.rest();
            return Poll::Ready(done);
        }
        self.writing.start(self.patience);
        ready!(self.writing.poll(cx));
        Poll::Ready(Err(late("the client does not take the answer")))
    }
}

fn late(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl AsyncRead for PatientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let progress = this.progress.get();
        if this.seen != progress {
            this.seen = progress;
            this.reading.rest();
            this.idle = IDLE;
        }
        if progress % 2 == 1 {
            return read;
        }
        if read.is_ready() {
            // The first bytes of a head start its deadline; the following ones do not move it.
            if buffer.filled().len() > before && !this.reading.is_within(this.patience) {
                this.reading.restart(this.patience);
            }
            return read;
        }
        this.reading.start(this.idle);
        ready!(this.reading.poll(cx));
        Poll::Ready(Err(late("the client sends no request")))
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_side(cx, |stream, cx| stream.poll_write(cx, data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_side(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write_side(cx, |stream, cx| stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_side(cx, |stream, cx| stream.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A deadline that moves often and passes seldom: moving it later costs nothing, because a timer that
/// goes off early is merely set again.
struct Watchdog {
    env: Env,
    deadline: Option<Instant>,
    timer: Option<(Instant, BoxFuture<'static, ()>)>,
}

impl Watchdog {
    fn new(env: &Env) -> Watchdog {
        Watchdog { env: env.clone(), deadline: None, timer: None }
    }

    /// No deadline from now on.
    fn rest(&mut self) {
        self.deadline = None;
    }

    /// Sets the deadline unless there is one.
    fn start(&mut self, patience: Duration) {
        if self.deadline.is_none() {
            self.restart(patience);
        }
    }

    fn restart(&mut self, patience: Duration) {
        self.deadline = Some(self.env.now() + patience);
    }

    /// Whether there is a deadline that is no further away than this.
    fn is_within(&self, patience: Duration) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= self.env.now() + patience)
    }

    /// Ready when the deadline has passed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        loop {
            match &mut self.timer {
                Some((at, timer)) if *at <= deadline => {
                    ready!(timer.as_mut().poll(cx));
                    self.timer = None;
                    if self.env.now() >= deadline {
                        return Poll::Ready(());
                    }
                }
                _ => self.timer = Some((deadline, self.env.sleep_until(deadline))),
            }
        }
    }
}
