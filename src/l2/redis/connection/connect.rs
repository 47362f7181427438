//! Opens one connection to one Redis server: TLS, authentication, database, client name.
//!
//! Terrace owns the stream and the future that drives it. The owner of a connection polls that future; its completion
//! is the first and reliable sign that the connection was lost. (A connection that the crate opens is driven by the
//! crate's own task, which notifies no one.)

use std::{future::Future, pin::Pin, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, Value,
    aio::{MultiplexedConnection, SendError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
};

use super::{login::LoginSource, tls::Tls};
use crate::{
    error::{CacheError, Kind, Result},
    l2::redis::{
        command::errors,
        url::{Endpoint, Login},
    },
};

/// Deadline of a connection attempt to Redis: name resolution, connection and handshake. A suspended Redis responds after it
/// resumes, so a longer deadline does not help.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// Idle time before TCP probes the peer, and the interval between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));
/// Maximum time that sent bytes stay unacknowledged before a Redis connection is closed (TCP_USER_TIMEOUT).
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// Capacity of the crate's buffer for commands that are not written yet. The pipelines in flight, which Terrace bounds,
/// are always fewer.
const CRATE_BUFFER: usize = 64;
/// Oldest Redis major version with all required commands (PEXPIRETIME, SET NX GET, GT and LT).
const VERSION_MIN: u32 = 7;

/// Future that drives the connection; completes when the connection is lost.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Receives push messages of the server, in wire order, inside the driver.
pub(crate) type OnPush = Box<dyn Fn(PushInfo) + Send + Sync>;

/// An open connection that is authenticated and has selected its database.
pub(crate) struct Opened {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) driver: Driver,
}

/// Settings for connections to all servers of one Redis.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) login: LoginSource,
    pub(crate) sentinel_login: LoginSource,
    pub(crate) database: i64,
    pub(crate) tls: Option<Tls>,
    /// Client name in CLIENT LIST.
    pub(crate) client_name: String,
    /// Reject servers that are not primaries, because the source of the address may be outdated.
    pub(crate) primary_only: bool,
}

impl Dialer {
    /// Returns a dialer for Sentinels, which have separate credentials.
    pub(crate) fn to_sentinel(&self) -> Self {
        Self { login: self.sentinel_login.clone(), database: 0, primary_only: false, ..self.clone() }
    }
}

/// Opens a data connection with RESP2, which every Redis supports.
pub(crate) async fn data(endpoint: &Endpoint, dialer: &Dialer) -> Result<Opened> {
    within(async {
        let mut opened = plain(endpoint, dialer).await?;
        introduce(&mut opened, dialer).await?;
        Ok(opened)
    })
    .await
}

/// Opens a connection for topology queries to any member, whatever its state.
pub(crate) async fn control(endpoint: &Endpoint, dialer: &Dialer) -> Result<Opened> {
    within(async {
        let mut opened = plain(endpoint, dialer).await?;
        greet(&mut opened, dialer).await?;
        Ok(opened)
    })
    .await
}

async fn plain(endpoint: &Endpoint, dialer: &Dialer) -> Result<Opened> {
    let info = RedisConnectionInfo::default().set_skip_set_lib_name();
    dial(endpoint, dialer.tls.as_ref(), &info, config()).await
}

/// Opens the connection of an invalidation link: RESP3, with pushes to `on_push`.
pub(crate) async fn link(endpoint: &Endpoint, dialer: &Dialer, on_push: OnPush) -> Result<Opened> {
    within(async {
        let login = dialer.login.current().await;
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name().set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = &login.username {
            info = info.set_username(username);
        }
        if let Some(password) = &login.password {
            info = info.set_password(password.expose());
        }
        let config = config().set_push_sender(move |push: PushInfo| {
            on_push(push);
            Ok::<(), SendError>(())
        });
        dial(endpoint, dialer.tls.as_ref(), &info, config).await
    })
    .await
}

/// A connection that carries the Redis protocol without interpretation.
pub(crate) type RawStream = Pin<Box<dyn Duplex>>;

/// A stream in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync {}
impl<S: AsyncRead + AsyncWrite + Send + Sync> Duplex for S {}

impl std::fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Duplex")
    }
}

/// Opens a connection for pass-through commands, in RESP2 or RESP3.
pub(crate) async fn raw(endpoint: &Endpoint, dialer: &Dialer, resp3: bool) -> Result<RawStream> {
    within(async {
        let mut stream = dial_raw(endpoint, dialer.tls.as_ref()).await?;
        for (command, is_required) in raw_greeting(&dialer.login.current().await, dialer, resp3) {
            let lost = |error: std::io::Error| unreachable(endpoint, &error);
            stream.write_all(&command.get_packed_command()).await.map_err(lost)?;
            let reply = raw_reply(&mut stream).await.map_err(lost)?;
            if let Value::ServerError(error) = &reply
                && is_required
            {
                return Err(refused(error, dialer.database));
            }
            if dialer.primary_only && field(&reply, b"role").is_some() {
                check_role(&reply)?;
            }
        }
        Ok(stream)
    })
    .await
}

async fn dial_raw(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<RawStream> {
    let failed = |error: std::io::Error| unreachable(endpoint, &error);
    match endpoint {
        Endpoint::Tcp(host, port) => {
            let stream = dial_tcp(host, *port).await.map_err(failed)?;
            match tls {
                None => Ok(Box::pin(stream)),
                Some(tls) => Ok(Box::pin(tls.wrap(host, stream).await.map_err(|error| no_tls(endpoint, &error))?)),
            }
        }
        Endpoint::Unix(path) => Ok(Box::pin(UnixStream::connect(path).await.map_err(failed)?)),
    }
}

/// Reads exactly one reply: later bytes belong to the client.
async fn raw_reply(stream: &mut RawStream) -> std::io::Result<Value> {
    let mut reply = Vec::new();
    loop {
        reply.push(stream.read_u8().await?);
        if reply.ends_with(b"\n")
            && let Ok(value) = ::redis::parse_redis_value(&reply)
        {
            return Ok(value);
        }
    }
}

/// Returns the commands that open a raw connection, each with `true` if it must succeed. While a script occupies Redis, it
/// refuses CLIENT SETNAME, but not SCRIPT KILL.
fn raw_greeting(login: &Login, dialer: &Dialer, resp3: bool) -> Vec<(Cmd, bool)> {
    let command = |words: &[&str]| {
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command
    };
    let mut commands = Vec::new();
    if let Some(password) = &login.password {
        let mut auth = command(&["AUTH"]);
        auth.arg(&login.username).arg(password.expose());
        commands.push((auth, true));
    }
    commands.push((command(&["CLIENT", "SETNAME", &format!("{}-pass", dialer.client_name)]), false));
    if dialer.database != 0 {
        commands.push((command(&["SELECT", &dialer.database.to_string()]), true));
    }
    commands.push((command(&["HELLO", if resp3 { "3" } else { "2" }]), true));
    commands
}

async fn within<T>(attempt: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
        Ok(result) => result,
        Err(_) => {
            let message = format!("cannot connect to Redis within {ATTEMPT_MAX:?}");
            Err(CacheError::new(Kind::Unavailable, message))
        }
    }
}

/// Terrace applies its own timeouts: a timeout of the crate would fail a whole pipeline for its slowest caller.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(CRATE_BUFFER)
}

async fn dial(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
    info: &RedisConnectionInfo,
    config: AsyncConnectionConfig,
) -> Result<Opened> {
    let opened = match endpoint {
        Endpoint::Tcp(host, port) => {
            let stream = dial_tcp(host, *port).await.map_err(|error| unreachable(endpoint, &error))?;
            match tls {
                None => MultiplexedConnection::new_with_config(info, stream, config).await.map(boxed),
                Some(tls) => {
                    let stream = tls.wrap(host, stream).await.map_err(|error| no_tls(endpoint, &error))?;
                    MultiplexedConnection::new_with_config(info, stream, config).await.map(boxed)
                }
            }
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| unreachable(endpoint, &error))?;
            MultiplexedConnection::new_with_config(info, stream, config).await.map(boxed)
        }
    };
    opened.map_err(|error: RedisError| errors::from_connection(&error))
}

fn boxed<D: Future<Output = ()> + Send + 'static>((connection, driver): (MultiplexedConnection, D)) -> Opened {
    Opened { connection, driver: Box::pin(driver) }
}

fn unreachable(endpoint: &Endpoint, error: &std::io::Error) -> CacheError {
    CacheError::new(Kind::Unavailable, format!("cannot connect to Redis at {endpoint}: {error}"))
}

fn no_tls(endpoint: &Endpoint, error: &std::io::Error) -> CacheError {
    CacheError::new(Kind::Unavailable, format!("TLS handshake with Redis at {endpoint} failed: {error}"))
}

/// Connects to the addresses of the host name, one after another.
async fn dial_tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the host name has no address");
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return tuned(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tuned(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(&stream);
    let (idle, interval) = KEEPALIVE;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(idle).with_interval(interval))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

/// Sends AUTH, SELECT and the client name. The handshake of the crate is not used, because it hides the server's
/// errors.
async fn introduce(opened: &mut Opened, dialer: &Dialer) -> Result<()> {
    greet(opened, dialer).await?;
    let mut pipeline = Pipeline::new();
    // PING shows that Redis is not ready (loading, a replica without its primary). A user without permission for PING
    // may still have all required permissions.
    pipeline.cmd("PING");
    pipeline.cmd("HELLO");
    pipeline.cmd("CLIENT").arg("SETNAME").arg(&dialer.client_name);
    if dialer.database != 0 {
        pipeline.cmd("SELECT").arg(dialer.database);
    }
    let replies = ask(opened, &pipeline).await?;
    if let Value::ServerError(error) = &replies[0]
        && errors::from_reply(error).kind() == Kind::Unavailable
    {
        return Err(errors::from_reply(error));
    }
    check_version(&replies[1])?;
    if dialer.primary_only {
        check_role(&replies[1])?;
    }
    match replies.get(3) {
        Some(Value::ServerError(error)) => Err(refused(error, dialer.database)),
        Some(_) | None => Ok(()),
    }
}

/// Sends the first command separately: a server that rejects the connection answers only that command, and then closes
/// it.
async fn greet(opened: &mut Opened, dialer: &Dialer) -> Result<()> {
    let login = dialer.login.current().await;
    let mut pipeline = Pipeline::new();
    match &login.password {
        None => pipeline.cmd("PING"),
        Some(password) => pipeline.cmd("AUTH").arg(&login.username).arg(password.expose()),
    };
    let replies = ask(opened, &pipeline).await?;
    match &replies[..] {
        [Value::ServerError(error)] if login.password.is_some() || error.code() != "NOPERM" => {
            Err(errors::from_reply(error))
        }
        _ => Ok(()),
    }
}

fn refused(error: &::redis::ServerError, database: i64) -> CacheError {
    if error.details().is_some_and(|detail| detail.contains("DB index is out of range")) {
        let message =
            format!("Redis has no database {database}, which l2.url selects; check the Redis setting `databases`");
        return CacheError::new(Kind::Unsupported, message);
    }
    errors::from_reply(error)
}

fn check_version(hello: &Value) -> Result<()> {
    let Some(version) = field(hello, b"version") else { return Ok(()) };
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major < VERSION_MIN => {
            let message = format!("unsupported Redis version {version}; expected 7.0 or later");
            Err(CacheError::new(Kind::Unsupported, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks that the server is a primary: the source of the address may be outdated.
fn check_role(hello: &Value) -> Result<()> {
    match field(hello, b"role") {
        Some("master") | None => Ok(()),
        Some(role) => {
            let message = format!("this Redis server has the role {role}; expected master (the primary)");
            Err(CacheError::new(Kind::Unavailable, message))
        }
    }
}

/// Returns a field of HELLO's reply, which is a flat array in RESP2.
fn field<'a>(hello: &'a Value, name: &[u8]) -> Option<&'a str> {
    let Value::Array(parts) = hello else { return None };
    let pair = parts.chunks_exact(2).find(|pair| matches!(&pair[0], Value::BulkString(found) if found == name))?;
    let Value::BulkString(bytes) = &pair[1] else { return None };
    std::str::from_utf8(bytes).ok()
}

/// Sends a pipeline while driving the connection. Returns one reply per command, including error replies.
pub(crate) async fn ask(opened: &mut Opened, pipeline: &Pipeline) -> Result<Vec<Value>> {
    let Opened { connection, driver } = opened;
    let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
    tokio::pin!(replies);
    let replies = tokio::select! {
        biased;
        replies = &mut replies => replies,
        () = &mut *driver => {
            // A driver that has ended must not be polled again. The next caller polls this one, and finds the connection lost.
            *driver = Box::pin(std::future::ready(()));
            // Replies received before the end are still delivered; without them, the pipeline fails as well.
            replies.await
        }
    };
    match replies {
        Ok(replies) if replies.len() == pipeline.len() => Ok(replies),
        Ok(_) => Err(errors::unexpected("a pipeline")),
        Err(error) => Err(errors::from_connection(&error)),
    }
}

/// Returns the query for `maxmemory-policy`. Redis may reject or rename CONFIG.
pub(crate) fn policy_question() -> Cmd {
    let mut command = Cmd::new();
    command.arg("CONFIG").arg("GET").arg("maxmemory-policy");
    command
}

/// Decodes the reply to [`policy_question`].
pub(crate) fn policy_of(reply: &Value) -> Option<&str> {
    field(reply, b"maxmemory-policy")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: &str) -> Value {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        Value::Array(vec![bulk("server"), bulk("redis"), bulk("version"), bulk(version), bulk("proto"), Value::Int(2)])
    }

    #[test]
    fn an_old_redis_is_named() {
        assert!(check_version(&hello("7.0.15")).is_ok());
        assert!(check_version(&hello("8.2.0")).is_ok());
        assert!(check_version(&hello("255.255.255")).is_ok());
        let error = check_version(&hello("6.2.14")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().contains("6.2.14"), "{error}");
    }

    #[test]
    fn a_server_that_keeps_its_version_to_itself_is_tried() {
        assert!(check_version(&Value::Nil).is_ok());
        assert!(check_version(&Value::Array(vec![])).is_ok());
    }
}
