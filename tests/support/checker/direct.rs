//! Commands sent directly to Redis, bypassing Terrace: to a standalone server, through Sentinels, or to a Cluster.
//!
//! A command that may have been executed is never repeated. It is repeated only after MOVED and ASK, which rule that
//! out.

use std::{collections::HashMap, time::Duration};

use redis::{
    Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::time::timeout;

/// Longest wait for an answer. A Redis that is stopped for a shorter time answers when it resumes.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Maximum number of redirections that a command follows.
const REDIRECTIONS_MAX: usize = 8;
/// Number of slots of a Cluster.
pub const SLOTS: u16 = 16_384;

/// The Redis that commands are sent to.
#[derive(Debug, Clone)]
pub enum Direct {
    /// `redis://host:port` of the only server.
    One(String),
    /// `redis://host:port` of some Sentinels, and the name of the primary.
    Sentinels(Vec<String>, &'static str),
    /// `redis://host:port` of some nodes of a Cluster.
    Cluster(Vec<String>),
}

/// Returns the slot of a key: CRC16 (XMODEM) of its hash tag.
pub fn slot(key: &[u8]) -> u16 {
    let tagged = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    let crc = tagged.unwrap_or(key).iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 })
    });
    crc % SLOTS
}

/// Opens a connection with a time limit for answers.
pub async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_MAX))
        .set_response_timeout(Some(ANSWER_MAX));
    let open = Client::open(url)?;
    within(open.get_multiplexed_async_connection_with_config(&config)).await
}

async fn within<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let silent = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(ANSWER_MAX, answer).await.unwrap_or_else(|_| Err(silent()))
}

/// A client that keeps its connections between commands.
pub struct DirectClient {
    direct: Direct,
    open: HashMap<String, MultiplexedConnection>,
    /// The known server of each slot range: first slot, last slot, URL. (A single primary serves all slots.)
    map: Vec<(u16, u16, String)>,
}

impl DirectClient {
    /// Creates a client without connections.
    pub fn new(direct: Direct) -> Self {
        Self { direct, open: HashMap::new(), map: Vec::new() }
    }

    /// Sends one command about `key`. After an error it is unknown whether the command was executed.
    pub async fn ask(&mut self, key: &[u8], command: &Cmd) -> RedisResult<Value> {
        let reply = self.follow(key, command).await;
        if reply.is_err() {
            // The server of the slot may have changed.
            self.map.clear();
        }
        reply
    }

    async fn follow(&mut self, key: &[u8], command: &Cmd) -> RedisResult<Value> {
        let mut url = self.owner(key).await?;
        let mut asking = false;
        for _ in 0..REDIRECTIONS_MAX {
            let reply = self.ask_one(&url, command, asking).await?;
            let Some((redirection, target)) = redirected(&reply) else {
                return if let Value::ServerError(error) = reply { Err(error.into()) } else { Ok(reply) };
            };
            asking = redirection == "ASK";
            if !asking {
                self.map.clear();
            }
            url = format!("redis://{target}");
        }
        Err(client_error("too many redirections"))
    }

    async fn ask_one(&mut self, url: &str, command: &Cmd, asking: bool) -> RedisResult<Value> {
        let mut pipeline = Pipeline::new();
        let watched = matches!(self.direct, Direct::Sentinels(..));
        if watched {
            // A former primary answers reads as a replica. Both commands are sent, and executed, together.
            pipeline.cmd("ROLE");
        }
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command.clone());
        let mut replies = self.send(url, &pipeline).await?;
        if watched && !is_master(&replies[0]) {
            return Err(client_error("it is no primary any more"));
        }
        Ok(replies.pop().unwrap_or(Value::Nil))
    }

    /// Sends a pipeline to one server; drops the connection on any error.
    async fn send(&mut self, url: &str, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut connection = match self.open.remove(url) {
            Some(connection) => connection,
            None => connect(url).await?,
        };
        let replies = within(connection.req_packed_commands(pipeline, 0, pipeline.len())).await?;
        self.open.insert(url.to_owned(), connection);
        Ok(replies)
    }

    async fn owner(&mut self, key: &[u8]) -> RedisResult<String> {
        if self.map.is_empty() {
            self.map = match self.direct.clone() {
                Direct::One(url) => vec![(0, SLOTS - 1, url)],
                Direct::Sentinels(sentinels, name) => vec![(0, SLOTS - 1, self.primary(&sentinels, name).await?)],
                Direct::Cluster(seeds) => self.slots(&seeds).await?,
            };
        }
        let slot = slot(key);
        let owner = self.map.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        owner.map(|(_, _, url)| url.clone()).ok_or_else(|| client_error("nobody serves the slot"))
    }

    /// The primary according to the first Sentinel that answers.
    async fn primary(&mut self, sentinels: &[String], name: &str) -> RedisResult<String> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let mut reply = self.send_to_any(sentinels, &pipeline).await?;
        let address = reply.pop().and_then(|reply| redis::from_redis_value::<(String, u16)>(reply).ok());
        let (host, port) = address.ok_or_else(|| client_error("no Sentinel knows the primary"))?;
        Ok(format!("redis://{host}:{port}"))
    }

    async fn slots(&mut self, seeds: &[String]) -> RedisResult<Vec<(u16, u16, String)>> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CLUSTER").arg("SLOTS");
        let mut replies = self.send_to_any(seeds, &pipeline).await?;
        Ok(slots_of(replies.pop().unwrap_or(Value::Nil)))
    }

    /// Begins with a random one, because one that is stopped costs a wait.
    async fn send_to_any(&mut self, seeds: &[String], pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut last = client_error("nobody to ask");
        let first = fastrand::usize(..seeds.len().max(1));
        for seed in seeds.iter().cycle().skip(first).take(seeds.len()) {
            match self.send(seed, pipeline).await {
                Ok(replies) => return Ok(replies),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn client_error(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Client, why))
}

fn is_master(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master")
}

fn redirected(reply: &Value) -> Option<(String, String)> {
    let Value::ServerError(error) = reply else { return None };
    let code = error.code();
    let target = error.details()?.split(' ').nth(1)?;
    ["MOVED", "ASK"].contains(&code).then(|| (code.to_owned(), target.to_owned()))
}

/// Parses `CLUSTER SLOTS`: first, last, [host, port, ...] of the primary, replicas.
fn slots_of(reply: Value) -> Vec<(u16, u16, String)> {
    type Primary = (String, u16, String);
    let Value::Array(rows) = reply else { return Vec::new() };
    let row = |row: Value| {
        let Value::Array(parts) = row else { return None };
        let mut parts = parts.into_iter();
        let number = |part: Option<Value>| redis::from_redis_value::<u16>(part?).ok();
        let (first, last) = (number(parts.next())?, number(parts.next())?);
        let Value::Array(primary) = parts.next()? else { return None };
        let primary: Vec<Value> = primary.into_iter().take(3).collect();
        let (host, port, _id) = redis::from_redis_value::<Primary>(Value::Array(primary)).ok()?;
        Some((first, last, format!("redis://{host}:{port}")))
    };
    rows.into_iter().filter_map(row).collect()
}
