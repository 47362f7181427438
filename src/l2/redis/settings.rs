//! [`RedisSettings`]: URL, TLS and connection settings of Redis, with their defaults.

use super::{
    connection::{
        login::{LoginSource, PasswordFiles},
        tls::{Tls, TlsFiles},
    },
    url::RedisUrl,
};

/// Default number of data connections per worker: a large value on one connection does not delay the other.
pub const CONNECTIONS_DEFAULT: usize = 2;
/// Default maximum number of commands queued on one connection. At 0.5 million commands per second, the rate of Redis
/// on one core, a full queue takes 16 ms, which is less than the read deadline.
pub const QUEUE_LIMIT_DEFAULT: usize = 8192;

/// Default number of consecutive failed calls that opens the circuit breaker.
pub const FAILURES_DEFAULT: usize = 5;

/// Settings of the connections to Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub(super) url: RedisUrl,
    pub(super) tls: Option<Tls>,
    pub(super) login: LoginSource,
    pub(super) sentinel_login: LoginSource,
    /// Number of data connections per worker and primary, at least 1.
    pub connections: usize,
    /// Client name in CLIENT LIST.
    pub client_name: String,
    /// Maximum number of commands queued on one connection; further calls fail with `Overloaded`.
    pub queue_limit: usize,
    /// Number of consecutive failed calls that opens the circuit breaker, at least 1.
    pub failures_max: usize,
}

impl RedisSettings {
    /// Returns the default settings for this URL. For a URL with TLS, it reads the files.
    ///
    /// # Errors
    /// The faulty file and the reason, for operators.
    pub fn new(url: RedisUrl, files: TlsFiles<'_>) -> Result<Self, String> {
        let tls = if url.tls() { Some(Tls::new(files)?) } else { None };
        let (login, sentinel_login) = (url.login().clone(), url.sentinel_login().clone());
        Ok(Self {
            login: LoginSource::Fixed(login),
            sentinel_login: LoginSource::Fixed(sentinel_login),
            url,
            tls,
            connections: CONNECTIONS_DEFAULT,
            client_name: "terrace".to_owned(),
            queue_limit: QUEUE_LIMIT_DEFAULT,
            failures_max: FAILURES_DEFAULT,
        })
    }

    /// Reads the files and returns the settings with their passwords.
    ///
    /// # Errors
    /// The setting of the faulty file and the reason, for operators.
    pub fn with_passwords(mut self, files: PasswordFiles<'_>) -> Result<Self, String> {
        (self.login, self.sentinel_login) =
            files.logins(&self.url).map_err(|(setting, why)| format!("{setting}: {why}"))?;
        Ok(self)
    }
}
