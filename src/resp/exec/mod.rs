//! Implementations of the commands, one function per command, by subject. Each function checks and converts the
//! arguments, calls the cache and converts the result.

mod absent;
pub(super) mod acl;
pub(super) mod catalog;
pub(super) mod client;
pub(super) mod config;
pub(super) mod connection;
pub(super) mod docs;
pub(super) mod element_scan;
pub(super) mod expiry;
pub(super) mod explain;
pub(super) mod info;
pub(super) mod keys;
pub(super) mod latency;
pub(super) mod lcs;
pub(super) mod leases;
pub(super) mod memory;
pub(super) mod monitor;
pub(super) mod multi_key;
pub(super) mod numbers;
pub(super) mod object;
pub(super) mod pass_through;
pub(super) mod pubsub;
pub(super) mod scripts;
pub(super) mod server;
pub(super) mod slowlog;
pub(super) mod strings;
pub(super) mod terrace;
pub(super) mod transaction;

use std::time::Duration;

use super::{command::Context, frame::Args, reply::Refusal, session::DB_LEARNED};
use crate::{
    cache::{Applied, Described, Flavor, Op, op},
    error::{CacheError, Kind, Result},
    model::{Key, Life},
};

/// Maximum number of keys that a command sends to L2 in one call. Commands with more keys use several calls.
const KEYS_PER_CALL_MAX: usize = 1000;

/// Maximum time for which KEYS or PUBSUB CHANNELS runs within a transaction over the embedded store or without L2. The
/// transaction has exclusive access to the cache, so that other clients wait.
const EXCLUSIVE_LISTING_MAX: Duration = Duration::from_secs(1);

/// Database that shows the L1 of this node.
const DB_L1: u8 = 1;
/// Number of databases.
pub(super) const DATABASES: i64 = 3;

/// Parses a 64-bit integer as Redis does.
fn integer(text: &[u8]) -> std::result::Result<i64, Refusal> {
    op::parse_integer(text).ok_or(Refusal::NotAnInteger)
}

/// Returns `true` if Redis would encode this string as an integer.
fn op_integer(text: &[u8]) -> bool {
    op::parse_integer(text).is_some()
}

fn is(text: &[u8], word: &str) -> bool {
    text.eq_ignore_ascii_case(word.as_bytes())
}

fn keys_of(args: Args<'_>) -> Result<Vec<Key>> {
    args.iter().map(Key::copied).collect()
}

/// Returns the error for a result of the wrong kind.
fn mismatched() -> Refusal {
    CacheError::new(Kind::Internal, "internal error: result of another operation").into()
}

/// Runs a listing; within a transaction with exclusive access, for at most [`EXCLUSIVE_LISTING_MAX`].
async fn within_exec<T>(cx: &Context<'_>, listing: impl Future<Output = T>) -> std::result::Result<T, Refusal> {
    if !cx.session.in_exec || cx.edge.cache.flavor() == Flavor::Redis {
        return Ok(listing.await);
    }
    tokio::time::timeout(EXCLUSIVE_LISTING_MAX, listing).await.map_err(|_| {
        Refusal::text(format!(
            "ERR the listing takes longer than {EXCLUSIVE_LISTING_MAX:?}, during which a transaction blocks other clients; \
             run it outside of transactions"
        ))
    })
}

impl Context<'_> {
    /// Rejects writes in the databases that show L1 or the learned state.
    fn must_be_logical(&self) -> std::result::Result<(), Refusal> {
        match self.session.db {
            DB_L1 => Err(Refusal::text("ERR cannot write to db 1, which shows L1; use db 0")),
            DB_LEARNED => Err(Refusal::text("ERR cannot write to db 2, which shows the learned state; use db 0")),
            _ => Ok(()),
        }
    }

    /// Rejects commands that exist in db 0 only.
    fn check_main_db(&self) -> std::result::Result<(), Refusal> {
        let shown = match self.session.db {
            DB_L1 => "L1",
            DB_LEARNED => "the learned state",
            _ => return Ok(()),
        };
        let name = self.row.name.replace('|', " ").to_ascii_uppercase();
        let db = self.session.db;
        Err(Refusal::text(format!("ERR {name} is only available in db 0; db {db} shows {shown}")))
    }

    /// Applies a write to db 0.
    async fn write(&mut self, key: &[u8], op: Op) -> std::result::Result<Applied, Refusal> {
        self.must_be_logical()?;
        Ok(self.edge.cache.write(Key::copied(key)?, op).await?)
    }

    /// Applies a write that also returns the value. Counts as a read unless the client's reads are inspection.
    async fn read_and_write(&mut self, key: &[u8], op: Op) -> std::result::Result<Applied, Refusal> {
        if self.session.no_touch {
            return self.write(key, op).await;
        }
        self.must_be_logical()?;
        Ok(self.edge.cache.read_and_write(Key::copied(key)?, op).await?)
    }

    /// Describes a key of the selected database. Does not count as a read.
    async fn describe(&self, key: &[u8]) -> Result<Option<Described>> {
        let mut described = self.describe_many(vec![Key::copied(key)?]).await?;
        Ok(described.pop().flatten())
    }

    /// Describes keys of the selected database. Does not count as a read.
    async fn describe_many(&self, keys: Vec<Key>) -> Result<Vec<Option<Described>>> {
        match self.session.db {
            DB_L1 => return Ok(keys.iter().map(|key| self.describe_resident(key)).collect()),
            DB_LEARNED => return Ok(keys.iter().map(|key| self.describe_learned(key)).collect()),
            _ => {}
        }
        self.edge.cache.describe(&keys).await.into_iter().map(|info| info.l2).collect()
    }

    fn describe_learned(&self, key: &[u8]) -> Option<Described> {
        let object = self.edge.cache.learned(key)?;
        Some(Described {
            life: Life::Forever,
            expires_at_ms: None,
            size_bytes: object.len() as u64,
            type_name: crate::cache::TypeName::String,
            head: bytes::Bytes::new(),
        })
    }

    /// Describes the copy in L1. The TTL is the copy's, not the key's.
    fn describe_resident(&self, key: &[u8]) -> Option<Described> {
        let resident = self.edge.cache.resident(key)?;
        let clock = self.edge.cache.core().clock();
        let left = (resident.deadline != crate::clock::Tick::FAR).then(|| resident.deadline.since(clock.now()));
        Some(Described {
            life: left.map_or(Life::Forever, Life::For),
            expires_at_ms: left.map(|left| clock.unix().0 + crate::clock::millis(left)),
            size_bytes: resident.hit.value.len() as u64,
            type_name: crate::cache::TypeName::String,
            head: bytes::Bytes::new(),
        })
    }
}
