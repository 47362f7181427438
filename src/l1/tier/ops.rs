//! Operations on one key: look up, lease, fill, remove, change.

#[cfg(test)]
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Freed, Incoming, Place, Tier};
use crate::{
    clock::Tick,
    error::{CacheError, Kind, Result},
    l1::{
        epochs::Epoch,
        policy::Policy,
        purge::Verdict,
        shard::Shard,
        slot::Slot,
        staging::Waiting,
        types::{Change, Current, Departure, Fill, Filled, Hit, Leased, Residence, Resident, Token},
    },
    model::{Key, Lifetime, RemovalCause},
};

impl<P: Policy> Tier<P> {
    #[inline]
    pub(in crate::l1) fn get(&self, key: &[u8], now: Tick, touch: bool) -> Option<Hit> {
        #[cfg(test)]
        self.lookups.fetch_add(1, Relaxed);
        let place = self.place(key);
        let (shard, verdict) = self.read_for(place, key);
        let slot = shard.live(place.hash, key, now, &self.epochs, &verdict)?;
        if touch {
            if slot.is_staged() {
                drop(shard);
                return self.get_staged(place, key, now);
            }
            shard.touch(slot, now, &self.shared);
        }
        slot.record().map(|record| shard.hit(record, place.hash, now))
    }

    /// First use of a prefetched entry. Of two concurrent uses, only one counts as the first.
    #[cold]
    fn get_staged(&self, place: Place, key: &[u8], now: Tick) -> Option<Hit> {
        let (mut shard, verdict) = self.write_for(place, key);
        shard.live(place.hash, key, now, &self.epochs, &verdict)?;
        self.use_now(place, &mut shard, key, now)
    }

    /// Uses a live entry under the exclusive lock.
    fn use_now(&self, place: Place, shard: &mut Shard<P>, key: &[u8], now: Tick) -> Option<Hit> {
        let at = shard.find(place.hash, key)?;
        let staged = shard.unstage(at, place.hash, &self.shared);
        if let Some((serial, weight)) = staged {
            self.staging.used(serial, weight, self.room_entries());
        }
        let slot = shard.slot(at)?;
        shard.touch(slot, now, &self.shared);
        slot.record().map(|record| Hit { is_first_use: staged.is_some(), ..shard.hit(record, place.hash, now) })
    }

    pub(in crate::l1) fn residence(&self, key: &[u8], now: Tick) -> Residence {
        let place = self.place(key);
        let (shard, verdict) = self.read_for(place, key);
        match shard.live(place.hash, key, now, &self.epochs, &verdict) {
            Some(slot) if slot.is_staged() => Residence::Staged,
            Some(_) => Residence::Resident,
            None if shard.leases.holder(place.hash, key).is_some() => Residence::InFlight,
            None => Residence::Absent,
        }
    }

    pub(in crate::l1) fn get_stale(&self, key: &[u8], now: Tick, grace: Duration) -> Option<Hit> {
        let place = self.place(key);
        let (shard, verdict) = self.read_for(place, key);
        let slot = shard.slot(shard.find(place.hash, key)?)?;
        if !slot.is_stale_allowed(now, grace, &self.epochs) || shard.hides(slot, now, &verdict) {
            return None;
        }
        // The entry stays staged: only a use under an open fence counts as its first use.
        if !slot.is_staged() {
            shard.touch(slot, now, &self.shared);
        }
        slot.record().map(|record| shard.hit(record, place.hash, now))
    }

    pub(in crate::l1) fn peek(&self, key: &[u8], now: Tick) -> Option<Resident> {
        let place = self.place(key);
        let (shard, verdict) = self.read_for(place, key);
        shard.resident(shard.live(place.hash, key, now, &self.epochs, &verdict)?, now)
    }

    pub(in crate::l1) fn departure(&self, key: &[u8], now: Tick) -> Option<Departure> {
        let place = self.place(key);
        let (shard, verdict) = self.read_for(place, key);
        shard.departure(place.hash, key, now, &self.epochs, &verdict)
    }

    pub(in crate::l1) fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Option<Epoch>, look: bool) -> Leased {
        #[cfg(test)]
        self.lookups.fetch_add(usize::from(look), Relaxed);
        let place = self.place(key);
        let (mut shard, verdict) = self.write_for(place, key);
        if look
            && shard.live(place.hash, key, now, &self.epochs, &verdict).is_some()
            && let Some(hit) = self.use_now(place, &mut shard, key, now)
        {
            return Leased::Hit(hit);
        }
        if let Some(holder) = shard.leases.holder(place.hash, key) {
            return Leased::Join(holder);
        }
        shard.leases.grant(place.hash, key, token, epoch);
        self.staging.missed(place.hash, shard.evicted(), self.cells.len() as u64, self.room_entries());
        Leased::Lead
    }

    /// Requests a lease for a prefetch. Returns `false` if the key is in L1 or in flight.
    pub(in crate::l1) fn lease_prefetch(&self, key: &Key, token: Token, now: Tick, epoch: Epoch) -> bool {
        let place = self.place(key);
        let (mut shard, verdict) = self.write_for(place, key);
        let is_known = shard.live(place.hash, key, now, &self.epochs, &verdict).is_some()
            || shard.leases.holder(place.hash, key).is_some();
        if !is_known {
            shard.leases.grant(place.hash, key, token, Some(epoch));
        }
        !is_known
    }

    /// Makes room in the queue of staged entries and fills. The copy is staged until its first use.
    pub(in crate::l1) fn fill_staged(&self, key: &Key, token: Token, fill: &Fill, now: Tick) -> Filled {
        let (room, capacity_bytes) = (self.room_entries(), self.budget.usage().capacity_bytes);
        let weight = Shard::<P>::weigh(key.len(), fill.value.stored().len());
        if weight > capacity_bytes / 80 && capacity_bytes != u64::MAX {
            // The entry would take an eighth of the bytes that may be staged.
            self.release(key, token);
            return Filled::TooLarge;
        }
        while self.staging.is_full(weight, room, capacity_bytes) {
            let Some(first) = self.staging.first() else { break };
            self.drop_staged(first);
        }
        let serial = self.staging.next();
        let filled = self.fill_as(key, token, fill, now, Some(serial));
        if filled == Filled::Inserted {
            let place = self.place(key);
            let (cell, hash, fills) = (place.cell, place.hash, self.staging.fills());
            let overdue = self.staging.queue(Waiting { cell, hash, serial, fills }, room);
            overdue.into_iter().for_each(|waiting| self.drop_staged(waiting));
        }
        filled
    }

    /// Removes a staged entry, unless it was used or removed already.
    fn drop_staged(&self, waiting: Waiting) {
        let mut freed = Freed::new(&self.budget);
        let mut shard = self.write(waiting.cell);
        let Some(at) = shard.find_staged(waiting.hash, waiting.serial) else { return };
        if let Some(gone) = shard.remove(at, true) {
            self.account(&mut shard, gone, RemovalCause::Size, &mut freed);
        }
        self.note(waiting.cell, &shard);
    }

    pub(in crate::l1) fn fill(&self, key: &Key, token: Token, fill: &Fill, now: Tick) -> Filled {
        if let Some(overdue) = self.staging.filled(|| self.room_entries()) {
            self.drop_staged(overdue);
        }
        self.fill_as(key, token, fill, now, None)
    }

    fn fill_as(&self, key: &Key, token: Token, fill: &Fill, now: Tick, staged: Option<u32>) -> Filled {
        let place = self.place(key);
        let mut freed = Freed::new(&self.budget);
        let (mut shard, verdict) = self.write_for(place, key);
        let Some(leased_in) = shard.leases.end(place.hash, key, token) else { return Filled::Voided };
        let Some(epoch) = leased_in else { return Filled::Closed };
        if !self.epochs.is_live(epoch) {
            return Filled::Voided;
        }
        if now >= fill.deadline.min(fill.expires_at) {
            return Filled::Expired;
        }
        let there = shard.find(place.hash, key);
        let incoming = Incoming { key, fill, there, now, epoch, staged, verdict: &verdict };
        let is_in = self.put(place, &mut shard, &incoming, &mut freed);
        self.note(place.cell, &shard);
        if is_in { Filled::Inserted } else { Filled::TooLarge }
    }

    pub(in crate::l1) fn release(&self, key: &Key, token: Token) {
        let place = self.place(key);
        self.write(place.cell).leases.end(place.hash, key, token);
    }

    pub(in crate::l1) fn invalidate(&self, key: &[u8]) -> bool {
        let place = self.place(key);
        if self.is_unknown(place, key) {
            return false;
        }
        let mut freed = Freed::new(&self.budget);
        let mut shard = self.write(place.cell);
        shard.leases.void(place.hash, key);
        let removed = self.drop_key(place, &mut shard, key, &mut freed);
        self.note(place.cell, &shard);
        removed
    }

    /// Returns whether the key has neither an entry nor a lease. Most invalidations from Redis concern keys that this
    /// node never read; they take no exclusive lock. An entry that is inserted after this check was leased after the
    /// invalidation.
    fn is_unknown(&self, place: Place, key: &[u8]) -> bool {
        let shard = self.cells[place.cell].shard.read();
        shard.find(place.hash, key).is_none() && shard.leases.holder(place.hash, key).is_none()
    }

    pub(in crate::l1) fn update<R>(
        &self,
        key: &Key,
        now: Tick,
        epoch: Epoch,
        group: u8,
        change: impl FnOnce(Option<Current<'_>>) -> Result<(Change, R)>,
    ) -> Result<R> {
        let place = self.place(key);
        let mut freed = Freed::new(&self.budget);
        let (mut shard, verdict) = self.write_for(place, key);
        let there = shard.find(place.hash, key);
        let present = there.and_then(|at| shard.live_at(at, now, &self.epochs, &verdict)).and_then(Slot::record);
        let current = present.map(|record| Current { value: record.value(), expires_at: shard.expires_at(record) });
        let (change, answer) = change(current)?;
        let applied = self.apply(place, &mut shard, (there, &verdict), key, change, now, epoch, group, &mut freed);
        self.note(place.cell, &shard);
        applied.map(|()| answer)
    }

    #[expect(clippy::too_many_arguments, reason = "the second half of update, under the same lock")]
    fn apply(
        &self,
        place: Place,
        shard: &mut Shard<P>,
        (there, verdict): (Option<usize>, &Verdict),
        key: &Key,
        change: Change,
        now: Tick,
        epoch: Epoch,
        group: u8,
        freed: &mut Freed<'_>,
    ) -> Result<()> {
        match change {
            Change::Keep => {}
            Change::Remove => {
                self.drop_key(place, shard, key, freed);
            }
            Change::Reexpire(at) => {
                if let Some(there) = there.filter(|&there| shard.live_at(there, now, &self.epochs, verdict).is_some()) {
                    shard.advance(now);
                    shard.set_lifetime(there, Lifetime { expires_at: at, deadline: at });
                }
            }
            Change::Put(value, at) => {
                let fill = Fill { value: value.into(), expires_at: at, deadline: at, group };
                // A reader that read L2 before this write must not insert the old value.
                shard.leases.void(place.hash, key);
                let incoming = Incoming { key, fill: &fill, there, now, epoch, staged: None, verdict };
                if !self.put(place, shard, &incoming, freed) {
                    let max = self.entry_max_bytes;
                    let message =
                        format!("the entry is too large; an entry may use at most {max} bytes, an eighth of L1");
                    return Err(CacheError::new(Kind::TooLarge, message));
                }
            }
        }
        Ok(())
    }

    fn drop_key(&self, place: Place, shard: &mut Shard<P>, key: &[u8], freed: &mut Freed<'_>) -> bool {
        let Some(at) = shard.find(place.hash, key) else { return false };
        let Some(gone) = shard.remove(at, true) else { return false };
        self.account(shard, gone, RemovalCause::Invalidated, freed);
        true
    }
}
