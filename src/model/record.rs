//! One entry of L1 in one allocation: key, value, and the few words that belong to them.
//!
//! It lies here, below `l1`, because a [`Value`](super::Value) may be a view into it: an answer then shares the
//! entry's memory, and nothing is copied before the socket buffer. Its layout is counted: 33 bytes beside key and
//! value (reference count, length, two words of notes, the key group), then whatever the allocator rounds up.
//!
//! The words are atomics with relaxed order: they change under L1's shard lock, or are approximate by design.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use triomphe::ThinArc;

use crate::clock::Tick;

/// A key, the number of its group, and its value in one reference-counted allocation.
#[derive(Clone)]
pub(crate) struct Record(ThinArc<Notes, u8>);

/// Bytes of an allocation before its slice: reference count, length and [`Notes`].
const FIXED_BYTES: u64 = 32;
/// The group stands between key and value: a hit, which has compared the key, finds it in the same cache line.
const GROUP_BYTES: usize = 1;

/// What is kept of an entry beside key and value and is not needed to choose a victim.
struct Notes {
    /// From the low end: length of the key less one (16 bits), high half of the span (6), expiry in ms (42).
    life: AtomicU64,
    /// From the low end: last use as a float of the copy's age (11 bits), hits (11, [`Hits11`]), low half of the span (6),
    /// birth in ms (36, wraps after two years). The span is the bound on the copy's age as a float.
    uses: AtomicU64,
}

const EXPIRY_SHIFT: u32 = 22;
const EXPIRY_MAX: u64 = (1 << 42) - 1;
const BIRTH_SHIFT: u32 = 28;
const BIRTH_MASK: u64 = (1 << 36) - 1;
const HITS_SHIFT: u32 = 11;
/// Mantissa of a last use, 11 bits with the exponent: right to a 64th.
const USED_MANTISSA: u32 = 6;
/// Mantissa of a span, 12 bits with the exponent: right to a 128th.
const SPAN_MANTISSA: u32 = 7;
/// The span of a copy without a bound on its age.
const SPAN_NONE: u64 = (1 << 12) - 1;

/// When a copy ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime {
    /// When the key itself expires.
    pub(crate) expires_at: Tick,
    /// When the copy ends, if that is earlier. It may end up to a 128th of its age earlier than told, never later.
    pub(crate) deadline: Tick,
}

impl Record {
    /// Copies key (1 to 65,536 bytes) and value into memory of their own.
    pub(crate) fn new(key: &[u8], group: u8, value: &[u8], life: Lifetime, born_at: Tick) -> Self {
        let key_length = (key.len() as u64).wrapping_sub(1) & 0xFFFF;
        let uses = (born_at.0 & BIRTH_MASK) << BIRTH_SHIFT;
        let notes = Notes { life: AtomicU64::new(key_length), uses: AtomicU64::new(uses) };
        let record = Self(joined(notes, key, group, value));
        record.set_life(life);
        record
    }

    /// What an allocation for this key and value takes, rounded up as the allocator does.
    pub(crate) fn weigh(key_bytes: usize, value_bytes: usize) -> u64 {
        allocated_bytes(FIXED_BYTES + (key_bytes + GROUP_BYTES + value_bytes) as u64)
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
        &self.0.slice[self.key_length() + GROUP_BYTES..]
    }

    /// Number of the key group it was counted to when it came in.
    #[inline]
    pub(crate) fn group(&self) -> u8 {
        self.0.slice[self.key_length()]
    }

    /// What this record's allocation takes.
    pub(crate) fn weight(&self) -> u64 {
        allocated_bytes(FIXED_BYTES + self.0.slice.len() as u64)
    }

    /// When the key itself expires.
    #[inline]
    pub(crate) fn expires_at(&self) -> Tick {
        let ms = self.notes().life.load(Relaxed) >> EXPIRY_SHIFT;
        if ms == EXPIRY_MAX { Tick::FAR } else { Tick(ms) }
    }

    /// Bound on the copy's age in ms, if it has one.
    #[inline]
    fn span_ms(&self) -> Option<u64> {
        let notes = self.notes();
        let span = (notes.life.load(Relaxed) >> 16 & 0x3F) << 6 | notes.uses.load(Relaxed) >> 22 & 0x3F;
        (span != SPAN_NONE).then(|| expand::<SPAN_MANTISSA>(span))
    }

    /// Whether the copy has ended: exact, whatever time has passed without anybody looking.
    #[inline]
    pub(crate) fn is_over(&self, now: Tick) -> bool {
        now >= self.expires_at() || self.span_ms().is_some_and(|span| self.age_ms(now) >= span)
    }

    /// When the copy ends.
    pub(crate) fn deadline(&self, now: Tick) -> Tick {
        let by_age = self.span_ms().map_or(Tick::FAR, |span| Tick(self.born_at(now).0 + span));
        by_age.min(self.expires_at())
    }

    /// Sets when the copy ends. Only under the exclusive lock of the shard, or before anybody else sees it.
    pub(crate) fn set_life(&self, life: Lifetime) {
        // What does not fit, 139 years of uptime, is as good as never.
        let expiry = life.expires_at.0.min(EXPIRY_MAX) << EXPIRY_SHIFT;
        let Notes { life: low, uses } = self.notes();
        let (key_length, others) = (low.load(Relaxed) & 0xFFFF, uses.load(Relaxed) & !(0x3F << 22));
        let born = others >> BIRTH_SHIFT;
        let span = if life.deadline < life.expires_at {
            compress::<SPAN_MANTISSA>(life.deadline.0.wrapping_sub(born) & BIRTH_MASK).min(SPAN_NONE - 1)
        } else {
            SPAN_NONE
        };
        low.store(key_length | (span >> 6) << 16 | expiry, Relaxed);
        uses.store(others | (span & 0x3F) << 22, Relaxed);
    }

    #[inline]
    fn age_ms(&self, now: Tick) -> u64 {
        now.0.wrapping_sub(self.notes().uses.load(Relaxed) >> BIRTH_SHIFT) & BIRTH_MASK
    }

    /// When the copy was made; `now` is any later time.
    #[inline]
    pub(crate) fn born_at(&self, now: Tick) -> Tick {
        Tick(now.0.saturating_sub(self.age_ms(now)))
    }

    /// Reads answered with it: exact to 1,024, then approximate.
    #[inline]
    pub(crate) fn hits(&self) -> u32 {
        Hits11((self.notes().uses.load(Relaxed) >> HITS_SHIFT & 0x7FF) as u32).count()
    }

    /// Last use, to a 64th of the copy's age.
    pub(crate) fn used_at(&self, now: Tick) -> Tick {
        let after_ms = expand::<USED_MANTISSA>(self.notes().uses.load(Relaxed) & 0x7FF);
        Tick(self.born_at(now).0.saturating_add(after_ms).min(now.0))
    }

    /// Counts one use. A concurrent one may be lost.
    #[inline]
    pub(crate) fn note_use(&self, now: Tick) {
        let word = &self.notes().uses;
        let uses = word.load(Relaxed);
        let age_ms = now.0.wrapping_sub(uses >> BIRTH_SHIFT) & BIRTH_MASK;
        let hits = Hits11((uses >> HITS_SHIFT & 0x7FF) as u32).stepped();
        let kept = uses & !((1 << 22) - 1);
        word.store(kept | u64::from(hits.0) << HITS_SHIFT | compress::<USED_MANTISSA>(age_ms), Relaxed);
    }
}

/// Entries up to this are put together on the stack, bytes.
const ON_STACK_BYTES: usize = 256;

/// Entries up to this are put together in a buffer that each thread keeps, bytes.
const SCRATCH_BYTES: usize = 64 << 10;

/// Key and value in one allocation: a slice is all that can be copied into it.
fn joined(notes: Notes, key: &[u8], group: u8, value: &[u8]) -> ThinArc<Notes, u8> {
    let length = key.len() + GROUP_BYTES + value.len();
    if length <= ON_STACK_BYTES {
        let mut joined = [0; ON_STACK_BYTES];
        joined[..key.len()].copy_from_slice(key);
        joined[key.len()] = group;
        joined[key.len() + GROUP_BYTES..length].copy_from_slice(value);
        return ThinArc::from_header_and_slice(notes, &joined[..length]);
    }
    if length > SCRATCH_BYTES {
        return ThinArc::from_header_and_slice(notes, &[key, &[group], value].concat());
    }
    SCRATCH.with_borrow_mut(|joined| {
        joined.clear();
        joined.extend_from_slice(key);
        joined.push(group);
        joined.extend_from_slice(value);
        ThinArc::from_header_and_slice(notes, joined)
    })
}

thread_local! {
    /// Where larger entries are put together, so that this takes no allocation beside their own.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A count in 11 bits: exact to 1,024, then one step in 256.
#[derive(Clone, Copy)]
struct Hits11(u32);

impl Hits11 {
    const EXACT: u32 = 1_024;
    const STEP: u32 = 256;
    const MAX: u32 = 0x7FF;

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

/// Milliseconds (36 bits) as a float with a mantissa of so many bits and an exponent of five, rounded down.
#[inline]
fn compress<const MANTISSA: u32>(ms: u64) -> u64 {
    let bits = 64 - ms.leading_zeros();
    if bits <= MANTISSA {
        return ms;
    }
    let shift = bits - MANTISSA - 1;
    u64::from(shift + 1) << MANTISSA | ms >> shift & ((1 << MANTISSA) - 1)
}

/// What [`compress`] was given, rounded down.
#[inline]
fn expand<const MANTISSA: u32>(float: u64) -> u64 {
    let (exponent, mantissa) = (float >> MANTISSA, float & ((1 << MANTISSA) - 1));
    if exponent == 0 { mantissa } else { (mantissa | 1 << MANTISSA) << (exponent - 1) }
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

    const FOREVER: Lifetime = Lifetime { expires_at: Tick::FAR, deadline: Tick::FAR };

    #[test]
    fn notes_keep_what_they_are_given() {
        let record = Record::new(b"key", 9, b"value", FOREVER, Tick(5_000));
        assert_eq!((record.key(), record.group(), record.value()), (&b"key"[..], 9, &b"value"[..]));
        assert_eq!((record.expires_at(), record.deadline(Tick(6_000))), (Tick::FAR, Tick::FAR));
        record.set_life(Lifetime { expires_at: Tick(77_777), deadline: Tick(77_777) });
        assert_eq!((record.expires_at(), record.deadline(Tick(6_000))), (Tick(77_777), Tick(77_777)));
        record.note_use(Tick(5_900));
        let now = Tick(9_000);
        assert_eq!((record.born_at(now), record.hits()), (Tick(5_000), 1));
        assert!((5_886..=5_900).contains(&record.used_at(now).0));
        assert_eq!((record.key(), record.value()), (&b"key"[..], &b"value"[..]));
        (0..1_000).for_each(|_| record.note_use(now));
        assert_eq!((record.hits(), record.expires_at()), (1_001, Tick(77_777)));
    }

    #[test]
    fn a_copy_ends_with_its_key_to_the_millisecond_and_by_age_not_later() {
        for (born, expires, deadline) in
            [(10, 1_005, 1_005), (10, 9_999, 1_005), (1 << 40, u64::MAX, (1 << 40) + 60_000)]
        {
            let life = Lifetime { expires_at: Tick(expires), deadline: Tick(deadline) };
            let record = Record::new(b"key", 0, b"", life, Tick(born));
            let end = record.deadline(Tick(deadline)).0;
            assert!(end <= deadline && deadline - end <= (deadline - born) / 128, "{end} of {deadline}");
            assert!(expires != deadline || end == deadline);
            assert!(!record.is_over(Tick(end - 1)) && record.is_over(Tick(end)));
            assert!(record.is_over(Tick(end + 86_400_000)), "a day later, unseen");
        }
    }

    #[test]
    fn the_longest_key_and_an_empty_value_fit() {
        let key = vec![7; crate::model::KEY_MAX_BYTES];
        let record = Record::new(&key, 255, b"", FOREVER, Tick(1));
        assert_eq!((record.key().len(), record.group(), record.value().len()), (key.len(), 255, 0));
    }

    #[test]
    fn floats_are_right_to_their_mantissa() {
        for ms in [0, 1, 63, 64, 65, 127, 128, 1_023, 60_000, 86_400_000, BIRTH_MASK] {
            let back = expand::<USED_MANTISSA>(compress::<USED_MANTISSA>(ms));
            assert!(back <= ms && ms - back <= ms / 64, "{ms} came back as {back}");
            let packed = compress::<SPAN_MANTISSA>(ms);
            let back = expand::<SPAN_MANTISSA>(packed);
            assert!(back <= ms && ms - back <= ms / 128 && packed < SPAN_NONE, "{ms} came back as {back}");
        }
    }
}
