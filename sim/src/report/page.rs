//! A failure as a page: one file, without a server, a network or a build, that shows what happened and says what was wrong.
//!
//! [`Page::of`] puts a [`Story`], the clients' history and the verdict into the form that the script of the page draws, and
//! [`Page::html`] writes the file. The script (`page.js`, on a canvas), the style and
//! the frame lie beside this file; the data is JSON inside a script tag.
//!
//! Keys, values and what nodes say are hostile: in the data every character that could end the tag is escaped, the script puts
//! texts on the page as text only, and the page's own policy lets nothing else run and nothing be fetched.
//!
//! A page is bounded: of more than [`MOST_MESSAGES`] messages or [`MOST_OPERATIONS`] operations those around the violation are kept,
//! and the page says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::explain::{Evidence, Explained, Named, evidence, explain, instants, named};
use super::story::{
    ClockPiece, FaultSpan, Lane, MARKS, Mark, Messages, ProcessSpan, Progress, RoleSpan, RuleSpan, Story,
    Talk, shortened,
};
use super::{RunReport, claim};
use crate::check::linearizable::Broken;
use crate::check::{self, Violation};
use crate::history::{Action, NO_NODE, Operation, Outcome, Response, Wording, jepsen};
use crate::scenario::validate::as_json;
use crate::scenario::{PlannedAction, RightDeed, Scenario};

/// So many messages a page holds.
const MOST_MESSAGES: usize = 120_000;

/// So many operations a page holds.
const MOST_OPERATIONS: usize = 60_000;

/// A plan of more requests is told in one line.
const MOST_REQUESTS: usize = 60;

/// Before a violation and after it, what is shown at first: so many times what its events span.
const MARGIN: u64 = 4;

/// So many of the things that clients did beside operations are shown to be what a violation speaks of.
const MOST_BESIDE: usize = 12;

/// Of the events of a violation so many, its last, are in view at first.
const NEAREST: usize = 4;

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// All that one page says.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// What broke, in one line.
    headline: String,
    /// `violated`, `ok` or `unknown`.
    verdict: &'static str,
    /// What the violated check claims.
    claim: String,
    /// The command that shows it again.
    again: Option<String>,
    /// Names and figures of the run.
    facts: Vec<(&'static str, String)>,
    /// The plan, a line for each fault and request.
    plan: Vec<String>,
    /// The plan as a file.
    scenario: Option<String>,
    /// Times that the page begins with.
    focus_ns: Option<(u64, u64)>,
    /// Times are places of events, so far apart; nothing if they are times.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_ns: Option<u64>,
    end_ns: u64,
    storm_ns: Option<u64>,
    heal_ns: Option<u64>,
    first_client: u32,
    /// The client through which the testbed itself asked.
    own_client: Option<u32>,
    lanes: Vec<DrawnLane>,
    faults: Vec<FaultSpan>,
    rules: Vec<RuleSpan>,
    messages: DrawnMessages,
    operations: Vec<DrawnOperation>,
    /// How many operations there were beyond those drawn.
    operations_left_out: usize,
    violations: Vec<DrawnViolation>,
    /// Which of them the page begins with.
    lead: usize,
    order: Option<DrawnOrder>,
    undecided: Vec<String>,
    /// What each kind of mark means.
    marks: BTreeMap<&'static str, &'static str>,
}

#[derive(Clone, Debug, Serialize)]
struct DrawnLane {
    node: u32,
    /// A client agent: it has no part in Raft.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    client: bool,
    processes: Vec<ProcessSpan>,
    roles: Vec<RoleSpan>,
    clocks: Vec<ClockPiece>,
    progress: DrawnProgress,
    marks: Vec<Mark>,
}

/// Columns as differences: most are small.
#[derive(Clone, Debug, Serialize)]
struct DrawnProgress {
    #[serde(serialize_with = "differences")]
    at_ns: Vec<u64>,
    #[serde(serialize_with = "differences")]
    last: Vec<u64>,
    #[serde(serialize_with = "differences")]
    durable: Vec<u64>,
    #[serde(serialize_with = "differences")]
    applied: Vec<u64>,
}

/// Messages in columns. Times are in microseconds: nobody looks closer, and it halves the file.
#[derive(Clone, Debug, Serialize)]
struct DrawnMessages {
    #[serde(serialize_with = "differences")]
    sent_us: Vec<u64>,
    took_us: Vec<u64>,
    from: Vec<u32>,
    to: Vec<u32>,
    kind: Vec<u8>,
    bytes: Vec<u32>,
    fate: Vec<u32>,
    kinds: Vec<String>,
    reasons: Vec<String>,
    left_out: u64,
}

#[derive(Clone, Debug, Serialize)]
struct DrawnOperation {
    id: u64,
    client: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u32>,
    key: String,
    from_ns: u64,
    /// When it was answered, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_ns: Option<u64>,
    /// `ok`, `failed` or `unknown`.
    result: &'static str,
    /// What it did, in a few signs.
    label: String,
    /// Whether it is no operation of the history, but something that a client did beside it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    beside: bool,
    /// What the client was told, if that was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct DrawnViolation {
    check: String,
    claim: String,
    source: String,
    at_ns: u64,
    node: Option<u32>,
    words: String,
    sentences: Vec<String>,
    operations: BTreeSet<u64>,
    events: Vec<Evidence>,
}

/// The longest order of a broken key.
#[derive(Clone, Debug, Serialize)]
struct DrawnOrder {
    key: String,
    placed: Vec<DrawnPlace>,
    stuck: Vec<u64>,
    reader: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
struct DrawnPlace {
    id: u64,
    at_ns: u64,
    after: Option<String>,
}

fn differences<S: Serializer>(column: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    let mut before = 0;
    serializer.collect_seq(column.iter().map(|value| {
        // Wraps back to what it was when the script adds it up: all times and indexes are far below 2^53.
        let step = value.wrapping_sub(before) as i64;
        before = *value;
        step
    }))
}

/// What a page is made of.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// What came of the run.
    pub report: &'a RunReport,
    /// What the clients did.
    pub history: &'a [Operation],
    /// What the linearizability check found.
    pub broken: Option<&'a Broken>,
    /// The plan.
    pub scenario: Option<&'a Scenario>,
    /// The bug that was put back.
    pub mutant: Option<&'a str>,
    /// The command that shows it again.
    pub again: Option<&'a str>,
    /// The client through which the testbed itself asked.
    pub own_client: Option<u32>,
}

impl Page {
    /// Puts together what there is to show.
    pub fn of(story: Story, material: Material<'_>) -> Page {
        let Material { report, history, broken, scenario, .. } = material;
        let explained = broken.map(|broken| explain(broken, history));
        let is_agent = |node| scenario.is_some_and(|scenario| scenario.is_agent(node));
        // Of all that clients did beside the operations a page holds the end: there it broke.
        let first_free = history.iter().map(|one| one.id + 1).max().unwrap_or(0);
        let beside: Vec<DrawnOperation> =
            (first_free..).zip(&story.talks).map(|(id, talk)| DrawnOperation::beside(id, talk)).collect();
        let violations: Vec<DrawnViolation> = report
            .violations
            .iter()
            .map(|one| drawn_violation(one, &story, broken.zip(explained.as_ref()), &beside))
            .collect();
        let lead = lead(&report.violations, material.mutant);
        let first = report.violations.get(lead);
        let headline = match (first, &explained) {
            (None, _) if !report.undecided.is_empty() => {
                "Nothing violated, but not everything was decided".to_owned()
            }
            (None, _) => "Nothing was violated".to_owned(),
            (Some(first), Some(explained)) if first.check == "LIN" => explained.headline.clone(),
            (Some(first), _) => {
                let line = first.detail.lines().next().unwrap_or_default().trim_end_matches([':', ';']);
                let mut line = line.to_owned();
                if let Some(letter) = line.get(..1).map(str::to_uppercase) {
                    line.replace_range(..1, &letter);
                }
                shortened(line)
            }
        };
        let history_end = history.iter().filter_map(|one| one.returned_ns.or(Some(one.invoked_ns))).max();
        let headline = with_names(&headline, &story);
        let end_ns = story.end_ns.max(history_end.unwrap_or(0)).max(1);
        let order = broken.map(|broken| DrawnOrder {
            key: broken.key.clone(),
            placed: broken
                .order
                .iter()
                .zip(instants(broken, history))
                .map(|(placed, at_ns)| DrawnPlace {
                    id: placed.id,
                    at_ns,
                    after: placed.after.clone().map(shortened),
                })
                .collect(),
            stuck: broken.stuck.clone(),
            reader: broken.reader,
        });
        let focus_ns = violations.get(lead).map(|one| focus(one, history, &beside, end_ns));
        let middle = focus_ns.map_or(end_ns, |(from, to)| from + (to - from) / 4 * 3);
        let wanted: BTreeSet<u64> =
            violations.iter().flat_map(|one| one.operations.iter().copied()).collect();
        let (mut operations, operations_left_out) = drawn_operations(history, &wanted, broken, middle);
        let room = MOST_OPERATIONS.saturating_sub(operations.len());
        operations.extend(beside.into_iter().rev().take(room));
        operations.sort_by_key(|one| (one.from_ns, one.id));
        Page {
            headline,
            verdict: match (first, report.undecided.is_empty()) {
                (Some(_), _) => "violated",
                (None, true) => "ok",
                (None, false) => "unknown",
            },
            claim: first.map(|first| format!("{}: {}", first.check, claim(first))).unwrap_or_default(),
            again: material.again.map(str::to_owned),
            facts: facts(&material),
            plan: scenario.map(plan).unwrap_or_default(),
            scenario: scenario.map(|scenario| serde_json::to_string_pretty(scenario).unwrap_or_default()),
            focus_ns,
            event_ns: None,
            end_ns,
            storm_ns: story.storm_ns,
            heal_ns: story.heal_ns,
            first_client: story.first_client,
            own_client: material.own_client,
            lanes: story
                .lanes
                .into_iter()
                .map(|(node, lane)| DrawnLane::of(node, is_agent(node), lane))
                .collect(),
            faults: story.faults,
            rules: story.rules,
            messages: DrawnMessages::around(story.messages, middle),
            operations,
            operations_left_out,
            violations,
            lead,
            order,
            undecided: report.undecided.clone(),
            marks: MARKS.into(),
        }
    }

    /// The same, of a history that speaks so of times.
    pub fn worded(self, wording: Wording) -> Page {
        Page { event_ns: wording.by_place.then_some(jepsen::APART_NS), ..self }
    }

    /// The whole file.
    pub fn html(&self) -> String {
        // A page is plain data, with nothing in it that JSON cannot say.
        let data = in_script(&serde_json::to_string(self).unwrap_or_default());
        // Hostile data cannot hold the hash of itself.
        let nonce = format!("{:016x}", xxh3_64(data.as_bytes()));
        let words =
            self.violations.iter().map(|one| format!("{}: {}\n", one.check, one.words)).collect::<String>();
        filled(
            FRAME,
            &[
                ("title", &in_text(&self.headline)),
                ("words", &in_text(&words)),
                ("nonce", &nonce),
                ("style", STYLE),
                ("script", SCRIPT),
                ("data", &data),
            ],
        )
    }

    /// Writes the page.
    ///
    /// # Errors
    /// The system's; that the file exists, unless it is to be overwritten.
    pub fn save(&self, path: &Path, overwrite: bool) -> std::io::Result<()> {
        let text = self.html();
        let mut options = OpenOptions::new();
        options.write(true);
        match overwrite {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        let written = options.open(path)?.write_all(text.as_bytes());
        if written.is_err() {
            // Half a page shows nothing, and would be in the way of the next.
            let _ = std::fs::remove_file(path);
        }
        written
    }
}

/// A name for a page beside `file` that nothing has yet.
pub fn free_name(file: &Path) -> PathBuf {
    let first = file.with_extension("html");
    let stem = first.file_stem().unwrap_or_default().to_owned();
    let numbered = (2..).map(|number| {
        let mut name = stem.clone();
        name.push(format!("-{number}.html"));
        first.with_file_name(name)
    });
    std::iter::once(first.clone()).chain(numbered).find(|name| !name.exists()).unwrap_or(first)
}

impl DrawnLane {
    fn of(node: u32, client: bool, lane: Lane) -> DrawnLane {
        let Lane { processes, roles, clocks, progress, marks } = lane;
        let Progress { at_ns, last, durable, applied } = progress;
        let progress = DrawnProgress { at_ns, last, durable, applied };
        DrawnLane { node, client, processes, roles, clocks, progress, marks }
    }
}

impl DrawnMessages {
    /// Those around a time, three quarters of them before it.
    fn around(messages: Messages, middle_ns: u64) -> DrawnMessages {
        let count = messages.len();
        let at = messages.sent_ns.partition_point(|sent| *sent < middle_ns);
        let first = at.saturating_sub(MOST_MESSAGES / 4 * 3).min(count.saturating_sub(MOST_MESSAGES));
        let kept = first..(first + MOST_MESSAGES).min(count);
        let took = |row: usize| (messages.ended_ns[row] - messages.sent_ns[row]) / 1_000;
        DrawnMessages {
            sent_us: messages.sent_ns[kept.clone()].iter().map(|ns| ns / 1_000).collect(),
            took_us: kept.clone().map(took).collect(),
            from: messages.from[kept.clone()].to_vec(),
            to: messages.to[kept.clone()].to_vec(),
            kind: messages.kind[kept.clone()].to_vec(),
            bytes: messages.bytes[kept.clone()].to_vec(),
            fate: messages.fate[kept.clone()].to_vec(),
            kinds: messages.kinds,
            reasons: messages.reasons,
            left_out: messages.left_out + (count - kept.len()) as u64,
        }
    }
}

/// The operations to draw: all, or those of the broken key and those around a time.
fn drawn_operations(
    history: &[Operation],
    wanted: &BTreeSet<u64>,
    broken: Option<&Broken>,
    middle_ns: u64,
) -> (Vec<DrawnOperation>, usize) {
    let mut all: Vec<&Operation> = history.iter().collect();
    if all.len() > MOST_OPERATIONS {
        let distance = |one: &Operation| {
            let named = wanted.contains(&one.id);
            let same_key = broken.is_some_and(|broken| broken.key == one.key);
            (!named, !same_key, one.invoked_ns.abs_diff(middle_ns))
        };
        all.sort_by_key(|one| distance(one));
        all.truncate(MOST_OPERATIONS);
    }
    all.sort_by_key(|one| (one.invoked_ns, one.id));
    let left_out = history.len() - all.len();
    (all.into_iter().map(DrawnOperation::of).collect(), left_out)
}

impl DrawnOperation {
    fn of(operation: &Operation) -> DrawnOperation {
        let (result, told) = match &operation.outcome {
            Outcome::Ok(_) => ("ok", None),
            Outcome::Failed(why) => ("failed", Some(why)),
            Outcome::Unknown(why) => ("unknown", Some(why)),
        };
        DrawnOperation {
            id: operation.id,
            client: operation.client,
            node: (operation.node != NO_NODE).then_some(operation.node),
            key: shortened(operation.key.clone()),
            from_ns: operation.invoked_ns,
            to_ns: operation.returned_ns,
            result,
            label: shortened(label(operation)),
            told: told.map(|told| shortened(told.clone())),
            beside: false,
        }
    }

    /// What a client did beside the operations, under an id that none of them has.
    fn beside(id: u64, talk: &Talk) -> DrawnOperation {
        DrawnOperation {
            id,
            client: talk.client,
            node: None,
            key: talk.about.clone(),
            from_ns: talk.from_ns,
            to_ns: talk.to_ns,
            result: if talk.to_ns.is_some() { "ok" } else { "unknown" },
            label: talk.text.clone(),
            told: None,
            beside: true,
        }
    }
}

/// What an operation did, in a few signs.
fn label(operation: &Operation) -> String {
    let quoted = |value: Option<&str>| value.map_or("nothing".to_owned(), |value| format!("{value:?}"));
    match (&operation.action, &operation.outcome) {
        (Action::Get, Outcome::Ok(Response::Value(seen))) => {
            format!("read {}", quoted(seen.as_ref().map(|seen| seen.value.as_str())))
        }
        (Action::Get, _) => "read".to_owned(),
        (Action::Put { value }, _) => format!("write {value:?}"),
        (Action::Delete, _) => "delete".to_owned(),
        (Action::Append { value }, _) => format!("append {value:?}"),
        (Action::Cas { expected, value }, outcome) => {
            let missed = matches!(outcome, Outcome::Ok(Response::Done(false)));
            let no = if missed { " (no match)" } else { "" };
            format!("swap {} for {value:?}{no}", quoted(expected.as_deref()))
        }
    }
}

fn drawn_violation(
    violation: &Violation,
    story: &Story,
    lin: Option<(&Broken, &Explained)>,
    beside: &[DrawnOperation],
) -> DrawnViolation {
    let property = check::property_of(&violation.check);
    let Named { mut operations, things, .. } = named(&violation.detail);
    if operations.is_empty() {
        // Of what clients did with the things it names, what came last before it.
        let speaks = |one: &&DrawnOperation| {
            let until = if violation.at_ns == 0 { u64::MAX } else { violation.at_ns };
            one.to_ns.is_some_and(|to_ns| to_ns <= until)
                && things.iter().any(|thing| one.label.contains(thing))
        };
        operations.extend(beside.iter().rev().filter(speaks).take(MOST_BESIDE).map(|one| one.id));
    }
    let mut sentences = Vec::new();
    if let Some((broken, explained)) = lin
        && violation.check == "LIN"
    {
        operations = broken.stuck.iter().copied().chain(broken.reader).collect();
        sentences = explained.sentences.clone();
    }
    DrawnViolation {
        check: violation.check.clone(),
        claim: claim(violation).to_owned(),
        source: property.map(|property| property.source.to_owned()).unwrap_or_default(),
        at_ns: violation.at_ns,
        node: violation.node.filter(|node| *node != NO_NODE),
        words: with_names(&shortened_lines(&violation.detail), story),
        sentences,
        operations,
        events: if violation.check == "LIN" { Vec::new() } else { evidence(violation, story) },
    }
}

/// The words of a check with nodes by the names of their lanes: in place of their Raft ids, which nobody can tell apart, and of "node 1".
fn with_names(words: &str, story: &Story) -> String {
    let mut text = String::with_capacity(words.len());
    let mut rest = words;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[at..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |length| at + length);
        text += &rest[..at];
        let number = rest[at..end].parse::<u32>().ok().filter(|node| story.lanes.contains_key(node));
        if let Some(node) = number
            && let Some(before) = text.strip_suffix("node ").or_else(|| text.strip_suffix("Node "))
        {
            text = format!("{before}n{node}");
            rest = &rest[end..];
            continue;
        }
        // A small number may be anything; ids are drawn from all numbers there are.
        let id = rest[at..end].parse::<u64>().ok().filter(|_| end - at > 9);
        match id.and_then(|id| story.names.get(&id)) {
            Some(node) => text += &format!("n{node}"),
            None => text += &rest[at..end],
        }
        rest = &rest[end..];
    }
    text + rest
}

/// Of a very long detail each line is cut, and so is their number.
fn shortened_lines(detail: &str) -> String {
    detail.lines().take(40).map(|line| shortened(line.to_owned())).collect::<Vec<_>>().join("\n")
}

/// The violation that says most: one of a check that is named for the bug; if none is, the first, but a broken history rather
/// than the indexes that went back in it.
fn lead(violations: &[Violation], mutant: Option<&str>) -> usize {
    let named = mutant.and_then(crate::mutants::find).map_or(&[][..], |mutant| mutant.checks);
    let of = |wanted: &dyn Fn(&str) -> bool| violations.iter().position(|one| wanted(&one.check));
    let broken = || of(&|check| check != "IDX").filter(|at| violations[*at].check == "LIN");
    of(&|check| named.contains(&check)).or_else(broken).unwrap_or(0)
}

/// What to look at first: the violation and what it speaks of, with some room around.
fn focus(
    violation: &DrawnViolation,
    history: &[Operation],
    beside: &[DrawnOperation],
    end_ns: u64,
) -> (u64, u64) {
    let mut times: Vec<u64> = violation.events.iter().rev().take(NEAREST).map(|event| event.at_ns).collect();
    times.extend((violation.at_ns > 0).then_some(violation.at_ns));
    for operation in history.iter().filter(|operation| violation.operations.contains(&operation.id)) {
        times.push(operation.invoked_ns);
        times.extend(operation.returned_ns);
    }
    for one in beside.iter().filter(|one| violation.operations.contains(&one.id)) {
        times.extend(one.to_ns.into_iter().chain([one.from_ns]));
    }
    let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else { return (0, end_ns) };
    let room = ((last - first) / MARGIN).max(20_000_000);
    (first.saturating_sub(room), (last + room).min(end_ns))
}

fn facts(material: &Material<'_>) -> Vec<(&'static str, String)> {
    let report = material.report;
    let mut facts = Vec::new();
    if report.trace_events > 0 || material.scenario.is_some() {
        facts.push(("seed", report.seed.to_string()));
        let agents = material.scenario.map_or(0, |scenario| scenario.agents().count());
        facts.push(match agents {
            0 => ("nodes", report.nodes.to_string()),
            1 => ("nodes", format!("{}, and a client agent", report.nodes)),
            agents => ("nodes", format!("{}, and {agents} client agents", report.nodes)),
        });
        facts.push(("simulated", format!("{:.1} s", report.sim_seconds)));
        facts.push(("events", report.trace_events.to_string()));
        facts.push(("trace", report.trace_hash.clone()));
    }
    facts.extend(material.mutant.map(|mutant| {
        let what = crate::mutants::find(mutant).map_or("unknown", |mutant| mutant.what);
        ("bug put back", format!("{mutant}: {what}"))
    }));
    let count = |is: fn(&Outcome) -> bool| material.history.iter().filter(|one| is(&one.outcome)).count();
    facts.push((
        "operations",
        format!(
            "{} ok, {} unknown, {} failed",
            count(|outcome| matches!(outcome, Outcome::Ok(_))),
            count(|outcome| matches!(outcome, Outcome::Unknown(_))),
            count(|outcome| matches!(outcome, Outcome::Failed(_)))
        ),
    ));
    facts
}

/// A plan for a person: its faults, and its requests if they are few.
fn plan(scenario: &Scenario) -> Vec<String> {
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
    let mut lines = vec![format!("{} nodes, a storm of {}", scenario.nodes, seconds(scenario.duration_ms))];
    for (node, clock) in scenario.clocks.iter().enumerate() {
        if *clock != crate::scenario::ClockSetting::default() {
            lines.push(format!("clock of n{node}: {}", in_words(&as_json(clock))));
        }
    }
    for fault in &scenario.faults {
        let what = in_words(&as_json(&fault.kind));
        lines.push(format!("at {} for {}: {what}", seconds(fault.at_ms), seconds(fault.for_ms)));
    }
    if scenario.operations.len() > MOST_REQUESTS {
        let clients: BTreeSet<u32> = scenario.operations.iter().map(|op| op.client).collect();
        lines.push(format!("{} requests of {} clients", scenario.operations.len(), clients.len()));
        return lines;
    }
    for op in &scenario.operations {
        let what = match &op.action {
            PlannedAction::Get => format!("read {:?}", op.key),
            PlannedAction::Put(value) => format!("write {value:?} to {:?}", op.key),
            PlannedAction::Cas(value) => format!("read {:?} and swap it for {value:?}", op.key),
            PlannedAction::Delete => format!("delete {:?}", op.key),
            PlannedAction::Stale => format!("read {:?}, however old", op.key),
            PlannedAction::Watch(wait_ms) => format!("read {:?} and wait {wait_ms} ms for a change", op.key),
            PlannedAction::List => format!("list all under {:?}", op.key),
            PlannedAction::DeleteTree => format!("delete all under {:?}", op.key),
            PlannedAction::Fire(name) => format!("fire the event {name:?}"),
            PlannedAction::Own(detail) => in_words(detail),
            PlannedAction::Service(deed) => format!("{:?}: {}", op.key, in_words(&as_json(deed))),
            PlannedAction::Right(RightDeed::Grant(level)) => {
                format!("let {:?} do: {}", op.key, in_words(&as_json(level)))
            }
            PlannedAction::Pair(deed) => format!("both of {:?}: {}", op.key, in_words(&as_json(deed))),
            PlannedAction::Right(deed) => format!("as {:?}: {}", op.key, in_words(&as_json(deed))),
            PlannedAction::Publish { name, bytes } => format!("fire the event {name:?} with {bytes} bytes"),
            PlannedAction::Follow { path, wait_ms } => {
                format!("follow {path}, waiting {wait_ms} ms each time")
            }
            PlannedAction::Lock(plan) => {
                let (hold, ttl) = (seconds(plan.hold_ms), seconds(plan.ttl_ms));
                format!("lock {:?} for {hold} with a session of {ttl}", op.key)
            }
        };
        lines.push(format!("at {} client {} asks n{}: {what}", seconds(op.at_ms), op.client, op.node));
    }
    lines
}

/// JSON without its signs.
fn in_words(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match value {
                Value::Null => name.replace('_', " "),
                value => format!("{} {}", name.replace('_', " "), in_words(value)),
            };
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => format!("[{}]", items.iter().map(in_words).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// JSON that cannot end the script tag it is in, nor begin a comment there.
fn in_script(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped += &format!("\\u{:04x}", c as u32),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Text between tags or in an attribute.
fn in_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '"' => escaped += "&quot;",
            c => escaped.push(c),
        }
    }
    escaped
}

/// The frame with its places filled, in one go: what is filled in is not looked at again.
fn filled(frame: &str, parts: &[(&str, &str)]) -> String {
    let mut text =
        String::with_capacity(frame.len() + parts.iter().map(|(_, part)| part.len()).sum::<usize>());
    let mut rest = frame;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        text += before;
        text += parts.iter().find(|(other, _)| *other == name).map_or("", |(_, part)| part);
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::super::story::Scribe;
    use super::super::story::test::{MS, small};
    use super::*;
    use crate::check::linearizable;
    use crate::history::test::Story as Clients;

    /// A stale read on top of the small story.
    fn page(key: &str) -> Page {
        let mut history = Clients::default()
            .put((5 * MS, 9 * MS), "a")
            .put((22 * MS, 24 * MS), "b")
            .get((27 * MS, 28 * MS), Some(("a", 1)))
            .0;
        history.iter_mut().for_each(|operation| operation.key = key.to_owned());
        let linearizable::Verdict::Violation(broken) = linearizable::check(&history) else {
            panic!("accepted")
        };
        let mut report = RunReport { seed: 3, nodes: 2, trace_events: 9, ..RunReport::default() };
        report.violate("LIN", broken.words.clone());
        report.violations[0].at_ns = broken.at_ns;
        report.violations[0].node = Some(0);
        report.violate("SMS", "node 1 applied index 1 after index 2".to_owned());
        let scenario = Scenario::generate(3, &Default::default());
        let scenario = Scenario { operations: scenario.operations[..2].to_vec(), faults: vec![], ..scenario };
        let material = Material {
            report: &report,
            history: &history,
            broken: Some(&broken),
            scenario: Some(&scenario),
            mutant: Some("R27"),
            again: Some("cargo sim run --seed 3"),
            own_client: Some(999),
        };
        Page::of(small().story(), material)
    }

    /// A report, and nothing else that is known of the run.
    fn bare(report: &RunReport) -> Material<'_> {
        let history = &[];
        Material {
            report,
            history,
            broken: None,
            scenario: None,
            mutant: None,
            again: None,
            own_client: None,
        }
    }

    #[test]
    fn a_page_holds_the_story_the_verdict_and_why() {
        // The plan as a file is told elsewhere.
        let page = Page { scenario: None, plan: vec![], ..page("k") };
        insta::assert_json_snapshot!(page);
    }

    #[test]
    fn hostile_texts_stay_data() {
        let hostile = "</script><script>alert(1)</script><!-- {{script}} \u{2028} & \" ' `";
        let html = page(hostile).html();
        let tags = |text: &str| html.matches(text).count();
        assert_eq!((tags("<script"), tags("</script"), tags("<!--")), (2, 2, 0));
        assert!(tags("alert(1)") > 3 && tags("<script>alert") == 0);
        let data = html.split_once("type=\"application/json\"").unwrap().1;
        let data = data.split_once('>').unwrap().1.split_once("</script>").unwrap().0;
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["operations"][0]["key"], hostile);
        assert_eq!(data["order"]["key"], hostile);
    }

    #[test]
    fn the_frame_has_a_place_for_every_part_and_fetches_nothing() {
        let html = page("k").html();
        assert!(!html.contains("{{") && html.contains(STYLE) && html.contains(SCRIPT));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("default-src 'none'"));
    }

    #[test]
    fn a_large_run_makes_a_page_of_bounded_size_around_its_failure() {
        let mut story = small().story();
        let template = story.messages.clone();
        story.messages.sent_ns = (0..300_000).map(|at| at * MS / 4).collect();
        story.messages.ended_ns = story.messages.sent_ns.iter().map(|at| at + MS).collect();
        for (column, value) in
            [(&mut story.messages.from, 0), (&mut story.messages.to, 1), (&mut story.messages.fate, 1)]
        {
            *column = vec![value; 300_000];
        }
        story.messages.kind = vec![template.kind[0]; 300_000];
        story.messages.bytes = vec![100; 300_000];
        let mut clients = Clients::default();
        for at in 0..70_000 {
            clients = clients.put((at * MS, at * MS + 1), &format!("v{at}"));
        }
        let mut report = RunReport::default();
        report.violate("DUR", "lost is [0.1s .. 0.2s] op 69000: client 1 wrote".to_owned());
        let material = Material { history: &clients.0, ..bare(&report) };
        let page = Page::of(story, material);
        assert_eq!(page.messages.sent_us.len(), MOST_MESSAGES);
        assert_eq!(page.messages.left_out, 180_000);
        assert_eq!((page.operations.len(), page.operations_left_out), (MOST_OPERATIONS, 10_000));
        assert!(page.operations.iter().any(|operation| operation.id == 69_000));
        let (from, to) = page.focus_ns.unwrap();
        assert!(from < 69_000 * MS && 69_000 * MS < to);
        assert!(page.html().len() < 12 << 20);
    }

    #[test]
    fn a_violation_speaks_of_what_clients_did_with_the_session_that_it_names() {
        let session = "7e19aa98-7988-486a-910f-50235a75f26b";
        let talk = |ms: u64, text: String| Talk {
            client: 5,
            from_ns: ms * MS,
            to_ns: Some(ms * MS),
            about: "lock-1".into(),
            text,
        };
        let mut story = small().story();
        story.talks = vec![
            talk(10, format!("session {session} has the lock")),
            talk(20, "session of somebody else".into()),
            talk(30, format!("session {session} reads that nobody has the lock")),
            talk(40, format!("session {session} is said to be gone")),
        ];
        let mut report = RunReport::default();
        report
            .violate("LOCK", format!("lock \"lock-1\": session {session} holds it, and a read shows nobody"));
        report.violations[0].at_ns = 30 * MS;
        let material = bare(&report);
        let page = Page::of(story, material);
        assert_eq!(page.operations.len(), 4);
        assert_eq!(page.violations[0].operations, [0, 2].into());
        assert!(page.focus_ns.is_some_and(|(from, to)| from < 10 * MS && 30 * MS < to));
    }

    #[test]
    fn raft_ids_become_the_nodes_that_have_them() {
        let mut story = small().story();
        story.names.insert(238_969_098_475_853_951, 0);
        let words = "node 0 applied 11: voters [[238969098475853951]], digest 1238969098475853951, at 2.5s";
        let named = "n0 applied 11: voters [[n0]], digest 1238969098475853951, at 2.5s";
        assert_eq!(with_names(words, &story), named);
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let case = folder.path().join("seed-1.shrunk.json");
        for expected in ["seed-1.shrunk.html", "seed-1.shrunk-2.html", "seed-1.shrunk-3.html"] {
            let name = free_name(&case);
            assert_eq!(name, folder.path().join(expected));
            page("k").save(&name, false).unwrap();
            assert!(page("k").save(&name, false).is_err());
        }
    }

    #[test]
    fn a_run_without_a_record_still_shows_its_plan_and_its_blame() {
        let report = RunReport::crashed(3, "no verdict after 120 s of real time; it said nothing".into());
        let scenario = Scenario::generate(3, &Default::default());
        let material =
            Material { scenario: Some(&scenario), again: Some("cargo sim run --seed 3"), ..bare(&report) };
        let page = Page::of(Scribe::new(1_000, &[]).story(), material);
        assert_eq!(page.headline, "No verdict after 120 s of real time; it said nothing");
        assert!(page.plan.len() >= scenario.faults.len() && page.lanes.is_empty());
    }
}
