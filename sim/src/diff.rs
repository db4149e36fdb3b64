//! Where two traces part: the first line that differs, what was the same before it, and where each host parts for itself.
//!
//! Two runs of one plan give one trace, so a difference is a cause or its effect. The first line that differs is most often the
//! cause itself (a fault that one plan has and the other has not); which hosts it reached, and when, is told host by host: the first
//! of its own lines that differs. From the parting on every task runs some nanoseconds earlier or later, so there the times of lines do not
//! count, nor do messages, timers and syncs: what a host says of itself, what clients are told, and what ends.
//!
//! Both files are read once, side by side. Every line is held to the grammar of [`trace`](crate::trace), and the last one says how many
//! lines there were, so a file that is cut short or is something else is refused with the number of the line.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::BufRead;

use crate::trace::LAST_LINE;

/// How far one host may be ahead in one of the traces, in lines, before it is not followed any more.
const MOST_AHEAD: usize = 200_000;

/// A line longer than this is no line of a trace.
const LONGEST_LINE: usize = 1 << 20;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file failed.
    #[error("line {line}: cannot be read: {source}")]
    Io {
        /// Where.
        line: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("line {line}: {found:?} is no line of a trace: want `SECONDS HOST OWN-SECONDS WHAT`")]
    Foreign {
        /// Where.
        line: usize,
        /// The beginning of what is there.
        found: String,
    },
    /// There is nothing at all.
    #[error("the file is empty")]
    Empty,
    /// The end is missing.
    #[error("line {line}: the trace is cut short: the line that ends it is missing")]
    CutShort {
        /// The last line there is.
        line: usize,
    },
    /// Lines are missing.
    #[error("line {line}: the trace ends after {found} events, but says it has {said}")]
    Holes {
        /// Where it ends.
        line: usize,
        /// How many events were read.
        found: usize,
        /// How many it says it has.
        said: String,
    },
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// The lines of a trace, one after the other.
struct Lines<R> {
    input: R,
    number: usize,
    over: bool,
}

/// A host, or `-` for the world, and its line.
type Line = (String, String);

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<Line>, TraceError> {
        if self.over {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let line = self.number + 1;
        let limit = &mut std::io::Read::take(&mut self.input, LONGEST_LINE as u64);
        limit.read_until(b'\n', &mut bytes).map_err(|source| TraceError::Io { line, source })?;
        if bytes.is_empty() {
            return Err(match self.number {
                0 => TraceError::Empty,
                line => TraceError::CutShort { line },
            });
        }
        self.number = line;
        let whole = bytes.pop_if(|last| *last == b'\n').is_some();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(said) = text.strip_prefix(LAST_LINE).filter(|_| whole) {
            self.over = true;
            let (found, said) = (line - 1, said.split_whitespace().next().unwrap_or_default());
            let mut beyond = String::new();
            let further = std::io::Read::take(&mut self.input, 60).read_line(&mut beyond);
            return match said.parse::<usize>() == Ok(found) {
                true if !matches!(further, Ok(0)) => {
                    Err(TraceError::Foreign { line: line + 1, found: beyond.trim_end().to_owned() })
                }
                true => Ok(None),
                false => Err(TraceError::Holes { line, found, said: said.to_owned() }),
            };
        }
        match host(&text) {
            Some(host) if whole => Ok(Some((host.to_owned(), text))),
            _ if line > 1 && !whole => Err(TraceError::CutShort { line }),
            _ => Err(TraceError::Foreign { line, found: text.chars().take(60).collect() }),
        }
    }
}

/// Whose line it is, if it is one.
fn host(line: &str) -> Option<&str> {
    let is_time = |word: &str| {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        word.split_once('.').is_some_and(|(s, ns)| digits(s) && digits(ns) && ns.len() == 9)
    };
    let mut words = line.splitn(4, ' ');
    let (at, host, own, what) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let known = host == "-" || host.strip_prefix('n').is_some_and(|number| number.parse::<u32>().is_ok());
    (is_time(at) && known && (own == "-" || is_time(own)) && !what.is_empty()).then_some(host)
}

/// What a line says, if it is something that a host of its own accord would not say differently for a nanosecond's sake.
fn telling(line: &str) -> Option<&str> {
    let what = line.splitn(4, ' ').nth(3)?;
    let verb = what.split(' ').next()?;
    let passing = ["send", "deliver", "drop", "connection", "timer"].contains(&verb);
    (!passing && (verb != "sync" || what.contains("FAILED"))).then_some(what)
}

/// Where two traces part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parting {
    /// The number of the first line that differs, from 1.
    pub line: usize,
    /// The last lines that are the same.
    pub before: Vec<String>,
    /// From the first that differs on, of each.
    pub after: [Vec<String>; 2],
    /// The last line of each host before they part.
    pub last: BTreeMap<String, String>,
    /// For each host the first of its own telling lines that differs; nothing where they are over.
    pub hosts: BTreeMap<String, [Option<String>; 2]>,
}

/// Reads two traces; gives nothing if they are the same. `context` is how many lines are kept on either side.
///
/// # Errors
/// Which of them cannot be read, and why.
pub fn diff(a: impl BufRead, b: impl BufRead, context: usize) -> Result<Option<Parting>, (Side, TraceError)> {
    let mut a = Lines { input: a, number: 0, over: false };
    let mut b = Lines { input: b, number: 0, over: false };
    let mut before = VecDeque::new();
    let mut last = BTreeMap::new();
    let mut first = loop {
        match (a.next().map_err(|error| (Side::A, error))?, b.next().map_err(|error| (Side::B, error))?) {
            (None, None) => return Ok(None),
            (Some(one), Some(other)) if one == other => {
                last.insert(one.0, one.1.clone());
                before.push_back(one.1);
                if before.len() > context {
                    before.pop_front();
                }
            }
            differing => break differing,
        }
    };
    let mut parting =
        Parting { line: a.number.max(b.number), before: before.into(), last, ..Parting::default() };
    let mut pending: BTreeMap<String, [VecDeque<String>; 2]> = BTreeMap::new();
    loop {
        let both = [first.0.take(), first.1.take()];
        let over = both.iter().all(Option::is_none);
        for (side, line) in both.into_iter().enumerate() {
            let Some((host, text)) = line else { continue };
            if parting.after[side].len() <= context {
                parting.after[side].push(text.clone());
            }
            if !parting.hosts.contains_key(&host) && telling(&text).is_some() {
                pending.entry(host).or_default()[side].push_back(text);
            }
        }
        let hosts = &mut parting.hosts;
        pending.retain(|host, [a, b]| {
            while let (Some(one), Some(other)) = (a.front(), b.front()) {
                if telling(one) != telling(other) {
                    hosts.insert(host.clone(), [a.pop_front(), b.pop_front()]);
                    return false;
                }
                a.pop_front();
                b.pop_front();
            }
            a.len() + b.len() <= MOST_AHEAD
        });
        if over {
            break;
        }
        first = (a.next().map_err(|error| (Side::A, error))?, b.next().map_err(|error| (Side::B, error))?);
    }
    // Whoever still waits for its other half has none.
    for (host, [mut a, mut b]) in pending {
        if !(a.is_empty() && b.is_empty()) {
            parting.hosts.insert(host, [a.pop_front(), b.pop_front()]);
        }
    }
    Ok(Some(parting))
}

impl Parting {
    /// All of it for a person.
    pub fn text(&self, names: [&str; 2]) -> String {
        let mut text = format!("the traces part at line {}\n", self.line);
        for line in &self.before {
            let _ = writeln!(text, "    {line}");
        }
        for ((lines, name), sign) in self.after.iter().zip(names).zip(["-", "+"]) {
            let _ = writeln!(text, "{sign} {name}:");
            for line in lines {
                let _ = writeln!(text, "{sign}   {line}");
            }
            if lines.is_empty() {
                let _ = writeln!(text, "{sign}   (the trace is over)");
            }
        }
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        let time = |lines: &[Option<String>; 2]| {
            // Of equal width after the point, so what is longer before it is later.
            let earliest = lines
                .iter()
                .flatten()
                .filter_map(|line| line.split(' ').next())
                .map(|at| (at.len(), at.to_owned()));
            earliest.min()
        };
        hosts.sort_by_key(|(host, lines)| (time(lines), (*host).clone()));
        let _ = writeln!(text, "host by host, in the order in which they part:");
        for (host, lines) in hosts {
            let _ = writeln!(text, "  {}", if host == "-" { "the world" } else { host });
            if let Some(last) = self.last.get(host) {
                let _ = writeln!(text, "      last in common before: {last}");
            }
            for (line, sign) in lines.iter().zip(["-", "+"]) {
                let _ = writeln!(text, "    {sign} {}", line.as_deref().unwrap_or("(nothing more)"));
            }
        }
        for host in self.last.keys().filter(|host| !self.hosts.contains_key(*host)) {
            let _ = writeln!(text, "  {host} tells the same in both");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(lines: &[&str]) -> String {
        let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let _ = writeln!(text, "{LAST_LINE}{} events, hash 00", lines.len());
        text
    }

    fn parted(a: &str, b: &str) -> Result<Option<Parting>, String> {
        diff(a.as_bytes(), b.as_bytes(), 2).map_err(|(side, error)| format!("{side:?}: {error}"))
    }

    const SAME: [&str; 3] = [
        "1.000000000 n0 1.000000000 boot life 1",
        "1.100000000 n1 1.100000000 boot life 1",
        "2.000000000 - - storm begins",
    ];

    #[test]
    fn the_same_trace_does_not_part() {
        assert_eq!(parted(&trace(&SAME), &trace(&SAME)), Ok(None));
        assert_eq!(parted(&trace(&[]), &trace(&[])), Ok(None));
    }

    #[test]
    fn the_first_difference_comes_with_what_was_before_it_and_with_every_host() {
        let a = [
            &SAME[..],
            &[
                "3.000000000 - - fault kill",
                "3.100000000 n0 3.000000000 exit",
                "4.000000000 n1 4.000000000 timer 1",
            ],
        ]
        .concat();
        let b = [&SAME[..], &["4.000000000 n1 4.000000000 timer 1", "5.000000000 n0 5.000000000 timer 9"]]
            .concat();
        let parting = parted(&trace(&a), &trace(&b)).unwrap().unwrap();
        assert_eq!(parting.line, 4);
        assert_eq!(parting.before, SAME[1..]);
        assert_eq!(parting.hosts.keys().collect::<Vec<_>>(), ["-", "n0"]);
        insta::assert_snapshot!(parting.text(["a.txt", "b.txt"]));
    }

    #[test]
    fn one_that_ends_earlier_parts_where_it_ends() {
        let parting = parted(&trace(&SAME), &trace(&SAME[..2])).unwrap().unwrap();
        assert_eq!((parting.line, parting.after[1].len()), (3, 0));
        assert!(parting.text(["a", "b"]).contains("+   (the trace is over)"));
    }

    #[test]
    fn what_is_cut_short_or_foreign_is_refused_by_line() {
        let whole = trace(&SAME);
        let lines = SAME.map(str::len);
        let at = |bytes: usize| parted(&whole, &whole[..bytes]).unwrap_err();
        let missing = "the trace is cut short: the line that ends it is missing";
        assert_eq!(at(lines[0] + 1), format!("B: line 1: {missing}"));
        assert_eq!(at(lines[0] + 5), format!("B: line 2: {missing}"));
        assert_eq!(at(0), "B: the file is empty");
        let twice = parted(&whole, &whole.repeat(2)).unwrap_err();
        assert!(twice.starts_with("B: line ") && twice.contains("is no line of a trace"), "{twice}");
        assert!(
            parted("{\n  \"version\": 1\n}\n", &whole)
                .unwrap_err()
                .starts_with("A: line 1: \"{\" is no line of a trace")
        );
        let holed = whole.replacen(SAME[1], "", 1).replacen("\n\n", "\n", 1);
        assert_eq!(
            parted(&whole, &holed).unwrap_err(),
            "B: line 3: the trace ends after 2 events, but says it has 3"
        );
        let odd = whole.replacen("n1 1.1", "node1 1.1", 1);
        assert!(parted(&odd, &whole).unwrap_err().starts_with("A: line 2: "));
    }
}
