//! Running a program for the agent: checks by script, and what watches run.

use std::process::Stdio;

use driftline::agent::process::Given;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;

/// So much of what a program writes is kept; the rest is read and dropped.
const KEPT: usize = 4096;

/// Runs a program without a shell, with what it is given; gives its exit code (none if a signal ended it) and what it wrote. It is
/// killed when the future is dropped.
///
/// # Errors
/// Why it could not be run.
pub async fn run(command: &[String], given: &Given) -> Result<(Option<i32>, String), String> {
    let (program, arguments) = command.split_first().ok_or("no program is named")?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(&given.variables)
        .stdin(if given.input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program:?}: {error}"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, errors, ()) =
        tokio::join!(beginning(stdout), beginning(stderr), feed(stdin, &given.input));
    output.extend_from_slice(&errors);
    output.truncate(KEPT);
    let status = child.wait().await.map_err(|error| format!("{program:?} was lost: {error}"))?;
    Ok((status.code(), String::from_utf8_lossy(&output).into_owned()))
}

/// Gives a program its input. It need not read all of it, or anything.
async fn feed(pipe: Option<impl AsyncWrite + Unpin>, input: &[u8]) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(input).await;
    }
}

/// Reads to the end, so that the program is not held up, and keeps the beginning.
async fn beginning(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0; KEPT]);
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn the_exit_code_and_the_beginning_of_the_output_are_given() {
        let nothing = Given::default();
        let ran = run(&words(&["sh", "-c", "echo fine; echo odd >&2; exit 1"]), &nothing).await;
        assert_eq!(ran, Ok((Some(1), "fine\nodd\n".to_owned())));
        let (code, output) =
            run(&words(&["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x"]), &nothing).await.unwrap();
        assert_eq!((code, output.len()), (Some(0), KEPT));
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
}
