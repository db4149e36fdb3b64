//! What happened, in order: every message, timer, sync, fault, observation and client call of a run.
//!
//! Each event is folded into a rolling hash as it happens, so two runs are the same run exactly when
//! their hashes are equal; the count says that the hash covers something. Text is made only on
//! demand: for a trace file when one is asked for, and of the last few thousand events when a run
//! fails.
//!
//! The grammar of a line: `<true time, s> n<node> <node's own time, s> <verb> <details>`. Nodes are
//! numbered from 0; clients from 1000; `-` is the world itself.
//!
//! Left out: the bytes of messages (their length and hash stand for them) and reads of the disk
//! (they change nothing, and whatever they lead to is an event of its own).

use std::collections::VecDeque;
use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::record::{Happening, Recorder};

/// The number under which the world itself, and not one of its hosts, appears in the trace.
pub const WORLD: u32 = u32::MAX;

/// How the line begins that ends a trace file; the number of its events follows, and its hash. A file without it is cut short.
pub const LAST_LINE: &str = "end of trace: ";

/// How many of the last events are kept for the report of a failure.
const KEPT: usize = 4_000;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A segment of a stream.
    Tcp,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message left its sender.
    Send(Message),
    /// A message reached its receiver's socket.
    Deliver(Message),
    /// A message was lost; a segment will be sent again, a datagram will not.
    Drop(Message, &'static str),
    /// A connection was opened, refused, reset or closed.
    Connection {
        /// What became of it.
        what: &'static str,
        /// Who connected.
        from: SocketAddr,
        /// To whom.
        to: SocketAddr,
    },
    /// A sleep was over.
    Timer {
        /// The sleep's number, in the order of their making.
        id: u64,
    },
    /// A file was synced.
    Sync {
        /// The file's name.
        file: String,
        /// Writes that the sync covered.
        writes: u64,
        /// How long it takes.
        nanos: u64,
        /// Whether it failed.
        failed: bool,
    },
    /// Anything told in words: faults, observations, client calls.
    Note {
        /// The first word of the line.
        verb: &'static str,
        /// The rest of it.
        text: String,
    },
}

/// A message as the trace knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// How it travels.
    pub transport: Transport,
    /// The sender's socket.
    pub from: SocketAddr,
    /// The receiver's socket.
    pub to: SocketAddr,
    /// Length in bytes.
    pub len: u32,
    /// Hash of its bytes.
    pub hash: u64,
}

impl Message {
    /// Describes `bytes` on their way.
    pub fn new(transport: Transport, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Message {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Message { transport, from, to, len, hash: xxh3_64(bytes) }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.transport as u8);
        encode_addr(self.from, out);
        encode_addr(self.to, out);
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.hash.to_le_bytes());
    }
}

fn encode_addr(addr: SocketAddr, out: &mut Vec<u8>) {
    match addr {
        SocketAddr::V4(addr) => out.extend_from_slice(&addr.ip().octets()),
        SocketAddr::V6(addr) => out.extend_from_slice(&addr.ip().octets()),
    }
    out.extend_from_slice(&addr.port().to_le_bytes());
}

impl Event {
    /// The event's bytes, for hashing. Injective enough: a tag, fixed-width fields, and at most one
    /// string at the end.
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Event::Send(message) => {
                out.push(1);
                message.encode(out);
            }
            Event::Deliver(message) => {
                out.push(2);
                message.encode(out);
            }
            Event::Drop(message, reason) => {
                out.push(3);
                message.encode(out);
                out.extend_from_slice(reason.as_bytes());
            }
            Event::Connection { what, from, to } => {
                out.push(4);
                encode_addr(*from, out);
                encode_addr(*to, out);
                out.extend_from_slice(what.as_bytes());
            }
            Event::Timer { id } => {
                out.push(5);
                out.extend_from_slice(&id.to_le_bytes());
            }
            Event::Sync { file, writes, nanos, failed } => {
                out.push(6);
                out.extend_from_slice(&writes.to_le_bytes());
                out.extend_from_slice(&nanos.to_le_bytes());
                out.push(u8::from(*failed));
                out.extend_from_slice(file.as_bytes());
            }
            Event::Note { verb, text } => {
                out.push(7);
                out.extend_from_slice(verb.as_bytes());
                out.push(0);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = |f: &mut fmt::Formatter<'_>, verb: &str, m: &Message| {
            let transport = match m.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            };
            write!(f, "{verb} {transport} {} > {} {} bytes {:016x}", m.from, m.to, m.len, m.hash)
        };
        match self {
            Event::Send(m) => message(f, "send", m),
            Event::Deliver(m) => message(f, "deliver", m),
            Event::Drop(m, reason) => {
                message(f, "drop", m)?;
                write!(f, " ({reason})")
            }
            Event::Connection { what, from, to } => write!(f, "connection {what} {from} > {to}"),
            Event::Timer { id } => write!(f, "timer {id}"),
            Event::Sync { file, writes, nanos, failed } => {
                let outcome = if *failed { " FAILED, its writes are gone" } else { "" };
                write!(f, "sync {file} {writes} writes in {} us{outcome}", nanos / 1_000)
            }
            // One line an event, whatever is told in it.
            Event::Note { verb, text } => write!(f, "{verb} {}", text.replace('\n', "\\n")),
        }
    }
}

/// An event with its place and times.
#[derive(Clone, Debug)]
struct Entry {
    at_ns: u64,
    node: u32,
    node_ns: u64,
    event: Event,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: u64| (ns / 1_000_000_000, ns % 1_000_000_000);
        let (s, ns) = seconds(self.at_ns);
        if self.node == WORLD {
            return write!(f, "{s}.{ns:09} - - {}", self.event);
        }
        let (own_s, own_ns) = seconds(self.node_ns);
        write!(f, "{s}.{ns:09} n{} {own_s}.{own_ns:09} {}", self.node, self.event)
    }
}

/// The trace of one run.
pub struct Trace {
    inner: Mutex<Inner>,
}

struct Inner {
    hash: u64,
    count: u64,
    kept: VecDeque<Entry>,
    file: Option<std::io::BufWriter<std::fs::File>>,
    file_error: Option<std::io::Error>,
    scratch: Vec<u8>,
    recorders: Vec<Box<dyn Recorder>>,
}

impl Trace {
    /// A trace that hashes and remembers, and writes its lines to `file` if there is one.
    pub fn new(file: Option<std::fs::File>) -> Trace {
        Trace {
            inner: Mutex::new(Inner {
                hash: 0,
                count: 0,
                kept: VecDeque::new(),
                file: file.map(std::io::BufWriter::new),
                file_error: None,
                scratch: Vec::with_capacity(256),
                recorders: Vec::new(),
            }),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event that happened at `at_ns` on `node`, whose own clock showed `node_ns`.
    pub fn record(&self, at_ns: u64, node: u32, node_ns: u64, event: Event) {
        let inner = &mut *self.locked();
        inner.scratch.clear();
        inner.scratch.extend_from_slice(&at_ns.to_le_bytes());
        inner.scratch.extend_from_slice(&node.to_le_bytes());
        inner.scratch.extend_from_slice(&node_ns.to_le_bytes());
        event.encode(&mut inner.scratch);
        inner.hash = xxh3_64_with_seed(&inner.scratch, inner.hash);
        inner.count += 1;
        for recorder in &mut inner.recorders {
            recorder.on(at_ns, node, Happening::Traced(&event));
        }
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        let entry = Entry { at_ns, node, node_ns, event };
        if let Some(file) = &mut inner.file
            && let Err(error) = writeln!(file, "{entry}")
        {
            // The run goes on: its verdict does not depend on the file. The caller learns at the end.
            inner.file = None;
            inner.file_error = Some(error);
        }
        inner.kept.push_back(entry);
    }

    /// Tells `recorder` everything from now on.
    pub fn listen(&self, recorder: impl Recorder + 'static) {
        self.locked().recorders.push(Box::new(recorder));
    }

    /// Tells the recorders, and nobody else, of something that happened on `node`.
    pub fn tell(&self, at_ns: u64, node: u32, what: Happening<'_>) {
        for recorder in &mut self.locked().recorders {
            recorder.on(at_ns, node, what);
        }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.locked().hash
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.locked().count
    }

    /// The last events as text, oldest first.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let inner = self.locked();
        let skip = inner.kept.len().saturating_sub(lines);
        inner.kept.iter().skip(skip).map(Entry::to_string).collect()
    }

    /// Ends the file with its last line, and writes out what its buffer holds.
    ///
    /// # Errors
    /// The first error that writing the file ever met: the file is then incomplete.
    pub fn finish(&self) -> std::io::Result<()> {
        let inner = &mut *self.locked();
        if let Some(error) = inner.file_error.take() {
            return Err(error);
        }
        let Some(mut file) = inner.file.take() else { return Ok(()) };
        writeln!(file, "{LAST_LINE}{} events, hash {:016x}", inner.count, inner.hash)?;
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> Event {
        Event::Note { verb: "fault", text: text.to_owned() }
    }

    #[test]
    fn the_hash_tells_order_place_and_time_apart() {
        let hash = |events: &[(u64, u32, &str)]| {
            let trace = Trace::new(None);
            for (at, node, text) in events {
                trace.record(*at, *node, *at, note(text));
            }
            trace.hash()
        };
        let base = hash(&[(1, 0, "a"), (2, 1, "b")]);
        assert_eq!(base, hash(&[(1, 0, "a"), (2, 1, "b")]));
        assert_ne!(base, hash(&[(1, 0, "b"), (2, 1, "a")]));
        assert_ne!(base, hash(&[(1, 0, "a"), (3, 1, "b")]));
        assert_ne!(base, hash(&[(1, 1, "a"), (2, 1, "b")]));
        assert_ne!(base, hash(&[(1, 0, "a")]));
    }

    #[test]
    fn the_tail_is_text_with_both_times() {
        let trace = Trace::new(None);
        trace.record(1_500_000_000, 2, 1_400_000_000, Event::Timer { id: 7 });
        trace.record(2_000_000_000, WORLD, 0, note("heal"));
        assert_eq!(trace.tail(10), ["1.500000000 n2 1.400000000 timer 7", "2.000000000 - - fault heal"]);
        assert_eq!(trace.tail(1).len(), 1);
        assert_eq!(trace.count(), 2);
    }
}
