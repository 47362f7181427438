//! The URL of a Redis: parsed without any I/O, so that configuration can be validated before a port is bound.
//!
//! The password is in no `Debug`, no error and no `Display`.

use std::{fmt, path::PathBuf};

use ::redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};

use crate::error::{CacheError, Kind, Result};

/// Where a Redis listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A checked `redis://[user:password@]host[:port][/db]` or `redis+unix:///path[?db=N&user=U&pass=P]`.
#[derive(Clone)]
pub struct RedisUrl {
    endpoint: Endpoint,
    database: i64,
    username: Option<String>,
    password: Option<String>,
}

/// What a URL may be, for messages.
const FORMS: &str = "redis://[user:password@]host[:port][/db] or redis+unix:///path[?db=N&user=U&pass=P]";

impl RedisUrl {
    /// Checks a URL. Pure: no name is resolved, no file looked at.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no such URL, `Unsupported` for a scheme that Terrace names but does not serve.
    /// The message never repeats the URL, which may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("redis" | "redis+unix" | "unix") => {}
            Some(later @ ("rediss" | "redis+sentinel" | "redis+cluster")) => {
                let message = format!("{later}:// is not served by this version; what is: {FORMS}");
                return Err(CacheError::new(Kind::Unsupported, message));
            }
            Some(_) | None => return Err(invalid("it has another scheme")),
        }
        let url = ::redis::parse_redis_url(text).ok_or_else(|| invalid("it does not parse"))?;
        refuse_unknown_parts(scheme.as_deref() == Some("redis"), url.query(), url.fragment())?;
        let info = url.into_connection_info().map_err(|error| invalid(&error.to_string()))?;
        Self::of(info.addr(), info.redis_settings())
    }

    fn of(addr: &ConnectionAddr, settings: &RedisConnectionInfo) -> Result<Self> {
        let endpoint = if let ConnectionAddr::Tcp(host, port) = addr {
            Endpoint::Tcp(host.clone(), *port)
        } else if let ConnectionAddr::Unix(path) = addr {
            Endpoint::Unix(path.clone())
        } else {
            return Err(invalid("it names neither a host nor a socket"));
        };
        if settings.db() < 0 {
            return Err(invalid("the database number is negative"));
        }
        Ok(Self {
            endpoint,
            database: settings.db(),
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Number of the database that Terrace shows.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.database
    }

    /// The ACL user, where the URL names one.
    #[must_use]
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// For the handshake only.
    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }
}

/// An option that we do not know is refused by name, never ignored.
fn refuse_unknown_parts(tcp: bool, query: Option<&str>, fragment: Option<&str>) -> Result<()> {
    if fragment.is_some() {
        return Err(invalid("it has a #fragment (a # in a password is written %23)"));
    }
    let known: &[&str] = if tcp { &[] } else { &["db", "user", "pass"] };
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let name = part.split('=').next().unwrap_or_default();
        if !known.contains(&name) {
            return Err(invalid(&format!("option {name:?} is not known")));
        }
    }
    Ok(())
}

fn invalid(what: &str) -> CacheError {
    CacheError::new(Kind::InvalidArgument, format!("the Redis URL is not acceptable: {what}; expected {FORMS}"))
}

impl fmt::Display for RedisUrl {
    /// Without the password; fit for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            Endpoint::Tcp(..) => write!(f, "redis://{}/{}", self.endpoint, self.database),
            Endpoint::Unix(path) => write!(f, "redis+unix://{}?db={}", path.display(), self.database),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_are_served() {
        let url = RedisUrl::parse("redis://bob:p%23w@cache.example:6390/3").unwrap();
        assert_eq!(url.endpoint(), &Endpoint::Tcp("cache.example".to_owned(), 6390));
        assert_eq!((url.database(), url.username(), url.password()), (3, Some("bob"), Some("p#w")));
        let url = RedisUrl::parse("redis://[::1]").unwrap();
        assert_eq!(url.to_string(), "redis://[::1]:6379/0");
        let url = RedisUrl::parse("redis://:secret@localhost").unwrap();
        assert_eq!((url.username(), url.password()), (None, Some("secret")));
        let url = RedisUrl::parse("redis+unix:///run/redis.sock?db=2&pass=x").unwrap();
        assert_eq!(url.endpoint(), &Endpoint::Unix("/run/redis.sock".into()));
        assert_eq!((url.database(), url.password()), (2, Some("x")));
    }

    #[test]
    fn what_is_refused_says_why_and_keeps_the_password() {
        for (text, part) in [
            ("rediss://:hunter2@h", "rediss://"),
            ("redis+sentinel://h:1/m", "redis+sentinel://"),
            ("redis+cluster://h:1", "redis+cluster://"),
            ("http://:hunter2@h", "scheme"),
            ("localhost:6379", "scheme"),
            ("redis://:hunter2@h/zero", "database"),
            ("redis://:hunter2@h/-1", "negative"),
            ("redis://:hunter2@h?protocol=resp3", "\"protocol\""),
            ("redis://:hunter2@h/1#insecure", "fragment"),
            ("redis://:hunter2@h:99999/1", "parse"),
            ("redis://:hunter2@0.0.0.0", "wildcard"),
            ("redis://", "host"),
        ] {
            let error = RedisUrl::parse(text).unwrap_err();
            assert!(error.message().contains(part), "{text}: {error}");
            assert!(!error.message().contains("hunter2"), "{text}: {error}");
        }
        let url = RedisUrl::parse("redis://u:hunter2@h").unwrap();
        assert!(!format!("{url:?} {url}").contains("hunter2"));
    }
}
