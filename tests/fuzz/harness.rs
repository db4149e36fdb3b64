//! Bends inputs, runs them, and counts what they cost.
//!
//! An input is bad when its target panics (which is also how a target says that something came back wrong), or when it asks for more
//! memory than its length pays for. Both what is held at once and all that was ever asked for are counted, on the thread that runs
//! the target: the first bounds memory, the second work, with no clock in it.
//!
//! What a panic cannot tell of, an input that hangs or overflows the stack, is found by hand: there the input that is running
//! always lies in `target/fuzz/`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// No input grows beyond this.
const LONGEST: usize = 128 << 10;
/// How often a bad input is cut to see whether it is still bad.
const CUTS: usize = 2_000;

// ---- what it costs ----

thread_local! {
    static HELD_NOW: Cell<i64> = const { Cell::new(0) };
    static MOST_NOW: Cell<i64> = const { Cell::new(0) };
    static ASKED_NOW: Cell<u64> = const { Cell::new(0) };
    static OF_A_NODE: Cell<bool> = const { Cell::new(false) };
}

/// What the threads of all nodes hold, and have held at once.
static NODES_NOW: AtomicI64 = AtomicI64::new(0);
static NODES_MOST: AtomicI64 = AtomicI64::new(0);
/// Four nodes at once, each with its log, and with bodies of requests as large as they may be.
const NODES_MAY: i64 = 512 << 20;

/// This thread runs tasks of a node: what it holds, and panics, are counted as the nodes'.
pub fn of_a_node() {
    OF_A_NODE.set(true);
}

/// Panics if nodes held more than they may.
pub fn node_memory_is_bounded() {
    let most = NODES_MOST.load(Ordering::Relaxed);
    assert!((1..NODES_MAY).contains(&most), "nodes held {most} bytes");
}

/// The system's allocator, with a count.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(more: i64) {
    // A thread that is going down has no counters any more, and runs no target.
    let _ = HELD_NOW.try_with(|held| {
        if OF_A_NODE.get() {
            let nodes = NODES_NOW.fetch_add(more, Ordering::Relaxed) + more;
            NODES_MOST.fetch_max(nodes, Ordering::Relaxed);
        }
        held.set(held.get() + more);
        MOST_NOW.with(|most| most.set(most.get().max(held.get())));
        ASKED_NOW.with(|asked| asked.set(asked.get() + more.max(0) as u64));
    });
}

// An allocator cannot be written without; this one only counts on the way to the system's.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What an input may cost: so many bytes whatever it is, and so many for each of its own.
#[derive(Clone, Copy)]
pub struct Price {
    pub always: u64,
    pub each: u64,
}

impl Price {
    fn of(self, input: &[u8]) -> u64 {
        self.always + self.each * input.len() as u64
    }
}

// ---- panics, wherever they happen ----

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A target's own is told with its input; those of a node's tasks are nobody's yet.
            if OF_A_NODE.get() {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
            }
            before(info);
        }));
    });
}

/// Panics if a task of a node did.
pub fn no_task_panicked() {
    let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    assert!(panics.is_empty(), "a task of the node panicked: {panics:?}");
}

// ---- a target ----

/// Something that reads bytes from outside.
pub struct Target<'a> {
    /// Its name, and that of its folder in `fixtures/fuzz`.
    pub name: &'static str,
    /// What it begins from, beside its folder.
    pub seeds: Vec<Vec<u8>>,
    /// Reads an input. Panics if something is wrong.
    pub run: &'a dyn Fn(&[u8]),
    /// Makes checksums and lengths fit again: else most inputs are refused at the door.
    pub mend: fn(&mut Vec<u8>),
    /// What may be held at once.
    pub held: Price,
    /// What may be asked for in all.
    pub asked: Price,
    /// How many inputs a test runs.
    pub inputs: usize,
}

/// What is right for a decoder whose values are small multiples of its bytes.
pub const HELD: Price = Price { always: 2 << 20, each: 200 };
pub const ASKED: Price = Price { always: 16 << 20, each: 2_000 };

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz").join(name)
}

impl Target<'_> {
    /// Runs the seeds, then a fixed number of bent ones; and then, if `DRIFTLINE_FUZZ` says for how many minutes, others.
    pub fn fuzz(mut self) {
        hear_panics();
        let mut files: Vec<PathBuf> = fs::read_dir(folder(self.name))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        for path in files {
            let input = fs::read(&path).unwrap();
            if let Err(reason) = self.judge(&input) {
                panic!("{} of {}: {reason}", path.display(), self.name);
            }
            self.seeds.push(input);
        }
        for input in &self.seeds {
            self.accept(input);
        }
        self.campaign(1, |done| done < self.inputs);
        let minutes = std::env::var("DRIFTLINE_FUZZ").ok().map(|text| text.parse::<f64>().expect("minutes"));
        if let Some(minutes) = minutes {
            let began = Instant::now();
            let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
            let until = Duration::from_secs_f64(60.0 * minutes);
            let inputs = self.campaign(seed, |_| began.elapsed() < until);
            eprintln!("{}: {inputs} inputs of seed {seed}", self.name);
        }
    }

    fn campaign(&self, seed: u64, goes_on: impl Fn(usize) -> bool) -> usize {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut inputs = 0;
        while goes_on(inputs) {
            let mut input = bent(&self.seeds, &mut rng);
            if rng.random() {
                (self.mend)(&mut input);
            }
            self.accept(&input);
            inputs += 1;
        }
        inputs
    }

    fn accept(&self, input: &[u8]) {
        let Err(reason) = self.judge(input) else { return };
        if !by_hand() {
            let shown = String::from_utf8_lossy(&input[..input.len().min(2_000)]);
            panic!(
                "{} bytes of {}: {reason}\n{shown:?}\n(DRIFTLINE_FUZZ=1 keeps it)",
                input.len(),
                self.name
            );
        }
        let least = self.least(input.to_vec());
        let path = folder(self.name).join(format!("found-{:08x}", crc32fast::hash(&least)));
        fs::create_dir_all(folder(self.name)).unwrap();
        fs::write(&path, &least).unwrap();
        panic!("{reason}\nkept as {}: cargo test --test fuzz {}", path.display(), self.name);
    }

    fn judge(&self, input: &[u8]) -> Result<(), String> {
        if by_hand() {
            let running = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
            fs::create_dir_all(&running).unwrap();
            fs::write(running.join(self.name), input).unwrap();
        }
        let (held, asked) = (HELD_NOW.get(), ASKED_NOW.get());
        MOST_NOW.set(held);
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (self.run)(input)));
        let (held, asked) = ((MOST_NOW.get() - held) as u64, ASKED_NOW.get() - asked);
        if let Err(payload) = outcome {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()));
            return Err(format!("it panics: {}", text.unwrap_or_default()));
        }
        if held > self.held.of(input) {
            return Err(format!("{held} bytes are held at once for {} bytes", input.len()));
        }
        if asked > self.asked.of(input) {
            return Err(format!("{asked} bytes are asked for in all for {} bytes", input.len()));
        }
        Ok(())
    }

    /// A short input that is still bad.
    fn least(&self, mut input: Vec<u8>) -> Vec<u8> {
        let (mut cuts, mut size) = (0, input.len().div_ceil(2));
        while size > 0 && cuts < CUTS {
            let mut at = 0;
            while at < input.len() && cuts < CUTS {
                let mut shorter = input.clone();
                shorter.drain(at..(at + size).min(input.len()));
                cuts += 1;
                if self.judge(&shorter).is_err() {
                    input = shorter;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        input
    }
}

fn by_hand() -> bool {
    std::env::var_os("DRIFTLINE_FUZZ").is_some()
}

// ---- bending ----

/// Texts and bytes that decoders stumble over.
const TROUBLE: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"9223372036854775807ns",
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\u0000",
    b"\\ud800",
    b"%zz",
    b"%FF",
    b"\xc3\xa9",
    b"\xf0\x9f\x99\x88",
    b"\n",
    b"\r\n\r\n",
    b"..",
    b"/",
    b"?",
    b"&",
    b"=",
    b"0x",
    b".",
    b"1.5h",
    b"*",
    b"^(a+)+$",
];

/// What opens a level of some language.
const OPENINGS: &[&[u8]] = &[b"[", b"{\"a\":", b"(", b"not ", b"{", b"a.", b"a=[", b"a={", b"!", b"/*"];

fn place(length: usize, rng: &mut StdRng) -> usize {
    rng.random_range(0..=length)
}

fn range(length: usize, rng: &mut StdRng) -> std::ops::Range<usize> {
    let start = place(length, rng);
    let most = if rng.random() { 8 } else { length };
    start..(start + rng.random_range(0..=most)).min(length)
}

fn one<'a>(of: &[&'a [u8]], rng: &mut StdRng) -> &'a [u8] {
    of[rng.random_range(0..of.len())]
}

/// One of the seeds, bent once or a few times.
fn bent(seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let seed = |rng: &mut StdRng| &seeds[rng.random_range(0..seeds.len())];
    let mut input = seed(rng).clone();
    for _ in 0..rng.random_range(1..=4) {
        let length = input.len();
        match rng.random_range(0..10) {
            0 if length > 0 => input[rng.random_range(0..length)] ^= 1 << rng.random_range(0..8),
            1 if length > 0 => input[rng.random_range(0..length)] = rng.random(),
            2 => drop(input.drain(range(length, rng))),
            3 => input.truncate(place(length, rng)),
            4 => {
                let times = if rng.random_range(0..8) == 0 { 2_000 } else { rng.random_range(1..8) };
                let piece = input[range(length, rng)].repeat(times);
                let at = place(length, rng);
                input.splice(at..at, piece);
            }
            5 => {
                let other = seed(rng);
                let piece = other[range(other.len(), rng)].to_vec();
                let over = range(length, rng);
                input.splice(over, piece);
            }
            // A length that lies.
            6 => {
                let near = length as u64;
                let lies =
                    [0, 1, near, near + 1, u32::MAX.into(), u32::MAX as u64 + 1, i64::MAX as u64, u64::MAX];
                let lie = lies[rng.random_range(0..lies.len())];
                let bytes = if rng.random() { lie.to_le_bytes() } else { lie.rotate_right(32).to_be_bytes() };
                let at = place(length, rng);
                for (old, new) in input[at..].iter_mut().zip(&bytes[..[2, 4, 8][rng.random_range(0..3)]]) {
                    *old = *new;
                }
            }
            7 => {
                let times = [3, 70, 200, 20_000][rng.random_range(0..4)];
                let piece = one(OPENINGS, rng).repeat(times);
                let at = place(length, rng);
                input.splice(at..at, piece);
            }
            8 => {
                let over = range(length, rng);
                let over = if rng.random() { over.start..over.start } else { over };
                input.splice(over, one(TROUBLE, rng).iter().copied());
            }
            _ => {
                let at = place(length, rng);
                let noise: Vec<u8> = (0..rng.random_range(1..9)).map(|_| rng.random()).collect();
                input.splice(at..at, noise);
            }
        }
        input.truncate(LONGEST);
    }
    input
}

#[test]
fn what_is_bad_is_found_and_cut_down() {
    let target = |run: &'static dyn Fn(&[u8])| {
        let seeds = vec![b"harmless".to_vec()];
        Target { name: "itself", seeds, run, mend: |_| {}, held: HELD, asked: ASKED, inputs: 2_000 }
    };
    let panics = target(&|input| assert!(!input.windows(3).any(|part| part == b"(((")));
    assert_eq!(panics.judge(b"harmless"), Ok(()));
    assert!(panics.judge(b"harm(((less").unwrap_err().starts_with("it panics"));
    assert_eq!(panics.least(b"harm(((less".to_vec()), b"(((");
    let mut rng = StdRng::seed_from_u64(1);
    assert!((0..2_000).any(|_| panics.judge(&bent(&panics.seeds, &mut rng)).is_err()), "bending finds it");
    // A length that is believed, and work that grows with the square of the input.
    let believes = target(&|_| drop(std::hint::black_box(vec![1u8; 8 << 20])));
    assert!(believes.judge(b"").unwrap_err().contains("held at once"));
    let square = target(&|input| input.iter().for_each(|_| drop(std::hint::black_box(input.to_vec()))));
    assert_eq!(square.judge(&[0; 1_000]), Ok(()));
    assert!(square.judge(&[0; 20_000]).unwrap_err().contains("asked for in all"));
}
