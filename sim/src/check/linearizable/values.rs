//! What a key can hold, as small numbers: equal contents have equal numbers.
//!
//! An append makes a content out of another one, so contents are kept as a chain of pieces and cost the same
//! however long they get. A rolling hash says which may be equal, and the bytes decide, so that a verdict
//! never rests on a hash.

use std::collections::BTreeMap;

/// What a key holds.
pub(super) type State = u32;
/// It holds nothing.
pub(super) const ABSENT: State = 0;

/// 2^61 - 1, a prime.
const MODULUS: u128 = (1 << 61) - 1;
const BASE: u128 = 0x1f35_9c4e_27b1_6d03 % MODULUS;

/// A content: a piece after another content.
struct Content<'a> {
    before: State,
    piece: &'a str,
    length: usize,
    hash: u64,
}

/// The contents that were met so far.
pub(super) struct Values<'a> {
    contents: Vec<Content<'a>>,
    by_hash: BTreeMap<(usize, u64), Vec<State>>,
    appended: BTreeMap<(State, State), State>,
}

impl<'a> Values<'a> {
    pub(super) fn new() -> Values<'a> {
        let absent = Content { before: ABSENT, piece: "", length: 0, hash: 0 };
        Values { contents: vec![absent], by_hash: BTreeMap::new(), appended: BTreeMap::new() }
    }

    /// How many contents there are.
    pub(super) fn len(&self) -> usize {
        self.contents.len()
    }

    /// The number of a text. An empty text is a content; no content is [`ABSENT`].
    pub(super) fn number(&mut self, text: &'a str) -> State {
        let hash = extended(0, text);
        let whole = || Content { before: ABSENT, piece: text, length: text.len(), hash };
        let number = self.intern(whole());
        // It may have been met as a chain of pieces.
        self.contents[number as usize] = whole();
        number
    }

    /// What is there once the text of number `piece` is put after `state`.
    pub(super) fn append(&mut self, state: State, piece: State) -> State {
        let text = self.contents[piece as usize].piece;
        if text.is_empty() {
            return state;
        }
        if let Some(known) = self.appended.get(&(state, piece)) {
            return *known;
        }
        let Content { length, hash, .. } = self.contents[state as usize];
        let content =
            Content { before: state, piece: text, length: length + text.len(), hash: extended(hash, text) };
        let number = self.intern(content);
        self.appended.insert((state, piece), number);
        number
    }

    fn intern(&mut self, content: Content<'a>) -> State {
        let place = (content.length, content.hash);
        if let Some(candidates) = self.by_hash.get(&place) {
            let whole = self.bytes(&content);
            let equal = |other: &&State| self.bytes(&self.contents[**other as usize]) == whole;
            if let Some(known) = candidates.iter().find(equal) {
                return *known;
            }
        }
        let number = self.contents.len() as State;
        self.contents.push(content);
        self.by_hash.entry(place).or_default().push(number);
        number
    }

    /// What they take in memory, roughly, without the texts themselves.
    pub(super) fn memory(&self) -> usize {
        self.contents.len() * 160 + self.appended.len() * 32
    }

    /// How long a content is, in bytes.
    pub(super) fn length(&self, state: State) -> usize {
        self.contents[state as usize].length
    }

    /// The text that [`Values::number`] was given for this number.
    pub(super) fn piece(&self, number: State) -> &'a str {
        self.contents[number as usize].piece
    }

    /// A content for people, in quotes.
    pub(super) fn name(&self, state: State) -> String {
        match self.shown(state) {
            None => "nothing".to_owned(),
            Some(text) => format!("{text:?}"),
        }
    }

    /// A content for people; of a long one its end. `None`: nothing is there.
    pub(super) fn shown(&self, state: State) -> Option<String> {
        const SHOWN: usize = 200;
        if state == ABSENT {
            return None;
        }
        let content = &self.contents[state as usize];
        let (mut pieces, mut length) = (vec![content.piece], content.piece.len());
        let mut before = content.before;
        while before != ABSENT && length < 4 * SHOWN {
            let content = &self.contents[before as usize];
            pieces.push(content.piece);
            length += content.piece.len();
            before = content.before;
        }
        let text: String = pieces.into_iter().rev().collect();
        Some(match text.char_indices().rev().nth(SHOWN) {
            Some((cut, _)) => format!("… {}", &text[cut..]),
            None => text,
        })
    }

    fn bytes(&self, content: &Content<'_>) -> Vec<u8> {
        let mut pieces = vec![content.piece];
        let mut before = content.before;
        while before != ABSENT {
            let content = &self.contents[before as usize];
            pieces.push(content.piece);
            before = content.before;
        }
        pieces.iter().rev().flat_map(|piece| piece.bytes()).collect()
    }
}

fn extended(hash: u64, text: &str) -> u64 {
    let next = |hash: u128, byte: u8| (hash * BASE + u128::from(byte) + 1) % MODULUS;
    text.bytes().fold(u128::from(hash), next) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn absent_and_empty_are_two_things_and_appending_nothing_is_nothing() {
        let mut values = Values::new();
        let empty = values.number("");
        assert_ne!(empty, ABSENT);
        assert_eq!(values.append(ABSENT, empty), ABSENT);
        assert_eq!((values.name(ABSENT).as_str(), values.name(empty).as_str()), ("nothing", "\"\""));
    }

    proptest! {
        #[test]
        fn equal_texts_have_equal_numbers_however_they_came_about(
            words in proptest::collection::vec("[ab]{0,3}", 1..12),
        ) {
            let mut values = Values::new();
            let mut known: BTreeMap<String, State> = BTreeMap::new();
            for from in 0..words.len() {
                let mut whole = String::new();
                let mut state = ABSENT;
                for word in &words[from..] {
                    let piece = values.number(word);
                    state = if whole.is_empty() { piece } else { values.append(state, piece) };
                    whole.push_str(word);
                    prop_assert_eq!(*known.entry(whole.clone()).or_insert(state), state);
                    prop_assert_eq!(values.name(state), format!("{:?}", whole));
                    prop_assert_eq!(values.length(state), whole.len());
                }
            }
            let different: std::collections::BTreeSet<State> = known.values().copied().collect();
            prop_assert_eq!(different.len(), known.len());
        }
    }
}
