//! [`RedisSettings`]: URL, TLS and connection settings of Redis, with their defaults.

use super::{
    connection::tls::{Tls, TlsFiles},
    url::RedisUrl,
};

/// Data connections of each worker, by default: a big value on one does not hold up the other.
pub const CONNECTIONS_DEFAULT: usize = 2;
/// Commands that may wait on one connection, by default. At 0.5 M commands/s, what Redis does on one core, a full queue
/// lasts 16 ms, which is within the read deadline.
pub const QUEUE_LIMIT_DEFAULT: usize = 8192;

/// Calls that fail in a row before the breaker opens, by default.
pub const FAILURES_DEFAULT: usize = 5;

/// Settings of the connections to Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub(super) url: RedisUrl,
    pub(super) tls: Option<Tls>,
    /// Data connections of each worker to each primary, at least 1.
    pub connections: usize,
    /// What CLIENT LIST shows.
    pub client_name: String,
    /// Commands that may wait on one connection; beyond it calls are `Overloaded`.
    pub queue_limit: usize,
    /// Calls that fail in a row before the breaker opens, at least 1.
    pub failures_max: usize,
}

impl RedisSettings {
    /// The defaults for this URL; for one with TLS the files are read.
    ///
    /// # Errors
    /// What is wrong with which file, for people.
    pub fn new(url: RedisUrl, files: TlsFiles<'_>) -> Result<Self, String> {
        let tls = if url.tls() { Some(Tls::new(files)?) } else { None };
        Ok(Self {
            url,
            tls,
            connections: CONNECTIONS_DEFAULT,
            client_name: "terrace".to_owned(),
            queue_limit: QUEUE_LIMIT_DEFAULT,
            failures_max: FAILURES_DEFAULT,
        })
    }
}
