//! Departures: why and when entries left a shard, and when they were last used. They explain why L1 did not answer a
//! read; nothing else depends on them.
//!
//! A table by hash, in which a later departure replaces the earliest of [`WAYS`], with at most [`KEPT`] per shard. Two
//! keys whose 32-bit hashes are equal count as one, which is rare (about one in millions). The table is allocated with
//! the first departure.

use super::types::{Departure, Left};
use crate::{clock::Tick, model::Record};

/// Number of departures that a shard remembers: 16 KB.
const KEPT: usize = 512;
/// Number of places for one departure.
const WAYS: usize = 4;

/// One departure. Times are stored as small as possible, because each eviction writes one.
#[derive(Clone, Copy)]
struct Kept {
    hash: u32,
    left: Left,
    at: Tick,
    filled_at: Tick,
    /// [`Tick::ZERO`]: the entry was never read.
    used_at: Tick,
}

/// The departures of a shard.
#[derive(Default)]
pub(super) struct Departures(Box<[Option<Kept>]>);

impl Departures {
    fn places(hash: u32) -> std::ops::Range<usize> {
        let first = hash as usize % (KEPT / WAYS) * WAYS;
        first..first + WAYS
    }

    /// Notes that an entry left.
    pub(super) fn note(&mut self, hash: u32, record: &Record, left: Left, at: Tick) {
        if self.0.is_empty() {
            self.0 = vec![None; KEPT].into();
        }
        let used_at = if record.hits() > 0 { record.used_at(at) } else { Tick::ZERO };
        let rank = |kept: &Option<Kept>| kept.map(|kept| (kept.hash != hash, kept.at));
        // Uses the place of the same key, otherwise a free place, otherwise the earliest.
        let place = self.0[Self::places(hash)].iter_mut().min_by_key(|kept| match rank(kept) {
            Some((false, _)) => (0, Tick::ZERO),
            None => (1, Tick::ZERO),
            Some((true, at)) => (2, at),
        });
        if let Some(place) = place {
            *place = Some(Kept { hash, left, at, filled_at: record.born_at(at), used_at });
        }
    }

    /// Returns the last departure of an entry with this hash, if it is remembered.
    pub(super) fn find(&self, hash: u32) -> Option<Departure> {
        let kept = *self.0.get(Self::places(hash))?.iter().flatten().find(|kept| kept.hash == hash)?;
        let used_at = Some(kept.used_at).filter(|at| *at != Tick::ZERO);
        Some(Departure { left: kept.left, at: kept.at, filled_at: kept.filled_at, used_at })
    }
}
