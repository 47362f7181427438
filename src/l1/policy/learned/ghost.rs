//! Fingerprints of keys that went: how often and when each was last used.
//!
//! A table of sets of eight places, twice as many places as the shard has entries. A new ghost takes an empty place of
//! its set, else that of the oldest. It is made when the first entry goes and made anew when the number of entries has
//! changed much: what it knew is lost then, which costs a few misses.

use fastrand::Rng;

/// Places of a set: one cache line.
const WAYS: usize = 8;
/// Places per cached entry.
const PLACES_PER_ENTRY: usize = 2;
/// What the table costs per cached entry.
pub(super) const BYTES_PER_ENTRY: u64 = (PLACES_PER_ENTRY * size_of::<u64>()) as u64;

/// What is known of a key that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) count: u32,
    pub(super) last: u32,
}

/// The ghosts of a shard. A place holds fingerprint (28 bits, never 0), count (4) and last use (32); 0 is empty.
#[derive(Default)]
pub(super) struct Ghost {
    places: Vec<u64>,
}

impl Ghost {
    /// The places of a hash; none while there is no table.
    fn set_of(&mut self, hash: u32) -> &mut [u64] {
        let sets = self.places.len() / WAYS;
        let set = ((u64::from(hash) * sets as u64) >> 32) as usize;
        self.places.get_mut(set * WAYS..(set + 1) * WAYS).unwrap_or_default()
    }

    fn print(hash: u32) -> u64 {
        u64::from(hash & 0x0FFF_FFFF).max(1) << 36
    }

    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// Removes the ghost of a key that comes back, and tells what it knew.
    pub(super) fn take(&mut self, hash: u32, _tick: u32) -> Option<Seen> {
        let place = self.set_of(hash).iter_mut().find(|place| **place >> 36 == Self::print(hash) >> 36)?;
        Some(unpack(std::mem::take(place)))
    }

    /// Notes a key that went; `entries` is how many the shard holds.
    pub(super) fn put(&mut self, hash: u32, seen: Seen, tick: u32, entries: usize) {
        self.fit(entries);
        let age = |place: &u64| if *place == 0 { u32::MAX } else { tick.wrapping_sub(unpack(*place).last) };
        let oldest = self.set_of(hash).iter_mut().max_by_key(|place| age(place));
        if let Some(place) = oldest {
            *place = Self::print(hash) | u64::from(seen.count & 0xF) << 32 | u64::from(seen.last);
        }
    }

    /// Any place; what it holds.
    pub(super) fn draw(&self, rng: &mut Rng) -> Option<Seen> {
        let place = *self.places.get(rng.usize(..self.places.len().max(1)))?;
        (place != 0).then(|| unpack(place))
    }

    /// Makes the table anew when it is far too small or large.
    fn fit(&mut self, entries: usize) {
        let wanted = (entries * PLACES_PER_ENTRY).next_multiple_of(WAYS).max(WAYS);
        if wanted > self.places.len() + self.places.len() / 2 || wanted < self.places.len() / 4 {
            self.places = vec![0; wanted];
        }
    }

    pub(super) fn validate(&self, _entries: usize) -> Result<(), String> {
        if self.places.len().is_multiple_of(WAYS) { Ok(()) } else { Err("a set of ghosts is not whole".to_owned()) }
    }
}

fn unpack(place: u64) -> Seen {
    Seen { count: (place >> 32 & 0xF) as u32, last: place as u32 }
}
