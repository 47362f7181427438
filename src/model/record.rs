//! One entry of L1 in one allocation: key, value, and the few words that belong to them.
//!
//! It lies here, below `l1`, because a [`Value`](super::Value) may be a view into it: an answer then shares the
//! entry's memory, and nothing is copied before the socket buffer. Its layout is counted: 32 bytes beside key and
//! value (reference count, length, two words of notes), then whatever the allocator rounds up.
//!
//! The words are atomics with relaxed order: they change under L1's shard lock, or are approximate by design.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use smallvec::SmallVec;
use triomphe::ThinArc;

use crate::clock::Tick;

/// A key and its value in one reference-counted allocation.
#[derive(Clone)]
pub(crate) struct Record(ThinArc<Notes, u8>);

/// Bytes of an allocation beside key and value: reference count, length and [`Notes`].
const FIXED_BYTES: u64 = 32;

/// What is kept of an entry beside key and value and is not needed to choose a victim.
struct Notes {
    /// From the low end: length of the key less one (16 bits), [`Record::fraction`] (4), expiry in ms (44).
    life: AtomicU64,
    /// From the low end: last use (15 bits, [`Span15`]), hits (13, [`Hits13`]), birth in ms (36, wraps after two years).
    uses: AtomicU64,
}

const EXPIRY_BITS: u32 = 44;
const BIRTH_BITS: u32 = 36;
const BIRTH_MASK: u64 = (1 << BIRTH_BITS) - 1;

impl Record {
    /// Copies key (1 to 65,536 bytes) and value into memory of their own.
    pub(crate) fn new(key: &[u8], value: &[u8], born_at: Tick) -> Self {
        let mut joined = SmallVec::<[u8; 512]>::with_capacity(key.len() + value.len());
        joined.extend_from_slice(key);
        joined.extend_from_slice(value);
        let key_length = (key.len() as u64).wrapping_sub(1) & 0xFFFF;
        let notes = Notes {
            life: AtomicU64::new(key_length | pack_expiry(Tick::FAR)),
            uses: AtomicU64::new((born_at.0 & BIRTH_MASK) << 28),
        };
        Self(ThinArc::from_header_and_slice(notes, &joined))
    }

    /// What an allocation for this key and value takes, rounded up as the allocator does.
    pub(crate) fn weigh(key_bytes: usize, value_bytes: usize) -> u64 {
        allocated_bytes(FIXED_BYTES + key_bytes as u64 + value_bytes as u64)
    }

    #[inline]
    fn key_length(&self) -> usize {
        (self.notes().life.load(Relaxed) & 0xFFFF) as usize + 1
    }

    #[inline]
    fn notes(&self) -> &Notes {
        &self.0.header.header
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        &self.0.slice[..self.key_length()]
    }

    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        &self.0.slice[self.key_length()..]
    }

    /// What this record's allocation takes.
    pub(crate) fn weight(&self) -> u64 {
        allocated_bytes(FIXED_BYTES + self.0.slice.len() as u64)
    }

    /// When the key itself expires.
    #[inline]
    pub(crate) fn expires_at(&self) -> Tick {
        let ms = self.notes().life.load(Relaxed) >> 20;
        if ms == (1 << EXPIRY_BITS) - 1 { Tick::FAR } else { Tick(ms) }
    }

    /// Low four bits of the copy's deadline in ms; the rest stands in the slot.
    #[inline]
    pub(crate) fn fraction(&self) -> u64 {
        self.notes().life.load(Relaxed) >> 16 & 0xF
    }

    /// Sets expiry and fraction. Only under the exclusive lock of the shard.
    pub(crate) fn set_life(&self, expires_at: Tick, fraction: u64) {
        let life = &self.notes().life;
        let key_length = life.load(Relaxed) & 0xFFFF;
        life.store(key_length | (fraction & 0xF) << 16 | pack_expiry(expires_at), Relaxed);
    }

    /// When the copy was made; `now` is any later time.
    #[inline]
    pub(crate) fn born_at(&self, now: Tick) -> Tick {
        let born = self.notes().uses.load(Relaxed) >> 28;
        Tick(now.0.saturating_sub(now.0.wrapping_sub(born) & BIRTH_MASK))
    }

    /// Reads answered with it: exact to 4,096, then approximate.
    #[inline]
    pub(crate) fn hits(&self) -> u32 {
        Hits13((self.notes().uses.load(Relaxed) >> 15 & 0x1FFF) as u32).count()
    }

    /// Last use, to a thousandth of the copy's age.
    pub(crate) fn used_at(&self, now: Tick) -> Tick {
        let used = Span15((self.notes().uses.load(Relaxed) & 0x7FFF) as u32);
        Tick(self.born_at(now).0.saturating_add(used.ms()))
    }

    /// Counts one use. A concurrent one may be lost.
    #[inline]
    pub(crate) fn note_use(&self, now: Tick) {
        let word = &self.notes().uses;
        let uses = word.load(Relaxed);
        let age_ms = now.0.wrapping_sub(uses >> 28) & BIRTH_MASK;
        let hits = Hits13((uses >> 15 & 0x1FFF) as u32).stepped();
        let next = uses & BIRTH_MASK << 28 | u64::from(hits.0) << 15 | u64::from(Span15::of(age_ms).0);
        word.store(next, Relaxed);
    }
}

/// An expiry in the high bits of a word; what does not fit (557 years of uptime) is as good as never.
fn pack_expiry(at: Tick) -> u64 {
    at.0.min((1 << EXPIRY_BITS) - 1) << 20
}

/// A count in 13 bits: exact to 4,096, then one step in 1,024.
#[derive(Clone, Copy)]
struct Hits13(u32);

impl Hits13 {
    const EXACT: u32 = 4_096;
    const STEP: u32 = 1_024;
    const MAX: u32 = 0x1FFF;

    #[inline]
    fn count(self) -> u32 {
        if self.0 < Self::EXACT { self.0 } else { Self::EXACT + (self.0 - Self::EXACT) * Self::STEP }
    }

    #[inline]
    fn stepped(self) -> Self {
        if self.0 < Self::EXACT || (self.0 < Self::MAX && fastrand::u32(..Self::STEP) == 0) {
            return Self(self.0 + 1);
        }
        self
    }
}

/// A span of milliseconds in 15 bits, rounded down: 10 bits of mantissa, 5 of exponent.
#[derive(Clone, Copy)]
struct Span15(u32);

impl Span15 {
    #[inline]
    fn of(ms: u64) -> Self {
        let bits = 64 - ms.leading_zeros();
        if bits <= 10 {
            return Self(ms as u32);
        }
        let shift = bits - 11;
        Self((shift + 1) << 10 | (ms >> shift) as u32 & 0x3FF)
    }

    fn ms(self) -> u64 {
        let (exponent, mantissa) = (self.0 >> 10, u64::from(self.0 & 0x3FF));
        if exponent == 0 { mantissa } else { (mantissa | 0x400) << (exponent - 1) }
    }
}

/// Size class of an allocation: multiples of 16 up to 128, then four classes a doubling (jemalloc's; mimalloc's are
/// not coarser).
fn allocated_bytes(bytes: u64) -> u64 {
    let step = if bytes <= 128 { 16 } else { 1 << (61 - (bytes - 1).leading_zeros()) };
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_those_of_the_allocator() {
        for (bytes, class) in [
            (1, 16),
            (112, 112),
            (113, 128),
            (128, 128),
            (129, 160),
            (160, 160),
            (161, 192),
            (256, 256),
            (257, 320),
            (4_128, 5_120),
            (16_384, 16_384),
            (16_385, 20_480),
        ] {
            assert_eq!(allocated_bytes(bytes), class, "{bytes}");
        }
    }

    #[test]
    fn notes_keep_what_they_are_given() {
        let record = Record::new(b"key", b"value", Tick(5_000));
        assert_eq!((record.key(), record.value()), (&b"key"[..], &b"value"[..]));
        assert_eq!(record.expires_at(), Tick::FAR);
        record.set_life(Tick(77_777), 9);
        assert_eq!((record.expires_at(), record.fraction()), (Tick(77_777), 9));
        record.note_use(Tick(5_900));
        let now = Tick(9_000);
        assert_eq!((record.born_at(now), record.used_at(now), record.hits()), (Tick(5_000), Tick(5_900), 1));
        assert_eq!((record.key(), record.value()), (&b"key"[..], &b"value"[..]));
    }

    #[test]
    fn the_longest_key_and_an_empty_value_fit() {
        let key = vec![7; crate::model::KEY_MAX_BYTES];
        let record = Record::new(&key, b"", Tick(1));
        assert_eq!((record.key().len(), record.value().len()), (key.len(), 0));
    }

    #[test]
    fn spans_are_right_to_a_thousandth() {
        for ms in [0, 1, 1_023, 1_024, 1_025, 60_000, 86_400_000, BIRTH_MASK] {
            let back = Span15::of(ms).ms();
            assert!(back <= ms && ms - back <= ms / 1_000, "{ms} came back as {back}");
        }
    }
}
