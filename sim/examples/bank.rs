//! Transfers between accounts, over the store as it is: a workload of one's own and what must hold of it.
//!
//! Each account is a key. A transfer is two compare-and-sets, one that takes and one that gives, and each account's value
//! tells which transfers have passed through it: so whoever does not know whether a compare-and-set
//! happened can look, and try again without doing it twice. Between the two the money is under way. At every
//! moment what the accounts hold and what is under way is together what there was at the beginning, and an audit, which is one read of
//! all accounts, may look at any moment.
//!
//! The bug `BANK`: a client that does not know whether it has taken the money takes it again without looking.
//!
//!     cargo sim-example bank                          a sweep: bank transfers under everything that can break
//!     cargo sim-example bank run --seeds 1..=20 --mutant BANK

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use driftline::history::Entry;
use driftline::mutant;
use futures_util::future::BoxFuture;
use hyper::Method;
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sim::check::{Property, Violation};
use sim::experiment::{Caller, Experiment, violated};
use sim::history::{Action, Outcome, Response};
use sim::mutants::Mutant;
use sim::scenario::{PlannedAction, PlannedOp, Scenario};

/// The accounts there are.
const ACCOUNTS: u32 = 4;
/// What each holds at the beginning, before there is a key for it.
const BALANCE: i64 = 100;
/// How often a client tries to take or give before it lets the money be under way for good.
const TRIES: u32 = 12;
/// How long it waits in between.
const PAUSE: Duration = Duration::from_millis(200);

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Deed {
    Transfer { id: u32, from: u32, to: u32, amount: i64 },
    Audit,
}

/// What the key of an account holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    balance: i64,
    /// What each transfer has changed.
    moves: BTreeMap<u32, i64>,
    /// Which try wrote this: every value of a run is written once.
    written_by: String,
}

impl Account {
    fn new() -> Account {
        Account { balance: BALANCE, moves: BTreeMap::new(), written_by: String::new() }
    }
}

fn key(account: u32) -> String {
    format!("bank/{account}")
}

/// What is wrong with the accounts, seen all at one moment.
fn audit(accounts: &BTreeMap<u32, Account>) -> Option<String> {
    let held: i64 = accounts.values().map(|account| account.balance).sum();
    let ids: BTreeSet<u32> = accounts.values().flat_map(|account| account.moves.keys().copied()).collect();
    // Taken and not given yet.
    let under_way: i64 = ids
        .iter()
        .map(|id| -accounts.values().filter_map(|account| account.moves.get(id)).sum::<i64>())
        .sum();
    let whole = BALANCE * i64::from(ACCOUNTS);
    if let Some((number, account)) = accounts.iter().find(|(_, account)| account.balance < 0) {
        return Some(format!("account {number} holds {}", account.balance));
    }
    (held + under_way != whole)
        .then(|| format!("the accounts hold {held} and {under_way} is under way, together not {whole}"))
}

#[derive(Default)]
struct Bank {
    found: Mutex<Vec<Violation>>,
}

impl Bank {
    /// Changes an account by `delta` for a transfer, once. Whether it is certain that it has.
    async fn change(&self, caller: &dyn Caller, node: u32, account: u32, (id, delta): (u32, i64)) -> bool {
        let key = key(account);
        for attempt in 0..TRIES {
            if attempt > 0 {
                caller.sleep(PAUSE).await;
            }
            let Outcome::Ok(Response::Value(seen)) = caller.ask(node, &key, Action::Get, 0).await else {
                continue;
            };
            let index = seen.as_ref().map_or(0, |seen| seen.modify_index);
            let expected = seen.map(|seen| seen.value);
            let now = expected.as_deref().map_or_else(|| Ok(Account::new()), serde_json::from_str);
            let Ok(mut now) = now else { return false };
            if now.moves.contains_key(&id) && !mutant::is("BANK") {
                return true;
            }
            if now.balance + delta < 0 {
                return false;
            }
            now.balance += delta;
            now.moves.insert(id, delta);
            now.written_by = format!("{id}/{account}/{attempt}");
            let Ok(value) = serde_json::to_string(&now) else { return false };
            let outcome = caller.ask(node, &key, Action::Cas { expected, value }, index).await;
            if outcome == Outcome::Ok(Response::Done(true)) {
                return true;
            }
            // Not written, or nobody knows. If it is still to happen, it needs the index that the next try needs too: only one
            // of the two can.
        }
        false
    }

    async fn look(&self, caller: &dyn Caller, node: u32) {
        let answer = caller.call(node, Method::GET, "/v1/kv/bank/?recurse", Bytes::new()).await;
        let Some(response) = answer.ok().filter(|response| response.status == 200) else { return };
        let Ok(entries) = serde_json::from_slice::<Vec<Entry>>(&response.body) else { return };
        let mut accounts: BTreeMap<u32, Account> =
            (0..ACCOUNTS).map(|number| (number, Account::new())).collect();
        for (key, entry) in entries.into_iter().filter_map(Entry::versioned) {
            let number = key.strip_prefix("bank/").and_then(|number| number.parse().ok());
            if let (Some(number), Ok(account)) = (number, serde_json::from_str(&entry.value)) {
                accounts.insert(number, account);
            }
        }
        if let Some(problem) = audit(&accounts) {
            let detail = format!("by an audit through node {node}: {problem}");
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.push(violated("BANK", caller.now_ns(), detail));
        }
    }
}

impl Experiment for Bank {
    fn mutants(&self) -> &'static [Mutant] {
        &[Mutant {
            id: "BANK",
            what: "money is taken again when it is not known whether it was taken",
            origin: "this example",
            needs: sim::mutants::LOST_REPLIES,
            checks: &["BANK"],
        }]
    }

    fn properties(&self) -> &'static [Property] {
        &[Property {
            id: "BANK",
            claim: "no transfer makes or loses money",
            source: "this example",
            file: "../examples/bank.rs",
        }]
    }

    fn adapt(&self, scenario: &mut Scenario, rng: &mut StdRng) {
        for id in 0..60 {
            let from = rng.random_range(0..ACCOUNTS);
            let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
            let deed = match id % 5 {
                4 => Deed::Audit,
                _ => Deed::Transfer { id, from, to, amount: rng.random_range(1..=20) },
            };
            scenario.operations.push(PlannedOp {
                at_ms: rng.random_range(0..scenario.duration_ms),
                client: rng.random_range(0..3),
                node: rng.random_range(0..scenario.nodes),
                key: "bank".to_owned(),
                action: PlannedAction::Own(serde_json::json!(deed)),
            });
        }
    }

    fn perform<'a>(&'a self, caller: &'a dyn Caller, node: u32, deed: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match serde_json::from_value(deed.clone()) {
                Ok(Deed::Transfer { id, from, to, amount }) => {
                    if self.change(caller, node, from, (id, -amount)).await {
                        self.change(caller, node, to, (id, amount)).await;
                    }
                }
                Ok(Deed::Audit) => self.look(caller, node).await,
                // Not one of ours: a scenario written by somebody else.
                Err(_) => {}
            }
        })
    }

    fn verdict<'a>(&'a self, caller: &'a dyn Caller) -> BoxFuture<'a, Vec<Violation>> {
        Box::pin(async move {
            for node in caller.nodes() {
                self.look(caller, node).await;
            }
            std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

fn main() -> ExitCode {
    sim::cli::main_with(Arc::new(Bank::default()))
}
