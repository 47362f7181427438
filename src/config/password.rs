//! The password of the RESP port and the token of client commands, read from their files.

use std::path::Path;

use super::Resp;
use crate::{files::read_regular, secret::Secret};

/// Maximum size of the RESP password: less than the 16 KiB that a client may send before authentication.
const PASSWORD_MAX_BYTES: u64 = 1024;
/// Maximum size of a token, which gRPC sends as a header.
const TOKEN_MAX_BYTES: u64 = 1024;
/// Maximum size of a file that contains a secret.
const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;

impl Resp {
    /// Reads the password from the first line of `password_file`. Returns `None` if no file is configured.
    ///
    /// # Errors
    /// The reason why the file cannot be used.
    pub fn password(&self) -> Result<Option<Secret<Vec<u8>>>, String> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let password = first_line(path, PASSWORD_MAX_BYTES, "password");
        password.map(|line| Some(Secret::new(line))).map_err(|why| format!("resp.password_file: {why}"))
    }
}

/// Reads a token for client commands from the first line of a file.
///
/// # Errors
/// The path and the reason.
pub fn read_token(path: &Path) -> Result<Secret<String>, String> {
    let line = first_line(path, TOKEN_MAX_BYTES, "token")?;
    let token = String::from_utf8(line).map_err(|_| format!("the first line of {} is not text", path.display()))?;
    Ok(Secret::new(token))
}

fn first_line(path: &Path, most_bytes: u64, name: &str) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let text = read_regular(path, SECRET_FILE_MAX_BYTES).map_err(|why| format!("cannot read {shown}: {why}"))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || line.len() as u64 > most_bytes {
        let seen = if line.is_empty() { "is empty" } else { "is too long" };
        return Err(format!("the first line of {shown} {seen}; expected a {name} of 1 to {most_bytes} bytes"));
    }
    Ok(line.to_vec())
}
