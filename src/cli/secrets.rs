//! Files that hold secrets: nobody but the agent's user may read them, and they hold one secret each and nothing else.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use driftline::secret::Secret;

use super::Problem;

/// Who else may read a file, if anybody: the bits of its mode that say so.
const OTHERS: u32 = 0o077;

/// Refuses a file that others may read or write.
pub fn check(path: &Path) -> Result<(), Problem> {
    exposed(path)?.map_or(Ok(()), |why| Err(Problem::failed(why)))
}

/// What is wrong if others may read or write a file.
fn exposed(path: &Path) -> Result<Option<String>, Problem> {
    let name = path.display();
    let failed = |error| Problem::failed(format!("cannot read {name}: {error}"));
    let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
    let why = format!("{name} holds a secret and others may use it (mode {mode:03o}): chmod 600 {name}");
    Ok((mode & OTHERS != 0).then_some(why))
}

/// The secret in a file that only the agent's user may read; `what` it should hold, in a word.
pub fn read(path: &Path, what: &str) -> Result<Secret, Problem> {
    sound(content(path)?, &path.display().to_string(), what)
}

/// The same, where a file with nothing in it says that there is none.
pub fn read_if_any(path: &Path, what: &str) -> Result<Secret, Problem> {
    let secret = content(path)?;
    if secret.is_empty() { Ok(secret) } else { sound(secret, &path.display().to_string(), what) }
}

/// The same of a file whose mode somebody else may have chosen, as Kubernetes does for what it mounts: that others may use it is
/// no error, but a warning.
pub fn read_and_warn(path: &Path, what: &str) -> Result<(Secret, Option<String>), Problem> {
    let warning = exposed(path)?.map(|why| format!("warning: {why}"));
    Ok((sound(trimmed(path)?, &path.display().to_string(), what)?, warning))
}

fn content(path: &Path) -> Result<Secret, Problem> {
    check(path)?;
    trimmed(path)
}

fn trimmed(path: &Path) -> Result<Secret, Problem> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(Secret::new(text.trim()))
}

/// A secret that was read from somewhere, unless it cannot be one. What is wrong is said without the secret.
pub fn sound(secret: Secret, from: &str, what: &str) -> Result<Secret, Problem> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == char::REPLACEMENT_CHARACTER;
    if secret.is_empty() {
        return Err(Problem::failed(format!("{from} is empty: it should hold a {what}")));
    }
    if secret.expose().contains(odd) {
        return Err(Problem::failed(format!(
            "{from} holds no {what}: there are spaces, line ends or other odd characters inside"
        )));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "secret\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        for open in [0o644, 0o640, 0o602] {
            mode(open);
            assert!(read(&file, "key").unwrap_err().text.contains("chmod 600"), "{open:o}");
            let (secret, warning) = read_and_warn(&file, "key").unwrap();
            assert!(secret.expose() == "secret" && warning.unwrap().starts_with("warning: "), "{open:o}");
        }
        mode(0o600);
        assert_eq!(read(&file, "key").unwrap().expose(), "secret");
        assert_eq!(read_and_warn(&file, "key").unwrap().1, None);
        assert!(read(&directory.path().join("none"), "key").is_err());
    }

    #[test]
    fn a_file_holds_one_secret_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let holds = |text: &str| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            read(&file, "key").map_err(|problem| problem.text)
        };
        assert_eq!(holds(" a-b\n").unwrap().expose(), "a-b");
        assert!(holds("\n").unwrap_err().ends_with(" is empty: it should hold a key"));
        for odd in ["first second", "first\nsecond\n", "a\u{0}b"] {
            let said = holds(odd).unwrap_err();
            assert!(said.contains(" holds no key: ") && !said.contains("first"), "{said}");
        }
        holds("\n").unwrap_err();
        assert!(read_if_any(&file, "key").unwrap().is_empty());
    }
}
