//! Consul's way to write options: one dash will do, as in `-http-addr=HOST:PORT`.
//!
//! With one dash, what comes after it would be read as single letters, and `-http-addr=…` as `-h`: the help would be shown,
//! the exit code be 0, and nothing be done. So where a command has a long option of that name, it is meant; and where it has
//! none, the mistake is named by the whole name, not by its first letter.

use std::ffi::OsString;

use clap::{Arg, Command};

/// The arguments, with two dashes before every long option that has only one.
pub fn doubled(arguments: impl IntoIterator<Item = OsString>, program: &Command) -> Vec<OsString> {
    let mut command = program;
    let mut arguments = arguments.into_iter();
    let mut doubled: Vec<OsString> = arguments.next().into_iter().collect();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else {
            doubled.push(argument);
            continue;
        };
        let single = text.strip_prefix('-').filter(|name| name.len() > 1 && !name.starts_with('-'));
        let long = single.or_else(|| text.strip_prefix("--"));
        let named = long.map(|name| name.split('=').next().unwrap_or(name)).filter(|name| !name.is_empty());
        if let Some(option) = named.and_then(|name| option_of(command, name)) {
            let alone = option.get_action().takes_values() && !text.contains('=');
            doubled.push(if single.is_some() { format!("-{text}").into() } else { argument });
            // Its value is nobody's option, whatever it looks like.
            if alone && option.get_num_args().is_none_or(|count| count.min_values() > 0) {
                doubled.extend(arguments.next());
            }
            continue;
        }
        if single.is_some_and(|name| is_word(command, name)) {
            doubled.push(format!("-{text}").into());
            continue;
        }
        let subcommand = command.find_subcommand(text);
        let ends = text == "--" || (subcommand.is_none() && !text.starts_with('-') && runs_another(command));
        doubled.push(argument);
        if ends {
            // What follows belongs to another program.
            doubled.extend(arguments);
            break;
        }
        command = subcommand.unwrap_or(command);
    }
    doubled
}

/// Whether what follows one dash can only be meant as a whole name: it is no number, and no short option with its value.
fn is_word(command: &Command, name: &str) -> bool {
    let first = name.chars().next();
    let mut short = command.get_arguments().filter(|option| option.get_action().takes_values());
    first.is_some_and(char::is_alphabetic) && !short.any(|option| option.get_short() == first)
}

fn option_of<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let long = |option: &&Arg| {
        option.get_long() == Some(name)
            || option.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    };
    command.get_arguments().find(long)
}

/// Whether its last arguments are another program and what that is given.
fn runs_another(command: &Command) -> bool {
    command.get_positionals().any(Arg::is_trailing_var_arg_set)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    fn said(line: &str) -> String {
        let doubled = doubled(line.split(' ').map(OsString::from), &Cli::command());
        doubled.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn one_dash_is_as_good_as_two_before_an_option_that_there_is() {
        for (line, expected) in [
            ("driftline kv put -http-addr=127.0.0.1:1 k v", "driftline kv put --http-addr=127.0.0.1:1 k v"),
            (
                "driftline kv get -recurse -http-addr 127.0.0.1:1 k",
                "driftline kv get --recurse --http-addr 127.0.0.1:1 k",
            ),
            ("driftline kv put -cas=0 k v", "driftline kv put --cas=0 k v"),
            // What is no option of the command is a mistake that the parser will name.
            ("driftline kv put k -recurse", "driftline kv put k --recurse"),
            ("driftline kv put k -5", "driftline kv put k -5"),
            ("driftline members -http-nonsense", "driftline members --http-nonsense"),
            ("driftline lock -n2 p true", "driftline lock -n2 p true"),
            ("driftline kv put k -- -cas=1", "driftline kv put k -- -cas=1"),
            ("driftline kv put --session -cas k v", "driftline kv put --session -cas k v"),
            ("driftline agent -server -nonsense=a", "driftline agent --server --nonsense=a"),
            // The other program's options are its own.
            ("driftline lock -n=2 p echo -n -http-addr=x", "driftline lock -n=2 p echo -n -http-addr=x"),
            ("driftline members -h", "driftline members -h"),
        ] {
            assert_eq!(said(line), expected);
        }
    }
}
