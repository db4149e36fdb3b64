//! openraft's view of the world: its runtime trait, answered by the [`Env`] of the running task.
//!
//! The trait has only static methods, so the node's clock must come from the surroundings. It comes
//! from [`Env::current`]: every task of a node, openraft's own included, was started by
//! [`Env::spawn`]. So this file needs no `cfg` at all; the simulator's per-node clocks reach Raft's
//! elections and leases by the same road as production's single clock.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Map, Select, select};
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioWatch};
use rand::TryRng;

use crate::env::{Elapsed, Env, Instant, JoinError, JoinHandle, real};

/// The runtime that openraft is built on here.
pub struct Runtime {
    // Only for `block_on`, which openraft itself never calls: conformance tests do.
    tokio: tokio::runtime::Runtime,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

fn env() -> Env {
    match Env::current() {
        Some(env) => env,
        // Not reachable from outside: every task starts through `Env::spawn` or `Env::scope`.
        None => panic!("openraft was called outside of an Env's tasks"),
    }
}

impl openraft::Instant for Instant {
    fn now() -> Instant {
        env().now()
    }
}

/// Draws from the node's ambient stream.
#[derive(Debug)]
pub struct AmbientRng(Env);

impl TryRng for AmbientRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.ambient_random() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.ambient_random())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.0.ambient_random().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

type Race<F> = Select<std::pin::Pin<Box<F>>, BoxFuture<'static, ()>>;
type Raced<R, F> = Either<(R, BoxFuture<'static, ()>), ((), std::pin::Pin<Box<F>>)>;

fn first_or_elapsed<R, F: Future<Output = R>>(raced: Raced<R, F>) -> Result<R, Elapsed> {
    match raced {
        Either::Left((output, _)) => Ok(output),
        Either::Right(_) => Err(Elapsed),
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = BoxFuture<'static, ()>;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        Map<Race<T>, fn(Raced<R, T>) -> Result<R, Elapsed>>;
    type ThreadLocalRng = AmbientRng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        env().spawn(future)
    }

    fn sleep(duration: Duration) -> BoxFuture<'static, ()> {
        env().sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> BoxFuture<'static, ()> {
        env().sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        let env = env();
        Self::timeout_at(env.now() + duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        let sleep = env().sleep_until(deadline);
        select(Box::pin(future), sleep).map(first_or_elapsed::<R, F> as fn(Raced<R, F>) -> Result<R, Elapsed>)
    }

    fn is_panic(error: &JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> AmbientRng {
        AmbientRng(env())
    }

    fn new(threads: usize) -> Runtime {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        match tokio {
            Ok(tokio) => Runtime { tokio },
            Err(error) => panic!("no tokio runtime for a test: {error}"),
        }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.tokio.block_on(real::env_in_memory(0).scope(future))
    }

    async fn spawn_blocking<F, T>(job: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        env().blocking(job).await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openrafts_conformance_suite_passes() {
        openraft_rt::testing::Suite::<Runtime>::test_all();
    }
}
