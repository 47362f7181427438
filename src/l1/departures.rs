//! What a shard remembers of entries that left: why, when, and when they had been used last. For whoever asks why a read was
//! not answered by L1; nothing else depends on it.
//!
//! A table by hash, in which a later departure takes the place of the earliest of [`WAYS`]: [`KEPT`] a shard at most, and two
//! keys are taken for one if all 32 bits of their hashes are alike, one time in millions. It is made with the first departure.

use super::types::{Departure, Left};
use crate::{clock::Tick, model::Record};

/// Departures that a shard remembers: 16 KB.
const KEPT: usize = 512;
/// Places that a departure may have.
const WAYS: usize = 4;

/// One of them. Times as short as they may be: it is written with each eviction.
#[derive(Clone, Copy)]
struct Kept {
    hash: u32,
    left: Left,
    at: Tick,
    filled_at: Tick,
    /// [`Tick::ZERO`]: no read was ever answered with it.
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

    /// An entry left.
    pub(super) fn note(&mut self, hash: u32, record: &Record, left: Left, at: Tick) {
        if self.0.is_empty() {
            self.0 = vec![None; KEPT].into();
        }
        let used_at = if record.hits() > 0 { record.used_at(at) } else { Tick::ZERO };
        let rank = |kept: &Option<Kept>| kept.map(|kept| (kept.hash != hash, kept.at));
        // Its own, else a free one, else the earliest.
        let place = self.0[Self::places(hash)].iter_mut().min_by_key(|kept| match rank(kept) {
            Some((false, _)) => (0, Tick::ZERO),
            None => (1, Tick::ZERO),
            Some((true, at)) => (2, at),
        });
        if let Some(place) = place {
            *place = Some(Kept { hash, left, at, filled_at: record.born_at(at), used_at });
        }
    }

    /// The last departure of an entry with this hash, as far as is remembered.
    pub(super) fn find(&self, hash: u32) -> Option<Departure> {
        let kept = *self.0.get(Self::places(hash))?.iter().flatten().find(|kept| kept.hash == hash)?;
        let used_at = Some(kept.used_at).filter(|at| *at != Tick::ZERO);
        Some(Departure { left: kept.left, at: kept.at, filled_at: kept.filled_at, used_at })
    }
}
