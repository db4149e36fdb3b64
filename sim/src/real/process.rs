//! One real process: started, told things, frozen, killed, and never left behind.
//!
//! It is the leader of a process group of its own, so a Ctrl-C at the terminal reaches it only through us. Its
//! standard input is held open: whoever holds the other end (see `driftline::env::real::puppet`) ends with us. Dropping
//! the handle kills it, frozen or not, and waits for it.

// This is outside the simulation: processes, threads and the real clock are allowed here.
#![allow(clippy::disallowed_methods)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use driftline::env::real::puppet::Told;
use rustix::process::{Pid, Signal, kill_process};

/// So much of the end of its log is told when it failed.
const LOG_TAIL: u64 = 4 << 10;

/// Where a node listens, by the line it prints once it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The HTTP API.
    pub http: SocketAddr,
    /// Other servers.
    pub rpc: SocketAddr,
    /// Gossip, UDP and TCP.
    pub gossip: SocketAddr,
}

impl Listening {
    fn of(line: &str) -> Option<Listening> {
        let (_, after) = line.split_once(" is up: ")?;
        let mut addrs =
            after.split(", ").map(|part| part.split_once(' ').and_then(|(_, addr)| addr.parse().ok()));
        Some(Listening { http: addrs.next()??, rpc: addrs.next()??, gossip: addrs.next()?? })
    }
}

/// What a process says on standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It is up.
    Up(Listening),
    /// It observed something.
    Told(Told),
    /// Its output is over: it has ended, or is about to.
    Over,
}

/// A running process, or one that has ended and not been looked at since.
pub struct Process {
    child: Mutex<Child>,
    pid: Pid,
    input: Mutex<Option<ChildStdin>>,
    log: PathBuf,
}

impl Process {
    /// Starts `program`. Its log is appended to a file; what it says goes to `hear`, from a thread of its own.
    ///
    /// # Errors
    /// The system's.
    pub fn start(
        program: &Path,
        args: &[String],
        log: &Path,
        hear: impl FnMut(Said) + Send + 'static,
    ) -> io::Result<Process> {
        let log_file = File::options().create(true).append(true).open(log)?;
        let mut child = Command::new(program)
            .args(args)
            .env_remove("DRIFTLINE_HTTP_ADDR")
            .env_remove("RUST_LOG")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let pid = Pid::from_child(&child);
        let process =
            Process { child: Mutex::new(child), pid, input: Mutex::new(input), log: log.to_owned() };
        if let Some(output) = output {
            thread::Builder::new().name("listens".to_owned()).spawn(move || listen(output, hear))?;
        }
        Ok(process)
    }

    /// Starts a program that says where it listens, and waits for that.
    ///
    /// # Errors
    /// The system's; or that it did not come up within `patience`, with the end of its log.
    pub fn start_and_wait(
        program: &Path,
        args: &[String],
        log: &Path,
        patience: Duration,
    ) -> io::Result<(Process, Listening)> {
        let (sender, receiver) = mpsc::channel();
        let process = Process::start(program, args, log, move |said| {
            // Nobody may be waiting any more.
            let _ = sender.send(said);
        })?;
        let deadline = Instant::now() + patience;
        loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Said::Up(listening)) => return Ok((process, listening)),
                Ok(Said::Told(_)) => {}
                Ok(Said::Over) | Err(_) => {
                    let text = format!("{} did not come up:\n{}", program.display(), process.log_tail());
                    return Err(io::Error::other(text));
                }
            }
        }
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// The system's: mostly that it has ended.
    pub fn tell(&self, line: &str) -> io::Result<()> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        match input.as_mut() {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()).and_then(|()| input.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone. The system keeps what it has written.
    pub fn kill(&self) {
        let mut child = self.child();
        // It may have ended; that is what was wanted.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGSTOP: it gets no processor until [`Process::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM: it leaves its cluster and ends.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        // Only while it has not been waited for is the number still its own.
        let mut child = self.child();
        if let Ok(None) = child.try_wait() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(its log cannot be read: {error})"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn listen(output: impl Read, mut hear: impl FnMut(Said)) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { break };
        if let Ok(told) = serde_json::from_slice(&line) {
            hear(Said::Told(told));
        } else if let Some(listening) = Listening::of(&String::from_utf8_lossy(&line)) {
            hear(Said::Up(listening));
        }
    }
    hear(Said::Over);
}

/// Shares a process between those who do something with it.
pub type Shared = Arc<Process>;

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Process, mpsc::Receiver<Said>) {
        let folder = tempfile::tempdir().unwrap();
        let (sender, said) = mpsc::channel();
        let args = ["-c".to_owned(), script.to_owned()];
        let process = Process::start(Path::new("/bin/sh"), &args, &folder.path().join("log"), move |word| {
            let _ = sender.send(word);
        });
        (folder, process.unwrap(), said)
    }

    #[test]
    fn what_a_process_says_is_heard_and_what_it_is_told_arrives() {
        let (_folder, process, said) = shell(
            r#"echo noise; read line; echo "driftline: a is up: HTTP 127.0.0.1:1, RPC 127.0.0.1:2, gossip $line, data x"
               echo '{"at_ns":7,"what":{"observed":{"Durable":{"index":3}}}}'; echo broken >&2"#,
        );
        process.tell("127.0.0.1:3").unwrap();
        let [up, told, over] = [(); 3].map(|()| said.recv().unwrap());
        assert!(matches!(up, Said::Up(Listening { gossip, .. }) if gossip.port() == 3), "{up:?}");
        assert!(matches!(told, Said::Told(Told { at_ns: 7, .. })), "{told:?}");
        assert_eq!(over, Said::Over);
        assert_eq!(process.log_tail(), "broken\n");
    }

    #[test]
    fn a_frozen_process_is_killed_with_its_handle() {
        let (_folder, process, said) = shell("read line");
        process.freeze();
        drop(process);
        // Its output is closed, so it is gone.
        assert_eq!(said.recv().unwrap(), Said::Over);
    }

    #[test]
    fn the_end_of_the_input_is_the_end_of_whoever_waits_for_it() {
        let (_folder, process, said) = shell("read line; exit 3");
        process.input.lock().unwrap().take();
        assert_eq!(said.recv().unwrap(), Said::Over);
        assert!(process.tell("anybody there?").is_err());
        process.child().wait().unwrap();
        assert_eq!(process.ended().unwrap().code(), Some(3));
    }

    #[test]
    fn one_that_does_not_come_up_says_why_in_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let args = ["-c".to_owned(), "echo no port >&2; exit 1".to_owned()];
        let started = Process::start_and_wait(
            Path::new("/bin/sh"),
            &args,
            &folder.path().join("log"),
            Duration::from_secs(20),
        );
        assert!(started.err().unwrap().to_string().contains("no port"));
    }
}
