//! One L1 entry in one allocation: key, value and metadata.
//!
//! It is defined here and not in `l1`, because a [`Value`](super::Value) may be a view into it: a response shares the
//! entry's memory, and nothing is copied before the socket buffer. The overhead is 33 bytes in addition to key and
//! value (reference count, length, two words of metadata, the key group), the rounding of the allocator, and its data about
//! the allocation.
//!
//! The metadata words are atomics with relaxed order: they change under L1's shard lock, or are approximate by design.

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
/// The group is stored between key and value. A hit has compared the key, so the group is in the same cache line.
const GROUP_BYTES: usize = 1;

/// Metadata of an entry that the choice of a victim does not need.
struct Notes {
    /// Bit fields from the low end: key length minus one (16 bits), high half of the span (6), expiry in ms (42).
    life: AtomicU64,
    /// Bit fields from the low end: last use as a float of the copy's age (11 bits), hits (11, [`Hits11`]), low half of
    /// the span (6), birth in ms (36, wraps after two years). The span is the limit on the copy's age as a float.
    uses: AtomicU64,
}

const EXPIRY_SHIFT: u32 = 22;
/// The stored expiry of a key that never expires.
const EXPIRY_MAX: u64 = (1 << 42) - 1;
/// The stored expiry of a key that expires later than the field can store, after 139 years of uptime.
const EXPIRY_BEYOND: u64 = EXPIRY_MAX - 1;
const BIRTH_SHIFT: u32 = 28;
const BIRTH_MASK: u64 = (1 << 36) - 1;
const HITS_SHIFT: u32 = 11;
/// Mantissa bits of the last use (11 bits with the exponent): accurate to 1/64.
const USED_MANTISSA: u32 = 6;
/// Mantissa bits of a span (12 bits with the exponent): accurate to 1/128.
const SPAN_MANTISSA: u32 = 7;
/// The span of a copy whose age is not limited.
const SPAN_NONE: u64 = (1 << 12) - 1;

/// The times at which a copy ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime {
    /// Time at which the key itself expires.
    pub(crate) expires_at: Tick,
    /// Time at which the copy ends, if that is earlier. It may end early by up to 1/128 of its age, never late.
    pub(crate) deadline: Tick,
}

impl Record {
    /// Copies the key (1 to 65,536 bytes) and the value into one allocation.
    pub(crate) fn new(key: &[u8], group: u8, value: &[u8], life: Lifetime, born_at: Tick) -> Self {
        let key_length = (key.len() as u64).wrapping_sub(1) & 0xFFFF;
        let uses = (born_at.0 & BIRTH_MASK) << BIRTH_SHIFT;
        let notes = Notes { life: AtomicU64::new(key_length), uses: AtomicU64::new(uses) };
        let record = Self(joined(notes, key, group, value));
        record.set_life(life);
        record
    }

    /// Returns the memory in bytes that a record of this key and value takes, with its share of the allocator's data.
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

    /// Returns the number of the key group that the entry was counted in when it was inserted.
    #[inline]
    pub(crate) fn group(&self) -> u8 {
        self.0.slice[self.key_length()]
    }

    /// Returns the memory in bytes that this record takes, with its share of the allocator's data.
    pub(crate) fn weight(&self) -> u64 {
        allocated_bytes(FIXED_BYTES + self.0.slice.len() as u64)
    }

    /// Returns the time at which the key itself expires.
    #[inline]
    pub(crate) fn expires_at(&self) -> Tick {
        let ms = self.notes().life.load(Relaxed) >> EXPIRY_SHIFT;
        if ms == EXPIRY_MAX { Tick::FAR } else { Tick(ms) }
    }

    /// Returns whether the key expires later than the record can store. The owner of the record then stores the expiry,
    /// and [`Record::expires_at`] is an earlier time that no clock reaches.
    #[inline]
    pub(crate) fn expires_beyond(&self) -> bool {
        self.notes().life.load(Relaxed) >> EXPIRY_SHIFT == EXPIRY_BEYOND
    }

    /// Returns a number that no other record has while this one or a clone of it exists.
    pub(crate) fn address(&self) -> usize {
        self.0.slice.as_ptr().addr()
    }

    /// Returns the limit on the copy's age in ms, if it has one.
    #[inline]
    fn span_ms(&self) -> Option<u64> {
        let notes = self.notes();
        let span = (notes.life.load(Relaxed) >> 16 & 0x3F) << 6 | notes.uses.load(Relaxed) >> 22 & 0x3F;
        (span != SPAN_NONE).then(|| expand::<SPAN_MANTISSA>(span))
    }

    /// Returns whether the copy has ended. The result is exact, however long the entry was not accessed.
    #[inline]
    pub(crate) fn is_over(&self, now: Tick) -> bool {
        now >= self.expires_at() || self.span_ms().is_some_and(|span| self.age_ms(now) >= span)
    }

    /// Returns the time at which the copy ends.
    pub(crate) fn deadline(&self, now: Tick) -> Tick {
        let by_age = self.span_ms().map_or(Tick::FAR, |span| Tick(self.born_at(now).0 + span));
        by_age.min(self.expires_at())
    }

    /// Sets the time at which the copy ends. Call it only under the exclusive lock of the shard, or before the record
    /// is shared.
    pub(crate) fn set_life(&self, life: Lifetime) {
        let expiry = match life.expires_at {
            Tick::FAR => EXPIRY_MAX,
            at => at.0.min(EXPIRY_BEYOND),
        } << EXPIRY_SHIFT;
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

    /// Returns the time at which the copy was made; `now` is any later time.
    #[inline]
    pub(crate) fn born_at(&self, now: Tick) -> Tick {
        Tick(now.0.saturating_sub(self.age_ms(now)))
    }

    /// Returns the number of reads answered with this copy: exact up to 1,024, then approximate.
    #[inline]
    pub(crate) fn hits(&self) -> u32 {
        Hits11((self.notes().uses.load(Relaxed) >> HITS_SHIFT & 0x7FF) as u32).count()
    }

    /// Returns the time of the last use, accurate to 1/64 of the copy's age.
    pub(crate) fn used_at(&self, now: Tick) -> Tick {
        let after_ms = expand::<USED_MANTISSA>(self.notes().uses.load(Relaxed) & 0x7FF);
        Tick(self.born_at(now).0.saturating_add(after_ms).min(now.0))
    }

    /// Counts one use. Concurrent uses may be lost.
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

/// Maximum size of an entry that is assembled on the stack.
const ON_STACK_BYTES: usize = 256;

/// Maximum size of an entry that is assembled in the thread's scratch buffer.
const SCRATCH_BYTES: usize = 64 << 10;

/// Joins key and value into one slice, because `ThinArc` can only copy a slice.
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
    /// Scratch buffer for larger entries, so that assembling an entry needs no second allocation.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A count in 11 bits: exact up to 1,024, then incremented with probability 1/256.
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

/// Encodes milliseconds (36 bits) as a float with a mantissa of `mantissa` bits and a five-bit exponent, rounded down.
#[inline]
fn compress<const MANTISSA: u32>(ms: u64) -> u64 {
    let bits = 64 - ms.leading_zeros();
    if bits <= MANTISSA {
        return ms;
    }
    let shift = bits - MANTISSA - 1;
    u64::from(shift + 1) << MANTISSA | ms >> shift & ((1 << MANTISSA) - 1)
}

/// Decodes the result of [`compress`]; the value is rounded down.
#[inline]
fn expand<const MANTISSA: u32>(float: u64) -> u64 {
    let (exponent, mantissa) = (float >> MANTISSA, float & ((1 << MANTISSA) - 1));
    if exponent == 0 { mantissa } else { (mantissa | 1 << MANTISSA) << (exponent - 1) }
}

/// Size of a page in bytes, as a power of two.
const PAGE_SHIFT: u32 = 12;
/// Bytes of jemalloc's data about a run of pages, and about each page of it.
const RUN_BYTES: u64 = 128;
const PAGE_ENTRY_BYTES: u64 = 8;

/// Returns the memory in bytes of an allocation: its size class, and its share of the allocator's data about the run of
/// pages that has only allocations of this class. mimalloc's data are not larger.
fn allocated_bytes(bytes: u64) -> u64 {
    let class = size_class(bytes);
    // A run is the shortest one that the class fills completely.
    let shift = class.trailing_zeros().min(PAGE_SHIFT);
    let (pages, allocations_shift) = (class >> shift, PAGE_SHIFT - shift);
    let run = RUN_BYTES + PAGE_ENTRY_BYTES * pages;
    class + run.div_ceil(1 << allocations_shift)
}

/// Returns the size class of an allocation: multiples of 16 up to 128, then four classes per doubling. These are
/// jemalloc's classes; mimalloc's are not coarser.
fn size_class(bytes: u64) -> u64 {
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
            assert_eq!(size_class(bytes), class, "{bytes}");
        }
    }

    #[test]
    fn the_data_of_the_allocator_is_shared_by_the_allocations_of_a_run() {
        for (class, share) in
            [(16, 1), (64, 3), (112, 1), (128, 5), (1_024, 34), (4_096, 136), (5_120, 42), (20_480, 168)]
        {
            assert_eq!(allocated_bytes(class), class + share, "{class}");
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
    fn an_expiry_beyond_the_field_is_not_never() {
        let at = |ms| Lifetime { expires_at: Tick(ms), deadline: Tick(ms) };
        for (ms, beyond) in
            [(1, false), ((1 << 42) - 3, false), ((1 << 42) - 2, true), (1 << 42, true), (1 << 63, true)]
        {
            let record = Record::new(b"key", 0, b"", at(ms), Tick(1));
            assert_eq!(record.expires_beyond(), beyond, "{ms}");
            assert_ne!(record.expires_at(), Tick::FAR, "{ms}");
            assert!(!record.is_over(Tick(0)), "{ms}");
        }
        assert!(!Record::new(b"key", 0, b"", FOREVER, Tick(1)).expires_beyond());
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
