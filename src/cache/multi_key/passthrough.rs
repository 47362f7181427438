//! Commands passed through to Redis unchanged, for types that Terrace does not implement itself.
//!
//! The keys that a command writes are treated as in any write: their copies are dropped before the command is sent and
//! again after it, on any outcome.

use std::time::Duration;

use bytes::Bytes;

use super::scripts::Turn;
use crate::{
    access::Verbs,
    cache::{Cache, invalidate::events::ChangeEvent, write::Dropped},
    error::{CacheError, Kind, Result},
    l2::{Flavor, RawConnection, bans::overtaken, text},
    learn::recorder::{Happened, Wrote},
    model::Key,
};

/// Maximum number of cluster redirections that a pass-through command follows.
const REDIRECTIONS_MAX: u32 = 8;
/// Pause before the second and each later redirection, multiplied by their number: the other nodes need time to learn
/// of the move.
const REDIRECTION_PAUSE: Duration = Duration::from_millis(50);

/// How a command is passed through.
#[derive(Debug, Clone)]
pub struct Passing {
    /// One of the command's keys: selects the server in a cluster.
    pub key: Option<Key>,
    /// All keys of the command.
    pub named: Vec<Key>,
    /// Keys that the command writes.
    pub written: Vec<Key>,
    /// True if the reply is requested in RESP3.
    pub resp3: bool,
    /// True if the command moves stored values unchanged, so that it may process values with headers.
    pub moves_whole: bool,
    /// True if the command may block for as long as the client specifies. It then needs its own connection.
    pub blocking: bool,
    /// True if the request runs scripts of clients: it is never repeated, and its deadline is `l2.script_timeout`.
    pub runs_script: bool,
}

impl Passing {
    /// Creates a request that writes nothing.
    #[must_use]
    pub fn question(key: Option<Key>, resp3: bool) -> Self {
        Self {
            named: key.iter().cloned().collect(),
            key,
            written: Vec::new(),
            resp3,
            moves_whole: true,
            blocking: false,
            runs_script: false,
        }
    }

    /// Creates a request that writes these keys, and moves stored values unchanged.
    #[must_use]
    pub fn write(written: Vec<Key>) -> Self {
        Self {
            key: written.first().cloned(),
            named: written.clone(),
            written,
            resp3: false,
            moves_whole: true,
            blocking: false,
            runs_script: false,
        }
    }
}

impl Cache {
    /// Sends one request in Redis's protocol to Redis and returns the reply, which may be an error reply.
    ///
    /// # Errors
    /// `Denied`; `Unsupported` if L2 is not Redis; `Unavailable` and `DeadlineExceeded` (nothing was written); `Unknown` (the
    /// command may have been executed); `Overloaded`.
    pub async fn pass(&self, request: &[u8], passing: Passing) -> Result<Bytes> {
        self.check_passing(&passing)?;
        let turn = self.script_turn(passing.runs_script).await?;
        let known = self.make_way(&passing).await?;
        let _dropped = (!passing.written.is_empty()).then(|| Dropped::new(&self.core, passing.written.clone()));
        let question = match passing.written.first() {
            Some(key) if !passing.blocking => self.l2.ban_question(key),
            Some(_) | None => None,
        };
        let mut replies = self.pass_on(request, question.as_deref(), &passing, &turn).await?;
        if question.is_some()
            && let Some(answer) = replies.pop()
        {
            match self.late(known, &answer, &passing.written).await? {
                Late::No => {}
                Late::Again if !passing.runs_script => replies = self.pass_on(request, None, &passing, &turn).await?,
                Late::Again | Late::Unknown => return Err(overtaken()),
            }
        }
        replies
            .pop()
            .ok_or_else(|| CacheError::new(Kind::Internal, "bug: a request to Redis has no reply"))
            .and_then(kept_here)
    }

    /// Checks the permissions for the keys of a request. The RESP port checks the verbs of each key more exactly.
    fn check_passing(&self, passing: &Passing) -> Result<()> {
        if self.principal.may_everywhere(Verbs::ALL) {
            return Ok(());
        }
        if passing.runs_script {
            self.principal.check_everywhere(Verbs::SCRIPT)?;
        }
        for key in &passing.named {
            match passing.written.contains(key) {
                true if self.principal.may_change(key) => {}
                true => return Err(self.principal.denied(Verbs::WRITE)),
                false => self.principal.check(Verbs::READ, key)?,
            }
        }
        Ok(())
    }

    /// Returns the effect of a newly received ban on a request that was executed.
    async fn late(&self, known: u64, answer: &[u8], written: &[Key]) -> Result<Late> {
        let cleared = self.l2.ban_answer(known, answer, written).await.map_err(|_| overtaken())?;
        Ok(match (cleared.is_empty(), cleared.values().all(|gone| *gone)) {
            (true, _) => Late::No,
            (false, true) => Late::Again,
            (false, false) => Late::Unknown,
        })
    }

    /// Sends a request to the server of its key. Returns the replies to the request and to `question`.
    async fn pass_on(
        &self,
        request: &[u8],
        question: Option<&[u8]>,
        passing: &Passing,
        turn: &Turn<'_>,
    ) -> Result<Vec<Bytes>> {
        let mut all = request.to_vec();
        all.extend_from_slice(question.unwrap_or_default());
        let count = 1 + usize::from(question.is_some());
        let mut redirections = 0;
        loop {
            let mut line = turn.connect(self.l2.raw_connection(passing.key.as_deref(), passing.resp3)).await?;
            let replies =
                if passing.blocking { line.ask_blocking(&all).await } else { turn.ask(&mut line, &all, count).await };
            // The question after the request may be redirected independently.
            let is_moved = replies.as_ref().is_ok_and(|replies| replies.first().is_some_and(is_moved));
            if is_moved && follow(line, &mut redirections).await {
                continue;
            }
            // A script may write keys that it does not declare.
            let writes = !passing.written.is_empty() || passing.runs_script;
            return replies.map_err(|error| match error.kind() == Kind::Unknown && !writes {
                true => CacheError::new(Kind::DeadlineExceeded, "Redis did not answer"),
                false => error,
            });
        }
    }

    /// Sends a transaction whose requests write these keys: MULTI, the requests, EXEC. Returns the reply of EXEC, or
    /// the error that rejected the transaction.
    ///
    /// # Errors
    /// As [`Cache::pass`].
    pub async fn pass_transaction(
        &self,
        line: Option<RawConnection>,
        requests: &[u8],
        count: usize,
        passing: Passing,
    ) -> Result<Bytes> {
        self.check_passing(&passing)?;
        let turn = self.script_turn(passing.runs_script).await?;
        let known = self.make_way(&passing).await?;
        let _dropped = (!passing.written.is_empty()).then(|| Dropped::new(&self.core, passing.written.clone()));
        let mut all = request(&[b"MULTI"]);
        all.extend_from_slice(requests);
        all.extend(request(&[b"EXEC"]));
        let question = passing.written.first().and_then(|key| self.l2.ban_question(key));
        all.extend_from_slice(question.as_deref().unwrap_or_default());
        let exec = Exec { requests: all, replies: count + 2 + usize::from(question.is_some()), at: count + 1 };
        let mut replies = match line {
            // The watched keys are watched on this connection.
            Some(mut line) => turn.ask(&mut line, &exec.requests, exec.replies).await?,
            None => self.ask_transaction(&exec, &passing, &turn).await?,
        };
        if question.is_some()
            && let Some(answer) = replies.pop()
        {
            match self.late(known, &answer, &passing.written).await? {
                Late::No => {}
                // The watched keys no longer matter, because the transaction was executed once.
                Late::Again if !passing.runs_script => {
                    replies = self.ask_transaction(&exec, &passing, &turn).await?;
                    replies.truncate(exec.at + 1);
                }
                Late::Again | Late::Unknown => return Err(overtaken()),
            }
        }
        let last = replies.pop().unwrap_or_default();
        // EXECABORT only reports that an error occurred earlier.
        match replies.into_iter().find(|reply| reply.starts_with(b"-")) {
            Some(error) if last.starts_with(b"-") => kept_here(error),
            Some(_) | None => Ok(last),
        }
    }

    /// Prepares the keys of a request: removes entries with invalid tags and from before open bans, and load leases.
    /// Returns the greatest known ban number.
    async fn make_way(&self, passing: &Passing) -> Result<u64> {
        // Without keys nothing depends on the bans, which cannot be read while a script occupies Redis.
        if passing.named.is_empty() && passing.runs_script {
            return Ok(0);
        }
        self.clear_dead(passing).await?;
        self.l2.clear_banned(&passing.named).await
    }

    /// Makes sure that a passed-through command sees no entries with invalid tags, and sees headers only if it moves
    /// values unchanged.
    async fn clear_dead(&self, passing: &Passing) -> Result<()> {
        if passing.moves_whole {
            self.bury_dead(&passing.named).await.map(drop)
        } else {
            self.refuse_heads(&passing.named).await
        }
    }

    /// Sends the transaction to the server of its keys. A redirected transaction was rejected as a whole.
    async fn ask_transaction(&self, exec: &Exec, passing: &Passing, turn: &Turn<'_>) -> Result<Vec<Bytes>> {
        let mut redirections = 0;
        loop {
            let mut line = turn.connect(self.l2.raw_connection(passing.key.as_deref(), passing.resp3)).await?;
            let replies = turn.ask(&mut line, &exec.requests, exec.replies).await?;
            let was_done = !replies.get(exec.at).is_some_and(|reply| reply.starts_with(b"-"));
            if was_done || !replies.iter().any(is_moved) || !follow(line, &mut redirections).await {
                return Ok(replies);
            }
        }
    }

    /// Returns the database line of Redis's INFO (`keys=...,expires=...`), if it covers exactly `keys` keys.
    pub async fn keyspace_of_redis(&self, keys: u64) -> Option<String> {
        let passing = Passing::question(None, false);
        let info = self.pass(&request(&[b"INFO", b"keyspace"]), passing.clone()).await.ok()?;
        let client = self.pass(&request(&[b"CLIENT", b"INFO"]), passing).await.ok()?;
        let (info, client) = (text(&info)?, text(&client)?);
        let client = String::from_utf8_lossy(&client).into_owned();
        let name = format!("db{}:", client.split(' ').find_map(|field| field.strip_prefix("db="))?);
        let info = String::from_utf8_lossy(&info).into_owned();
        let line = info.lines().find_map(|line| line.strip_prefix(&name))?.trim();
        // One server of a cluster knows only its own keys.
        line.starts_with(&format!("keys={keys},")).then(|| line.to_owned())
    }

    /// Returns a dedicated connection to the server of `key`.
    ///
    /// # Errors
    /// As [`Cache::pass`].
    pub async fn line(&self, key: Option<&Key>, resp3: bool) -> Result<RawConnection> {
        self.l2.raw_connection(key.map(|key| &**key), resp3).await
    }

    /// Emits the event that a command named `name` wrote a key.
    pub fn tell_wrote(&self, name: &str, key: &[u8]) {
        // Only Redis has pass-through commands. Other stores emit events where writes are applied.
        if self.core.flavor == Flavor::Redis {
            let what = match name {
                "del" | "rename_from" => Wrote::Deletion,
                "expire" | "persist" => Wrote::Lifetime,
                _ => Wrote::Value(None),
            };
            self.tap.record(key, Happened::Written(what), self.caller, self.now());
        }
        self.core.events.emit(ChangeEvent::Wrote { name, key });
    }

    /// Returns the reason why commands on types other than strings are refused, if they are.
    #[must_use]
    pub fn refuses_other_types(&self) -> Option<&'static str> {
        match self.core.flavor {
            Flavor::Redis => None,
            Flavor::Embedded => Some("embedded"),
            Flavor::None => Some("none"),
        }
    }
}

/// A transaction in the form in which it is sent.
struct Exec {
    requests: Vec<u8>,
    /// Expected number of replies.
    replies: usize,
    /// Index of the reply of EXEC.
    at: usize,
}

/// Effect of an unknown ban that was found during a request.
enum Late {
    /// The request is valid.
    No,
    /// The ban covers the written keys: the request is sent again.
    Again,
    /// Other clients have written these keys since the ban; the result is unknown.
    Unknown,
}

/// Returns whether the slot moved to another primary of the cluster. Nothing was executed.
fn is_moved(reply: &Bytes) -> bool {
    reply.starts_with(b"-MOVED ")
}

/// Waits until the location of the keys is known. Returns `false` after too many redirections.
async fn follow(line: RawConnection, redirections: &mut u32) -> bool {
    if *redirections == REDIRECTIONS_MAX {
        return false;
    }
    tokio::time::sleep(REDIRECTION_PAUSE * *redirections).await;
    *redirections += 1;
    line.look_elsewhere().await;
    true
}

/// Hides redirections within the Redis Cluster from clients.
fn kept_here(reply: Bytes) -> Result<Bytes> {
    if is_moved(&reply) || reply.starts_with(b"-ASK ") {
        let message = "a key is in another part of the cluster, or moves there now; keys of one command or transaction \
                       must share a {tag}";
        return Err(CacheError::new(Kind::Unavailable, message));
    }
    Ok(reply)
}

/// APPEND with a length limit. KEYS\[1\]; ARGV: suffix, maximum length in bytes. Replies as APPEND does, or with
/// Terrace's error.
const APPEND_WITHIN: &[u8] = br"
local length = redis.pcall('STRLEN', KEYS[1])
if type(length) == 'table' then return length end
length = string.format('%.0f', length + #ARGV[1])
if tonumber(length) > tonumber(ARGV[2]) then
  return redis.error_reply('ERR value of ' .. length .. ' bytes exceeds max_value (' .. ARGV[2] .. ' bytes)')
end
return redis.call('APPEND', KEYS[1], ARGV[1])";

/// Returns the arguments of a request that appends if the resulting value has at most `length_max` (digits) bytes. In a
/// transaction only Redis knows the length at that moment.
#[must_use]
pub fn append_within<'a>(key: &'a [u8], suffix: &'a [u8], length_max: &'a str) -> [&'a [u8]; 6] {
    [b"EVAL", APPEND_WITHIN, b"1", key, suffix, length_max.as_bytes()]
}

/// Returns a request with these arguments in Redis's protocol.
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
