//! What an agent registered, on its disk, so that it is there again after a restart.
//!
//! ```text
//! services/SHA-256 of the id          a service
//! checks/SHA-256 of the id            a check, as it was defined
//! checks/SHA-256 of the id.state      how a check with a TTL stood when it was last told, and until when that counts
//! ```
//!
//! Each is a file of [`kept`](super::super::kept). One that cannot be read is named in the log and left where it is; the others do
//! not suffer.
//!
//! How a check stood is not synced: it changes all the time, and if it is lost the check is critical until it is told
//! again, as one that is new. Two lives of an agent have no clock in common but the one on the wall, so that one says
//! whether it still counts, and only that: whatever it shows, what is restored lasts no longer than the check's TTL.
//!
//! The token that something was registered with is kept with it, as by Consul: after a restart the catalog is told by the same
//! right. Files are readable to the agent's user only.
//!
//! What the configuration defines is not kept: its place is there. How its checks stood is.
//!
//! What belongs on disk is a function of the [`Book`] and of those tokens; [`Shelf`] remembers what is there and says what differs.
//! All of it is compared once in a life; after that what changed since, which the book knows: a heartbeat costs the same
//! in an agent with many services as in one with few.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::env::Disk;
use crate::mutant;
use crate::secret::Secret;
use crate::state::catalog::{ServiceInfo, Status};

use super::super::kept::{content, parsed, read};
use super::book::{Book, Definition, Item, OwnCheck, Probe};

const SERVICES: &str = "services";
const CHECKS: &str = "checks";
const STATE: &str = ".state";
const MAKING: &str = ".tmp";
/// Files that are written, and open, at once.
const AT_ONCE: usize = 64;

/// How a check stood when it was last told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// Its id.
    pub id: String,
    /// What it was told.
    pub status: Status,
    /// And in which words.
    pub output: String,
    /// Until when that counts: milliseconds since 1970 on the wall clock.
    pub until_ms: u64,
}

/// A service or a check in its file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept<T> {
    #[serde(flatten)]
    what: T,
    /// Written out: it is a file of secrets then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    token: String,
}

impl<T> Kept<T> {
    fn taken(self) -> (T, Secret) {
        (self.what, Secret::new(self.token))
    }
}

/// By whose right things were registered, where it was not the agent's own.
pub type Tokens = BTreeMap<Item, Secret>;

/// What was found on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Services, with the tokens that they were registered with; empty: none.
    pub services: Vec<(ServiceInfo, Secret)>,
    /// Checks, in the same way.
    pub checks: Vec<(Definition, Secret)>,
    /// How checks with a TTL stood.
    pub stood: Vec<Stood>,
    /// Files that cannot be read, and why.
    pub bad: Vec<(String, String)>,
}

/// A change of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This file has this content.
    Write(String, String),
    /// This file is not there.
    Remove(String),
}

/// What is on the disk, as far as this life put or found it there: names with a hash of the content.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    there: BTreeMap<String, u64>,
    /// Whether all of a book was compared with it.
    compared: bool,
}

fn name(folder: &str, id: &str) -> String {
    let digest: String = Sha256::digest(id).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{folder}/{digest}")
}

/// The files of one item, each with its content, or without if it does not belong on disk.
fn files(book: &Book, tokens: &Tokens, item: &Item) -> Vec<(String, Option<String>)> {
    let kept = !book.is_configured(item);
    let token = || tokens.get(item).map_or_else(String::new, |token| token.expose().to_owned());
    match item {
        Item::Service(id) => {
            let service = book.services().get(id).filter(|_| kept);
            let content = service.map(|service| content(&Kept { what: service, token: token() }));
            vec![(name(SERVICES, id), content)]
        }
        Item::Check(id) => {
            let (name, check) = (name(CHECKS, id), book.checks().get(id));
            let state = format!("{name}{STATE}");
            let definition = check.filter(|_| kept).map(|check| &check.definition);
            let definition = definition.map(|what| content(&Kept { what, token: token() }));
            let stood = check.and_then(|check| stood(check).map(|stood| content(&stood)));
            vec![(name, definition), (state, stood)]
        }
    }
}

/// How a check stands, if it was told so and that still counts.
fn stood(check: &OwnCheck) -> Option<Stood> {
    let (Some(Probe::Ttl(_)), Some(until)) = (&check.definition.probe, check.told_until()) else {
        return None;
    };
    let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
    let (id, output) = (check.definition.id.clone(), check.output.clone());
    Some(Stood { id, status: check.status, output, until_ms })
}

impl Shelf {
    /// Whether what is there was compared with all of the book, so that what changed since is all that can differ.
    pub fn is_compared(&self) -> bool {
        self.compared
    }

    /// What to do so that the disk holds this book.
    pub fn changes(&self, book: &Book, tokens: &Tokens) -> Vec<Change> {
        let services = book.services().keys().cloned().map(Item::Service);
        let checks = book.checks().keys().cloned().map(Item::Check);
        let files = services.chain(checks).flat_map(|item| files(book, tokens, &item));
        let wanted = files.filter_map(|(name, content)| Some((name, content?)));
        let wanted: BTreeMap<String, String> = wanted.collect();
        let gone = self.there.keys().filter(|name| !wanted.contains_key(*name));
        let mut changes: Vec<Change> = gone.map(|name| Change::Remove(name.clone())).collect();
        changes.extend(wanted.into_iter().filter_map(|(name, content)| self.change(name, Some(content))));
        changes
    }

    /// The same, as far as it is about these items.
    pub fn changes_of(&self, book: &Book, tokens: &Tokens, items: &BTreeSet<Item>) -> Vec<Change> {
        let files = items.iter().flat_map(|item| files(book, tokens, item));
        files.filter_map(|(name, content)| self.change(name, content)).collect()
    }

    fn change(&self, name: String, wanted: Option<String>) -> Option<Change> {
        let there = self.there.get(&name);
        match wanted {
            Some(content) => {
                (there != Some(&xxh3_64(content.as_bytes()))).then_some(Change::Write(name, content))
            }
            None => there.map(|_| Change::Remove(name)),
        }
    }

    /// These were done, so that the disk holds the book.
    pub fn done(&mut self, changes: &[Change]) {
        self.compared = true;
        for change in changes {
            match change {
                Change::Write(name, content) => {
                    self.there.insert(name.clone(), xxh3_64(content.as_bytes()));
                }
                Change::Remove(name) => {
                    self.there.remove(name);
                }
            }
        }
    }

    /// Reads what is there. What cannot be read is told, not counted as there.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn read(&mut self, disk: &dyn Disk) -> io::Result<Found> {
        let mut found = Found::default();
        for folder in [SERVICES, CHECKS] {
            for name in disk.list_in(folder)?.into_iter().filter(|name| !name.ends_with(MAKING)) {
                let text = match read(disk, &name) {
                    Ok(text) => text,
                    Err(error) => {
                        found.bad.push((name, error.to_string()));
                        continue;
                    }
                };
                let kept = if folder == SERVICES {
                    parsed(&text).map(|kept: Kept<ServiceInfo>| found.services.push(kept.taken()))
                } else if name.ends_with(STATE) {
                    parsed(&text).map(|stood| found.stood.push(stood))
                } else {
                    parsed(&text).map(|kept: Kept<Definition>| found.checks.push(kept.taken()))
                };
                match kept {
                    Ok(()) => drop(self.there.insert(name, xxh3_64(text.as_bytes()))),
                    Err(reason) => found.bad.push((name, reason)),
                }
            }
        }
        Ok(found)
    }
}

/// Carries out changes, durably except for how checks stood.
///
/// # Errors
/// The first that fails; those before it were done, and all can be tried again.
pub fn carry_out(disk: &dyn Disk, changes: &[Change]) -> io::Result<()> {
    let mut lasting = false;
    for changes in changes.chunks(AT_ONCE) {
        // What is written already is synced with the first that is: the file system writes its journal once.
        let mut written = Vec::new();
        for change in changes {
            if let Change::Write(name, content) = change {
                let file = disk.open(&making(name))?;
                file.set_len(0)?;
                file.write_at(0, content.as_bytes())?;
                written.push((name, file));
            }
        }
        for (name, file) in written {
            // Mutant C11: the operating system will see to it.
            if !name.ends_with(STATE) && !mutant::is("C11") {
                lasting = true;
                file.sync()?;
            }
        }
        for change in changes {
            match change {
                Change::Write(name, _) => disk.rename(&making(name), name)?,
                Change::Remove(name) => match disk.remove(name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => {
                        lasting |= !name.ends_with(STATE);
                        done?;
                    }
                },
            }
        }
    }
    if lasting { disk.sync_dir() } else { Ok(()) }
}

/// What a file is called until it is whole.
fn making(name: &str) -> String {
    format!("{name}{MAKING}")
}

/// How much longer what a check was told counts, if it does: never longer than its TTL.
pub fn counts_for(until_ms: u64, wall: Duration, ttl: Duration) -> Option<Duration> {
    let left = Duration::from_millis(until_ms).checked_sub(wall)?.min(ttl);
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::definition;
    use super::*;
    use crate::env::{Instant, MemoryDisk};
    use crate::state::catalog::{NodeInfo, Row, WholeNode};
    use proptest::prelude::*;

    fn service(id: &str) -> ServiceInfo {
        ServiceInfo { id: id.into(), name: id.into(), weights: (1, 1), ..ServiceInfo::default() }
    }

    fn check(id: &str, service_id: &str) -> Definition {
        Definition { probe: Some(Probe::Ttl(Duration::from_secs(30))), ..definition(id, service_id) }
    }

    /// A book with two services and a check of each, and the disk that holds it.
    fn kept() -> (Book, Shelf, MemoryDisk) {
        let (mut book, mut shelf, disk) = (Book::default(), Shelf::default(), MemoryDisk::default());
        for id in ["web", "a/../b"] {
            book.set_service(service(id));
            book.set_check(check(&format!("{id}-up"), id), Instant(0)).unwrap();
        }
        book.tell("web-up", Status::Warning, "so so".into(), Instant(0)).unwrap();
        book.counts_until("web-up", Some(Duration::from_secs(100)));
        let changes = shelf.changes(&book, &Tokens::new());
        assert_eq!(changes.len(), 5);
        carry_out(&disk, &changes).unwrap();
        shelf.done(&changes);
        assert_eq!(shelf.changes(&book, &Tokens::new()), []);
        (book, shelf, disk)
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let (mut book, mut shelf, disk) = kept();
        let found = Shelf::default().read(&disk).unwrap();
        let mut services: Vec<_> = found.services.iter().map(|(service, _)| service.id.as_str()).collect();
        services.sort_unstable();
        assert_eq!((services, found.checks.len()), (vec!["a/../b", "web"], 2));
        let stood =
            Stood { id: "web-up".into(), status: Status::Warning, output: "so so".into(), until_ms: 100_000 };
        assert_eq!((found.stood, found.bad), (vec![stood], Vec::new()));
        // What is deregistered goes with its checks and how they stood.
        book.remove_service("web").unwrap();
        let changes = shelf.changes(&book, &Tokens::new());
        assert_eq!(changes.len(), 3);
        carry_out(&disk, &changes).unwrap();
        carry_out(&disk, &changes).unwrap();
        shelf.done(&changes);
        let found = Shelf::default().read(&disk).unwrap();
        assert_eq!(
            (found.services, found.checks.len(), found.stood),
            (vec![(service("a/../b"), Secret::default())], 1, Vec::new())
        );
    }

    #[test]
    fn a_token_is_kept_and_what_is_configured_is_not() {
        let (mut book, mut shelf, disk) = kept();
        let web = Item::Service("web".into());
        let tokens = Tokens::from([(web.clone(), Secret::new("t"))]);
        book.configure([Item::Service("a/../b".into()), Item::Check("web-up".into())].into());
        let changes = shelf.changes(&book, &tokens);
        carry_out(&disk, &changes).unwrap();
        shelf.done(&changes);
        let found = Shelf::default().read(&disk).unwrap();
        assert_eq!(found.services, [(service("web"), Secret::new("t"))]);
        let checks: Vec<&str> = found.checks.iter().map(|(check, _)| check.id.as_str()).collect();
        assert_eq!((checks, found.stood.len()), (vec!["a/../b-up"], 1));
        // A request that registers it again makes it its own.
        book.set_service(service("a/../b"));
        assert_eq!(shelf.changes(&book, &tokens).len(), 1);
        assert_eq!(book.configure([web.clone()].into()), [Item::Check("web-up".into())]);
    }

    #[test]
    fn a_bad_file_is_named_and_costs_no_other() {
        let (book, there, _) = kept();
        for damaged in there.there.keys() {
            let (_, _, disk) = kept();
            let file = disk.open(damaged).unwrap();
            let mut byte = [0];
            file.read_at(40, &mut byte).unwrap();
            file.write_at(40, &[byte[0] ^ 1]).unwrap();
            let mut shelf = Shelf::default();
            let found = shelf.read(&disk).unwrap();
            assert_eq!(found.services.len() + found.checks.len() + found.stood.len(), 4);
            assert!(matches!(&found.bad[..], [(name, why)] if name == damaged && why.contains("damaged")));
            // Registered again, it is written anew.
            assert!(
                shelf
                    .changes(&book, &Tokens::new())
                    .iter()
                    .any(|c| matches!(c, Change::Write(name, _) if name == damaged))
            );
        }
        let (_, _, disk) = kept();
        // What a power loss leaves half done is not looked at, and not in the way.
        disk.open("services/0.tmp").unwrap().write_at(0, b"half").unwrap();
        disk.open("checks/empty").unwrap();
        let found = Shelf::default().read(&disk).unwrap();
        assert_eq!(found.bad.len(), 1);
        assert_eq!((found.services.len(), found.checks.len()), (2, 2));
    }

    proptest! {
        #[test]
        fn what_changed_since_is_all_that_differs(
            steps in prop::collection::vec((0u8..11, 0usize..3, 0usize..3, any::<bool>()), 0..60),
        ) {
            let ids = ["a", "b", "c"];
            let (mut book, mut shelf, disk) = (Book::default(), Shelf::default(), MemoryDisk::default());
            let mut tokens = Tokens::new();
            shelf.done(&[]);
            for (now, (step, id, other, saves)) in (0..).zip(steps) {
                let (id, other, now) = (ids[id], ids[other], Instant(now * 10_000_000_000));
                let until = Some(Duration::from_secs(now.0));
                match step {
                    0 => {
                        tokens.insert(Item::Service(id.into()), Secret::new(other));
                        book.set_service(ServiceInfo { enable_tag_override: true, ..service(id) });
                    }
                    1 => drop(book.remove_service(id)),
                    2 => drop(book.set_check(check(id, other), now)),
                    3 => drop(book.remove_check(id)),
                    4 => drop(book.tell(id, Status::Passing, other.into(), now)),
                    5 => book.counts_until(id, until),
                    6 => {
                        book.expire(id, now);
                    }
                    7 => book.doubt(id, now),
                    8 => drop(book.configure([Item::Service(id.into()), Item::Check(other.into())].into())),
                    9 => {
                        let mut anew = check(id, other);
                        anew.notes = "defined anew".into();
                        drop(book.set_check(anew, now));
                    }
                    _ => {
                        let info = ServiceInfo { tags: vec![other.into()], ..service(id) };
                        let services = vec![Row { info, create_index: 1, modify_index: 1 }];
                        let node = NodeInfo::default();
                        let row = Row { info: node.clone(), create_index: 1, modify_index: 1 };
                        book.full_plan(&node, Some(&WholeNode { node: row, services, checks: Vec::new() }));
                    }
                }
                let items = book.take_unsaved();
                if saves {
                    let changes = shelf.changes_of(&book, &tokens, &items);
                    carry_out(&disk, &changes).unwrap();
                    shelf.done(&changes);
                    prop_assert_eq!(shelf.changes(&book, &tokens), vec![]);
                } else {
                    book.not_saved(items);
                }
            }
            let mut again = Shelf::default();
            prop_assert_eq!(again.read(&disk).unwrap().bad, vec![]);
            prop_assert_eq!(again.there, shelf.there);
        }
    }

    #[test]
    fn what_was_told_counts_no_longer_than_its_time() {
        let ttl = Duration::from_secs(10);
        let at = Duration::from_secs;
        assert_eq!(counts_for(100_000, at(95), ttl), Some(at(5)));
        assert_eq!(counts_for(100_000, at(100), ttl), None);
        assert_eq!(counts_for(100_000, at(500), ttl), None);
        // The wall clock was set back by hours.
        assert_eq!(counts_for(100_000, at(1), ttl), Some(ttl));
    }
}
