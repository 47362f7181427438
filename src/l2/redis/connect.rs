//! Opens one connection to one Redis server and introduces Terrace there.
//!
//! The stream is ours, and so is the future that drives it: whoever owns a connection polls that future, and its end
//! is the first and certain sign that the connection is gone. (A connection that the crate opens drives itself on a
//! task of its own and tells nobody.)

use std::{future::Future, pin::Pin, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, Value,
    aio::{MultiplexedConnection, SendError},
};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::{
    errors,
    url::{Endpoint, RedisUrl},
};
use crate::error::{CacheError, Kind, Result};

/// Longest attempt: name, connection, handshake. A Redis that is stopped accepts and answers when it goes on, so a
/// longer attempt is not a later recovery.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// Idle time before TCP asks whether the peer is still there, and the time between its questions.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));
/// Sent bytes that nobody acknowledges for this long end the connection (half-open after a lost peer).
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// Commands handed to the crate and not yet written; ours are bounded by the pipelines in flight, far below.
const CRATE_BUFFER: usize = 64;
/// Oldest Redis that has all commands we send (PEXPIRETIME, SET NX GET, GT and LT).
const VERSION_MIN: u32 = 7;

/// Runs the connection; ends when it is lost.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what the server sends without being asked, in wire order, from inside the driver.
pub(super) type OnPush = Box<dyn Fn(PushInfo) + Send + Sync>;

/// An open connection that is authenticated and stands in its database.
pub(super) struct Opened {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: Driver,
}

/// A data connection: RESP2, which every Redis speaks.
pub(super) async fn data(url: &RedisUrl, client_name: &str) -> Result<Opened> {
    within(async {
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut opened = dial(url.endpoint(), &info, config()).await?;
        introduce(&mut opened, url, client_name).await?;
        Ok(opened)
    })
    .await
}

/// The invalidation link: RESP3, whose pushes go to `on_push`.
pub(super) async fn link(url: &RedisUrl, on_push: OnPush) -> Result<Opened> {
    within(async {
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name().set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = url.username() {
            info = info.set_username(username);
        }
        if let Some(password) = url.password() {
            info = info.set_password(password);
        }
        let config = config().set_push_sender(move |push: PushInfo| {
            on_push(push);
            Ok::<(), SendError>(())
        });
        dial(url.endpoint(), &info, config).await
    })
    .await
}

async fn within<T>(attempt: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
        Ok(result) => result,
        Err(_) => Err(CacheError::new(Kind::Unavailable, "Redis accepts no connection, or does not answer on it")),
    }
}

/// Time-outs are ours: the crate's would fail a whole pipeline for its slowest caller.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(CRATE_BUFFER)
}

async fn dial(endpoint: &Endpoint, info: &RedisConnectionInfo, config: AsyncConnectionConfig) -> Result<Opened> {
    let opened = match endpoint {
        Endpoint::Tcp(host, port) => {
            let stream = dial_tcp(host, *port).await.map_err(|error| unreachable(endpoint, &error))?;
            MultiplexedConnection::new_with_config(info, stream, config).await.map(boxed)
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
    CacheError::new(Kind::Unavailable, format!("Redis at {endpoint} cannot be reached: {error}"))
}

/// Tries each address of the name in turn.
async fn dial_tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
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

/// AUTH, SELECT and our name, by hand: the crate's own handshake hides what the server said.
async fn introduce(opened: &mut Opened, url: &RedisUrl, client_name: &str) -> Result<()> {
    greet(opened, url).await?;
    let mut pipeline = Pipeline::new();
    // Where Redis is not ready (loading, a replica without its primary) this says so; a user without the right to ask
    // may still have all that is needed.
    pipeline.cmd("PING");
    pipeline.cmd("HELLO");
    pipeline.cmd("CLIENT").arg("SETNAME").arg(client_name);
    if url.database() != 0 {
        pipeline.cmd("SELECT").arg(url.database());
    }
    let replies = ask(opened, &pipeline).await?;
    if let Value::ServerError(error) = &replies[0]
        && errors::from_reply(error).kind() == Kind::Unavailable
    {
        return Err(errors::from_reply(error));
    }
    check_version(&replies[1])?;
    match replies.get(3) {
        Some(Value::ServerError(error)) => Err(refused(error, url.database())),
        Some(_) | None => Ok(()),
    }
}

/// The first command goes alone: a server that turns us away answers only that one, and closes.
async fn greet(opened: &mut Opened, url: &RedisUrl) -> Result<()> {
    let mut pipeline = Pipeline::new();
    match url.password() {
        None => pipeline.cmd("PING"),
        Some(password) => pipeline.cmd("AUTH").arg(url.username()).arg(password),
    };
    let replies = ask(opened, &pipeline).await?;
    match &replies[..] {
        [Value::ServerError(error)] if url.password().is_some() || error.code() != "NOPERM" => {
            Err(errors::from_reply(error))
        }
        _ => Ok(()),
    }
}

fn refused(error: &::redis::ServerError, database: i64) -> CacheError {
    if error.details().is_some_and(|detail| detail.contains("DB index is out of range")) {
        let message = format!("Redis has no database {database} (its setting `databases`); the URL names it");
        return CacheError::new(Kind::Unsupported, message);
    }
    errors::from_reply(error)
}

fn check_version(hello: &Value) -> Result<()> {
    let Some(version) = field(hello, b"version") else { return Ok(()) };
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major < VERSION_MIN => {
            let message = format!("Redis {version} is too old: Terrace needs Redis 7.0 or later");
            Err(CacheError::new(Kind::Unsupported, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// A field of HELLO's reply, which is a flat array in RESP2.
fn field<'a>(hello: &'a Value, name: &[u8]) -> Option<&'a str> {
    let Value::Array(parts) = hello else { return None };
    let pair = parts.chunks_exact(2).find(|pair| matches!(&pair[0], Value::BulkString(found) if found == name))?;
    let Value::BulkString(bytes) = &pair[1] else { return None };
    std::str::from_utf8(bytes).ok()
}

/// Sends a pipeline while driving the connection; each command has its reply in the result, errors included.
pub(super) async fn ask(opened: &mut Opened, pipeline: &Pipeline) -> Result<Vec<Value>> {
    let Opened { connection, driver } = opened;
    let replies = connection.send_packed_commands(pipeline, 0, pipeline.len());
    tokio::pin!(replies);
    let replies = tokio::select! {
        biased;
        replies = &mut replies => replies,
        // What came before the end is still told; without it this ends as well.
        () = driver => replies.await,
    };
    match replies {
        Ok(replies) if replies.len() == pipeline.len() => Ok(replies),
        Ok(_) => Err(errors::unexpected("a pipeline")),
        Err(error) => Err(errors::from_connection(&error)),
    }
}

/// `maxmemory-policy`, where Redis tells it (CONFIG may be refused or renamed).
pub(super) fn policy_question() -> Cmd {
    let mut command = Cmd::new();
    command.arg("CONFIG").arg("GET").arg("maxmemory-policy");
    command
}

/// Reads the answer to [`policy_question`].
pub(super) fn policy_of(reply: &Value) -> Option<&str> {
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
