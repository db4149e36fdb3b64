//! Consul's variables of the environment: those that count where ours say nothing, and those that are refused.
//!
//! What a variable asks for and this program does not do is refused by name before anything is sent. Passed over, it would
//! have a token sent in plain text, or a value written elsewhere than where it was meant.

use super::Problem;
use super::dashes::truth;

/// What a variable of the environment says; what is empty says nothing.
pub fn told(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// What was given, or what the environment says under Consul's name for it. What is empty says nothing.
pub fn or_consuls<T: From<String> + AsRef<std::ffi::OsStr>>(given: Option<T>, name: &str) -> Option<T> {
    let given = given.filter(|given| !given.as_ref().is_empty());
    given.or_else(|| told(name).map(T::from))
}

/// Refuses what no command here does. `told` is what variables say, as of all functions here.
pub fn check(told: impl Fn(&str) -> Option<String>) -> Result<(), Problem> {
    if told("CONSUL_HTTP_AUTH").is_some() {
        // What it says is a secret.
        return Err(Problem::usage(
            "CONSUL_HTTP_AUTH: no user and password are sent here, only a token: unset it",
        ));
    }
    for name in ["CONSUL_NAMESPACE", "CONSUL_PARTITION"] {
        if let Some(text) = told(name).filter(|text| text != "default") {
            return Err(Problem::usage(format!("{name}={text}: there is only the default one: unset it")));
        }
    }
    Ok(())
}

/// Whether the agent is to be asked by HTTPS whatever its address says.
pub fn wants_https(told: impl Fn(&str) -> Option<String>) -> Result<bool, Problem> {
    Ok(switch("CONSUL_HTTP_SSL", &told)?.unwrap_or(false))
}

/// Refuses what is not done where the agent is asked by HTTPS. Whoever names the authority's file means it, as for Consul.
pub fn check_https(told: impl Fn(&str) -> Option<String>, has_authority: bool) -> Result<(), Problem> {
    if switch("CONSUL_HTTP_SSL_VERIFY", &told)? == Some(false) {
        return Err(Problem::usage(
            "CONSUL_HTTP_SSL_VERIFY=false: who answers is always verified, as they are shown a token: unset it, and name the \
             authority's certificate with --ca-file or CONSUL_CACERT",
        ));
    }
    if told("CONSUL_CAPATH").is_some() && !has_authority {
        return Err(Problem::usage(
            "CONSUL_CAPATH: no directory of authorities is read: name one file with --ca-file or CONSUL_CACERT",
        ));
    }
    Ok(())
}

/// A variable that says yes or no. What it says and is neither is refused, as one of both was meant.
fn switch(name: &str, told: impl Fn(&str) -> Option<String>) -> Result<Option<bool>, Problem> {
    let Some(text) = told(name) else { return Ok(None) };
    match truth(&text) {
        None => Err(Problem::usage(format!("{name}={text}: must be true or false"))),
        said => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + Copy + 'a {
        move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
    }

    #[test]
    fn what_is_not_done_is_refused_by_name_and_a_secret_is_not_told() {
        for (name, text) in
            [("CONSUL_HTTP_AUTH", "user:s3cret"), ("CONSUL_NAMESPACE", "team"), ("CONSUL_PARTITION", "west")]
        {
            let problem = check(says(&[(name, text)])).unwrap_err();
            assert!(problem.code == 2 && problem.text.starts_with(name), "{problem:?}");
            assert!(!problem.text.contains("s3cret"), "{problem:?}");
        }
        check(says(&[("CONSUL_NAMESPACE", "default"), ("CONSUL_PARTITION", "default")])).unwrap();
        for (name, text) in [("CONSUL_HTTP_SSL_VERIFY", "false"), ("CONSUL_CAPATH", "/etc/ssl")] {
            let problem = check_https(says(&[(name, text)]), false).unwrap_err();
            assert!(problem.code == 2 && problem.text.starts_with(name), "{problem:?}");
            check(says(&[(name, text)])).unwrap();
        }
        check_https(says(&[("CONSUL_HTTP_SSL_VERIFY", "1"), ("CONSUL_CAPATH", "/etc/ssl")]), true).unwrap();
    }

    #[test]
    fn a_wish_for_https_is_never_taken_for_none() {
        assert!(!wants_https(says(&[])).unwrap());
        for (text, wanted) in [("true", true), ("1", true), ("0", false)] {
            assert_eq!(wants_https(says(&[("CONSUL_HTTP_SSL", text)])).unwrap(), wanted);
        }
        assert_eq!(wants_https(says(&[("CONSUL_HTTP_SSL", "yes")])).unwrap_err().code, 2);
    }
}
