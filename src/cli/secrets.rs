//! Files that hold secrets: nobody but the agent's user may read them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use driftline::secret::Secret;

use super::Problem;

/// Who else may read a file, if anybody: the bits of its mode that say so.
const OTHERS: u32 = 0o077;

/// Refuses a file that others may read or write.
pub fn check(path: &Path) -> Result<(), Problem> {
    let name = path.display();
    let failed = |error| Problem::failed(format!("cannot read {name}: {error}"));
    let mode = std::fs::metadata(path).map_err(failed)?.mode();
    if mode & OTHERS != 0 {
        let mode = mode & 0o777;
        return Err(Problem::failed(format!(
            "{name} holds a secret and others may use it (mode {mode:03o}): chmod 600 {name}"
        )));
    }
    Ok(())
}

/// The secret in a file that only the agent's user may read.
pub fn read(path: &Path) -> Result<Secret, Problem> {
    check(path)?;
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(Secret::new(text.trim()))
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
            assert!(read(&file).unwrap_err().text.contains("chmod 600"), "{open:o}");
        }
        mode(0o600);
        assert_eq!(read(&file).unwrap().expose(), "secret");
        assert!(read(&directory.path().join("none")).is_err());
    }
}
