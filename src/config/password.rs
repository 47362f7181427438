//! The password of the RESP port, read from its file.

use super::Resp;
use crate::{files::read_regular, secret::Secret};

/// Maximum size of the RESP password: less than the 16 KiB that a client may send before authentication.
const PASSWORD_MAX_BYTES: u64 = 1024;
/// Maximum size of a file that contains a secret.
const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;

impl Resp {
    /// Reads the password from the first line of `password_file`. Returns `None` if no file is configured.
    ///
    /// # Errors
    /// The reason why the file cannot be used.
    pub fn password(&self) -> Result<Option<Secret<Vec<u8>>>, String> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let shown = path.display();
        let text = read_regular(path, SECRET_FILE_MAX_BYTES)
            .map_err(|why| format!("resp.password_file: cannot read {shown}: {why}"))?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.len() as u64 > PASSWORD_MAX_BYTES {
            let seen = if line.is_empty() { "is empty" } else { "is too long" };
            let expected = format!("expected a password of 1 to {PASSWORD_MAX_BYTES} bytes");
            return Err(format!("resp.password_file: the first line of {shown} {seen}; {expected}"));
        }
        Ok(Some(Secret::new(line.to_vec())))
    }
}
