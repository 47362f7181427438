//! The password of the RESP port, read from its file.

use std::{fs::File, io::Read};

use super::Resp;
use crate::resp::Secret;

/// Maximum size of the RESP password: less than the 16 KiB that a client may send before authentication.
const PASSWORD_MAX_BYTES: u64 = 1024;

impl Resp {
    /// Reads the password from the first line of `password_file`. Returns `None` if no file is configured.
    ///
    /// # Errors
    /// The reason why the file cannot be used.
    pub fn password(&self) -> Result<Option<Secret>, String> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let shown = path.display();
        let unreadable = |error: std::io::Error| format!("resp.password_file: cannot read {shown}: {error}");
        let mut text = Vec::new();
        // Two more bytes for the end of the line.
        File::open(path)
            .map_err(unreadable)?
            .take(PASSWORD_MAX_BYTES + 2)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.len() as u64 > PASSWORD_MAX_BYTES {
            let seen = if line.is_empty() { "is empty" } else { "is too long" };
            let expected = format!("expected a password of 1 to {PASSWORD_MAX_BYTES} bytes");
            return Err(format!("resp.password_file: the first line of {shown} {seen}; {expected}"));
        }
        Ok(Some(Secret(line.to_vec())))
    }
}
