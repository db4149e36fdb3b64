//! LIN: every read and write seems to happen at one instant between its call and its answer.
//!
//! The search of Wing and Gong with the improvements of Lowe: keys are independent, so each is checked
//! alone; the events of a key are a doubly linked list of calls and returns, from which an operation is
//! lifted out when it is linearized and put back when that turns out wrong; configurations that were
//! seen before (which operations are done, what the key holds) are not searched again.
//!
//! Four facts about registers keep the search nearly linear, and none of them changes the verdict:
//! * an operation that changes nothing and whose answer fits the present state is linearized at once:
//!   wherever a proof puts it, it can be moved here;
//! * a value has one writer, so it cannot come back: while somebody still has to observe the present
//!   value, nothing may replace it;
//! * a write of unknown outcome stays open for ever and may just as well take effect after everything
//!   else, so it is only tried where somebody's answer depends on it;
//! * of operations that do the same the one that must come first comes first: in any order that explains the
//!   answers two of them can change places if the later one had to be over sooner.
//!
//! Appends make a content out of another one. On a key that is only appended to, the longest answer that is
//! still to be explained must begin with what is there, and nothing that somebody still has to observe ever
//! comes back. On a key that is also written otherwise, the last two facts do not hold, and are not used.
//!
//! The search is bounded in steps, memory and, where the caller says so, time. Where the bound is met the verdict is
//! [`Verdict::Unknown`], never a guess.

mod seen;
mod unwritten;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, NO_NODE, Operation, Outcome, Response, Wording};
use seen::Seen;
use serde::Serialize;
use values::{ABSENT, State, Values};

/// What is known after checking a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Violation(Box<Broken>),
    /// The bound was met before either was proved.
    Unknown {
        /// The key that was being searched.
        key: String,
        /// How many steps were spent.
        steps: u64,
        /// Which bound it was.
        limit: Limit,
    },
}

/// A bound of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Its steps, or the caller's patience.
    Time,
    /// What it may remember.
    Memory,
}

/// A key whose answers no order explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The key.
    pub key: String,
    /// How many operations could be put in order, at best.
    pub explained: usize,
    /// How many had to be.
    pub total: usize,
    /// That best order: the longest prefix of an explanation that was found, as Porcupine calls it the
    /// partial linearization. Open operations that it needs are in it too.
    pub order: Vec<Placed>,
    /// Ids of the operations of which one had to come next and none could: because its own answer does
    /// not fit, or because a later answer would not fit any more.
    pub stuck: Vec<u64>,
    /// An operation that needs what the key holds after the order, and can only come after one that
    /// would replace it, if that is why all of `stuck` are.
    pub reader: Option<u64>,
    /// When the answer returned that cannot be explained.
    pub at_ns: u64,
    /// The node that gave that answer.
    pub node: u32,
    /// All of this in words.
    pub words: String,
    /// How they speak of times and keys.
    #[serde(skip)]
    pub wording: Wording,
}

/// An operation in an order, and what it leaves behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The operation's id.
    pub id: u64,
    /// What the key holds after it; `None`: nothing.
    pub after: Option<String>,
}

/// The best order found so far, and what it meets. A search that gets deeper step by step must not copy
/// all of its path at every step, so only what changed since the last time is copied.
#[derive(Default)]
struct Best {
    linearized: usize,
    order: Vec<(u64, State)>,
    /// So many entries of `order` are still the search's present path.
    shared: usize,
    stuck: Vec<u64>,
    state: State,
}

/// How much to spend on one key.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Operations linearized or undone.
    pub steps: u64,
    /// Configurations remembered.
    pub configurations: usize,
    /// Bytes they may take, roughly.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { steps: 20_000_000, configurations: 1_000_000, bytes: 512 << 20 }
    }
}

/// What every key gets before one may have more.
const FIRST_STEPS: u64 = 500_000;

/// After so many steps whoever waits is asked whether the search may go on.
const ASK_EVERY: u64 = 4_096;

/// Checks a history with the default bounds.
pub fn check(history: &[Operation]) -> Verdict {
    check_within(history, Bounds::default())
}

/// Checks a history key by key; the first key that is found to be broken decides, then the first (in order
/// of name) that met the bound. Keys that show what nobody wrote are found first, and whatever the bounds are.
pub fn check_within(history: &[Operation], bounds: Bounds) -> Verdict {
    check_while(history, Wording::default(), bounds, &mut || true)
}

/// As [`check_within`], for as long as `patience`, which is asked now and then, says so.
pub fn check_while(
    history: &[Operation],
    wording: Wording,
    bounds: Bounds,
    patience: &mut dyn FnMut() -> bool,
) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    // A broken key that is easy must not wait for one that is hard: all get a little, and what is left of
    // them then all they may have.
    let little = Bounds { steps: bounds.steps.min(FIRST_STEPS), ..bounds };
    for (key, operations) in &keys {
        if let Some(operation) = unwritten::find(operations) {
            // The search says more about it, if it comes to an end.
            return match Search::new(key, operations, wording, little).run(patience) {
                broken @ Verdict::Violation(_) => broken,
                Verdict::Linearizable | Verdict::Unknown { .. } => {
                    invented(key, operations, operation, wording)
                }
            };
        }
    }
    let mut hard = Vec::new();
    for (key, operations) in &keys {
        match Search::new(key, operations, wording, little).run(patience) {
            Verdict::Linearizable => {}
            Verdict::Unknown { .. } => hard.push((key, operations)),
            broken => return broken,
        }
    }
    let mut unknown = None;
    for (key, operations) in hard {
        match Search::new(key, operations, wording, bounds).run(patience) {
            Verdict::Linearizable => {}
            undecided @ Verdict::Unknown { .. } => {
                unknown.get_or_insert(undecided);
            }
            broken => return broken,
        }
    }
    unknown.unwrap_or(Verdict::Linearizable)
}

/// The verdict on a key under which an operation found what nobody can have put there.
fn invented(key: &str, operations: &[&Operation], operation: &Operation, wording: Wording) -> Verdict {
    let has_to_be = |operation: &&&Operation| matches!(operation.outcome, Outcome::Ok(_));
    let words = format!(
        "{}no operation that may have happened by then can have made what this one found:\n    {}",
        prefix(key, wording),
        describe_as(operation, wording)
    );
    Verdict::Violation(Box::new(Broken {
        key: key.to_owned(),
        // No order was looked for.
        explained: 0,
        total: operations.iter().filter(has_to_be).count(),
        order: Vec::new(),
        stuck: vec![operation.id],
        reader: None,
        at_ns: operation.returned_ns.unwrap_or(0),
        node: operation.node,
        words,
        wording,
    }))
}

/// An operation reduced to what the search needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A read that must find this.
    Read(State),
    /// A write of this, whatever is there.
    Write(State),
    /// Puts the text of this number after what is there.
    Append(State),
    /// A compare-and-set from the first to the second that was told it succeeded.
    Swap(State, State),
    /// A compare-and-set that was told the key did not hold this.
    Mismatch(State),
    /// An answer that no state explains: a put or delete that was told `false`.
    Never,
}

impl Step {
    /// Whether its answer fits `state`.
    fn fits(self, state: State) -> bool {
        match self {
            Step::Read(seen) => seen == state,
            Step::Write(_) | Step::Append(_) => true,
            Step::Swap(expected, _) => expected == state,
            Step::Mismatch(expected) => expected != state,
            Step::Never => false,
        }
    }

    /// The state after it; the same one if it does not fit.
    fn apply(self, state: State, values: &mut Values<'_>) -> State {
        match self {
            Step::Write(new) => new,
            Step::Append(piece) => values.append(state, piece),
            Step::Swap(expected, new) if expected == state => new,
            Step::Read(_) | Step::Swap(..) | Step::Mismatch(_) | Step::Never => state,
        }
    }
}

/// An operation that never got its answer.
#[derive(Clone, Copy, Debug)]
struct Pending {
    invoked_ns: u64,
    /// `Write`, `Append` or `Swap`.
    step: Step,
    id: u64,
    /// The one called before it that can stand in for it, and is tried first: it does the same, or both write values that no
    /// answer mentions.
    twin: Option<usize>,
}

/// So many operations of the best order are told in words.
const TAIL: usize = 6;

const HEAD: usize = 0;
const NONE: usize = usize::MAX;

/// A call or a return in the list of events. Node 0 is the list's head.
struct Event {
    /// Index into `definite`.
    operation: usize,
    /// For a call, the node of its return; for a return, `NONE`.
    matching: usize,
    at_ns: u64,
    previous: usize,
    next: usize,
}

/// What was chosen at one level of the search, and what it replaced.
struct Frame {
    choice: Choice,
    before: State,
    /// Whether another choice may be tried here.
    forced: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The call event of a definite operation.
    Definite(usize),
    /// Index into `pending`.
    Pending(usize),
}

/// Whether and how a key is appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Appends {
    /// Not at all.
    Never,
    /// By some operations; others write it in other ways.
    Mixed,
    /// By all that change it. The longest content that somebody has to find, if there is one.
    Only(Option<State>),
}

struct Search<'a> {
    key: &'a str,
    wording: Wording,
    bounds: Bounds,
    by_id: BTreeMap<u64, &'a Operation>,
    values: Values<'a>,
    /// How the key is appended to.
    appends: Appends,
    definite: Vec<(Step, u64)>,
    /// When each of them was called.
    calls: Vec<u64>,
    /// For each of them: the one that does the same and is the last to be over before it.
    twins: Vec<Option<usize>>,
    pending: Vec<Pending>,
    events: Vec<Event>,
    /// Linearized definite operations, in order of call.
    done: Vec<u64>,
    /// One past the highest word of `done` that may have a bit.
    done_words: usize,
    used: Vec<u64>,
    /// For each value: how many operations write it, at most 2 counted.
    writers: Vec<u8>,
    /// For each value: operations still to be linearized that must find it, must not find it, and open
    /// compare-and-sets that would do something if they found it.
    must_find: Vec<u32>,
    must_miss: Vec<u32>,
    may_swap: Vec<u32>,
}

impl<'a> Search<'a> {
    fn new(key: &'a str, operations: &[&'a Operation], wording: Wording, bounds: Bounds) -> Search<'a> {
        let mut search = Search {
            key,
            wording,
            bounds,
            by_id: operations.iter().map(|operation| (operation.id, *operation)).collect(),
            values: Values::new(),
            appends: Appends::Never,
            definite: Vec::new(),
            calls: Vec::new(),
            twins: Vec::new(),
            pending: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
            done_words: 0,
            used: Vec::new(),
            writers: Vec::new(),
            must_find: Vec::new(),
            must_miss: Vec::new(),
            may_swap: Vec::new(),
        };
        let mut sorted: Vec<&Operation> = operations.to_vec();
        sorted.sort_by_key(|operation| (operation.invoked_ns, operation.id));
        let mut times = Vec::new();
        for operation in sorted {
            let mut number = |value: &'a str| search.values.number(value);
            let write = match &operation.action {
                Action::Get => None,
                Action::Put { value } => Some(Step::Write(number(value))),
                Action::Delete => Some(Step::Write(ABSENT)),
                Action::Append { value } => Some(Step::Append(number(value))),
                Action::Cas { expected, value } => {
                    Some(Step::Swap(expected.as_deref().map_or(ABSENT, &mut number), number(value)))
                }
            };
            let step = match (&operation.outcome, write) {
                (Outcome::Failed(_), _) | (Outcome::Unknown(_), None) => continue,
                (Outcome::Unknown(_), Some(step)) => {
                    let (invoked_ns, id) = (operation.invoked_ns, operation.id);
                    search.pending.push(Pending { invoked_ns, step, id, twin: None });
                    continue;
                }
                (Outcome::Ok(Response::Value(seen)), _) => {
                    Step::Read(seen.as_ref().map_or(ABSENT, |seen| number(&seen.value)))
                }
                (Outcome::Ok(Response::Done(true)), step) => step.unwrap_or(Step::Never),
                (Outcome::Ok(Response::Done(false)), Some(Step::Swap(expected, _))) => {
                    Step::Mismatch(expected)
                }
                (Outcome::Ok(Response::Done(false)), _) => Step::Never,
            };
            times.push((operation.invoked_ns, operation.returned_ns.unwrap_or(u64::MAX)));
            search.definite.push((step, operation.id));
        }
        search.link(&times);
        search.count();
        search.pair(&times);
        search
    }

    /// Builds the list of events. At equal times calls come first: the two may have overlapped.
    fn link(&mut self, times: &[(u64, u64)]) {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(times.len() * 2);
        for (operation, (invoked, returned)) in times.iter().enumerate() {
            order.push((*invoked, false, operation));
            order.push((*returned, true, operation));
        }
        order.sort_unstable();
        self.events.push(Event { operation: NONE, matching: NONE, at_ns: 0, previous: NONE, next: NONE });
        let mut calls = vec![NONE; times.len()];
        for (at_ns, is_return, operation) in order {
            let index = self.events.len();
            if is_return {
                self.events[calls[operation]].matching = index;
            } else {
                calls[operation] = index;
            }
            self.events.push(Event { operation, matching: NONE, at_ns, previous: index - 1, next: NONE });
            self.events[index - 1].next = index;
        }
    }

    fn count(&mut self) {
        self.done = vec![0; self.definite.len().div_ceil(64)];
        self.used = vec![0; self.pending.len().div_ceil(64)];
        self.writers = vec![0; self.values.len()];
        self.must_find = vec![0; self.values.len()];
        self.must_miss = vec![0; self.values.len()];
        self.may_swap = vec![0; self.values.len()];
        let steps: Vec<Step> =
            self.definite.iter().map(|(step, _)| *step).chain(self.pending.iter().map(|p| p.step)).collect();
        self.appends = self.how_appended(&steps);
        for step in steps {
            if let Step::Write(new) | Step::Swap(_, new) = step {
                let writers = &mut self.writers[new as usize];
                *writers = writers.saturating_add(1).min(2);
            }
        }
        for at in 0..self.definite.len() {
            self.expect(self.definite[at].0, true);
        }
        for at in 0..self.pending.len() {
            if let Step::Swap(expected, _) = self.pending[at].step {
                self.may_swap[expected as usize] += 1;
            }
        }
    }

    /// Finds for each operation the one that can stand in for it.
    fn pair(&mut self, times: &[(u64, u64)]) {
        // A value that no answer mentions is as good as any other such.
        let mut last_open: BTreeMap<Option<Step>, usize> = BTreeMap::new();
        for at in 0..self.pending.len() {
            let step = self.pending[at].step;
            let is_unseen = self.appends == Appends::Never
                && matches!(step, Step::Write(new) if new != ABSENT && !self.is_mentioned(new));
            self.pending[at].twin = last_open.insert((!is_unseen).then_some(step), at);
        }
        let mut by_return: Vec<usize> = (0..times.len()).collect();
        by_return.sort_by_key(|at| (times[*at].1, *at));
        let mut last: BTreeMap<Step, usize> = BTreeMap::new();
        self.calls = times.iter().map(|(invoked_ns, _)| *invoked_ns).collect();
        self.twins = vec![None; times.len()];
        for at in by_return {
            self.twins[at] = last.insert(self.definite[at].0, at);
        }
    }

    fn how_appended(&self, steps: &[Step]) -> Appends {
        if !steps.iter().any(|step| matches!(step, Step::Append(_))) {
            return Appends::Never;
        }
        if steps.iter().any(|step| !matches!(step, Step::Append(_) | Step::Read(_))) {
            return Appends::Mixed;
        }
        let seen = steps.iter().filter_map(|step| match step {
            Step::Read(seen) if *seen != ABSENT => Some(*seen),
            _ => None,
        });
        Appends::Only(seen.max_by_key(|seen| self.values.length(*seen)))
    }

    /// How many operations are still to be linearized that must find this.
    fn must_find(&self, state: State) -> u32 {
        // Contents that nobody mentions come after those that somebody does.
        self.must_find.get(state as usize).copied().unwrap_or(0)
    }

    fn is_mentioned(&self, value: State) -> bool {
        let at = value as usize;
        self.writers[at] > 1 || self.must_find[at] > 0 || self.must_miss[at] > 0 || self.may_swap[at] > 0
    }

    /// Counts (or discounts) what a definite operation still has to find.
    fn expect(&mut self, step: Step, add: bool) {
        let counter = match step {
            Step::Read(state) | Step::Swap(state, _) => &mut self.must_find[state as usize],
            Step::Mismatch(state) => &mut self.must_miss[state as usize],
            Step::Write(_) | Step::Append(_) | Step::Never => return,
        };
        if add {
            *counter += 1;
        } else {
            *counter -= 1;
        }
    }

    fn run(mut self, patience: &mut dyn FnMut() -> bool) -> Verdict {
        let mut frames: Vec<Frame> = Vec::new();
        let mut seen = Seen::default();
        let mut state = ABSENT;
        let (mut steps, mut ask_at) = (0u64, ASK_EVERY);
        let mut linearized = 0;
        let mut best: Option<Best> = None;
        // Where to go on at this level: `None` from the start, else after this choice.
        let mut after: Option<Choice> = None;
        loop {
            if linearized == self.definite.len() {
                // Whatever is still open takes effect now, or never.
                return Verdict::Linearizable;
            }
            steps += 1;
            let too_much = seen.len() > self.bounds.configurations
                || seen.memory().saturating_add(self.values.memory()) > self.bounds.bytes;
            // An order that is undone counts too, so that a step may go by more than one.
            let is_time_to_ask = steps >= ask_at;
            if is_time_to_ask {
                ask_at = steps + ASK_EVERY;
            }
            if too_much || steps > self.bounds.steps || (is_time_to_ask && !patience()) {
                let limit = if too_much { Limit::Memory } else { Limit::Time };
                return Verdict::Unknown { key: self.key.to_owned(), steps, limit };
            }
            let (choice, forced) = match self.effortless(state).filter(|_| after.is_none()) {
                Some(call) => (Some(Choice::Definite(call)), true),
                None => (self.next_choice(state, after), false),
            };
            if let Some(choice) = choice {
                let before = state;
                state = self.take(choice, state);
                if forced || seen.insert(self.configuration(state)) {
                    frames.push(Frame { choice, before, forced });
                    linearized += usize::from(matches!(choice, Choice::Definite(_)));
                    after = None;
                } else {
                    self.put_back(choice);
                    state = before;
                    after = Some(choice);
                }
                continue;
            }
            if after.is_none() && best.as_ref().is_none_or(|best| linearized > best.linearized) {
                let best = best.get_or_insert_default();
                best.order.truncate(best.shared);
                for at in best.shared..frames.len() {
                    // What an operation leaves behind is what the next one finds.
                    let after = frames.get(at + 1).map_or(state, |next| next.before);
                    best.order.push((self.id(frames[at].choice), after));
                }
                best.shared = frames.len();
                (best.linearized, best.stuck, best.state) = (linearized, self.window(), state);
            }
            loop {
                let Some(frame) = frames.pop() else {
                    let best = best.unwrap_or_else(|| Best { stuck: self.window(), ..Best::default() });
                    return self.broken(best);
                };
                if let Some(best) = &mut best {
                    best.shared = best.shared.min(frames.len());
                }
                self.put_back(frame.choice);
                steps += 1;
                linearized -= usize::from(matches!(frame.choice, Choice::Definite(_)));
                state = frame.before;
                if !frame.forced {
                    after = Some(frame.choice);
                    break;
                }
            }
        }
    }

    fn id(&self, choice: Choice) -> u64 {
        match choice {
            Choice::Definite(call) => self.definite[self.events[call].operation].1,
            Choice::Pending(at) => self.pending[at].id,
        }
    }

    /// Operations of which one must be next, as they were called before the first return.
    fn window(&self) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut at = self.events[HEAD].next;
        while at != NONE && self.events[at].matching != NONE {
            ids.push(self.definite[self.events[at].operation].1);
            at = self.events[at].next;
        }
        ids
    }

    /// The first operation that fits the state and leaves it alone.
    fn effortless(&self, state: State) -> Option<usize> {
        let mut at = self.events[HEAD].next;
        while at != NONE && self.events[at].matching != NONE {
            let step = self.definite[self.events[at].operation].0;
            let changes_nothing = match step {
                Step::Read(_) | Step::Mismatch(_) => step.fits(state),
                Step::Append(piece) => self.values.piece(piece).is_empty(),
                Step::Write(_) | Step::Swap(..) | Step::Never => false,
            };
            if changes_nothing {
                return Some(at);
            }
            at = self.events[at].next;
        }
        None
    }

    /// The next thing worth trying after `after`: definite operations first, then open ones.
    fn next_choice(&self, state: State, after: Option<Choice>) -> Option<Choice> {
        let limit_ns = self.first_return_ns();
        let mut at = match after {
            None => self.events[HEAD].next,
            Some(Choice::Definite(call)) => self.events[call].next,
            Some(Choice::Pending(_)) => NONE,
        };
        while at != NONE && self.events[at].matching != NONE {
            let operation = self.events[at].operation;
            let step = self.definite[operation].0;
            // One that is over sooner and can be next as well is tried in its place.
            let stands_in = |twin: usize| !bit(&self.done, twin) && self.calls[twin] <= limit_ns;
            if step.fits(state)
                && self.may_replace(state, matches!(step, Step::Swap(..)).into())
                && self.leads_on(state, step)
                && !self.twins[operation].is_some_and(stands_in)
            {
                return Some(Choice::Definite(at));
            }
            at = self.events[at].next;
        }
        let first = match after {
            Some(Choice::Pending(at)) => at + 1,
            _ => 0,
        };
        if first >= self.pending.len() {
            return None;
        }
        let twin_is_used = |at: usize| self.pending[at].twin.is_none_or(|twin| bit(&self.used, twin));
        (first..self.pending.len())
            .take_while(|at| self.pending[*at].invoked_ns <= limit_ns)
            .find(|at| !bit(&self.used, *at) && twin_is_used(*at) && self.is_worth_trying(*at, state))
            .map(Choice::Pending)
    }

    /// Time of the first return in the list: whatever was called later cannot be next.
    fn first_return_ns(&self) -> u64 {
        let mut at = self.events[HEAD].next;
        while at != NONE {
            if self.events[at].matching == NONE {
                return self.events[at].at_ns;
            }
            at = self.events[at].next;
        }
        u64::MAX
    }

    /// Whether the value may be replaced by an operation that itself accounts for `own` of those who
    /// must find it.
    fn may_replace(&self, state: State, own: u32) -> bool {
        match self.appends {
            Appends::Never => {
                state == ABSENT || self.writers[state as usize] != 1 || self.must_find(state) <= own
            }
            Appends::Mixed => true,
            Appends::Only(_) => self.must_find(state) <= own,
        }
    }

    /// Whether what is there after a step can still become what somebody has to find, on a key that only
    /// grows. On others it says nothing.
    fn leads_on(&self, state: State, step: Step) -> bool {
        match (self.appends, step) {
            (Appends::Only(Some(longest)), Step::Append(piece)) if self.must_find(longest) > 0 => {
                let rest = self.values.piece(longest).as_bytes().get(self.values.length(state)..);
                rest.is_some_and(|rest| rest.starts_with(self.values.piece(piece).as_bytes()))
            }
            _ => true,
        }
    }

    /// Whether somebody's answer can depend on this open operation taking effect now.
    fn is_worth_trying(&self, at: usize, state: State) -> bool {
        let new = match self.pending[at].step {
            Step::Write(new) => new,
            Step::Swap(expected, new) if expected == state => new,
            Step::Append(piece) => {
                // Once the longest is found, no answer is helped by more.
                let wanted = match self.appends {
                    Appends::Only(longest) => longest.is_some_and(|longest| self.must_find(longest) > 0),
                    Appends::Mixed | Appends::Never => true,
                };
                let step = self.pending[at].step;
                let grows = !self.values.piece(piece).is_empty();
                return wanted && grows && self.may_replace(state, 0) && self.leads_on(state, step);
            }
            _ => return false,
        };
        if new == state || !self.may_replace(state, 0) {
            return false;
        }
        if self.appends == Appends::Mixed {
            // An append to it may be what somebody has to find.
            return true;
        }
        self.must_find[new as usize] > 0
            || self.may_swap[new as usize] > 0
            || self.must_miss[state as usize] > 0
    }

    /// Linearizes a choice and returns the state after it.
    fn take(&mut self, choice: Choice, state: State) -> State {
        let step = match choice {
            Choice::Definite(call) => {
                let Event { operation, matching, .. } = self.events[call];
                self.unlink(call);
                self.unlink(matching);
                set_bit(&mut self.done, operation, true);
                self.done_words = self.done_words.max(operation / 64 + 1);
                let step = self.definite[operation].0;
                self.expect(step, false);
                step
            }
            Choice::Pending(at) => {
                set_bit(&mut self.used, at, true);
                let step = self.pending[at].step;
                if let Step::Swap(expected, _) = step {
                    self.may_swap[expected as usize] -= 1;
                }
                step
            }
        };
        step.apply(state, &mut self.values)
    }

    /// Undoes [`Search::take`]; choices are undone in reverse order.
    fn put_back(&mut self, choice: Choice) {
        match choice {
            Choice::Definite(call) => {
                let Event { operation, matching, .. } = self.events[call];
                self.relink(matching);
                self.relink(call);
                set_bit(&mut self.done, operation, false);
                self.expect(self.definite[operation].0, true);
            }
            Choice::Pending(at) => {
                set_bit(&mut self.used, at, false);
                if let Step::Swap(expected, _) = self.pending[at].step {
                    self.may_swap[expected as usize] += 1;
                }
            }
        }
    }

    fn unlink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = next;
        if next != NONE {
            self.events[next].previous = previous;
        }
    }

    fn relink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = at;
        if next != NONE {
            self.events[next].previous = at;
        }
    }

    /// A configuration in words: the state, the operations that are linearized and the open ones that were used. Everything before
    /// the first word with a gap is linearized, so only the place of that and the rest are remembered.
    fn configuration(&mut self, state: State) -> impl Iterator<Item = u64> {
        let head = self.events[HEAD].next;
        let first_word = if head == NONE { self.done.len() } else { self.events[head].operation / 64 };
        while self.done_words > first_word && self.done[self.done_words - 1] == 0 {
            self.done_words -= 1;
        }
        let end = self.done_words.max(first_word);
        let place = [u64::from(state), first_word as u64];
        place.into_iter().chain(self.done[first_word..end].iter().chain(&self.used).copied())
    }

    fn broken(&self, best: Best) -> Verdict {
        let Best { linearized: explained, order, stuck, state, .. } = best;
        let tail = &order[order.len().saturating_sub(TAIL)..];
        let total = self.definite.len();
        let mut words = format!(
            "{}{explained} of {total} operations can be put in order, after which {} holds {}",
            prefix(self.key, self.wording),
            self.wording.holder(),
            self.name(state),
        );
        if !tail.is_empty() {
            words += "; the last of them:";
        }
        for (id, _) in tail {
            words += &format!("\n    {}", self.describe(*id));
        }
        words += "\n  one of these had to be next, and none can be:";
        for id in stuck.iter().take(8) {
            words += &format!("\n    {}", self.describe(*id));
        }
        if stuck.len() > 8 {
            words += &format!("\n    and {} more", stuck.len() - 8);
        }
        // A write is only held back for the sake of a later reader of what it would replace.
        let of_stuck: BTreeSet<u64> = stuck.iter().copied().collect();
        let held_back = self.definite.iter().any(|(step, id)| step.fits(state) && of_stuck.contains(id));
        let reader = if held_back { self.last_reader(state) } else { None };
        let longest = match self.appends {
            Appends::Only(Some(longest)) if held_back && reader.is_none() => self.last_reader(longest),
            _ => None,
        };
        if let Some(longest) = longest {
            words += "\n  because what is there would not be the beginning of what is still seen later:";
            words += &format!("\n    {}", self.describe(longest));
        }
        if let Some(reader) = reader {
            words += &format!("\n  because {} would be gone, and it is still seen later:", self.name(state));
            words += &format!("\n    {}", self.describe(reader));
        }
        let first = stuck
            .iter()
            .filter_map(|id| self.by_id.get(id))
            .min_by_key(|operation| (operation.returned_ns.unwrap_or(u64::MAX), operation.id));
        let culprit = reader.or(longest).and_then(|id| self.by_id.get(&id)).or(first);
        Verdict::Violation(Box::new(Broken {
            key: self.key.to_owned(),
            explained,
            total,
            order: order
                .iter()
                .map(|(id, after)| Placed { id: *id, after: self.values.shown(*after) })
                .collect(),
            stuck,
            reader: reader.or(longest),
            at_ns: culprit.and_then(|operation| operation.returned_ns).unwrap_or(0),
            node: culprit.map_or(NO_NODE, |operation| operation.node),
            words,
            wording: self.wording,
        }))
    }

    /// The last called of the operations that must find `state`.
    fn last_reader(&self, state: State) -> Option<u64> {
        let finds = |step: &Step| matches!(step, Step::Read(seen) | Step::Swap(seen, _) if *seen == state);
        self.definite.iter().rev().find(|(step, _)| finds(step)).map(|(_, id)| *id)
    }

    fn name(&self, state: State) -> String {
        self.values.name(state)
    }

    fn describe(&self, id: u64) -> String {
        let known = self.by_id.get(&id);
        known.map_or_else(|| format!("operation {id}"), |operation| describe_as(operation, self.wording))
    }
}

/// Which key words are about, where there may be several.
fn prefix(key: &str, wording: Wording) -> String {
    if wording.one_register { String::new() } else { format!("key {key:?}: ") }
}

/// An operation in words.
pub fn describe(operation: &Operation) -> String {
    describe_as(operation, Wording::default())
}

fn describe_as(operation: &Operation, wording: Wording) -> String {
    let did = match (&operation.action, &operation.outcome) {
        (Action::Get, Outcome::Ok(Response::Value(None))) => "read nothing".to_owned(),
        (Action::Get, Outcome::Ok(Response::Value(Some(seen)))) => match seen.modify_index {
            // A history from elsewhere knows no indexes.
            0 => format!("read {:?}", seen.value),
            index => format!("read {:?} (index {index})", seen.value),
        },
        (Action::Get, _) => "read".to_owned(),
        (Action::Put { value }, _) => format!("wrote {value:?}"),
        // A register is written with nil.
        (Action::Delete, _) if wording.one_register => "wrote nothing".to_owned(),
        (Action::Delete, _) => "deleted the key".to_owned(),
        (Action::Append { value }, _) => format!("appended {value:?}"),
        (Action::Cas { expected, value }, outcome) => {
            let expected = expected.as_ref().map_or("nothing".to_owned(), |expected| format!("{expected:?}"));
            match outcome {
                Outcome::Ok(Response::Done(false)) => {
                    let holder = wording.holder();
                    format!("was told {holder} does not hold {expected} (so {value:?} was not written)")
                }
                _ => format!("changed {expected} to {value:?}"),
            }
        }
    };
    let end = operation.returned_ns.map_or("open".to_owned(), |returned| wording.time(returned));
    let tail = match &operation.outcome {
        Outcome::Ok(Response::Done(false)) if !matches!(operation.action, Action::Cas { .. }) => {
            " and was told false"
        }
        Outcome::Ok(_) => "",
        Outcome::Failed(_) => " (failed)",
        Outcome::Unknown(_) => " (outcome unknown)",
    };
    let through = match operation.node {
        NO_NODE => String::new(),
        node => format!(" through node {node}"),
    };
    format!(
        "[{} .. {end}] op {}: client {} {did}{through}{tail}",
        wording.time(operation.invoked_ns),
        operation.id,
        operation.client,
    )
}

fn bit(words: &[u64], at: usize) -> bool {
    words[at / 64] & (1 << (at % 64)) != 0
}

fn set_bit(words: &mut [u64], at: usize, on: bool) {
    if on {
        words[at / 64] |= 1 << (at % 64);
    } else {
        words[at / 64] &= !(1 << (at % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Versioned;
    use crate::history::test::Story;
    use proptest::prelude::*;

    fn is_fine(story: Story) -> bool {
        match check(&story.0) {
            Verdict::Linearizable => true,
            Verdict::Violation(_) => false,
            Verdict::Unknown { .. } => panic!("the bound was met on a small history"),
        }
    }

    #[test]
    fn a_read_during_a_write_may_see_either_side() {
        let story = |seen| Story::default().put((0, 1), "a").put((2, 9), "b").get((3, 4), Some((seen, 1)));
        assert!(is_fine(story("a")));
        assert!(is_fine(story("b")));
        assert!(!is_fine(story("c")));
    }

    #[test]
    fn a_read_after_a_write_must_see_it() {
        assert!(!is_fine(Story::default().put((0, 1), "a").put((2, 3), "b").get((4, 5), Some(("a", 1)))));
        assert!(!is_fine(Story::default().put((0, 1), "a").get((2, 3), None)));
    }

    #[test]
    fn two_reads_may_not_disagree_about_the_order_of_writes() {
        let story = Story::default().put((0, 20), "a").put((0, 20), "b");
        assert!(!is_fine(
            story.get((1, 2), Some(("a", 1))).get((3, 4), Some(("b", 2))).get((5, 6), Some(("a", 1)))
        ));
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_once() {
        let story = || Story::default().put((0, 1), "a").maybe_put(2, "b").put((3, 4), "c");
        assert!(is_fine(story().get((5, 6), Some(("c", 3)))));
        assert!(is_fine(story().get((5, 6), Some(("c", 3))).get((7, 8), Some(("b", 4)))));
        assert!(!is_fine(
            story().get((5, 6), Some(("b", 2))).get((7, 8), Some(("c", 3))).get((9, 10), Some(("b", 4)))
        ));
        assert!(!is_fine(Story::default().get((0, 1), Some(("b", 1))).maybe_put(2, "b")));
    }

    #[test]
    fn a_failed_write_must_never_be_seen() {
        let story = Story::default()
            .put((0, 1), "a")
            .add((2, 3), Action::Put { value: "b".into() }, Outcome::Failed("no leader".into()))
            .get((4, 5), Some(("b", 2)));
        let Verdict::Violation(broken) = check(&story.0) else { panic!("accepted") };
        assert_eq!((broken.explained, broken.total, broken.stuck), (1, 2, vec![2]));
        assert_eq!(broken.order, [Placed { id: 0, after: Some("a".into()) }]);
    }

    #[test]
    fn what_nobody_wrote_is_found_whatever_the_bounds_are() {
        let bounds = Bounds { steps: 1, configurations: 1, bytes: 1 };
        let story = |seen| {
            let story = (0..9).fold(Story::default(), |story, at| story.put((0, 20), &format!("v{at}")));
            story.get((30, 40), Some((seen, 1)))
        };
        assert!(matches!(check_within(&story("v3").0, bounds), Verdict::Unknown { .. }));
        let Verdict::Violation(broken) = check_within(&story("x").0, bounds) else { panic!("not found") };
        assert_eq!((broken.stuck, broken.total, broken.at_ns), (vec![9], 10, 40));
        assert!(
            broken.words.ends_with("op 9: client 9 read \"x\" (index 1) through node 0"),
            "{}",
            broken.words
        );
        // A key that comes later by name is not hidden by one that is hard.
        let mut history = story("v3").0;
        history.extend(story("x").0.into_iter().map(|operation| Operation {
            id: operation.id + 10,
            key: "later".into(),
            ..operation
        }));
        assert!(matches!(check_within(&history, bounds), Verdict::Violation(_)));
    }

    #[test]
    fn of_two_equal_compare_and_sets_only_one_may_succeed() {
        let story = |second| {
            Story::default().put((0, 1), "a").cas((2, 9), Some("a"), "b", true).cas(
                (2, 9),
                Some("a"),
                "c",
                second,
            )
        };
        assert!(is_fine(story(false)));
        assert!(!is_fine(story(true)));
        assert!(!is_fine(Story::default().put((0, 1), "a").cas((2, 3), Some("a"), "b", false)));
        assert!(is_fine(Story::default().cas((0, 1), None, "a", true).delete((2, 3)).get((4, 5), None)));
    }

    #[test]
    fn an_unknown_write_can_explain_a_compare_and_set_that_missed() {
        let story = Story::default().put((0, 1), "a").maybe_put(2, "b").cas((3, 4), Some("a"), "c", false);
        assert!(is_fine(story));
    }

    #[test]
    fn a_put_that_was_told_false_is_a_violation() {
        let put = Action::Put { value: "a".into() };
        assert!(!is_fine(Story::default().add((0, 1), put, Outcome::Ok(Response::Done(false)))));
    }

    #[test]
    fn where_the_bound_is_met_the_verdict_is_unknown() {
        let story = Story::default().put((0, 1), "a").get((2, 3), Some(("a", 1)));
        let bounds = Bounds { steps: 1, ..Bounds::default() };
        assert!(matches!(check_within(&story.0, bounds), Verdict::Unknown { .. }));
    }

    #[test]
    fn a_search_asks_whether_it_may_go_on_however_its_steps_fall() {
        // Of many at once each of two has to be the last.
        for many in 24..28 {
            let story = (0..many).fold(Story::default(), |story, at| story.put((2, 9), &format!("v{at}")));
            let story = story.get((10, 11), Some(("v0", 1))).get((12, 13), Some(("v1", 1)));
            let mut asked = 0;
            let mut patience = || {
                asked += 1;
                asked < 5
            };
            let verdict = check_while(&story.0, Wording::default(), Bounds::default(), &mut patience);
            assert!(matches!(verdict, Verdict::Unknown { limit: Limit::Time, .. }), "{verdict:?}");
            // Once more when what is hard was to be searched to the end.
            assert_eq!(asked, 6, "{many}");
        }
    }

    #[test]
    fn the_report_names_what_cannot_follow() {
        let story = Story::default().put((0, 1), "a").put((2, 3), "b").get((4, 5), Some(("a", 1)));
        let Verdict::Violation(broken) = check(&story.0) else { panic!("accepted") };
        insta::assert_snapshot!(broken.words);
    }

    #[test]
    fn a_hundred_thousand_operations_are_checked_in_moments() {
        let history = busy_history(100_000, 16, 5, 1);
        assert_eq!(check(&history), Verdict::Linearizable);
        // One stale read in the middle is found, and it does not take for ever either.
        let mut broken = history;
        let first = broken.iter().position(|operation| operation.action.writes().is_some()).unwrap();
        let stale = broken[first].action.writes().unwrap().to_owned();
        let key = broken[first].key.clone();
        let victim = broken
            .iter()
            .position(|operation| {
                operation.id > 50_000 && operation.action == Action::Get && operation.key == key
            })
            .unwrap();
        broken[victim].outcome =
            Outcome::Ok(Response::Value(Some(Versioned { value: stale, modify_index: 1 })));
        assert!(matches!(check(&broken), Verdict::Violation(_)));
    }

    #[test]
    fn many_clients_on_one_key_with_many_lost_answers_are_still_decided() {
        for seed in 0..3 {
            let mut history = busy_history(4_000, 24, 1, seed);
            assert_eq!(check(&history), Verdict::Linearizable);
            let victim = history
                .iter()
                .rposition(|operation| matches!(operation.outcome, Outcome::Ok(Response::Value(Some(_)))))
                .unwrap();
            let long_gone = history.iter().find_map(|operation| match &operation.outcome {
                Outcome::Ok(Response::Value(Some(seen))) => Some(seen.clone()),
                _ => None,
            });
            history[victim].outcome = Outcome::Ok(Response::Value(long_gone));
            assert!(matches!(check(&history), Verdict::Violation(_)), "seed {seed}");
        }
    }

    /// A true history: operations overlap, take effect at a point between call and return, and one in
    /// fifty is never answered (and half of those never happen).
    fn busy_history(count: u64, clients: u32, keys: u64, seed: u64) -> Vec<Operation> {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut free_at = vec![0u64; clients as usize];
        let mut planned = Vec::new();
        for id in 0..count {
            let client = rng.random_range(0..clients);
            let invoked_ns = free_at[client as usize] + rng.random_range(1..50);
            let point = invoked_ns + rng.random_range(0..100);
            let returned = point + rng.random_range(0..100);
            free_at[client as usize] = returned;
            planned.push((point, id, client, invoked_ns, returned, rng.random_range(0..keys)));
        }
        planned.sort_unstable();
        let mut held: BTreeMap<u64, String> = BTreeMap::new();
        let mut history = Vec::new();
        for (_, id, client, invoked_ns, returned, key) in planned {
            let unknown = rng.random_range(0..50) == 0;
            let happens = !unknown || rng.random_bool(0.5);
            let value = format!("v{id}");
            let now = held.get(&key).cloned();
            let mut outcome = Response::Done(true);
            let action = match rng.random_range(0..10) {
                0..5 => {
                    outcome = Response::Value(now.map(|value| Versioned { value, modify_index: 1 }));
                    Action::Get
                }
                5..8 => {
                    if happens {
                        held.insert(key, value.clone());
                    }
                    Action::Put { value }
                }
                8 => {
                    let expected = if rng.random_bool(0.5) { now.clone() } else { Some("v1".to_owned()) };
                    outcome = Response::Done(expected == now);
                    if happens && expected == now {
                        held.insert(key, value.clone());
                    }
                    Action::Cas { expected, value }
                }
                _ => {
                    if happens {
                        held.remove(&key);
                    }
                    Action::Delete
                }
            };
            let outcome = if unknown { Outcome::Unknown("lost".into()) } else { Outcome::Ok(outcome) };
            let returned_ns = (!unknown).then_some(returned);
            let key = format!("k{key}");
            history.push(Operation { id, client, node: 0, key, action, invoked_ns, outcome, returned_ns });
        }
        history
    }

    /// Tries every order of every subset of the open operations. Nothing shared with the search.
    fn by_force(history: &[Operation]) -> bool {
        fn answer(held: &mut Option<String>, action: &Action) -> Response {
            match action {
                Action::Get => {
                    Response::Value(held.clone().map(|value| Versioned { value, modify_index: 1 }))
                }
                Action::Put { value } => {
                    *held = Some(value.clone());
                    Response::Done(true)
                }
                Action::Delete => {
                    *held = None;
                    Response::Done(true)
                }
                Action::Append { value } => {
                    if !value.is_empty() {
                        *held = Some(held.clone().unwrap_or_default() + value);
                    }
                    Response::Done(true)
                }
                Action::Cas { expected, value } => {
                    let holds = held == expected;
                    if holds {
                        *held = Some(value.clone());
                    }
                    Response::Done(holds)
                }
            }
        }
        fn extend(left: &[&Operation], held: &Option<String>) -> bool {
            if left.iter().all(|operation| matches!(operation.outcome, Outcome::Unknown(_))) {
                return true;
            }
            (0..left.len()).any(|at| {
                let candidate = left[at];
                if left.iter().any(|other| other.returned_ns.is_some_and(|end| end < candidate.invoked_ns)) {
                    return false;
                }
                let mut held = held.clone();
                let said = answer(&mut held, &candidate.action);
                if matches!(&candidate.outcome, Outcome::Ok(expected) if *expected != said) {
                    return false;
                }
                let mut rest = left.to_vec();
                rest.remove(at);
                extend(&rest, &held)
            })
        }
        let left: Vec<&Operation> =
            history.iter().filter(|operation| !matches!(operation.outcome, Outcome::Failed(_))).collect();
        extend(&left, &None)
    }

    /// A call and what it is answered: a read, a write of `new`, a write if the key holds `some`, or a removal.
    fn asked(deed: u8, some: Option<String>, new: String, held: bool) -> (Action, Response) {
        match deed {
            0 => {
                let seen = some.map(|value| Versioned { value, modify_index: 1 });
                (Action::Get, Response::Value(seen))
            }
            1 => (Action::Put { value: new }, Response::Done(true)),
            2 => (Action::Cas { expected: some, value: new }, Response::Done(held)),
            _ => (Action::Delete, Response::Done(true)),
        }
    }

    /// What becomes of an answer, and when the call ends: 0 is a refusal, and those of `lost` never come.
    fn told(fate: u8, lost: std::ops::Range<u8>, response: Response, end: u64) -> (Outcome, u64) {
        match fate {
            0 => (Outcome::Failed("refused".into()), end),
            fate if lost.contains(&fate) => (Outcome::Unknown("lost".into()), u64::MAX),
            _ => (Outcome::Ok(response), end),
        }
    }

    /// Any small history, true or not: values are unique, everything else is free.
    fn any_history() -> impl Strategy<Value = Vec<Operation>> {
        let operation = (0u8..4, 0u64..12, 0u64..8, 0u8..10, 0u8..6, any::<bool>());
        proptest::collection::vec(operation, 1..7).prop_map(|parts| {
            let mut story = Story::default();
            for (at, (action, from, span, fate, value, held)) in parts.into_iter().enumerate() {
                let some = (value > 0).then(|| format!("v{}", value - 1));
                let own = format!("v{at}");
                let (action, response) = asked(action, some, own, held);
                let (outcome, end) = told(fate, 1..4, response, from + span);
                story = story.add((from, end), action, outcome);
            }
            story.0
        })
    }

    /// Any small history of few values, which many write, with most calls at once and many answers lost.
    fn any_crowd() -> impl Strategy<Value = Vec<Operation>> {
        let operation = (0u8..8, 0u64..6, 0u64..8, 0u8..12, 0u8..4, 0u8..3, any::<bool>());
        proptest::collection::vec(operation, 1..8).prop_map(|parts| {
            let mut story = Story::default();
            for (action, from, span, fate, value, new, held) in parts {
                let some = (value > 0).then(|| format!("v{}", value - 1));
                let new = format!("v{new}");
                let deed = [0, 0, 0, 1, 1, 2, 2, 3][usize::from(action)];
                let (action, response) = asked(deed, some, new, held);
                let (outcome, end) = told(fate, 1..5, response, from + span);
                story = story.add((from, end), action, outcome);
            }
            story.0
        })
    }

    /// Any small history with appends of few different texts; `others`: with other writes too.
    fn any_growing_history(others: bool) -> impl Strategy<Value = Vec<Operation>> {
        let kinds = if others { 0u8..7 } else { 0u8..4 };
        let operation = (kinds, 0u64..12, 0u64..8, 0u8..10, "[ab]{0,3}", "[ab]{0,2}", any::<bool>());
        proptest::collection::vec(operation, 1..7).prop_map(|parts| {
            let mut story = Story::default();
            for (kind, from, span, fate, seen, value, held) in parts {
                let some = (!seen.is_empty()).then_some(seen);
                let (action, response) = match kind {
                    0 | 1 => {
                        let seen = some.map(|value| Versioned { value, modify_index: 1 });
                        (Action::Get, Response::Value(seen))
                    }
                    2 | 3 => (Action::Append { value }, Response::Done(true)),
                    4 => (Action::Put { value }, Response::Done(true)),
                    5 => (Action::Cas { expected: some, value }, Response::Done(held)),
                    _ => (Action::Delete, Response::Done(true)),
                };
                let (outcome, end) = match fate {
                    0 => (Outcome::Failed("refused".into()), from + span),
                    1..4 => (Outcome::Unknown("lost".into()), u64::MAX),
                    _ => (Outcome::Ok(response), from + span),
                };
                story = story.add((from, end), action, outcome);
            }
            story.0
        })
    }

    /// As [`busy_history`], of keys that are appended to, and now and then begun anew if `others`.
    fn growing_history(count: u64, clients: u32, keys: u64, seed: u64, others: bool) -> Vec<Operation> {
        let mut history = busy_history(count, clients, keys, seed);
        // The same calls and points in time, with other actions: what was held is computed again.
        let mut held: BTreeMap<String, String> = BTreeMap::new();
        for operation in &mut history {
            let unknown = matches!(operation.outcome, Outcome::Unknown(_));
            let value = format!("x{} ", operation.id);
            let now = held.entry(operation.key.clone()).or_default();
            let happens = !unknown || operation.id % 2 == 0;
            let response = match operation.id % 100 {
                0 if others => {
                    operation.action = Action::Put { value: value.clone() };
                    if happens {
                        *now = value;
                    }
                    Response::Done(true)
                }
                1..60 => {
                    operation.action = Action::Get;
                    let seen = (!now.is_empty()).then(|| now.clone());
                    Response::Value(seen.map(|value| Versioned { value, modify_index: 1 }))
                }
                _ => {
                    operation.action = Action::Append { value: value.clone() };
                    if happens {
                        now.push_str(&value);
                    }
                    Response::Done(true)
                }
            };
            if !unknown {
                operation.outcome = Outcome::Ok(response);
            }
        }
        history
    }

    #[test]
    fn long_histories_of_appends_are_decided() {
        for others in [false, true] {
            let mut history = growing_history(10_000, 12, 20, 7, others);
            assert_eq!(check(&history), Verdict::Linearizable, "others: {others}");
            let victim = history
                .iter_mut()
                .rev()
                .find_map(|operation| match &mut operation.outcome {
                    Outcome::Ok(Response::Value(Some(seen))) if seen.value.len() > 40 => Some(seen),
                    _ => None,
                })
                .unwrap();
            // Two pieces changed places.
            let pieces: Vec<&str> = victim.value.split_inclusive(' ').collect();
            victim.value = [&[pieces[1], pieces[0]], &pieces[2..]].concat().concat();
            let Verdict::Violation(broken) = check(&history) else { panic!("accepted, others: {others}") };
            assert!(broken.explained < broken.total);
        }
    }

    #[test]
    fn appends_are_put_in_the_order_that_the_answer_shows() {
        let append = |story: Story, span, value: &str| {
            story.add(span, Action::Append { value: value.into() }, Outcome::Ok(Response::Done(true)))
        };
        let story = || {
            let story = append(Story::default(), (0, 1), "");
            append(append(story, (2, 9), "a"), (2, 9), "b")
        };
        assert!(is_fine(story().get((10, 11), Some(("ba", 0)))));
        assert!(is_fine(story().get((3, 4), Some(("b", 0))).get((10, 11), Some(("ba", 0)))));
        assert!(!is_fine(story().get((3, 4), Some(("a", 0))).get((10, 11), Some(("ba", 0)))));
        assert!(!is_fine(story().get((10, 11), Some(("a", 0)))));
        let Verdict::Violation(broken) = check(&story().get((10, 11), Some(("c", 0))).0) else {
            panic!("accepted")
        };
        insta::assert_snapshot!(broken.words);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn with_appends_too_the_search_agrees_with_trying_everything(
            growing in any_growing_history(false), mixed in any_growing_history(true),
        ) {
            prop_assert_eq!(check(&growing) == Verdict::Linearizable, by_force(&growing));
            prop_assert_eq!(check(&mixed) == Verdict::Linearizable, by_force(&mixed));
        }

        #[test]
        fn what_is_said_to_be_written_by_nobody_has_no_explanation(
            plain in any_history(), crowd in any_crowd(),
            growing in any_growing_history(false), mixed in any_growing_history(true),
        ) {
            for history in [plain, crowd, growing, mixed] {
                let found = unwritten::find(&history.iter().collect::<Vec<_>>());
                prop_assert!(found.is_none() || !by_force(&history), "{:?} of {:?}", found, history);
            }
        }

        #[test]
        fn the_search_agrees_with_trying_everything(history in any_history(), crowd in any_crowd()) {
            prop_assert_eq!(check(&history) == Verdict::Linearizable, by_force(&history));
            prop_assert_eq!(check(&crowd) == Verdict::Linearizable, by_force(&crowd));
        }

        #[test]
        fn the_longest_order_of_a_broken_history_is_an_order(
            history in prop_oneof![any_history().boxed(), any_crowd().boxed()],
        ) {
            if let Verdict::Violation(broken) = check(&history) {
                let (mut held, mut now_ns, mut definite) = (None, 0, 0);
                for Placed { id, after } in &broken.order {
                    let operation = &history[*id as usize];
                    now_ns = now_ns.max(operation.invoked_ns);
                    prop_assert!(operation.returned_ns.is_none_or(|end| now_ns <= end), "{:?}", broken);
                    match (&operation.action, &operation.outcome) {
                        (Action::Get, Outcome::Ok(Response::Value(seen))) => {
                            prop_assert_eq!(&held, &seen.as_ref().map(|seen| seen.value.clone()));
                        }
                        (Action::Put { value }, _) => held = Some(value.clone()),
                        (Action::Delete, _) => held = None,
                        (Action::Cas { expected, value }, outcome) => {
                            let holds = held == *expected;
                            if let Outcome::Ok(said) = outcome {
                                prop_assert_eq!(said, &Response::Done(holds));
                            }
                            if holds {
                                held = Some(value.clone());
                            }
                        }
                        other => prop_assert!(false, "{:?} in an order", other),
                    }
                    prop_assert_eq!(&held, after);
                    definite += usize::from(matches!(operation.outcome, Outcome::Ok(_)));
                }
                prop_assert_eq!(definite, broken.explained);
                prop_assert!(broken.order.iter().all(|placed| !broken.stuck.contains(&placed.id)));
            }
        }

        #[test]
        fn true_histories_are_accepted_and_mutated_ones_judged_like_force(
            seed in any::<u64>(), count in 1u64..7, victim in any::<prop::sample::Index>(), value in 0u64..7,
        ) {
            let mut history = busy_history(count, 3, 1, seed);
            prop_assert_eq!(check(&history), Verdict::Linearizable);
            let victim = victim.index(history.len());
            if let Outcome::Ok(Response::Value(seen)) = &mut history[victim].outcome {
                *seen = Some(Versioned { value: format!("v{value}"), modify_index: 1 });
            } else if let Outcome::Ok(Response::Done(held)) = &mut history[victim].outcome {
                *held = !*held;
            }
            prop_assert_eq!(check(&history) == Verdict::Linearizable, by_force(&history));
        }
    }
}
