//! The URL of a Redis: parsed without any I/O, so that configuration can be validated before a port is bound.
//!
//! The password is in no `Debug`, no error and no `Display`.

use std::{fmt, path::PathBuf};

use ::redis::{ConnectionAddr, IntoConnectionInfo};

use crate::error::{CacheError, Kind, Result};

/// Where a Redis listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// Who knows where the primary, or the primaries, are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It is this one.
    Server(Endpoint),
    /// These Sentinels know, by the name of the primary.
    Sentinel {
        /// Any of the Sentinels.
        sentinels: Vec<Endpoint>,
        /// What they call the primary.
        name: String,
    },
    /// Any of these members of a Redis Cluster knows.
    Cluster(Vec<Endpoint>),
}

/// User and password, as a server asks for them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
}

/// A checked URL of one of the forms in [`FORMS`].
#[derive(Clone)]
pub struct RedisUrl {
    target: Target,
    tls: bool,
    database: i64,
    login: Login,
    sentinel_login: Login,
}

/// What a URL may be, for messages. `rediss` stands for TLS in each of them.
const FORMS: &str = "redis://[user:password@]host[:port][/db], redis+unix:///path[?db=N&user=U&pass=P], \
     redis+sentinel://[user:password@]host:port[,host:port]/master-name[?db=N&sentinel_user=U&sentinel_pass=P] or \
     redis+cluster://[user:password@]host:port[,host:port] (rediss... with TLS)";

/// Maximum number of hosts in `l2.url`.
const HOSTS_MAX: usize = 100;

impl RedisUrl {
    /// Checks a URL. Pure: no name is resolved, no file looked at.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no such URL. The message never repeats the URL, which may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        let scheme = scheme.to_ascii_lowercase();
        match &scheme[..] {
            "redis" => Self::server(rest, false),
            "rediss" => Self::server(rest, true),
            "redis+unix" | "unix" => Self::unix(text),
            "redis+sentinel" => Self::sentinel(rest, false),
            "rediss+sentinel" => Self::sentinel(rest, true),
            "redis+cluster" => Self::cluster(rest, false),
            "rediss+cluster" => Self::cluster(rest, true),
            _ => Err(invalid("it has another scheme")),
        }
    }

    fn server(rest: &str, tls: bool) -> Result<Self> {
        if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains(',')) {
            return Err(invalid("it names several hosts, which redis+sentinel:// and redis+cluster:// do"));
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
            return Err(invalid("after the hosts stands /master-name, as the Sentinels call it"));
        }
        let (mut database, mut sentinel_login) = (0, Login::default());
        for (option, value) in parts.options()? {
            match option {
                "db" => database = number_of_database(value)?,
                "sentinel_user" => sentinel_login.username = Some(value.to_owned()),
                "sentinel_pass" => sentinel_login.password = Some(value.to_owned()),
                other => return Err(invalid(&format!("option {other:?} is not known"))),
            }
        }
        let sentinels = parts.endpoints(26_379)?;
        let login = parts.login()?;
        Ok(Self { target: Target::Sentinel { sentinels, name }, tls, database, login, sentinel_login })
    }

    fn cluster(rest: &str, tls: bool) -> Result<Self> {
        let parts = Parts::of(rest)?;
        if !parts.path.is_empty() {
            return Err(invalid("a Redis Cluster has one database, 0: nothing stands behind the hosts"));
        }
        if let Some((option, _)) = parts.options()?.first() {
            return Err(invalid(&format!("option {option:?} is not known")));
        }
        let target = Target::Cluster(parts.endpoints(6_379)?);
        Ok(Self { target, tls, database: 0, login: parts.login()?, sentinel_login: Login::default() })
    }

    /// Who knows where the primary is.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether connections are TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.tls
    }

    /// Number of the database that Terrace shows.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.database
    }

    /// For the handshake with a data server only.
    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// For the handshake with a Sentinel only.
    pub(super) fn sentinel_login(&self) -> &Login {
        &self.sentinel_login
    }
}

/// What stands behind the scheme of a URL with several hosts.
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

    /// Each host as a URL of one server has it, so that it is checked in the same way.
    fn endpoints(&self, port: u16) -> Result<Vec<Endpoint>> {
        let hosts: Vec<&str> = self.hosts.split(',').collect();
        if hosts.len() > HOSTS_MAX {
            return Err(invalid(&format!("it names more than {HOSTS_MAX} hosts")));
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

/// A URL with one server, as the redis crate reads it.
fn single(text: &str, options: &[&str]) -> Result<(Endpoint, Login, i64)> {
    let url = ::redis::parse_redis_url(text).ok_or_else(|| invalid("it does not parse"))?;
    refuse_unknown_parts(options, url.query(), url.fragment())?;
    let info = url.into_connection_info().map_err(|error| invalid(&error.to_string()))?;
    let endpoint = if let ConnectionAddr::Tcp(host, port) = info.addr() {
        Endpoint::Tcp(host.clone(), *port)
    } else if let ConnectionAddr::Unix(path) = info.addr() {
        Endpoint::Unix(path.clone())
    } else {
        return Err(invalid("it names neither a host nor a socket"));
    };
    let settings = info.redis_settings();
    if settings.db() < 0 {
        return Err(invalid("the database number is negative"));
    }
    let login =
        Login { username: settings.username().map(str::to_owned), password: settings.password().map(str::to_owned) };
    Ok((endpoint, login, settings.db()))
}

fn number_of_database(text: &str) -> Result<i64> {
    text.parse().ok().filter(|number| *number >= 0).ok_or_else(|| invalid("db is the number of a database, 0 or more"))
}

/// An option that we do not know is refused by name, never ignored.
fn refuse_unknown_parts(known: &[&str], query: Option<&str>, hash: Option<&str>) -> Result<()> {
    if hash.is_some() {
        return Err(fragment());
    }
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let name = part.split('=').next().unwrap_or_default();
        if !known.contains(&name) {
            return Err(invalid(&format!("option {name:?} is not known")));
        }
    }
    Ok(())
}

fn fragment() -> CacheError {
    invalid("it has a #fragment (a # in a password is written %23)")
}

fn invalid(what: &str) -> CacheError {
    CacheError::new(Kind::InvalidArgument, format!("the Redis URL is not acceptable: {what}; expected {FORMS}"))
}

/// Hosts as a URL has them.
fn listed(endpoints: &[Endpoint]) -> String {
    endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for RedisUrl {
    /// Without the password; fit for logs.
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
        (url.login.username.as_deref(), url.login.password.as_deref())
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
        assert_eq!(url.sentinel_login().password.as_deref(), Some("s"));
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
            ("redis://:hunter2@h/-1", "negative"),
            ("redis://:hunter2@h?protocol=resp3", "\"protocol\""),
            ("redis://:hunter2@h/1#insecure", "fragment"),
            ("redis://:hunter2@h:99999/1", "parse"),
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
}
