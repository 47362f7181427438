//! Credentials of systemd: `cred:NAME` is the file NAME in the directory that `$CREDENTIALS_DIRECTORY` names.

use std::path::{Path, PathBuf};

/// Start of a value that names a credential.
pub(super) const SCHEME: &str = "cred:";
/// Variable that systemd sets for a unit with `LoadCredential=` or `SetCredential=`.
const DIRECTORY_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Returns the directory of the credentials of this process.
#[expect(clippy::disallowed_methods, reason = "the one reader of this variable")]
fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Returns the file of a credential.
///
/// # Errors
/// The name is not the name of a file, or systemd passed no credentials.
pub(super) fn file_of(name: &str) -> Result<PathBuf, String> {
    file_in(directory().as_deref(), name)
}

fn file_in(directory: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    if ["", ".", ".."].contains(&name) || name.contains(['/', '\0']) {
        return Err(format!("invalid credential name {name:?}; expected the name of a file without a slash"));
    }
    let unset =
        || format!("{SCHEME}{name} needs the variable {DIRECTORY_VARIABLE}, which LoadCredential= of systemd sets");
    directory.map(|directory| directory.join(name)).ok_or_else(unset)
}

/// Returns `cred:NAME` for the file of a credential.
pub(super) fn name_of(path: &Path) -> Option<String> {
    name_in(&directory()?, path)
}

fn name_in(directory: &Path, path: &Path) -> Option<String> {
    let name = path.strip_prefix(directory).ok()?.to_str()?;
    (!name.is_empty() && !name.contains('/')).then(|| format!("{SCHEME}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_of_the_directory() {
        let directory = Path::new("/run/credentials/terrace.service");
        let file = file_in(Some(directory), "l2-password").unwrap();
        assert_eq!(file, directory.join("l2-password"));
        assert_eq!(name_in(directory, &file).unwrap(), "cred:l2-password");
        assert_eq!(name_in(directory, Path::new("/etc/terrace/l2-password")), None);
        assert_eq!(name_in(directory, directory), None);
        for name in ["", ".", "..", "a/b", "/etc/shadow"] {
            assert!(file_in(Some(directory), name).unwrap_err().contains("without a slash"), "{name:?}");
        }
        assert!(file_in(None, "a").unwrap_err().contains("CREDENTIALS_DIRECTORY"));
    }
}
