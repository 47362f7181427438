//! Commands that go to Redis as they are, for types that Terrace does not hold itself.
//!
//! The keys that a command writes are treated as in any write: their copies are dropped before it is sent and again
//! after it, on any outcome.

use std::time::Duration;

use bytes::Bytes;

use super::{Cache, write::Dropped};
use crate::{
    error::{CacheError, Kind, Result},
    l2::{Flavor, Line, text},
    model::Key,
};

/// How often a redirection within a cluster is followed. A server that has heard of a failover may be the first.
const REDIRECTIONS_MAX: u32 = 8;
/// Pause before the second and each further one, times their number: until the others have heard as well.
const REDIRECTION_PAUSE: Duration = Duration::from_millis(50);

/// How a command passes.
#[derive(Debug, Clone)]
pub struct Passing {
    /// One of its keys: in a cluster, where it goes.
    pub key: Option<Key>,
    /// All its keys.
    pub named: Vec<Key>,
    /// Those it writes.
    pub written: Vec<Key>,
    /// The reply is wanted in RESP3.
    pub resp3: bool,
    /// It leaves values as they are stored, so that it may meet those with headers.
    pub moves_whole: bool,
    /// It may wait for as long as the client likes, on a connection of its own.
    pub blocking: bool,
}

impl Passing {
    /// A request that writes nothing.
    #[must_use]
    pub fn question(key: Option<Key>, resp3: bool) -> Self {
        Self {
            named: key.iter().cloned().collect(),
            key,
            written: Vec::new(),
            resp3,
            moves_whole: true,
            blocking: false,
        }
    }

    /// A request that writes these keys, and moves values only whole.
    #[must_use]
    pub fn write(written: Vec<Key>) -> Self {
        Self {
            key: written.first().cloned(),
            named: written.clone(),
            written,
            resp3: false,
            moves_whole: true,
            blocking: false,
        }
    }
}

impl Cache {
    /// Sends one request in Redis's protocol to the Redis below and returns its reply, an error reply included.
    ///
    /// # Errors
    /// `Unsupported` where there is no Redis; `Unavailable`, `DeadlineExceeded` (nothing was written), `Unknown` (it may
    /// have been), `Overloaded`.
    pub async fn pass(&self, request: &[u8], passing: Passing) -> Result<Bytes> {
        let written = !passing.written.is_empty();
        self.clear_banned(&passing).await?;
        self.clear_dead(&passing).await?;
        let _dropped = written.then(|| Dropped::new(&self.core, passing.written));
        let mut redirections = 0;
        let reply = loop {
            let mut line = self.l2.line(passing.key.as_deref(), passing.resp3).await?;
            let reply = if passing.blocking { line.ask_blocking(request).await } else { line.ask(request, 1).await };
            let is_moved = reply.as_ref().is_ok_and(|replies| replies.iter().any(is_moved));
            if !is_moved || !follow(line, &mut redirections).await {
                break reply;
            }
        };
        match reply {
            Ok(mut replies) => {
                replies.pop().ok_or_else(|| CacheError::new(Kind::Internal, "no reply")).and_then(kept_here)
            }
            Err(error) if error.kind() == Kind::Unknown && !written => {
                Err(CacheError::new(Kind::DeadlineExceeded, "Redis did not answer"))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a transaction whose requests write these keys: MULTI, them, EXEC. Returns EXEC's reply, or the error that
    /// refused the transaction.
    ///
    /// # Errors
    /// As [`Cache::pass`].
    pub async fn pass_transaction(
        &self,
        line: Option<Line>,
        requests: &[u8],
        count: usize,
        passing: Passing,
    ) -> Result<Bytes> {
        self.clear_banned(&passing).await?;
        self.clear_dead(&passing).await?;
        let _dropped = (!passing.written.is_empty()).then(|| Dropped::new(&self.core, passing.written));
        let mut all = request(&[b"MULTI"]);
        all.extend_from_slice(requests);
        all.extend(request(&[b"EXEC"]));
        let mut replies = match line {
            // What it watches is watched on this connection.
            Some(mut line) => line.ask(&all, count + 2).await?,
            None => self.ask_transaction(&all, count + 2, &passing.key, passing.resp3).await?,
        };
        let last = replies.pop().unwrap_or_default();
        // EXECABORT only says that there was an error before it.
        match replies.into_iter().find(|reply| reply.starts_with(b"-")) {
            Some(error) if last.starts_with(b"-") => kept_here(error),
            Some(_) | None => Ok(last),
        }
    }

    /// A command that passes as it is sees nothing of what bans hide.
    async fn clear_banned(&self, passing: &Passing) -> Result<()> {
        if self.l2.open_bans().is_empty() {
            return Ok(());
        }
        self.l2.clear_banned(&passing.named).await
    }

    /// Nor of entries whose tags are gone; and of headers only if it leaves them where they are.
    async fn clear_dead(&self, passing: &Passing) -> Result<()> {
        if passing.moves_whole {
            self.bury_dead(&passing.named).await.map(drop)
        } else {
            self.refuse_heads(&passing.named).await
        }
    }

    /// Where its keys are. One that was redirected was refused as a whole.
    async fn ask_transaction(&self, all: &[u8], count: usize, key: &Option<Key>, resp3: bool) -> Result<Vec<Bytes>> {
        let mut redirections = 0;
        loop {
            let mut line = self.l2.line(key.as_deref(), resp3).await?;
            let replies = line.ask(all, count).await?;
            let was_done = !replies.last().is_some_and(|last| last.starts_with(b"-"));
            if was_done || !replies.iter().any(is_moved) || !follow(line, &mut redirections).await {
                return Ok(replies);
            }
        }
    }

    /// What INFO of the Redis below says of its database, if that is the whole of the keys: `keys=...,expires=...`.
    pub async fn keyspace_of_redis(&self, keys: u64) -> Option<String> {
        let passing = Passing::question(None, false);
        let info = self.pass(&request(&[b"INFO", b"keyspace"]), passing.clone()).await.ok()?;
        let client = self.pass(&request(&[b"CLIENT", b"INFO"]), passing).await.ok()?;
        let (info, client) = (text(&info)?, text(&client)?);
        let client = String::from_utf8_lossy(&client).into_owned();
        let name = format!("db{}:", client.split(' ').find_map(|field| field.strip_prefix("db="))?);
        let info = String::from_utf8_lossy(&info).into_owned();
        let line = info.lines().find_map(|line| line.strip_prefix(&name))?.trim();
        // One part of a cluster knows only of its own.
        line.starts_with(&format!("keys={keys},")).then(|| line.to_owned())
    }

    /// A connection to Redis of the caller's own, to where `key` is.
    ///
    /// # Errors
    /// As [`Cache::pass`].
    pub async fn line(&self, key: Option<&Key>, resp3: bool) -> Result<Line> {
        self.l2.line(key.map(|key| &**key), resp3).await
    }

    /// Tells who listens that a command of this name wrote a key.
    pub fn tell_wrote(&self, name: &str, key: &[u8]) {
        self.core.events.tell(super::events::Event::Wrote { name, key });
    }

    /// Why commands on other types than strings are refused here, if they are.
    #[must_use]
    pub fn refuses_other_types(&self) -> Option<&'static str> {
        match self.core.flavor {
            Flavor::Redis => None,
            Flavor::Embedded => Some("embedded"),
            Flavor::None => Some("none"),
        }
    }
}

/// Another primary of the cluster has the slot now; nothing was done.
fn is_moved(reply: &Bytes) -> bool {
    reply.starts_with(b"-MOVED ")
}

/// Waits until it is known where the keys are; `false` where that was tried often enough.
async fn follow(line: Line, redirections: &mut u32) -> bool {
    if *redirections == REDIRECTIONS_MAX {
        return false;
    }
    tokio::time::sleep(REDIRECTION_PAUSE * *redirections).await;
    *redirections += 1;
    line.look_elsewhere().await;
    true
}

/// A redirection within the cluster below is none of the client's business.
fn kept_here(reply: Bytes) -> Result<Bytes> {
    if is_moved(&reply) || reply.starts_with(b"-ASK ") {
        let message = "a key is in another part of the cluster, or moves there now; keys of one command or transaction \
                       must share a {tag}";
        return Err(CacheError::new(Kind::Unavailable, message));
    }
    Ok(reply)
}

/// APPEND within a limit. KEYS\[1\]; ARGV: suffix, most bytes. Replies as APPEND does, or with Terrace's error.
const APPEND_WITHIN: &[u8] = br"
local length = redis.pcall('STRLEN', KEYS[1])
if type(length) == 'table' then return length end
length = string.format('%.0f', length + #ARGV[1])
if tonumber(length) > tonumber(ARGV[2]) then
  return redis.error_reply('ERR value of ' .. length .. ' bytes exceeds max_value (' .. ARGV[2] .. ' bytes)')
end
return redis.call('APPEND', KEYS[1], ARGV[1])";

/// The words of a request that appends where the value then has no more than `length_max` (digits) bytes: in a
/// transaction nobody but Redis knows how long it is at that moment.
#[must_use]
pub fn append_within<'a>(key: &'a [u8], suffix: &'a [u8], length_max: &'a str) -> [&'a [u8]; 6] {
    [b"EVAL", APPEND_WITHIN, b"1", key, suffix, length_max.as_bytes()]
}

/// A request of these words in Redis's protocol.
#[must_use]
pub fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}
