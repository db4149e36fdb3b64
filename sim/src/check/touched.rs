//! When keys may have changed, as far as clients can know: what a reader that was woken is asked for, as the cause.

use std::collections::BTreeMap;

use crate::history::{Action, Operation, Outcome};

/// Whatever may have changed a key: when it was asked for, and when it was done or given up; never, if its outcome is unknown.
pub struct Touched<'a>(BTreeMap<&'a str, Vec<(u64, u64)>>);

impl<'a> Touched<'a> {
    /// Of a whole history.
    pub fn of(history: &'a [Operation]) -> Touched<'a> {
        let mut touched: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for operation in history {
            let until = match operation.outcome {
                _ if operation.action == Action::Get => continue,
                Outcome::Failed(_) => continue,
                Outcome::Ok(_) => operation.returned_ns.unwrap_or(u64::MAX),
                Outcome::Unknown(_) => u64::MAX,
            };
            touched.entry(&operation.key).or_default().push((operation.invoked_ns, until));
        }
        Touched(touched)
    }

    /// Whether this key may have changed between these times.
    pub fn key(&self, key: &str, from_ns: u64, to_ns: u64) -> bool {
        self.0.get(key).is_some_and(|times| meet(times, from_ns, to_ns))
    }

    /// Whether a key with this prefix may have.
    pub fn under(&self, prefix: &str, from_ns: u64, to_ns: u64) -> bool {
        let mut under = self.0.range(prefix..).take_while(|(key, _)| key.starts_with(prefix));
        under.any(|(_, times)| meet(times, from_ns, to_ns))
    }
}

fn meet(times: &[(u64, u64)], from_ns: u64, to_ns: u64) -> bool {
    times.iter().any(|(begun, done)| *begun <= to_ns && *done >= from_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::test::Story;

    #[test]
    fn what_was_not_done_and_what_only_reads_changes_nothing() {
        let mut story = Story::default().put((10, 20), "a").get((10, 20), None).maybe_put(30, "b").0;
        let failed = Outcome::Failed("refused".into());
        story.push(Operation { key: "k3".into(), outcome: failed, ..story[0].clone() });
        let names = ["k1", "k2", "l1"];
        story.iter_mut().zip(names).for_each(|(operation, name)| operation.key = name.into());
        let touched = Touched::of(&story);
        assert!(touched.key("k1", 15, 30) && touched.key("k1", 20, 30) && touched.key("k1", 0, 10));
        assert!(!touched.key("k1", 21, 30) && !touched.key("k1", 0, 9));
        assert!(!touched.key("k2", 0, 99) && !touched.key("k3", 0, 99), "a read, and what was refused");
        assert!(touched.key("l1", 90, 99), "nobody knows when it was done");
        assert!(touched.under("k", 0, 99) && !touched.under("k2", 0, 99) && !touched.under("l", 0, 29));
    }
}
