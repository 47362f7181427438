//! What the commands do, one function each, by subject. Each checks, converts, calls the facade, converts.

pub(super) mod acl;
pub(super) mod catalog;
pub(super) mod client;
pub(super) mod config;
pub(super) mod connection;
pub(super) mod docs;
pub(super) mod expiry;
pub(super) mod explain;
pub(super) mod info;
pub(super) mod keys;
pub(super) mod latency;
pub(super) mod lcs;
pub(super) mod memory;
pub(super) mod monitor;
pub(super) mod multi_key;
pub(super) mod numbers;
pub(super) mod object;
pub(super) mod pass_through;
pub(super) mod pubsub;
pub(super) mod server;
pub(super) mod slowlog;
pub(super) mod strings;
pub(super) mod terrace;
pub(super) mod transaction;

use super::{command::Context, frame::Args, reply::Refusal};
use crate::{
    cache::{Applied, Described, Op, op},
    error::{CacheError, Kind, Result},
    model::{Key, Life},
};

/// Maximum number of keys that a command sends to L2 in one call. Commands with more keys use several calls.
const KEYS_PER_CALL_MAX: usize = 1000;

/// The database that shows this node's L1.
const DB_L1: u8 = 1;
/// The database that shows what was learned.
const DB_LEARNED: u8 = 2;
/// How many databases there are.
pub(super) const DATABASES: i64 = 3;

/// A 64-bit integer as Redis accepts one.
fn integer(text: &[u8]) -> std::result::Result<i64, Refusal> {
    op::parse_integer(text).ok_or(Refusal::NotAnInteger)
}

/// Whether Redis would keep this string as a number.
fn op_integer(text: &[u8]) -> bool {
    op::parse_integer(text).is_some()
}

fn is(text: &[u8], word: &str) -> bool {
    text.eq_ignore_ascii_case(word.as_bytes())
}

fn keys_of(args: Args<'_>) -> Result<Vec<Key>> {
    args.iter().map(Key::copied).collect()
}

/// A result that does not belong to the operation that was asked for.
fn mismatched() -> Refusal {
    CacheError::new(Kind::Internal, "internal error: a result of another operation").into()
}

impl Context<'_> {
    /// Refuses what changes something where L1 or what was learned is shown.
    fn must_be_logical(&self) -> std::result::Result<(), Refusal> {
        match self.session.db {
            DB_L1 => Err(Refusal::text("ERR db 1 shows L1, write to db 0")),
            DB_LEARNED => Err(Refusal::text("ERR db 2 shows what was learned and is read-only")),
            _ => Ok(()),
        }
    }

    /// Applies one write to the logical view.
    async fn write(&mut self, key: &[u8], op: Op) -> std::result::Result<Applied, Refusal> {
        self.must_be_logical()?;
        Ok(self.edge.cache.write(Key::copied(key)?, op).await?)
    }

    /// Applies a write that is a read as well; counted as one unless the client's reads are inspection.
    async fn read_and_write(&mut self, key: &[u8], op: Op) -> std::result::Result<Applied, Refusal> {
        if self.session.no_touch {
            return self.write(key, op).await;
        }
        self.must_be_logical()?;
        Ok(self.edge.cache.read_and_write(Key::copied(key)?, op).await?)
    }

    /// Describes a key of the selected database; changes and counts nothing.
    async fn describe(&self, key: &[u8]) -> Result<Option<Described>> {
        let mut described = self.describe_many(vec![Key::copied(key)?]).await?;
        Ok(described.pop().flatten())
    }

    /// Describes keys of the selected database; changes and counts nothing.
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

    /// The copy in L1; its life is the copy's, not the key's.
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
