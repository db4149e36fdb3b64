//! `driftline watch`: shows something, or runs a program whenever it changes.

use bytes::Bytes;
use clap::{ArgAction, Args};
use driftline::config::watch::{Kind, Watch as Look};
use driftline::env::Env;
use driftline::watch::{Follower, look_at};
use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use super::ask::{LEFT_OUT, ask, pretty};
use super::dashes::truth;
use super::programs::{Told, run_until_told, without_shell};
use super::{Api, Problem, complain};

#[derive(Args, Debug)]
pub struct Watch {
    /// What to look at: key, keyprefix, services, nodes, service, checks or event
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    kind: Kind,
    /// With --type key: which
    #[arg(long, default_value = "")]
    key: String,
    /// With --type keyprefix: which
    #[arg(long, default_value = "")]
    prefix: String,
    /// With --type service: which; with --type checks: only its checks
    #[arg(long, default_value = "")]
    service: String,
    /// With --type service: only instances with this tag
    #[arg(long, default_value = "")]
    tag: String,
    /// With --type service: only instances whose checks all pass, or all of them
    // With a value, as Consul's has: without, the `true` of `-passingonly true` would be the handler.
    #[arg(
        long,
        alias = "passing-only",
        action = ArgAction::Set,
        default_value = "false",
        value_name = "true|false",
        value_parser = yes_or_no
    )]
    passingonly: bool,
    /// With --type checks: only those in this status
    #[arg(long, default_value = "")]
    state: String,
    /// With --type event: only events of this name
    #[arg(long, default_value = "")]
    name: String,
    /// Let any server answer from what it has, which may be old
    #[arg(long)]
    stale: bool,
    // Consul's. It is taken only to say what to do instead.
    #[arg(long, hide = true)]
    shell: bool,
    #[command(flatten)]
    api: Api,
    /// A program to run at each change, with the news as JSON on its standard input and their index in CONSUL_INDEX; without it
    /// what there is now is printed
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "HANDLER")]
    handler: Vec<String>,
}

fn kind(text: &str) -> Result<Kind, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    truth(text).ok_or("must be true or false")
}

/// Prints, or runs the handler until it fails.
pub async fn watch(env: &Env, args: Watch) -> Result<Vec<u8>, Problem> {
    let Watch { kind, key, prefix, service, tag, passingonly, state, name, stale, shell, api, handler } =
        args;
    without_shell(shell)?;
    let look = Look {
        kind,
        key,
        prefix,
        service,
        tag,
        passing_only: passingonly,
        state,
        name,
        stale,
        ..Look::default()
    };
    look.check().map_err(Problem::usage)?;
    // Asked once as any command asks, because a follower does not tell who does not answer; what is left out is told here.
    ask(env, &api, Method::GET, &look_at(&look), Bytes::new(), true).await?;
    let (env, addr) = api.reach(env)?;
    let mut follower = Follower::new(&env, addr, look).showing(api.token.secret()?);
    let failed = |reason: String| Problem::failed(format!("the agent at {addr}: {reason}"));
    let mut news = follower.look().await.map_err(failed)?;
    let mut left_out = follower.left_out();
    let Some((program, arguments)) = handler.split_first() else {
        let (_, value) = news.unwrap_or((0, json!([])));
        return Ok(pretty(&value));
    };
    let mut told = Told::listen()?;
    loop {
        if let Some((index, value)) = news {
            run(&env, program, arguments, index, &value, &mut told).await?;
        }
        let look = async {
            match follower.look().await {
                Ok(news) => news,
                Err(reason) => {
                    let pause = follower.failed();
                    complain(&format!(
                        "the agent at {addr}: {reason}; trying again in {} s",
                        pause.as_secs()
                    ));
                    env.sleep(pause).await;
                    None
                }
            }
        };
        news = tokio::select! {
            biased;
            signal = told.next_end() => return Err(interrupted(signal)),
            news = look => news,
        };
        if left_out != follower.left_out() {
            left_out = follower.left_out();
            complain(if left_out { LEFT_OUT } else { "nothing is left out any more" });
        }
    }
}

/// Runs the handler, which is to have ended with this command.
async fn run(
    env: &Env,
    program: &str,
    arguments: &[String],
    index: u64,
    value: &Value,
    told: &mut Told,
) -> Result<(), Problem> {
    let mut command = Command::new(program);
    command.args(arguments).env("CONSUL_INDEX", index.to_string());
    let ran = run_until_told(env, &mut command, format!("{value}\n").as_bytes(), told).await;
    match ran.map_err(|error| Problem::failed(format!("cannot run {program:?}: {error}")))? {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Problem::failed(format!("the handler ended with {status}"))),
        Err(signal) => Err(interrupted(signal)),
    }
}

/// As a shell tells of a command that a signal has ended.
fn interrupted(signal: Signal) -> Problem {
    let code = u8::try_from(signal.as_raw() + 128).unwrap_or(1);
    Problem { code, text: "interrupted".to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::dashes::doubled;
    use super::super::{Cli, Command};

    #[test]
    fn what_is_said_of_health_is_not_the_handler() {
        let told = |options: &str| {
            let line = format!("driftline watch -type service -service web {options} ./notify -v");
            let words = doubled(line.split_whitespace().map(Into::into), &Cli::command()).unwrap();
            let Command::Watch(watch) = Cli::try_parse_from(words).unwrap().command else { panic!("{line}") };
            (watch.passingonly, watch.handler.join(" "))
        };
        for (options, passing) in [
            ("", false),
            ("-passingonly=true", true),
            ("-passingonly true", true),
            ("--passingonly f", false),
            ("--passing-only 1", true),
        ] {
            assert_eq!(told(options), (passing, "./notify -v".to_owned()), "{options}");
        }
    }
}
