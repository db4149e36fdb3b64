//! The directory: which file has which name, now and after a power loss.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::RngExt;
use rand::rngs::StdRng;

enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
    /// All before it is durable from this moment on.
    Synced,
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to) => {
            // Its creation may have been lost.
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
        Change::Synced => {}
    }
}

/// The names in a directory. Files are numbers.
#[derive(Default)]
pub struct Names {
    current: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: VecDeque<(u64, Change)>,
}

impl Names {
    /// The file of this name.
    pub fn get(&self, name: &str) -> Option<usize> {
        self.current.get(name).copied()
    }

    /// All names and files, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, usize)> {
        self.current.iter().map(|(name, file)| (name, *file))
    }

    fn change(&mut self, at: u64, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push_back((at, change));
    }

    /// A new file has this name.
    pub fn create(&mut self, at: u64, name: &str, file: usize) {
        self.change(at, Change::Create(name.to_owned(), file));
    }

    /// A file has another name.
    pub fn rename(&mut self, at: u64, from: &str, to: &str) {
        self.change(at, Change::Rename(from.to_owned(), to.to_owned()));
    }

    /// A name is gone.
    pub fn remove(&mut self, at: u64, name: &str) {
        self.change(at, Change::Remove(name.to_owned()));
    }

    /// All is durable from then on.
    pub fn sync(&mut self, at: u64) {
        self.pending.push_back((at, Change::Synced));
    }

    fn settle(&mut self, now: u64) {
        let done =
            self.pending.iter().rposition(|(at, change)| matches!(change, Change::Synced) && *at <= now);
        if let Some(done) = done {
            for (_, change) in self.pending.drain(..=done) {
                apply(&mut self.durable, &change);
            }
        }
    }

    /// The host goes down. With a generator the power fails: any of what was not synced may be lost, each
    /// for itself.
    pub fn crash(&mut self, now: u64, power_loss: Option<&mut StdRng>) {
        self.settle(now);
        self.pending.retain(|(at, change)| *at <= now && !matches!(change, Change::Synced));
        if let Some(rng) = power_loss {
            for (_, change) in std::mem::take(&mut self.pending) {
                if rng.random_bool(0.5) {
                    apply(&mut self.durable, &change);
                }
            }
        }
        self.current = self.durable.clone();
        for (_, change) in &self.pending {
            apply(&mut self.current, change);
        }
    }

    /// Everything is gone.
    pub fn clear(&mut self) {
        *self = Names::default();
    }

    /// The files that have, or may have again, a name.
    pub fn reachable(&mut self, now: u64) -> BTreeSet<usize> {
        self.settle(now);
        let mut files: BTreeSet<usize> =
            self.current.values().chain(self.durable.values()).copied().collect();
        files.extend(self.pending.iter().filter_map(|(_, change)| match change {
            Change::Create(_, file) => Some(*file),
            _ => None,
        }));
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::stream;

    #[test]
    fn a_name_of_before_or_after_a_lost_rename_leads_to_one_file_or_the_other() {
        let mut seen = BTreeSet::new();
        for seed in 0..20 {
            let mut names = Names::default();
            names.create(0, "kept", 0);
            names.sync(1);
            names.create(2, "new", 1);
            names.rename(3, "new", "kept");
            names.crash(4, Some(&mut stream(seed, "names")));
            seen.insert((names.get("kept"), names.get("new")));
        }
        let (old, renamed) = ((Some(0), None), (Some(1), None));
        assert_eq!(seen, BTreeSet::from([old, renamed, (Some(0), Some(1))]));
    }

    #[test]
    fn a_dead_process_loses_no_name_and_what_it_had_yet_to_do_did_not_happen() {
        let mut names = Names::default();
        names.create(0, "a", 0);
        names.remove(5, "a");
        names.crash(4, None);
        assert_eq!(names.get("a"), Some(0));
        names.remove(5, "a");
        names.crash(6, None);
        assert_eq!(names.get("a"), None);
        assert_eq!(names.reachable(7), BTreeSet::from([0]), "it was not synced");
    }
}
