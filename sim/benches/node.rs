//! What one write costs a node, part by part: applying it, and making it durable; and what a history
//! costs the checker.
//!
//! `cargo bench -p sim`. Compare ratios between two runs on one machine, not times between machines.

#![allow(missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use driftline::env::real;
use driftline::raft::log::Log;
use driftline::raft::{Store, StoreOptions, TypeConfig};
use driftline::state::{Command, KvCommand, Request, RequestId, State};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{EntryOf, LogIdOf};
use openraft::{EntryPayload, LogId};
use sim::history::{Action, Operation, Outcome, Response, Versioned};

fn write(number: u64) -> Request {
    let set = KvCommand::Set {
        key: format!("key/{}", number % 1000),
        value: vec![number as u8; 256].into(),
        flags: 0,
        cas: None,
    };
    let id = RequestId { origin: 1, number };
    Request { id, done_below: number.saturating_sub(64), command: Command::Kv(set) }
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("state");
    group.throughput(Throughput::Elements(1));
    let mut state = State::default();
    let mut index = 0;
    group.bench_function("apply a 256-byte write", |b| {
        b.iter_batched(
            || {
                index += 1;
                (index, write(index))
            },
            |(index, request)| state.apply(index, &request),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn log_id(index: u64) -> LogIdOf<TypeConfig> {
    LogId::new(openraft::vote::leader_id_std::CommittedLeaderId::new(1), index)
}

fn append(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let env = real::env(directory.path()).expect("an environment");
    let _entered = runtime.enter();
    let store = runtime.block_on(env.scope(Store::open(&env, StoreOptions::default()))).expect("a new store");
    let mut log = Log::new(store);
    let mut next = 1;
    let mut group = c.benchmark_group("log");
    for batch in [1u64, 16, 256] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("append and sync {batch} entries of 256 bytes"), |b| {
            b.iter(|| {
                let entries: Vec<EntryOf<TypeConfig>> = (next..next + batch)
                    .map(|i| EntryOf::<TypeConfig> {
                        log_id: log_id(i),
                        payload: EntryPayload::Normal(write(i)),
                    })
                    .collect();
                next += batch;
                runtime.block_on(env.scope(async {
                    let (sender, flushed) = TypeConfig::oneshot();
                    log.append(entries, IOFlushed::signal(sender)).await.expect("appended");
                    flushed.await.expect("answered").expect("synced");
                }));
            });
        });
    }
    group.finish();
}

/// A valid history in which three operations are always under way.
fn overlapping(operations: u64) -> Vec<Operation> {
    let mut held: Option<Versioned> = None;
    let step = |id: u64| {
        let (action, response) = if id.is_multiple_of(2) {
            let value = format!("v{id}");
            held = Some(Versioned { value: value.clone(), modify_index: id + 1 });
            (Action::Put { value }, Response::Done(true))
        } else {
            (Action::Get, Response::Value(held.clone()))
        };
        Operation {
            id,
            client: (id % 3) as u32,
            node: 0,
            key: "k".to_owned(),
            action,
            invoked_ns: id * 10,
            outcome: Outcome::Ok(response),
            returned_ns: Some(id * 10 + 25),
        }
    };
    (0..operations).map(step).collect()
}

fn check(c: &mut Criterion) {
    let mut group = c.benchmark_group("checker");
    for operations in [1_000, 10_000] {
        let history = overlapping(operations);
        group.throughput(Throughput::Elements(operations));
        group.bench_function(format!("linearizability of {operations} operations on one key"), |b| {
            b.iter(|| sim::check::linearizable::check(&history));
        });
    }
    group.finish();
}

criterion_group!(benches, apply, append, check);
criterion_main!(benches);
