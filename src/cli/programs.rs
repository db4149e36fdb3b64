//! Running programs: checks by script, what watches run, and the command of a lock.
//!
//! Each leads a process group of its own, a [`Group`], so that what it has started ends with it.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use driftline::agent::local::book::{MAX_OUTPUT, captured};
use driftline::agent::process::Given;
use driftline::env::Env;
use rustix::process::{Pid, Signal, kill_process_group};
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

/// A program and all that it has started. It is killed as a whole when this is dropped, even if the program itself has ended.
pub struct Group {
    child: Child,
    /// The group, by its leader's id. No other process has that id as long as anything is left of the group.
    id: Option<Pid>,
}

impl Group {
    /// Starts a program.
    ///
    /// # Errors
    /// Why it could not be run.
    pub fn spawn(command: &mut Command) -> io::Result<Group> {
        // What kills the group kills the leader too; `kill_on_drop` has it waited for as well.
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Group { child, id })
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
        if let Some(id) = self.id {
            // It may have ended just now.
            let _ = kill_process_group(id, signal);
        }
    }

    /// Has all of it end, the program itself gently at first.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(&mut self, env: &Env, gently: Signal) -> io::Result<ExitStatus> {
        self.tell(gently);
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

/// The signals that ask a command to end. A program in a group of its own hears nothing of what a terminal sends.
pub struct Told {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Told {
    /// Listens from now on.
    pub fn listen() -> Result<Told, Problem> {
        Ok(Told { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }
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
    let signal = tokio::select! {
        biased;
        status = group.wait_talking(env, feed(stdin, input)) => return status.map(Ok),
        signal = told.next() => signal,
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
