//! What cannot have been there, whatever the order: a value that was found under a key, and that no operation on this key
//! can have made by then.
//!
//! The search would find that too, but only after every order that it can think of. This takes one look at each value, so it
//! comes first, and says so even where the search has no time or memory.
//!
//! It claims only what is certain. Whatever may have happened counts as a writer, also a write of unknown outcome that comes
//! late. On a key that is appended to, a content is possible if it can be cut into a value that was written (or nothing) and
//! pieces that were appended, in any order and as often as one likes. That nothing is there is always possible.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, Operation, Outcome, Response};

/// Values of more different lengths are not looked through: the look would not be short.
const MOST_LENGTHS: usize = 64;

/// The first answered operation on a key that found there what nobody can have put there.
pub(super) fn find<'a>(operations: &[&'a Operation]) -> Option<&'a Operation> {
    let writers = Writers::of(operations);
    let mut found: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in operations {
        if let Some(value) = finds(operation) {
            let first = found.entry(value).or_insert(operation);
            if order(operation) < order(first) {
                *first = operation;
            }
        }
    }
    let impossible: Vec<&Operation> = if writers.pieces.is_empty() {
        let late = |(value, operation): &(&str, &Operation)| {
            writers.written.get(value).is_none_or(|since_ns| Some(*since_ns) > operation.returned_ns)
        };
        found.into_iter().filter(late).map(|(_, operation)| operation).collect()
    } else {
        let mut cuts = Cuts::new(&writers)?;
        // In order, so that each has most of its beginning in common with the one before.
        found
            .into_iter()
            .filter(|(value, _)| !cuts.are_there(value))
            .map(|(_, operation)| operation)
            .collect()
    };
    impossible.into_iter().min_by_key(|operation| order(operation))
}

fn order(operation: &Operation) -> (Option<u64>, u64) {
    (operation.returned_ns, operation.id)
}

/// What an operation found, if its answer says so.
fn finds(operation: &Operation) -> Option<&str> {
    match (&operation.action, &operation.outcome) {
        (Action::Get, Outcome::Ok(Response::Value(Some(seen)))) => Some(&seen.value),
        (Action::Cas { expected, .. }, Outcome::Ok(Response::Done(true))) => expected.as_deref(),
        _ => None,
    }
}

/// What may have been put under a key.
struct Writers<'a> {
    /// Whole values, and when the first who writes each was called.
    written: BTreeMap<&'a str, u64>,
    /// What may have been appended.
    pieces: BTreeSet<&'a [u8]>,
}

impl<'a> Writers<'a> {
    fn of(operations: &[&'a Operation]) -> Writers<'a> {
        let mut writers = Writers { written: BTreeMap::new(), pieces: BTreeSet::new() };
        for operation in operations {
            match (&operation.action, &operation.outcome) {
                (_, Outcome::Failed(_)) | (Action::Cas { .. }, Outcome::Ok(Response::Done(false))) => {}
                (Action::Put { value } | Action::Cas { value, .. }, _) => {
                    let since_ns = writers.written.entry(value).or_insert(operation.invoked_ns);
                    *since_ns = operation.invoked_ns.min(*since_ns);
                }
                // Appending nothing changes nothing.
                (Action::Append { value }, _) if !value.is_empty() => {
                    writers.pieces.insert(value.as_bytes());
                }
                (Action::Append { .. } | Action::Get | Action::Delete, _) => {}
            }
        }
        writers
    }
}

/// Where contents can be cut, for one content after the other.
struct Cuts<'a, 'b> {
    writers: &'b Writers<'a>,
    written_lengths: BTreeSet<usize>,
    piece_lengths: BTreeSet<usize>,
    /// The last content that was looked at.
    last: &'a [u8],
    /// For each place in it, whether everything before that place can have been there.
    can_be: Vec<bool>,
}

impl<'a, 'b> Cuts<'a, 'b> {
    /// `None` if there are too many lengths to try.
    fn new(writers: &'b Writers<'a>) -> Option<Cuts<'a, 'b>> {
        let written_lengths: BTreeSet<usize> = writers.written.keys().map(|value| value.len()).collect();
        let piece_lengths: BTreeSet<usize> = writers.pieces.iter().map(|piece| piece.len()).collect();
        let few = written_lengths.len() + piece_lengths.len() <= MOST_LENGTHS;
        few.then_some(Cuts { writers, written_lengths, piece_lengths, last: b"", can_be: vec![true] })
    }

    fn are_there(&mut self, value: &'a str) -> bool {
        if value.is_empty() {
            // To be empty is not to be absent: somebody must have written it.
            return self.writers.written.contains_key("");
        }
        let bytes = value.as_bytes();
        let common = self.last.iter().zip(bytes).take_while(|(one, other)| one == other).count();
        self.can_be.truncate(common + 1);
        for end in self.can_be.len()..=bytes.len() {
            let is_whole = self.written_lengths.contains(&end)
                && std::str::from_utf8(&bytes[..end])
                    .is_ok_and(|beginning| self.writers.written.contains_key(beginning));
            let can_be = is_whole
                || self.piece_lengths.iter().take_while(|length| **length <= end).any(|length| {
                    self.can_be[end - length] && self.writers.pieces.contains(&bytes[end - length..end])
                });
            self.can_be.push(can_be);
        }
        self.last = bytes;
        self.can_be[bytes.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::test::Story;

    fn found(story: Story) -> Option<u64> {
        find(&story.0.iter().collect::<Vec<_>>()).map(|operation| operation.id)
    }

    fn append(story: Story, span: (u64, u64), value: &str) -> Story {
        story.add(span, Action::Append { value: value.into() }, Outcome::Ok(Response::Done(true)))
    }

    #[test]
    fn what_nobody_can_have_written_by_then_is_found() {
        let story = || Story::default().put((0, 1), "a").maybe_put(2, "b").cas((3, 4), Some("a"), "c", false);
        assert_eq!(found(story().get((5, 6), Some(("a", 1))).get((7, 8), Some(("b", 1)))), None);
        assert_eq!(found(story().get((5, 6), None)), None);
        assert_eq!(found(story().get((7, 9), Some(("x", 1))).get((5, 6), Some(("x", 1)))), Some(4));
        // A compare-and-set that missed wrote nothing, and one that held found something.
        assert_eq!(found(story().get((5, 6), Some(("c", 1)))), Some(3));
        assert_eq!(found(story().cas((5, 6), Some("x"), "d", true)), Some(3));
        assert_eq!(found(story().cas((5, 6), Some("x"), "d", false)), None);
        // A moment too early; and at the same moment, which may be during the write.
        assert_eq!(found(Story::default().put((5, 9), "a").get((1, 4), Some(("a", 1)))), Some(1));
        assert_eq!(found(Story::default().put((5, 9), "a").get((1, 5), Some(("a", 1)))), None);
        let refused = Action::Put { value: "a".into() };
        let refused = Story::default().add((0, 1), refused, Outcome::Failed("no".into()));
        assert_eq!(found(refused.get((2, 3), Some(("a", 1)))), Some(1));
        assert_eq!(found(Story::default().get((0, 1), Some(("", 1)))), Some(0));
    }

    #[test]
    fn what_is_made_of_pieces_may_have_been_there() {
        let story = || {
            append(append(append(Story::default().put((0, 1), "abc"), (2, 3), "bc"), (4, 5), "d"), (6, 7), "")
        };
        for possible in ["abc", "abcbc", "bc", "d", "dbc", "abcdbc", "bcd", "ddd"] {
            assert_eq!(found(story().get((9, 10), Some((possible, 1)))), None, "{possible}");
        }
        for impossible in ["", "a", "ab", "b", "abcb", "dabc", "bcabc", "abcdx", "bcdabcd"] {
            assert_eq!(found(story().get((9, 10), Some((impossible, 1)))), Some(4), "{impossible}");
        }
        // One after the other, with beginnings in common.
        let all = story().get((9, 10), Some(("abcd", 1))).get((9, 10), Some(("abcbcd", 1)));
        assert_eq!(found(all.get((9, 10), Some(("abcbcx", 1))).get((9, 10), Some(("abcbcdd", 1)))), Some(6));
    }

    #[test]
    fn many_long_contents_are_one_short_look() {
        let mut story = Story::default();
        let mut content = String::new();
        for number in 0..2_000u64 {
            let piece = format!("{number} ");
            content += &piece;
            story = append(story, (2 * number, 2 * number + 1), &piece);
            story = story.get((2 * number + 1, 2 * number + 2), Some((&content, 1)));
        }
        assert_eq!(found(story), None);
        // Where it would not be short nothing is claimed.
        let mut story = Story::default();
        for length in 1..=MOST_LENGTHS as u64 + 1 {
            story = append(story, (length, length + 1), &"a".repeat(length as usize));
        }
        assert_eq!(found(story.get((500, 501), Some(("b", 1)))), None);
    }
}
