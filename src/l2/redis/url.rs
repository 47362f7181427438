//! The URL of Redis: parsed without I/O, so that the configuration can be validated before a port is bound.
//!
//! The password never appears in `Debug`, errors or `Display`.

use std::{fmt, path::PathBuf};

use ::redis::{ConnectionAddr, IntoConnectionInfo};

use crate::{
    error::{CacheError, Kind, Result},
    secret::Secret,
};

/// Address of a Redis server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Host name or address, and port.
    Tcp(String, u16),
    /// Path of a Unix socket.
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

/// Source of the primaries' addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A single server, which is the primary.
    Server(Endpoint),
    /// Sentinels, which know the primary by its name.
    Sentinel {
        /// Addresses of Sentinels.
        sentinels: Vec<Endpoint>,
        /// Name of the primary in the Sentinels.
        name: String,
    },
    /// Members of a Redis Cluster.
    Cluster(Vec<Endpoint>),
}

/// Credentials for one kind of server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret<String>>,
}

impl Login {
    /// Refuses a user without a password: no login would be sent, and the text may be a password without its colon.
    fn checked(self) -> Result<Self> {
        if self.username.is_some() && self.password.is_none() {
            return Err(invalid("a user has no password; expected user:password@, or :password@ for the default user"));
        }
        Ok(self)
    }

    /// Returns `user:***@`, or an empty text without credentials.
    fn masked(&self) -> String {
        let user = self.username.as_deref().unwrap_or_default();
        if self.password.is_some() { format!("{}:***@", plain(user)) } else { String::new() }
    }
}

/// Returns the name of a user, or `***` if the name has characters that a URL must encode.
fn plain(user: &str) -> &str {
    let is_plain = user.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if is_plain { user } else { "***" }
}

/// A valid URL in one of the forms of [`FORMS`].
#[derive(Clone)]
pub struct RedisUrl {
    target: Target,
    tls: bool,
    database: i64,
    login: Login,
    sentinel_login: Login,
}

/// Accepted URLs, for messages. Each of them accepts `rediss` for TLS.
const FORMS: &str = "redis://[user:password@]host[:port][/db], redis+unix:///path[?db=N&user=U&pass=P], \
     redis+sentinel://[user:password@]host:port[,host:port]/master-name[?db=N&sentinel_user=U&sentinel_pass=P] or \
     redis+cluster://[user:password@]host:port[,host:port] (rediss... with TLS)";

/// Maximum number of hosts in `l2.url`.
const HOSTS_MAX: usize = 100;

impl RedisUrl {
    /// Parses a URL. Pure: resolves no names and reads no files.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid URL. The message never contains the URL, which may include a password.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("the scheme is missing"))?;
        let scheme = scheme.to_ascii_lowercase();
        match &scheme[..] {
            "redis" => Self::server(rest, false),
            "rediss" => Self::server(rest, true),
            "redis+unix" | "unix" => Self::unix(text),
            "redis+sentinel" => Self::sentinel(rest, false),
            "rediss+sentinel" => Self::sentinel(rest, true),
            "redis+cluster" => Self::cluster(rest, false),
            "rediss+cluster" => Self::cluster(rest, true),
            _ => Err(unsupported(&scheme)),
        }
    }

    fn server(rest: &str, tls: bool) -> Result<Self> {
        if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains(',')) {
            return Err(invalid("redis:// accepts one host, but several hosts are listed"));
        }
        let (endpoint, login, database) = single(&format!("redis://{rest}"), &[])?;
        Ok(Self { target: Target::Server(endpoint), tls, database, login, sentinel_login: Login::default() })
    }

    fn unix(text: &str) -> Result<Self> {
        let (endpoint, login, database) = single(text, &["db", "user", "pass"])?;
        let target = Target::Server(endpoint);
        Ok(Self { target, tls: false, database, login, sentinel_login: Login::default() })
    }

    fn sentinel(rest: &str, tls: bool) -> Result<Self> {
        let parts = Parts::of(rest)?;
        let name = parts.path.to_owned();
        if name.is_empty() || name.contains('/') {
            return Err(invalid("the path /master-name is missing or has several parts"));
        }
        if name.contains('@') {
            return Err(invalid("the path contains an @ (write a / in a password as %2F)"));
        }
        let (mut database, mut sentinel_login) = (0, Login::default());
        for (option, value) in parts.options()? {
            match option {
                "db" => database = number_of_database(value)?,
                "sentinel_user" => sentinel_login.username = Some(value.to_owned()),
                "sentinel_pass" => sentinel_login.password = Some(value.into()),
                other => return Err(invalid(&format!("unknown option {other:?}"))),
            }
        }
        let sentinels = parts.endpoints(26_379)?;
        let (login, sentinel_login) = (parts.login()?, sentinel_login.checked()?);
        Ok(Self { target: Target::Sentinel { sentinels, name }, tls, database, login, sentinel_login })
    }

    fn cluster(rest: &str, tls: bool) -> Result<Self> {
        let parts = Parts::of(rest)?;
        if !parts.path.is_empty() {
            return Err(invalid("a path is present, but a Redis Cluster has only database 0"));
        }
        if let Some((option, _)) = parts.options()?.first() {
            return Err(invalid(&format!("unknown option {option:?}")));
        }
        let target = Target::Cluster(parts.endpoints(6_379)?);
        Ok(Self { target, tls, database: 0, login: parts.login()?, sentinel_login: Login::default() })
    }

    /// Returns the source of the primaries' addresses.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns true if connections use TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Returns the number of the Redis database.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.database
    }

    /// Returns true if the URL contains a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.login.password.is_some() || self.sentinel_login.password.is_some()
    }

    /// Returns true if the URL contains credentials for data servers.
    #[must_use]
    pub fn has_login(&self) -> bool {
        self.login != Login::default()
    }

    /// Returns true if the URL contains credentials for Sentinels.
    #[must_use]
    pub fn has_sentinel_login(&self) -> bool {
        self.sentinel_login != Login::default()
    }

    /// Returns true if Sentinels know the primary.
    #[must_use]
    pub fn has_sentinels(&self) -> bool {
        matches!(self.target, Target::Sentinel { .. })
    }

    /// Returns the URL with `***` in place of each password. It is written anew from the parts that are no secrets, so
    /// that no notation of a password can remain in it.
    #[must_use]
    pub fn masked(&self) -> String {
        let text = self.to_string();
        let Some((scheme, rest)) = text.split_once("://") else { return text };
        if matches!(self.target, Target::Server(Endpoint::Unix(_))) {
            let Some(_) = &self.login.password else { return text };
            let user = self.login.username.as_deref().map(|user| format!("&user={}", plain(user)));
            return format!("{text}{}&pass=***", user.unwrap_or_default());
        }
        let mut masked = format!("{scheme}://{}{rest}", self.login.masked());
        if let Some(user) = &self.sentinel_login.username {
            masked += &format!("&sentinel_user={}", plain(user));
        }
        if self.sentinel_login.password.is_some() {
            masked += "&sentinel_pass=***";
        }
        masked
    }

    /// Returns the credentials for data servers.
    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// Returns the credentials for Sentinels.
    pub(super) fn sentinel_login(&self) -> &Login {
        &self.sentinel_login
    }
}

/// Parts of a URL with several hosts, after the scheme.
struct Parts<'a> {
    user: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Result<Self> {
        if rest.contains('#') {
            return Err(fragment());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        Ok(Self { user, hosts, path, query })
    }

    fn options(&self) -> Result<Vec<(&'a str, &'a str)>> {
        let given = self.query.split('&').filter(|option| !option.is_empty());
        given.map(|option| option.split_once('=').ok_or_else(|| invalid("an option has no value"))).collect()
    }

    /// Parses each host like the URL of a single server, so that the same checks apply.
    fn endpoints(&self, port: u16) -> Result<Vec<Endpoint>> {
        let hosts: Vec<&str> = self.hosts.split(',').collect();
        if hosts.len() > HOSTS_MAX {
            return Err(invalid(&format!("{} hosts are listed; expected at most {HOSTS_MAX}", hosts.len())));
        }
        let endpoint = |host: &&str| {
            let has_port =
                host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
            let with_port = if has_port { (*host).to_owned() } else { format!("{host}:{port}") };
            single(&format!("redis://{with_port}"), &[]).map(|(endpoint, ..)| endpoint)
        };
        hosts.iter().map(endpoint).collect()
    }

    fn login(&self) -> Result<Login> {
        let Some(user) = self.user else { return Ok(Login::default()) };
        single(&format!("redis://{user}@localhost"), &[]).map(|(_, login, _)| login)
    }
}

/// Parses the URL of one server with the redis crate.
fn single(text: &str, options: &[&str]) -> Result<(Endpoint, Login, i64)> {
    check_port(text)?;
    let url = ::redis::parse_redis_url(text).ok_or_else(|| invalid("it cannot be parsed"))?;
    refuse_unknown_parts(options, url.query(), url.fragment())?;
    let database = url.path().trim_matches('/');
    if url.scheme().starts_with("redis") && url.has_host() && !database.is_empty() && number(database).is_none() {
        return Err(invalid("the path is not a database number of 0 or more, such as /0"));
    }
    let info = url.into_connection_info().map_err(|error| invalid(&error.to_string()))?;
    let endpoint = if let ConnectionAddr::Tcp(host, port) = info.addr() {
        Endpoint::Tcp(host.clone(), *port)
    } else if let ConnectionAddr::Unix(path) = info.addr() {
        Endpoint::Unix(path.clone())
    } else {
        return Err(invalid("it contains neither a host nor a socket path"));
    };
    let settings = info.redis_settings();
    if settings.db() < 0 {
        return Err(invalid("the database number is negative; expected 0 or more"));
    }
    let login =
        Login { username: settings.username().map(str::to_owned), password: settings.password().map(Into::into) };
    Ok((endpoint, login.checked()?, settings.db()))
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number| *number >= 0)
}

fn number_of_database(text: &str) -> Result<i64> {
    number(text).ok_or_else(|| invalid("the option db is not a database number of 0 or more"))
}

/// Checks the port, because the parser does not name the faulty part. The message has no port, which may be the start
/// of a password without its @.
fn check_port(text: &str) -> Result<()> {
    let authority = text.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && !port.ends_with(']') && port.parse::<u16>().is_err() => {
            Err(invalid("the port is not a number from 0 to 65535"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Rejects unknown options by name instead of ignoring them.
fn refuse_unknown_parts(known: &[&str], query: Option<&str>, hash: Option<&str>) -> Result<()> {
    if hash.is_some() {
        return Err(fragment());
    }
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let name = part.split('=').next().unwrap_or_default();
        if !known.contains(&name) {
            return Err(invalid(&format!("unknown option {name:?}")));
        }
    }
    Ok(())
}

fn fragment() -> CacheError {
    invalid("it has a #fragment (write a # in a password as %23)")
}

/// Returns the error for an unknown scheme. It contains the scheme only if the text has the syntax of a scheme, because
/// other text may be a password.
fn unsupported(scheme: &str) -> CacheError {
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if is_scheme { invalid(&format!("unsupported scheme {scheme:?}")) } else { invalid("unsupported scheme") }
}

fn invalid(what: &str) -> CacheError {
    CacheError::new(Kind::InvalidArgument, format!("invalid Redis URL: {what}; expected {FORMS}"))
}

/// Formats hosts in URL notation.
fn listed(endpoints: &[Endpoint]) -> String {
    endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for RedisUrl {
    /// Formats the URL without the password, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls { "s" } else { "" };
        match &self.target {
            Target::Server(Endpoint::Unix(path)) => write!(f, "redis+unix://{}?db={}", path.display(), self.database),
            Target::Server(endpoint) => write!(f, "redis{s}://{endpoint}/{}", self.database),
            Target::Sentinel { sentinels, name } => {
                write!(f, "redis{s}+sentinel://{}/{name}?db={}", listed(sentinels), self.database)
            }
            Target::Cluster(nodes) => write!(f, "redis{s}+cluster://{}", listed(nodes)),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.password.is_some() { "set" } else { "none" };
        write!(f, "Login(user {:?}, password {password})", self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp(host.to_owned(), port)
    }

    fn login_of(url: &RedisUrl) -> (Option<&str>, Option<&str>) {
        (url.login.username.as_deref(), url.login.password.as_ref().map(|password| &**password.expose()))
    }

    #[test]
    fn one_server() {
        let url = RedisUrl::parse("redis://bob:p%23w@cache.example:6390/3").unwrap();
        assert_eq!(url.target(), &Target::Server(tcp("cache.example", 6390)));
        assert_eq!((url.database(), url.tls(), login_of(&url)), (3, false, (Some("bob"), Some("p#w"))));
        assert_eq!(RedisUrl::parse("redis://[::1]").unwrap().to_string(), "redis://[::1]:6379/0");
        assert_eq!(login_of(&RedisUrl::parse("redis://:secret@localhost").unwrap()), (None, Some("secret")));
        let url = RedisUrl::parse("rediss://:x@cache.example/1").unwrap();
        assert_eq!((url.tls(), url.to_string()), (true, "rediss://cache.example:6379/1".to_owned()));
        let url = RedisUrl::parse("redis+unix:///run/redis.sock?db=2&pass=x").unwrap();
        assert_eq!(url.target(), &Target::Server(Endpoint::Unix("/run/redis.sock".into())));
        assert_eq!((url.database(), login_of(&url)), (2, (None, Some("x"))));
    }

    #[test]
    fn sentinels_and_the_name_of_their_primary() {
        let url = RedisUrl::parse("redis+sentinel://u:p%40@a:26379,[::1]:1,b/mymaster?db=2&sentinel_pass=s").unwrap();
        let sentinels = vec![tcp("a", 26_379), tcp("::1", 1), tcp("b", 26_379)];
        assert_eq!(url.target(), &Target::Sentinel { sentinels, name: "mymaster".to_owned() });
        assert_eq!((url.database(), login_of(&url)), (2, (Some("u"), Some("p@"))));
        assert_eq!(url.sentinel_login().password, Some("s".into()));
        assert_eq!(url.to_string(), "redis+sentinel://a:26379,[::1]:1,b:26379/mymaster?db=2");
    }

    #[test]
    fn members_of_a_cluster() {
        let url = RedisUrl::parse("rediss+cluster://:pw@10.0.0.1:7000,10.0.0.2").unwrap();
        assert_eq!(url.target(), &Target::Cluster(vec![tcp("10.0.0.1", 7000), tcp("10.0.0.2", 6379)]));
        assert_eq!((url.tls(), login_of(&url)), (true, (None, Some("pw"))));
        assert_eq!(url.to_string(), "rediss+cluster://10.0.0.1:7000,10.0.0.2:6379");
    }

    #[test]
    fn what_is_refused_says_why_and_keeps_the_password() {
        for (text, part) in [
            ("http://:hunter2@h", "scheme"),
            ("localhost:6379", "scheme"),
            ("redis://:hunter2@h/zero", "database"),
            ("redis://:hunter2@h/-1", "0 or more"),
            ("redis://:hunter2@h?protocol=resp3", "\"protocol\""),
            ("redis://:hunter2@h/1#insecure", "fragment"),
            ("redis://:hunter2@h:99999/1", "the port is not a number from 0 to 65535"),
            ("redis://h:hunter2", "the port is not a number"),
            ("redis+cluster://:pw@a:1,b:99999", "the port is not a number"),
            ("redis://:pw@h/hunter2", "the path is not a database number"),
            ("redis://hunter2@h", "a user has no password"),
            ("redis+cluster://hunter2@h", "a user has no password"),
            ("redis+unix:///s?user=hunter2", "a user has no password"),
            ("redis+sentinel://h/m?sentinel_user=hunter2", "a user has no password"),
            ("redis+sentinel://u:1/hunter2@h", "the path contains an @"),
            ("redis://:hunter2@0.0.0.0", "wildcard"),
            ("redis://:hunter2@a:1,b:2", "several hosts"),
            ("redis://", "host"),
            ("redis+sentinel://:hunter2@a:1,b:2", "master-name"),
            ("redis+sentinel://:hunter2@a:1/m?db=x", "db"),
            ("redis+sentinel://:hunter2@a:1/m?quorum=2", "\"quorum\""),
            ("redis+sentinel://:hunter2@/m", "parse"),
            ("redis+cluster://:hunter2@a:1,b:2/3", "database"),
            ("redis+cluster://:hunter2@a:1,,b:2", "parse"),
            ("redis+cluster://:hunter2@a:1?x=1", "\"x\""),
        ] {
            let error = RedisUrl::parse(text).unwrap_err();
            assert!(error.message().contains(part), "{text}: {error}");
            assert!(!error.message().contains("hunter2"), "{text}: {error}");
        }
        let url = RedisUrl::parse("redis://u:hunter2@h").unwrap();
        assert!(!format!("{url:?} {url} {:?}", url.login()).contains("hunter2"));
    }

    #[test]
    fn each_notation_of_a_password_is_masked() {
        for (text, masked) in [
            ("redis://h", "redis://h:6379/0"),
            ("redis://u:hunter2@h:1/2", "redis://u:***@h:1/2"),
            ("rediss://:hun@ter2@h", "rediss://:***@h:6379/0"),
            ("redis://u%40:hun%40ter2@h", "redis://***:***@h:6379/0"),
            ("redis+unix:///s?user=u&pass=hunter2", "redis+unix:///s?db=0&user=u&pass=***"),
            ("unix:///s?pass=hun@ter2&db=1", "redis+unix:///s?db=1&pass=***"),
            ("redis+sentinel://a/m?sentinel_pass=hun@ter2", "redis+sentinel://a:26379/m?db=0&sentinel_pass=***"),
            (
                "redis+sentinel://u:hunter2@a,b/m?sentinel_user=s&sentinel_pass=hunter2&db=1",
                "redis+sentinel://u:***@a:26379,b:26379/m?db=1&sentinel_user=s&sentinel_pass=***",
            ),
            ("rediss+cluster://:hunt@er2@a:1,b:2", "rediss+cluster://:***@a:1,b:2"),
        ] {
            let url = RedisUrl::parse(text).unwrap();
            assert_eq!(
                (url.masked(), url.has_password()),
                (masked.to_owned(), text.contains("ter2") || text.contains("er2"))
            );
        }
    }
}
