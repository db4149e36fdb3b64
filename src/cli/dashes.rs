//! Consul's way to write options: one dash will do, as in `-http-addr=HOST:PORT`.
//!
//! With one dash, what comes after it would be read as single letters, and `-http-addr=…` as `-h`: the help would be shown,
//! the exit code be 0, and nothing be done. So where a command has a long option of that name, it is meant; and where it has
//! none, the mistake is named by the whole name, not by its first letter.
//!
//! An option that is there or not may say so, as Go's may: `-recurse=true` is `-recurse`, and `-recurse=false` is nothing.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// The arguments, with two dashes before every long option that has only one, and options without a value as they are written
/// here. An error if such an option is given a value that is neither yes nor no.
pub fn doubled(
    arguments: impl IntoIterator<Item = OsString>,
    program: &Command,
) -> Result<Vec<OsString>, Error> {
    let mut command = program;
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let has_index = tells_index(&arguments);
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
            let switched = long.and_then(|long| long.split_once('='));
            if let Some((name, value)) = switched.filter(|_| !option.get_action().takes_values()) {
                match truth(value) {
                    Some(true) => doubled.push(format!("--{name}").into()),
                    Some(false) => {}
                    None => {
                        let why = format!("--{name}={value}: must be true or false, or --{name} alone\n");
                        return Err(Error::raw(ErrorKind::InvalidValue, why));
                    }
                }
                continue;
            }
            if has_index && named == Some("cas") && matches!(long, Some("cas" | "cas=true")) {
                continue;
            }
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
    Ok(doubled)
}

/// Whether the index of a compare-and-set is told by an option of its own, as in Consul's `-cas -modify-index=INDEX`. Then `-cas`
/// says nothing more, where otherwise the index is its value.
fn tells_index(arguments: &[OsString]) -> bool {
    let mut words =
        arguments.iter().filter_map(|argument| argument.to_str()).take_while(|word| *word != "--");
    words.any(|word| {
        let name = word.strip_prefix('-').map(|name| name.strip_prefix('-').unwrap_or(name));
        name.is_some_and(|name| name.split('=').next() == Some("modify-index"))
    })
}

/// Yes or no, in any of the words that Go's programs take for it.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
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
    use clap::{CommandFactory, Parser};

    use super::super::Cli;
    use super::*;

    fn said(line: &str) -> String {
        let doubled = doubled(line.split(' ').map(OsString::from), &Cli::command()).unwrap();
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

    #[test]
    fn an_index_may_be_told_by_an_option_of_its_own() {
        for (line, expected) in [
            ("driftline kv put -cas -modify-index=3 k v", "driftline kv put --modify-index=3 k v"),
            ("driftline kv delete -modify-index 3 -cas=true k", "driftline kv delete --modify-index 3 k"),
            ("driftline kv put -cas 3 k v", "driftline kv put --cas 3 k v"),
            ("driftline kv put -cas 3 k -- -modify-index=4", "driftline kv put --cas 3 k -- -modify-index=4"),
        ] {
            assert_eq!(said(line), expected);
        }
        for line in ["driftline kv put --modify-index=3 k v", "driftline kv delete --modify-index=3 k"] {
            let told = format!("{:?}", Cli::try_parse_from(line.split(' ')).unwrap());
            assert!(told.contains("cas: Some(3)"), "{told}");
        }
    }

    #[test]
    fn an_option_without_a_value_may_say_yes_or_no() {
        for (line, expected) in [
            ("driftline kv get -recurse=true k", "driftline kv get --recurse k"),
            ("driftline kv get --recurse=T -stale=f k", "driftline kv get --recurse k"),
            ("driftline agent -dev=1 -server=False", "driftline agent --dev"),
            ("driftline kv put -cas=1 k v", "driftline kv put --cas=1 k v"),
            ("driftline lock p echo -recurse=true", "driftline lock p echo -recurse=true"),
        ] {
            assert_eq!(said(line), expected);
        }
        let line = "driftline kv get -recurse=often k".split(' ').map(OsString::from);
        let error = doubled(line, &Cli::command()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--recurse=often: must be true or false"), "{error}");
    }
}
