//! One shard: entries, index, leases and policy, which change together under the lock of the shard.
//!
//! Invariants, checked by [`Shard::validate`]: each entry is in the index once, under the hash of its key. `bytes` is
//! the sum of the weights, in total and by group. There are no gaps between slots while the lock is free.

use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashMap;

use super::{
    departures::Departures,
    epochs::{Epoch, Epochs},
    hash::Hasher,
    index::{ENTRIES_MAX, Index},
    lease::Leases,
    policy::Policy,
    purge::{Bans, Unjudged, Verdict},
    slot::{BLOCK, Slot, Slots, size_class},
    types::{Departure, GroupUsage, Hit, Left, Resident},
};
use crate::{
    clock::Tick,
    glob::Glob,
    model::{Lifetime, RESERVED_PREFIX, Record, RemovalCause, Value},
};

/// Bytes of an entry in addition to its allocation and the overhead of the policy: its slot (16), its share of the
/// index (5.4 on average), and its share of the deadlines of blocks (an eighth).
const SLOT_BYTES: u64 = 16 + 6;

/// One shard.
pub(super) struct Shard<P> {
    slots: Slots,
    index: Index,
    pub(super) leases: Leases,
    bans: Bans,
    departures: Departures,
    /// Number of entries evicted by the policy since start.
    evicted: u64,
    policy: P,
    bytes: u64,
    /// Number of Terrace's own records.
    own: u64,
    /// Number of entries of clients whose keys expire.
    expiring: u64,
    /// Expiries that records cannot store, by the address of the record.
    beyond: HashMap<usize, Tick, foldhash::fast::RandomState>,
    /// Usage by number of the key group.
    groups: Vec<GroupUsage>,
    hasher: Hasher,
    weights: Weights,
}

/// Source of the weight of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    /// The weight is the memory of the entry.
    Real,
    /// The weight is stored in the value of the entry.
    FromValue,
}

/// A new entry to insert.
pub(super) struct Arrival {
    pub(super) record: Record,
    pub(super) hash: u32,
    pub(super) epoch: Epoch,
    pub(super) weight: u64,
    /// The expiry of the key, which the record may not be able to store.
    pub(super) expires_at: Tick,
    /// The owner of the entry.
    pub(super) owner: Owner,
}

/// Decides how long an entry stays.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    /// The policy, with its mark of the entry.
    Policy(u32),
    /// The queue of prefetched entries, with the serial number of the entry.
    Staging(u32),
}

/// A removed entry that still holds its memory. It is dropped after the lock is released.
pub(super) struct Gone {
    pub(super) record: Record,
    pub(super) weight: u64,
    /// Hash of the key.
    pub(super) hash: u32,
    pub(super) was_over: bool,
    /// The entry was prefetched and never used.
    pub(super) is_unused: bool,
}

impl<P: Policy> Shard<P> {
    pub(super) fn new(policy: P, hasher: Hasher, weights: Weights) -> Self {
        Self {
            slots: Slots::default(),
            index: Index::default(),
            leases: Leases::default(),
            bans: Bans::default(),
            departures: Departures::default(),
            evicted: 0,
            policy,
            bytes: 0,
            own: 0,
            expiring: 0,
            beyond: HashMap::default(),
            groups: Vec::new(),
            hasher,
            weights,
        }
    }

    /// Returns the weight in bytes of an entry with these lengths.
    pub(super) fn weigh(key_bytes: usize, value_bytes: usize) -> u64 {
        Record::weigh(key_bytes, value_bytes) + SLOT_BYTES + P::OVERHEAD_BYTES
    }

    /// Returns the weight that an entry with this value has in this shard.
    pub(super) fn weight_for(&self, key: &[u8], value: &[u8]) -> u64 {
        match self.weights {
            Weights::Real => Self::weigh(key.len(), value.len()),
            Weights::FromValue => weight_in_value(value),
        }
    }

    pub(super) fn weight_of(&self, record: &Record) -> u64 {
        match self.weights {
            Weights::Real => record.weight() + SLOT_BYTES + P::OVERHEAD_BYTES,
            Weights::FromValue => weight_in_value(record.value()),
        }
    }

    /// Returns the latest time that a caller has passed.
    pub(super) fn now(&self) -> Tick {
        self.slots.now()
    }

    /// Advances the time of the shard.
    pub(super) fn advance(&mut self, now: Tick) {
        self.slots.advance(now);
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of Terrace's own records.
    pub(super) fn own(&self) -> u64 {
        self.own
    }

    /// Returns the number of entries of clients whose keys expire.
    pub(super) fn expiring(&self) -> u64 {
        self.expiring
    }

    /// Returns the position of the entry of a key, live or not.
    #[inline]
    pub(super) fn find(&self, hash: u32, key: &[u8]) -> Option<usize> {
        let is_it = |at: usize| self.slots.get(at).and_then(Slot::record).is_some_and(|record| record.key() == key);
        self.index.find(hash, is_it)
    }

    /// Returns the slot of a key if it may be returned.
    #[inline]
    pub(super) fn live(&self, hash: u32, key: &[u8], now: Tick, epochs: &Epochs, verdict: &Verdict) -> Option<&Slot> {
        self.live_at(self.find(hash, key)?, now, epochs, verdict)
    }

    /// Returns the slot at `at` if it may be returned.
    #[inline]
    pub(super) fn live_at(&self, at: usize, now: Tick, epochs: &Epochs, verdict: &Verdict) -> Option<&Slot> {
        self.slots.get(at).filter(|slot| slot.is_live(now, epochs) && !self.hides(slot, now, verdict))
    }

    /// Returns whether an active pattern ban hides this slot, by the verdict for its key.
    #[inline]
    pub(super) fn hides(&self, slot: &Slot, now: Tick, verdict: &Verdict) -> bool {
        // Uses at least the time of the shard: another thread may insert an entry after this thread reads its clock.
        !self.bans.is_empty() && self.bans.hide(slot, now.max(self.slots.now()), verdict)
    }

    /// Returns whether the entry at `at` is from before an active ban.
    pub(super) fn is_before_ban(&self, number: u64, at: usize, now: Tick) -> bool {
        self.slots.get(at).is_some_and(|slot| self.bans.is_before(number, slot, now.max(self.slots.now())))
    }

    /// Returns the active bans, and the time for comparisons with the entries of this moment.
    pub(super) fn bans(&self, now: Tick) -> (Bans, Tick) {
        (self.bans.clone(), now.max(self.slots.now()))
    }

    /// Returns the patterns that may match the key and that its verdict does not contain.
    pub(super) fn unjudged(&self, key: &[u8], verdict: &Verdict) -> Unjudged {
        self.bans.unjudged(key, verdict)
    }

    /// Hides the matching entries of this shard and voids the matching leases.
    pub(super) fn ban(&mut self, number: u64, glob: &Glob, now: Tick) {
        self.leases.void_matching(glob);
        self.bans.add(number, glob.clone(), now.max(self.slots.now()));
    }

    /// Removes a ban after the walk of this shard.
    pub(super) fn lift(&mut self, number: u64) {
        self.bans.lift(number);
    }

    /// Returns whether this shard has active bans.
    pub(super) fn has_bans(&self) -> bool {
        !self.bans.is_empty()
    }

    /// Returns whether the index has no room for another entry.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= ENTRIES_MAX
    }

    fn hash_at(&self, at: usize) -> u32 {
        self.slots.get(at).map_or(0, |slot| self.hasher.of_slot(slot))
    }

    /// Counts a use of an entry.
    #[inline]
    pub(super) fn touch(&self, slot: &Slot, now: Tick, shared: &P::Shared) {
        self.policy.hit(slot, shared);
        if let Some(record) = slot.record() {
            record.note_use(now);
        }
    }

    /// Returns the expiry of the key of a record in this shard.
    #[inline]
    pub(super) fn expires_at(&self, record: &Record) -> Tick {
        if record.expires_beyond() { self.expires_beyond(record) } else { record.expires_at() }
    }

    #[cold]
    fn expires_beyond(&self, record: &Record) -> Tick {
        self.beyond.get(&record.address()).copied().unwrap_or_else(|| record.expires_at())
    }

    /// Returns the hit for a record of this shard.
    #[inline]
    pub(super) fn hit(&self, record: &Record, hash: u32, now: Tick) -> Hit {
        Hit {
            value: Value::kept(record.clone()),
            expires_at: self.expires_at(record),
            filled_at: record.born_at(now),
            hits: record.hits(),
            is_first_use: false,
            group: record.group(),
            hash,
        }
    }

    /// Describes a slot for inspection.
    pub(super) fn resident(&self, slot: &Slot, now: Tick) -> Option<Resident> {
        let record = slot.record()?;
        let deadline = record.deadline(now);
        let deadline = if deadline == record.expires_at() { self.expires_at(record) } else { deadline };
        Some(Resident {
            hit: self.hit(record, self.hasher.of_slot(slot), now),
            deadline,
            used_at: record.used_at(now),
            weight_bytes: self.weight_of(record),
        })
    }

    /// Notifies the policy of a new entry before room is made. Returns the mark of the entry.
    pub(super) fn announce(&mut self, hash: u32, carried: Option<u32>, shared: &P::Shared) -> u32 {
        self.policy.arrive(hash, carried, &self.slots, shared)
    }

    /// Removes the victim of the policy and leaves a hole at its position.
    pub(super) fn evict(&mut self, epochs: &Epochs, shared: &P::Shared) -> Option<(usize, Gone)> {
        let now = self.slots.now();
        let any_ended = epochs.any_ended();
        let is_dead = |slot: &Slot| slot.is_over(now) || any_ended && epochs.has_ended(slot.epoch());
        // If only staged entries remain, the policy has no victim.
        let at = self.policy.victim(&self.slots, shared, is_dead).or_else(|| self.slots.len().checked_sub(1))?;
        let slot = self.slots.get(at)?;
        let (hash, was_over, is_staged) = (self.hasher.of_slot(slot), slot.is_over(now), slot.is_staged());
        if !is_staged {
            self.policy.gone(hash, slot, &self.slots);
        }
        self.index.remove(hash, at);
        let record = self.slots.hollow(at)?;
        let weight = self.subtract(&record);
        self.evicted += u64::from(!is_staged);
        Some((at, Gone { record, weight, hash, was_over, is_unused: is_staged }))
    }

    fn group(&mut self, number: u8) -> &mut GroupUsage {
        let at = usize::from(number);
        if at >= self.groups.len() {
            self.groups.resize(at + 1, GroupUsage::default());
        }
        &mut self.groups[at]
    }

    /// Subtracts a removed entry from the sums. Returns its weight.
    fn subtract(&mut self, record: &Record) -> u64 {
        let weight = self.weight_of(record);
        self.bytes -= weight;
        self.own -= u64::from(is_own(record));
        self.expiring -= u64::from(is_expiring(record));
        if record.expires_beyond() {
            self.beyond.remove(&record.address());
        }
        let group = self.group(record.group());
        group.entries -= 1;
        group.bytes -= weight;
        weight
    }

    /// Notes why an entry was removed.
    pub(super) fn count(&mut self, gone: &Gone, cause: RemovalCause, left: Left) {
        self.group(gone.record.group()).removals.count(cause, 1);
        // A simulated tier is never asked about keys.
        if self.weights == Weights::Real {
            self.departures.note(gone.hash, &gone.record, left, self.slots.now());
        }
    }

    /// Returns why a copy of this key is not returned, if it is remembered. `None` if the copy is valid, or if nothing
    /// is known.
    pub(super) fn departure(
        &self,
        hash: u32,
        key: &[u8],
        now: Tick,
        epochs: &Epochs,
        verdict: &Verdict,
    ) -> Option<Departure> {
        let Some(slot) = self.find(hash, key).and_then(|at| self.slots.get(at)) else {
            return self.departures.find(hash);
        };
        let record = slot.record()?;
        let left = match () {
            () if now >= record.expires_at() => Left::Expired,
            () if record.is_over(now) => Left::TooOld,
            () if self.hides(slot, now, verdict) => Left::Banned,
            () if epochs.has_ended(slot.epoch()) => Left::Ended,
            () if !epochs.is_open(slot.epoch(), now) => Left::Closed,
            () => return None,
        };
        let used_at = (record.hits() > 0).then(|| record.used_at(now));
        Some(Departure { left, at: now, filled_at: record.born_at(now), used_at })
    }

    /// Returns the entries and removals by group.
    pub(super) fn groups(&self) -> &[GroupUsage] {
        &self.groups
    }

    /// Returns the number of entries evicted by the policy since start.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Closes a hole that [`Shard::evict`] left.
    pub(super) fn close(&mut self, at: usize) {
        let Some(from) = self.slots.close(at) else { return };
        self.index.relocate(self.hash_at(at), from, at);
        self.policy.moved(&self.slots, at);
    }

    /// Inserts an entry whose room is reserved, into the hole if there is one.
    pub(super) fn insert(&mut self, arrival: Arrival, hole: Option<usize>, shared: &P::Shared) -> usize {
        let group = self.group(arrival.record.group());
        group.entries += 1;
        group.bytes += arrival.weight;
        self.own += u64::from(is_own(&arrival.record));
        self.expiring += u64::from(is_expiring(&arrival.record));
        if arrival.record.expires_beyond() {
            self.beyond.insert(arrival.record.address(), arrival.expires_at);
        }
        let mut slot = Slot::new(arrival.record, arrival.epoch, size_class(arrival.weight), self.slots.now());
        if let Owner::Staging(serial) = arrival.owner {
            slot.stage(serial);
        }
        let at = match hole {
            Some(at) => {
                self.slots.refill(at, slot);
                at
            }
            None => self.slots.push(slot),
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert(arrival.hash, at, |at| slots.get(at).map_or(0, |slot| hasher.of_slot(slot)));
        self.bytes += arrival.weight;
        if let Owner::Policy(mark) = arrival.owner {
            self.policy.place(&self.slots, at, mark, shared);
        }
        at
    }

    /// Returns the position of the staged entry with this serial number.
    pub(super) fn find_staged(&self, hash: u32, serial: u32) -> Option<usize> {
        let is_it =
            |at: usize| self.slots.get(at).is_some_and(|slot| slot.is_staged() && slot.mark.load(Relaxed) == serial);
        self.index.find(hash, is_it)
    }

    /// Passes a staged entry to the policy at its first use, as if it had just been filled. Returns its serial number
    /// and weight.
    pub(super) fn unstage(&mut self, at: usize, hash: u32, shared: &P::Shared) -> Option<(u32, u64)> {
        let slot = self.slots.get(at).filter(|slot| slot.is_staged())?;
        let staged = (slot.mark.load(Relaxed), self.weight_of(slot.record()?));
        let mark = self.policy.arrive(hash, None, &self.slots, shared);
        self.slots.unstage(at);
        self.policy.place(&self.slots, at, mark, shared);
        Some(staged)
    }

    /// Exchanges the positions of two entries.
    pub(super) fn exchange(&mut self, a: usize, b: usize) {
        if a == b || a.max(b) >= self.slots.len() || self.is_full() {
            return;
        }
        // Uses a place without an entry in between, because the words of two entries must never be equal. A full shard
        // has no such place.
        let (hash_a, hash_b, nowhere) = (self.hash_at(a), self.hash_at(b), self.slots.len());
        self.index.relocate(hash_a, a, nowhere);
        self.index.relocate(hash_b, b, a);
        self.index.relocate(hash_a, nowhere, b);
        self.slots.exchange(a, b);
        self.policy.moved(&self.slots, a);
        self.policy.moved(&self.slots, b);
    }

    /// Removes the entry at `at`. With `for_good`, no newer value replaces it.
    pub(super) fn remove(&mut self, at: usize, for_good: bool) -> Option<Gone> {
        let slot = self.slots.get(at)?;
        let (hash, was_over) = (self.hasher.of_slot(slot), slot.is_over(self.slots.now()));
        let is_staged = slot.is_staged();
        if for_good && !is_staged {
            self.policy.gone(hash, slot, &self.slots);
        }
        self.index.remove(hash, at);
        let record = self.slots.hollow(at)?;
        self.close(at);
        let weight = self.subtract(&record);
        Some(Gone { record, weight, hash, was_over, is_unused: is_staged })
    }

    pub(super) fn slot(&self, at: usize) -> Option<&Slot> {
        self.slots.get(at)
    }

    /// Changes the lifetime of the entry at `at`.
    pub(super) fn set_lifetime(&mut self, at: usize, life: Lifetime) {
        if let Some(record) = self.slots.get(at).and_then(Slot::record) {
            self.expiring -= u64::from(is_expiring(record));
            if record.expires_beyond() {
                self.beyond.remove(&record.address());
            }
        }
        self.slots.set_lifetime(at, life);
        if let Some(record) = self.slots.get(at).and_then(Slot::record) {
            self.expiring += u64::from(is_expiring(record));
            if record.expires_beyond() {
                self.beyond.insert(record.address(), life.expires_at);
            }
        }
    }

    /// Returns a block below `from` that may contain expired entries.
    pub(super) fn due_block(&self, from: usize, now: Tick) -> Option<usize> {
        self.slots.due_block(from, now)
    }

    /// Removes up to `budget` entries of a block for which `is_over_with` holds, and updates the soonest deadline of
    /// the block.
    pub(super) fn sweep_block(
        &mut self,
        block: usize,
        budget: usize,
        is_over_with: impl Fn(&Slot) -> bool,
        mut take: impl FnMut(Gone),
    ) {
        let mut left = budget;
        // Scans downward: a removal moves a higher entry into the free position. An entry from another block was not
        // examined yet, so the same position is examined again.
        let mut at = ((block + 1) * BLOCK).min(self.slots.len());
        while at > block * BLOCK && left > 0 {
            let over = self.slots.get(at - 1).is_some_and(&is_over_with);
            match over.then(|| self.remove(at - 1, true)).flatten() {
                Some(entry) => {
                    take(entry);
                    left -= 1;
                    at = at.min(self.slots.len());
                }
                None => at -= 1,
            }
        }
        self.slots.refresh_block(block);
    }

    /// Releases memory if few entries remain.
    pub(super) fn shrink(&mut self) {
        if self.slots.shrink() {
            let (slots, hasher) = (&self.slots, &self.hasher);
            self.index.shrink(|at| slots.get(at).map_or(0, |slot| hasher.of_slot(slot)));
        }
    }

    /// Empties the shard. Returns the entries, so that the caller frees them without the lock.
    pub(super) fn clear(&mut self) -> (Slots, u64) {
        self.leases.clear();
        self.index = Index::default();
        self.policy.clear();
        self.own = 0;
        self.expiring = 0;
        self.beyond.clear();
        for group in &mut self.groups {
            group.removals.count(RemovalCause::Invalidated, std::mem::take(&mut group.entries));
            group.bytes = 0;
        }
        (std::mem::take(&mut self.slots), std::mem::take(&mut self.bytes))
    }

    /// Recounts everything from scratch.
    pub(super) fn validate(&self, is_here: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        self.slots.validate()?;
        if self.index.len() != self.slots.len() {
            return Err(format!("{} entries, {} in the index", self.slots.len(), self.index.len()));
        }
        let (mut bytes, mut own, mut expiring) = (0, 0, 0);
        let mut groups = vec![(0, 0); 256];
        for (at, slot) in self.slots.all().iter().enumerate() {
            let Some(record) = slot.record() else { continue };
            let weight = self.weight_of(record);
            bytes += weight;
            own += u64::from(is_own(record));
            expiring += u64::from(is_expiring(record));
            let (entries, held) = &mut groups[usize::from(record.group())];
            (*entries, *held) = (*entries + 1, *held + weight);
            if !is_here(record.key()) || self.find(self.hasher.of_slot(slot), record.key()) != Some(at) {
                return Err(format!("the index does not find entry {at} by its key"));
            }
        }
        if bytes != self.bytes {
            return Err(format!("the sum of weights is {bytes}, the count is {}", self.bytes));
        }
        let beyond = self.slots.all().iter().filter_map(Slot::record).filter(|record| record.expires_beyond()).count();
        if beyond != self.beyond.len() {
            return Err(format!("{beyond} expiries beyond the field, {} are stored", self.beyond.len()));
        }
        if (own, expiring) != (self.own, self.expiring) {
            let counted = (self.own, self.expiring);
            return Err(format!("{own} own and {expiring} expiring records, the counts are {counted:?}"));
        }
        let counted = self.groups.iter().map(|group| (group.entries, group.bytes)).chain(std::iter::repeat((0, 0)));
        if let Some((number, _)) =
            groups.into_iter().zip(counted).enumerate().find(|(_, (held, counted))| held != counted)
        {
            return Err(format!("the counts of group {number} are wrong"));
        }
        self.policy.validate(&self.slots)
    }
}

/// Returns whether this is one of Terrace's own records.
fn is_own(record: &Record) -> bool {
    record.key().starts_with(RESERVED_PREFIX)
}

/// Returns whether this is a record of a client whose key expires.
fn is_expiring(record: &Record) -> bool {
    record.expires_at() != Tick::FAR && !is_own(record)
}

/// Returns the weight that the value of a simulated entry stores.
fn weight_in_value(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
