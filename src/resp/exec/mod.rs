//! What the commands do, one function each, by subject. Each checks, converts, calls the facade, converts.

pub(super) mod catalog;
pub(super) mod client;
pub(super) mod connection;
pub(super) mod expiry;
pub(super) mod info;
pub(super) mod keys;
pub(super) mod numbers;
pub(super) mod server;
pub(super) mod strings;

use super::{command::Context, frame::Args, reply::Refusal};
use crate::{
    cache::{Applied, Described, Op, op},
    error::{CacheError, Kind, Result},
    model::{Key, Life},
};

/// Most keys of one call of the facade: bounds what one command holds in memory at a time.
const KEYS_PER_CALL_MAX: usize = 1000;

/// The database that shows this node's L1.
const DB_L1: u8 = 1;
/// How many databases there are.
pub(super) const DATABASES: i64 = 2;

/// A 64-bit integer as Redis accepts one.
fn integer(text: &[u8]) -> std::result::Result<i64, Refusal> {
    op::parse_integer(text).ok_or(Refusal::NotAnInteger)
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
    /// Refuses what changes something where L1 is shown.
    fn must_be_logical(&self) -> std::result::Result<(), Refusal> {
        if self.session.db == DB_L1 {
            return Err(Refusal::text("ERR db 1 shows L1, write to db 0"));
        }
        Ok(())
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
        if self.session.db == DB_L1 {
            return Ok(keys.iter().map(|key| self.describe_resident(key)).collect());
        }
        self.edge.cache.describe(&keys).await.into_iter().map(|info| info.below).collect()
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
        })
    }
}
