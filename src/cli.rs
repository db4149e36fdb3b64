//! The command line: `driftline agent` runs a node; the other commands ask a running one, over HTTP.
//!
//! What a command prints goes to standard output as a whole, once it has succeeded; what went wrong
//! goes to standard error as one message, and the exit code says which kind of wrong it was.

mod acl;
mod agent;
mod ask;
mod autopilot;
mod bench;
mod catalog;
mod dashes;
mod environment;
mod host;
mod keyring;
mod lock;
mod maint;
mod operate;
mod process;
mod programs;
mod recover;
mod rtt;
mod secrets;
mod services;
mod snapshot;
mod tls;
mod transfer;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Once;

use clap::{Args, CommandFactory, Parser, Subcommand};
use driftline::env::real::tls::ApiClient;
use driftline::env::{Env, real};
use driftline::secret::Secret;

use environment::or_consuls;

/// The exit codes, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; a write that failed was not applied
  2  the command line makes no sense
  3  a write was sent but its outcome is unknown: it may have been, or may yet be, applied";

/// A Consul-style agent: a strongly consistent key-value store, membership and events.
#[derive(Debug, Parser)]
// Of an option that is said twice the later counts, as in Consul: scripts add theirs to what an alias says already.
#[command(name = "driftline", version, after_help = EXIT_CODES, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs an agent until it is told to leave or gets a signal
    Agent(Box<agent::AgentArgs>),
    /// Reads and writes keys
    #[command(subcommand)]
    Kv(ask::Kv),
    /// Lists the members that the agent knows
    Members(ask::Members),
    /// Registers services with the agent, and takes them out again
    #[command(subcommand)]
    Services(services::Services),
    /// Takes the agent's node or a service out of service for a while
    Maint(maint::Maint),
    /// Lists the nodes and services of the cluster
    #[command(subcommand)]
    Catalog(catalog::Catalog),
    /// Fires user events and lists them
    Event(ask::Event),
    /// Shows the agent's own statistics
    Info(ask::Info),
    /// Estimates the round-trip time between two nodes
    Rtt(rtt::Rtt),
    /// Shows something, or runs a program whenever it changes
    Watch(watch::Watch),
    /// Runs a command while holding a lock
    Lock(lock::Lock),
    /// Makes the agent join the members at these addresses
    Join(ask::Join),
    /// Makes the agent leave its cluster gracefully and stop
    Leave(ask::Leave),
    /// Makes a failed member one that has left
    ForceLeave(ask::ForceLeave),
    /// Asks a cluster many things at once and says how fast it answered
    Bench(Box<bench::BenchArgs>),
    /// Shows who leads and who is there
    Status(operate::Status),
    /// Says in words why there is no leader, or that all is well, and what to do
    Doctor(operate::Doctor),
    /// Makes the agent read its configuration again
    Reload(operate::Reload),
    /// Shows the agent's log lines as they come
    Monitor(operate::Monitor),
    /// Looks after the servers of the Raft configuration
    #[command(subcommand)]
    Operator(operate::Operator),
    /// Looks at the keys that gossip is encrypted with, and changes them at all members
    #[command(subcommand)]
    Keyring(keyring::Keyring),
    /// Prints a new key for gossip
    Keygen,
    /// Prints the version of this program
    Version(Format),
    /// Makes the certificates of a cluster
    #[command(subcommand)]
    Tls(tls::Tls),
    /// Looks after tokens, policies and roles
    #[command(subcommand)]
    Acl(acl::Acl),
    /// Saves the whole state into a file, and restores it from one
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Collects all that helps to find a fault into one file
    Debug(operate::Debug),
    /// Checks configuration files without starting anything
    Validate(Validate),
    /// Makes a cluster of what the surviving disks hold, after a quorum was lost for good
    Recover(recover::Recover),
    /// Prints what makes a shell complete these commands
    Completions(Completions),
}

#[derive(Args, Debug)]
struct Validate {
    /// Files and directories, laid over one another in this order
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Say nothing if all is well
    #[arg(long)]
    quiet: bool,
    /// The form of all files, whose names must say the same
    #[arg(long, value_enum, value_name = "FORM")]
    config_format: Option<agent::FileForm>,
}

#[derive(Args, Debug)]
struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// How a command prints what it was told.
#[derive(Args, Clone, Copy, Debug)]
struct Format {
    /// For people, or the API's JSON
    #[arg(long, value_enum, default_value_t = Form::Text, value_name = "FORM")]
    format: Form,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

impl Format {
    fn is_json(self) -> bool {
        self.json || self.format == Form::Json
    }
}

/// Where the agent is, if nobody says anything else; the port is the usual one of HTTP or HTTPS.
const HERE: &str = "127.0.0.1";

/// Where the agent is that a command asks. What Consul's variables of the environment say counts where ours say nothing.
#[derive(Args, Clone, Debug)]
struct Api {
    /// Address of the agent's HTTP API: host:port, or https://host:port [default: 127.0.0.1:8500]
    #[arg(long, env = "DRIFTLINE_HTTP_ADDR", value_name = "HOST:PORT")]
    http_addr: Option<String>,
    /// With https: certificate of the authority behind the agent's
    #[arg(long, env = "DRIFTLINE_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// With https: own certificate, if the agent asks for one
    #[arg(long, env = "DRIFTLINE_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// With https: the key of the own certificate
    #[arg(long, env = "DRIFTLINE_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// With https: the name in the agent's certificate, if it is not the host's
    #[arg(long, env = "DRIFTLINE_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,
    #[command(flatten)]
    token: Token,
}

impl Api {
    /// Where the agent is, and the world in which it is reached.
    fn reach(&self, env: &Env) -> Result<(Env, SocketAddr), Problem> {
        environment::check(environment::told)?;
        let addr = or_consuls(self.http_addr.clone(), "CONSUL_HTTP_ADDR").unwrap_or_else(|| HERE.to_owned());
        let Some(text) = by_https(&addr, environment::wants_https(environment::told)?) else {
            return Ok((env.clone(), plain(&addr)?));
        };
        let text = text.trim_end_matches('/');
        let addr = resolve(text, ask::HTTPS_PORT)?;
        let file = |given: &Option<PathBuf>, name| {
            let given = given.clone().map(PathBuf::into_os_string);
            or_consuls(given, name).map(PathBuf::from)
        };
        let ca_file = file(&self.ca_file, "CONSUL_CACERT");
        environment::check_https(environment::told, ca_file.is_some())?;
        let Some(ca_file) = &ca_file else {
            return Err(Problem::usage("https needs the authority's certificate: --ca-file FILE"));
        };
        let (cert, key) =
            (file(&self.client_cert, "CONSUL_CLIENT_CERT"), file(&self.client_key, "CONSUL_CLIENT_KEY"));
        let own = match (&cert, &key) {
            (Some(cert), Some(key)) => {
                secrets::check(key)?;
                Some((cert, key))
            }
            _ => None,
        };
        // Without the port, and an address of IPv6 without its brackets.
        let host = text.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let host = host.map_or(text, |(host, _)| host).trim_matches(['[', ']']);
        let name = or_consuls(self.tls_server_name.clone(), "CONSUL_TLS_SERVER_NAME");
        let client =
            ApiClient::new(ca_file, own, name.as_deref().unwrap_or(host)).map_err(Problem::failed)?;
        let env = real::https_env(client)
            .map_err(|error| Problem::failed(format!("cannot use the network: {error}")))?;
        Ok((env, addr))
    }
}

/// What is asked by HTTPS, without the scheme; none if the address says HTTP, or what nobody understands. Whoever wants HTTPS in
/// any case gets it for an `http://` address too, as from Consul: a token must not go in plain text because of a word.
fn by_https(addr: &str, in_any_case: bool) -> Option<&str> {
    let text = addr.strip_prefix("https://");
    let any = addr.strip_prefix("http://").unwrap_or(addr);
    text.or((in_any_case && !any.contains("://")).then_some(any))
}

/// Where an API is that is asked without TLS.
fn plain(addr: &str) -> Result<SocketAddr, Problem> {
    let text = addr.strip_prefix("http://").unwrap_or(addr);
    if let Some((scheme, _)) = text.split_once("://") {
        let why = match scheme {
            "https" => "this command speaks no TLS: give it an http:// address",
            _ => "only http:// and https:// are known",
        };
        return Err(Problem::usage(format!("address {addr:?}: {why}")));
    }
    resolve(text.trim_end_matches('/'), ask::API_PORT)
}

/// By whose right a command asks. Never on the command line, which every user of the machine can read: by a file, or by
/// the environment.
#[derive(Args, Clone, Debug)]
struct Token {
    /// File that holds the ACL token to show and that nobody else may read; or DRIFTLINE_HTTP_TOKEN (CONSUL_HTTP_TOKEN) holds it
    #[arg(long, env = "DRIFTLINE_HTTP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The token to show whatever else is said: what a file gives to one of its services.
    #[arg(skip)]
    given: Option<Secret>,
}

impl Token {
    /// The token; an empty one if there is none.
    ///
    /// What is there and cannot be one is refused: without it the command would go on by nobody's right.
    fn secret(&self) -> Result<Secret, Problem> {
        self.secret_as_told(|name| std::env::var_os(name))
    }

    fn secret_as_told(&self, told: impl Fn(&str) -> Option<OsString>) -> Result<Secret, Problem> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        if let Some(path) = &self.token_file {
            return secrets::read(path, "token");
        }
        // A variable that is set to nothing is unset, as for Consul.
        let told = |name| told(name).filter(|text| !text.is_empty());
        if let Some(path) = told("CONSUL_HTTP_TOKEN_FILE") {
            // Whoever sets this variable set it for Consul, which asks nothing of the file.
            let (token, warning) = secrets::read_and_warn(Path::new(&path), "token")?;
            // A command may ask many times.
            if let Some(warning) = warning {
                WARNED.call_once(|| complain(&warning));
            }
            return Ok(token);
        }
        let named = ["DRIFTLINE_HTTP_TOKEN", "CONSUL_HTTP_TOKEN"];
        match named.into_iter().find_map(|name| Some((name, told(name)?))) {
            Some((name, token)) => secrets::sound(Secret::new(token.to_string_lossy().trim()), name, "token"),
            None => Ok(Secret::default()),
        }
    }
}

/// Whether it was said that others may use the token.
static WARNED: Once = Once::new();

/// Why a command did not do what it was asked: an exit code and a text.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    code: u8,
    text: String,
}

impl Problem {
    fn failed(text: impl Into<String>) -> Problem {
        Problem { code: 1, text: text.into() }
    }

    fn usage(text: impl Into<String>) -> Problem {
        Problem { code: 2, text: text.into() }
    }

    fn unknown(text: impl Into<String>) -> Problem {
        Problem { code: 3, text: text.into() }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = dashes::doubled(std::env::args_os(), &Cli::command());
    let cli = match arguments.and_then(Cli::try_parse_from) {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come this way too, with code 0. A closed pipe is nobody's loss.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match cli.command {
        Command::Agent(args) => agent::run(*args).map(|()| Vec::new()),
        Command::Bench(args) => bench::run(*args),
        Command::Validate(args) => {
            let said = agent::validate(&args.paths, args.config_format);
            said.map(|said| if args.quiet { Vec::new() } else { said })
        }
        Command::Recover(args) => recover::run(&args),
        Command::Keygen => keyring::keygen(),
        Command::Version(format) => Ok(version(format)),
        Command::Tls(command) => tls::run(command),
        Command::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "driftline", &mut script);
            Ok(script)
        }
        other => ask::run(other),
    };
    match done {
        Ok(output) => match write_out(&output) {
            // Whoever read the output has had enough of it. What must not be cut short has been written by its command.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                complain(&unwritten(&error).text);
                ExitCode::from(1)
            }
            _ => ExitCode::SUCCESS,
        },
        Err(problem) => {
            complain(&problem.text);
            ExitCode::from(problem.code)
        }
    }
}

fn write_out(output: &[u8]) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(output)?;
    out.flush()
}

fn unwritten(error: &io::Error) -> Problem {
    Problem::failed(format!("cannot write the output: {error}"))
}

/// Writes what is worth nothing unless all of it arrives: a backup. That nobody reads it to the end is a failure.
fn hand_over(output: &[u8]) -> Result<(), Problem> {
    write_out(output).map_err(|error| unwritten(&error))
}

fn version(format: Format) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    match format.is_json() {
        true => ask::pretty(&serde_json::json!({ "Version": version })),
        false => ask::lines([format!("driftline {version}").as_str()]),
    }
}

fn complain(text: &str) {
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "driftline: {text}");
}

/// The address that `host:port` (or `host` alone, with the default port) stands for.
fn resolve(text: &str, default_port: u16) -> Result<SocketAddr, Problem> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse() {
        return Ok(SocketAddr::new(ip, default_port));
    }
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{default_port}") };
    let mut found = with_port
        .to_socket_addrs()
        .map_err(|error| Problem::failed(format!("address {text:?} does not resolve: {error}")))?;
    found.next().ok_or_else(|| Problem::failed(format!("address {text:?} resolves to nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_without_tls_may_say_so_and_no_other_scheme() {
        let here = plain("127.0.0.1:8500").unwrap();
        assert_eq!(
            (plain("http://127.0.0.1").unwrap(), plain("http://127.0.0.1:8500/").unwrap()),
            (here, here)
        );
        for (addr, why) in
            [("https://127.0.0.1", "speaks no TLS"), ("unix:///run/a.sock", "only http:// and")]
        {
            let problem = plain(addr).unwrap_err();
            assert!(problem.code == 2 && problem.text.contains(why), "{problem:?}");
        }
    }

    #[test]
    fn of_an_option_that_is_said_twice_the_later_counts() {
        let said = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().command;
        let lock = said("driftline lock --try 1s --timeout 2s p true");
        assert!(format!("{lock:?}").contains(r#"within: Some("2s")"#), "{lock:?}");
        let twice = said("driftline kv get --stale --stale --http-addr a --http-addr b k");
        assert!(format!("{twice:?}").contains(r#"http_addr: Some("b")"#), "{twice:?}");
        // What may be said more than once is not replaced.
        let both = said("driftline acl role create --name r --policy-name a --policy-name b");
        assert!(format!("{both:?}").contains(r#"policy_name: ["a", "b"]"#), "{both:?}");
    }

    #[test]
    fn a_token_that_consuls_variable_names_may_be_mounted_for_all_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "secret\n").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let asked = |token_file: Option<&Path>, variable: &str| {
            let token = Token { token_file: token_file.map(Path::to_owned), given: None };
            let told = |name: &str| (name == "CONSUL_HTTP_TOKEN_FILE").then(|| variable.into());
            token.secret_as_told(told).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(asked(None, file.to_str().unwrap()).unwrap(), "secret");
        assert!(asked(Some(&file), "").unwrap_err().text.contains("chmod 600"));
        assert_eq!(asked(None, "").unwrap(), "");
    }

    #[test]
    fn who_wants_https_never_asks_in_plain_text() {
        for addr in ["127.0.0.1:1", "http://127.0.0.1:1", "https://127.0.0.1:1"] {
            assert_eq!(by_https(addr, true), Some("127.0.0.1:1"), "{addr}");
        }
        assert_eq!(by_https("https://a", false), Some("a"));
        for (addr, in_any_case) in [("a:1", false), ("http://a", false), ("unix:///run/a.sock", true)] {
            assert_eq!(by_https(addr, in_any_case), None, "{addr}");
        }
    }

    #[test]
    fn an_address_may_leave_the_port_out() {
        let cases = [
            ("127.0.0.1", "127.0.0.1:8500"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("::1", "[::1]:8500"),
            ("[::1]", "[::1]:8500"),
            ("[::1]:2", "[::1]:2"),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text, 8500).unwrap().to_string(), expected, "{text:?}");
        }
        assert_eq!(resolve("127.0.0.1:x", 8500).unwrap_err().code, 1);
    }
}
