//! Running programs: checks by script, what watches run, and the command of a lock.
//!
//! Each leads a process group of its own, a [`Group`], so that what it has started ends with it. Only a program that is to
//! read from the terminal is left in ours: a terminal answers no other group than the one in its foreground.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use driftline::agent::local::book::{MAX_OUTPUT, captured};
use driftline::agent::process::Given;
use driftline::env::Env;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

use super::Problem;
use super::process::listen;

/// So much of what a program writes is kept, the end of it; the rest is read and dropped.
const KEPT: usize = MAX_OUTPUT;
/// How long a program has to end when it is told to.
const GRACE: Duration = Duration::from_secs(5);
/// How long what a program has written is read after its end: what it left behind may hold its pipes open for ever.
const REST: Duration = Duration::from_millis(200);

/// Refuses what Consul gives to a shell. Here a program is run as it is named, and what it is given stays in its words.
pub fn without_shell(shell: bool) -> Result<(), Problem> {
    match shell {
        true => {
            Err(Problem::usage("--shell: a program is run, and no shell: name one, as in sh -c 'COMMAND'"))
        }
        false => Ok(()),
    }
}

/// A program and all that it has started. It is killed as a whole when this is dropped, even if the program itself has ended.
pub struct Group {
    child: Child,
    /// The group, by its leader's id. No other process has that id as long as anything is left of the group.
    id: Option<Pid>,
    /// Whether the program has stayed in our own group, so that it is all that can be told anything.
    in_ours: bool,
}

impl Group {
    /// Starts a program.
    ///
    /// # Errors
    /// Why it could not be run.
    pub fn spawn(command: &mut Command) -> io::Result<Group> {
        Group::of(command.process_group(0), false)
    }

    /// Starts a program that reads from the terminal. Of what it starts nothing is known here: only the program itself is told
    /// and ended. By a signal that the terminal sends it is reached as we are.
    ///
    /// # Errors
    /// Why it could not be run.
    pub fn spawn_in_ours(command: &mut Command) -> io::Result<Group> {
        Group::of(command, true)
    }

    fn of(command: &mut Command, in_ours: bool) -> io::Result<Group> {
        // What kills the group kills the leader too; `kill_on_drop` has it waited for as well.
        let child = command.kill_on_drop(true).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Group { child, id, in_ours })
    }

    /// Waits for the program itself.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits for the program itself while `talk` with it goes on, which has a moment to end when it has ended.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn wait_talking(
        &mut self,
        env: &Env,
        talk: impl Future<Output = ()>,
    ) -> io::Result<ExitStatus> {
        let mut talk = pin!(talk);
        let ended = tokio::select! {
            biased;
            () = &mut talk => None,
            status = self.child.wait() => Some(status),
        };
        match ended {
            None => self.child.wait().await,
            Some(status) => {
                let _ = env.timeout(REST, talk).await;
                status
            }
        }
    }

    /// Sends all of it a signal.
    pub fn tell(&self, signal: Signal) {
        match self.id {
            // It may have ended just now.
            Some(id) if !self.in_ours => drop(kill_process_group(id, signal)),
            // Once it was waited for, its id may be another's.
            Some(id) if self.child.id().is_some() => drop(kill_process(id, signal)),
            _ => {}
        }
    }

    /// Sends all of it a signal that we were sent.
    pub fn pass_on(&self, signal: Signal) {
        // These come from the terminal, which has sent them to the program as well: a second one often means more than the first.
        if !(self.in_ours && matches!(signal, Signal::INT | Signal::QUIT)) {
            self.tell(signal);
        }
    }

    /// Stops all of it, and then ourselves. It stands still until it is told to go on, which is for the caller to do when we were.
    ///
    /// By STOP, which nobody can ignore: what runs under a lock may not run on while nobody watches over the lock.
    pub fn pause(&self) {
        pause(|| self.tell(Signal::STOP));
    }

    /// Has all of it end, the program itself gently at first.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(&mut self, env: &Env, gently: Signal) -> io::Result<ExitStatus> {
        self.tell(gently);
        // What stands still hears of it when it goes on.
        self.tell(Signal::CONT);
        let ended = env.timeout(GRACE, self.child.wait()).await;
        self.tell(Signal::KILL);
        match ended {
            Ok(status) => status,
            Err(_) => self.child.wait().await,
        }
    }

    /// Lets what an ended program has left behind go on.
    pub fn let_go(&mut self) {
        self.id = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.tell(Signal::KILL);
    }
}

/// Stops this process as the terminal asks, unless nobody is there who would have it go on: as a shell is for what it has
/// started, in the same session. In a container that holds nothing but us we would stop for ever; the kernel stops nobody there either.
fn pause(first: impl FnOnce()) {
    let ours = session(getpid());
    if ours.is_some() && getppid().is_some_and(|parent| session(parent) == ours) {
        first();
        // All threads stand still from here to the CONT.
        let _ = kill_process(getpid(), Signal::STOP);
    }
}

/// The session of a process, 0 for one that was begun outside of our namespace of processes, which is none that `getsid` can give.
fn session(process: Pid) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // After its name, which may hold anything: its state, its parent, its group, its session.
    stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()
}

/// The signals that ask a command to end or to pause. A program in a group of its own hears nothing of what a terminal sends.
/// With any of them unheard, we would end or stand still, and the program would run on.
pub struct Told {
    hangup: Option<unix::Signal>,
    interrupt: unix::Signal,
    quit: unix::Signal,
    stop: Option<unix::Signal>,
    terminate: unix::Signal,
}

impl Told {
    /// Listens from now on.
    pub fn listen() -> Result<Told, Problem> {
        // Who was started to ignore the terminal, by `nohup` say, goes on ignoring it: to listen would undo that.
        let ignored = ignored();
        let unless_ignored = |signal: Signal, kind| match ignored & (1 << (signal.as_raw() - 1)) {
            0 => listen(kind).map(Some),
            _ => Ok(None),
        };
        Ok(Told {
            hangup: unless_ignored(Signal::HUP, SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            stop: unless_ignored(Signal::TSTP, SignalKind::from_raw(Signal::TSTP.as_raw()))?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next one: HUP, INT, QUIT, TERM, or TSTP, which asks for a pause.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = heard(&mut self.hangup) => Signal::HUP,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.quit.recv() => Signal::QUIT,
            _ = heard(&mut self.stop) => Signal::TSTP,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }

    /// The next one that asks to end. For while no program runs: a pause is ours alone then.
    pub async fn next_end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::TSTP => pause(|| {}),
                signal => return signal,
            }
        }
    }
}

async fn heard(signal: &mut Option<unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The signals that this process ignores, signal 1 by the lowest bit. None if the kernel does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Runs a program without a shell, with what it is given; gives its exit code (none if a signal ended it) and what it wrote, or
/// the end of that. It is killed with all that it has started when the future is dropped; what it has left behind is killed
/// when it has ended.
///
/// # Errors
/// Why it could not be run.
pub async fn run(env: &Env, command: &[String], given: &Given) -> Result<(Option<i32>, String), String> {
    let (program, arguments) = command.split_first().ok_or("no program is named")?;
    let failed = |error: io::Error| format!("cannot run {program:?}: {error}");
    // One pipe for both, so that what it writes is read in the order in which it was written.
    let (reader, writer) = io::pipe().map_err(failed)?;
    let reader = Receiver::from_owned_fd(reader.into()).map_err(failed)?;
    let mut group = Group::spawn(
        Command::new(program)
            .args(arguments)
            .envs(&given.variables)
            .stdin(if given.input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer),
    )
    .map_err(failed)?;
    let stdin = group.child.stdin.take();
    let mut output = End::default();
    let talk = async {
        tokio::join!(output.read(reader), feed(stdin, &given.input));
    };
    let status = group.wait_talking(env, talk).await;
    let status = status.map_err(|error| format!("{program:?} was lost: {error}"))?;
    Ok((status.code(), output.text()))
}

/// Runs a program with a text on its standard input and the rest as it is here, until it has ended or a signal is told.
///
/// # Errors
/// Why it could not be run.
pub async fn run_until_told(
    env: &Env,
    command: &mut Command,
    input: &[u8],
    told: &mut Told,
) -> io::Result<Result<ExitStatus, Signal>> {
    let mut group = Group::spawn(command.stdin(Stdio::piped()))?;
    let stdin = group.child.stdin.take();
    let mut feeding = Some(Box::pin(feed(stdin, input)));
    let signal = loop {
        // After a pause it goes on where it was.
        let talk = async {
            if let Some(going) = &mut feeding {
                going.await;
                feeding = None;
            }
        };
        tokio::select! {
            biased;
            status = group.wait_talking(env, talk) => return status.map(Ok),
            signal = told.next() => match signal {
                Signal::TSTP => {
                    group.pause();
                    group.tell(Signal::CONT);
                }
                signal => break signal,
            },
        }
    };
    group.stop(env, signal).await?;
    Ok(Err(signal))
}

/// Gives a program its input. It need not read all of it, or anything.
async fn feed(pipe: Option<impl AsyncWrite + Unpin>, input: &[u8]) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(input).await;
    }
}

/// The end of what a program writes, and how much that was.
#[derive(Default)]
struct End {
    kept: Vec<u8>,
    written: usize,
}

impl End {
    /// Reads all there is, so that the program is not held up.
    async fn read(&mut self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = [0; KEPT];
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            self.written += count;
            self.kept.extend_from_slice(&buffer[..count]);
            self.kept.drain(..self.kept.len().saturating_sub(KEPT));
        }
    }

    /// As a check says it.
    fn text(&self) -> String {
        if self.written == self.kept.len() {
            return String::from_utf8_lossy(&self.kept).into_owned();
        }
        // What begins in the middle of a character begins with the next one.
        let middle = self.kept.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        captured(&String::from_utf8_lossy(&self.kept[middle..]), self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftline::env::real::ephemeral_env;

    #[test]
    fn who_wants_a_shell_is_told_to_name_it() {
        without_shell(false).unwrap();
        let problem = without_shell(true).unwrap_err();
        assert!(problem.code == 2 && problem.text.contains("sh -c"), "{problem:?}");
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    async fn run(command: &[String], given: &Given) -> Result<(Option<i32>, String), String> {
        super::run(&ephemeral_env().unwrap(), command, given).await
    }

    /// Waits until no process has this id, which a program wrote into a file.
    async fn has_ended(env: &Env, file: &std::path::Path) {
        let id: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        // Whoever inherits it may not have waited for it yet.
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        for _ in 0..500 {
            if !alive() {
                return;
            }
            env.sleep(Duration::from_millis(20)).await;
        }
        panic!("{id} runs on");
    }

    #[tokio::test]
    async fn the_exit_code_and_the_end_of_the_output_are_given() {
        let nothing = Given::default();
        let ran = run(&words(&["sh", "-c", "echo fine; echo odd >&2; exit 1"]), &nothing).await;
        assert_eq!(ran, Ok((Some(1), "fine\nodd\n".to_owned())));
        let mixed = "echo one; echo two >&2; echo three; exit 2";
        let ran = run(&words(&["sh", "-c", mixed]), &nothing).await;
        assert_eq!(ran, Ok((Some(2), "one\ntwo\nthree\n".to_owned())));
        let long = "head -c 100000 /dev/zero | tr '\\0' x; echo the end";
        let (code, output) = run(&words(&["sh", "-c", long]), &nothing).await.unwrap();
        let end = format!("{}the end\n", "x".repeat(KEPT - 8));
        assert_eq!((code, output), (Some(0), format!("Captured 4096 of 100008 bytes\n...\n{end}")));
        let odd = "printf x; for i in $(seq 3000); do printf é; done";
        let (_, output) = run(&words(&["sh", "-c", odd]), &nothing).await.unwrap();
        assert!(output.starts_with("Captured 4096 of 6001 bytes\n...\né"), "{output}");
        let odd = "for i in $(seq 3000); do printf é; done; printf x";
        let (_, output) = run(&words(&["sh", "-c", odd]), &nothing).await.unwrap();
        assert!(output.starts_with("Captured 4095 of 6001 bytes\n...\né"), "{output}");
        let missing = run(&words(&["/nowhere/at/all"]), &nothing).await.unwrap_err();
        assert!(missing.starts_with("cannot run \"/nowhere/at/all\""), "{missing}");
        assert_eq!(run(&[], &nothing).await, Err("no program is named".to_owned()));
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_its_variables_and_need_not_read() {
        let given = Given {
            input: "x".repeat(200_000).into(),
            variables: [("CONSUL_INDEX".to_owned(), "7".to_owned())].into(),
        };
        let ran = run(&words(&["sh", "-c", "echo $CONSUL_INDEX; wc -c"]), &given).await;
        assert_eq!(ran, Ok((Some(0), "7\n200000\n".to_owned())));
        assert_eq!(run(&words(&["true"]), &given).await, Ok((Some(0), String::new())));
    }

    #[tokio::test]
    async fn what_a_program_leaves_behind_neither_holds_it_up_nor_goes_on() {
        let (env, home) = (ephemeral_env().unwrap(), tempfile::tempdir().unwrap());
        let file = home.path().join("id");
        let script = format!("sleep 300 & echo $! > {}; echo fine", file.display());
        let (script, given) = (words(&["sh", "-c", &script]), Given::default());
        let ran = env.timeout(Duration::from_secs(60), run(&script, &given)).await;
        assert_eq!(ran.expect("in time"), Ok((Some(0), "fine\n".to_owned())));
        has_ended(&env, &file).await;
    }

    #[tokio::test]
    async fn a_program_that_is_given_up_on_ends_with_all_that_it_has_started() {
        let (env, home) = (ephemeral_env().unwrap(), tempfile::tempdir().unwrap());
        let file = home.path().join("id");
        let script = format!("sleep 300 & echo $! > {}.new; mv {0}.new {0}; wait", file.display());
        let script = words(&["sh", "-c", &script]);
        let given = Given::default();
        let written = async {
            while !file.exists() {
                env.sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ran = run(&script, &given) => panic!("{ran:?}"),
            () = written => {}
        }
        has_ended(&env, &file).await;
    }
}
