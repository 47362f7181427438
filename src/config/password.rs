//! Secrets that are read from files: passwords of the RESP port, of Redis and of Sentinels.

use super::{L2, Resp};
use crate::{
    files::read_secret,
    l2::redis::{PasswordFiles, url::RedisUrl},
    secret::Secret,
};

/// Maximum size of the RESP password: less than the 16 KiB that a client may send before authentication.
const PASSWORD_MAX_BYTES: usize = 1024;

impl Resp {
    /// Reads the password from the first line of `password_file`. Returns `None` if no file is configured.
    ///
    /// # Errors
    /// The reason why the file cannot be used.
    pub fn password(&self) -> Result<Option<Secret<Vec<u8>>>, String> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let read = read_secret(path, PASSWORD_MAX_BYTES, "password");
        read.map(|read| Some(Secret::new(read))).map_err(|why| format!("resp.password_file: {why}"))
    }
}

impl L2 {
    /// Returns the URL if L2 is Redis.
    #[must_use]
    pub fn redis(&self) -> Option<RedisUrl> {
        RedisUrl::parse(self.url.expose()).ok()
    }

    /// Returns the login that is configured in files.
    #[must_use]
    pub fn password_files(&self) -> PasswordFiles<'_> {
        PasswordFiles {
            user: self.user.as_deref(),
            password: self.password_file.as_deref(),
            sentinel_user: self.sentinel_user.as_deref(),
            sentinel_password: self.sentinel_password_file.as_deref(),
        }
    }
}
