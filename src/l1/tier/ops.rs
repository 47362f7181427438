//! What is asked of one key: look, lease, fill, drop, change.

use std::sync::atomic::Ordering::Relaxed;

use super::{Freed, Incoming, Place, Tier};
use crate::{
    clock::Tick,
    error::{CacheError, Kind, Result},
    l1::{
        policy::Policy,
        shard::{Shard, hit},
        slot::Slot,
        types::{Change, Current, Epoch, Fill, Filled, Hit, Leased, Resident, Token},
    },
    model::{Key, Lifetime, RemovalCause},
};

impl<P: Policy> Tier<P> {
    #[inline]
    pub(in crate::l1) fn get(&self, key: &[u8], now: Tick, epoch: Epoch, touch: bool) -> Option<Hit> {
        let place = self.place(key);
        let shard = self.cells[place.cell].shard.read();
        let slot = shard.live(place.hash, key, now, epoch)?;
        if touch {
            shard.touch(slot, now, &self.shared);
        }
        slot.record().map(|record| hit(record, now))
    }

    pub(in crate::l1) fn peek(&self, key: &[u8], now: Tick, epoch: Epoch) -> Option<Resident> {
        let place = self.place(key);
        let shard = self.cells[place.cell].shard.read();
        Shard::<P>::resident(shard.live(place.hash, key, now, epoch)?, now)
    }

    pub(in crate::l1) fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Epoch, look: bool) -> Leased {
        self.note_epoch(epoch);
        let place = self.place(key);
        let mut shard = self.write(place.cell);
        if look
            && let Some(slot) = shard.live(place.hash, key, now, epoch)
            && let Some(record) = slot.record()
        {
            shard.touch(slot, now, &self.shared);
            return Leased::Hit(hit(record, now));
        }
        if let Some(holder) = shard.leases.holder(place.hash, key) {
            return Leased::Join(holder);
        }
        shard.leases.grant(place.hash, key, token, epoch);
        Leased::Lead
    }

    pub(in crate::l1) fn fill(&self, key: &Key, token: Token, fill: &Fill, now: Tick, epoch: Epoch) -> Filled {
        let place = self.place(key);
        let mut freed = Freed::new(&self.budget);
        let mut shard = self.write(place.cell);
        let Some(leased_in) = shard.leases.end(place.hash, key, token) else { return Filled::Voided };
        if leased_in != epoch || shard.is_past(epoch) {
            return Filled::Voided;
        }
        if now >= fill.deadline.min(fill.expires_at) {
            return Filled::Expired;
        }
        let there = shard.find(place.hash, key);
        let is_in = self.put(place, &mut shard, &Incoming { key, fill, there, now, epoch }, &mut freed);
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

    /// Whether neither entry nor lease is there. Most invalidations that Redis sends are for keys this node never read;
    /// these take no exclusive lock. What comes in after this look was leased after the invalidation.
    fn is_unknown(&self, place: Place, key: &[u8]) -> bool {
        let shard = self.cells[place.cell].shard.read();
        shard.find(place.hash, key).is_none() && shard.leases.holder(place.hash, key).is_none()
    }

    fn drop_key(&self, place: Place, shard: &mut Shard<P>, key: &[u8], freed: &mut Freed<'_>) -> bool {
        let Some(at) = shard.find(place.hash, key) else { return false };
        let Some(gone) = shard.remove(at, true) else { return false };
        self.account(place.cell, gone, RemovalCause::Invalidated, freed);
        true
    }

    pub(in crate::l1) fn update<R>(
        &self,
        key: &Key,
        now: Tick,
        epoch: Epoch,
        change: impl FnOnce(Option<Current<'_>>) -> Result<(Change, R)>,
    ) -> Result<R> {
        self.note_epoch(epoch);
        let place = self.place(key);
        let mut freed = Freed::new(&self.budget);
        let mut shard = self.write(place.cell);
        let there = shard.find(place.hash, key);
        let present = there.and_then(|at| shard.live_at(at, now, epoch)).and_then(Slot::record);
        let current = present.map(|record| Current { value: record.value(), expires_at: record.expires_at() });
        let (change, answer) = change(current)?;
        let applied = self.apply(place, &mut shard, there, key, change, now, epoch, &mut freed);
        self.note(place.cell, &shard);
        applied.map(|()| answer)
    }

    #[expect(clippy::too_many_arguments, reason = "the second half of update, under the same lock")]
    fn apply(
        &self,
        place: Place,
        shard: &mut Shard<P>,
        there: Option<usize>,
        key: &Key,
        change: Change,
        now: Tick,
        epoch: Epoch,
        freed: &mut Freed<'_>,
    ) -> Result<()> {
        match change {
            Change::Keep => {}
            Change::Remove => {
                self.drop_key(place, shard, key, freed);
            }
            Change::Reexpire(at) => {
                if let Some(there) = there.filter(|&there| shard.live_at(there, now, epoch).is_some()) {
                    shard.advance(now);
                    shard.set_lifetime(there, Lifetime { expires_at: at, deadline: at });
                }
            }
            Change::Put(value, at) => {
                let fill = Fill { value: value.into(), expires_at: at, deadline: at };
                // Whoever asked below before this write must not fill its answer over it.
                shard.leases.void(place.hash, key);
                if !self.put(place, shard, &Incoming { key, fill: &fill, there, now, epoch }, freed) {
                    return Err(CacheError::new(Kind::TooLarge, "the entry is over an eighth of L1"));
                }
            }
        }
        Ok(())
    }

    /// Remembers the newest epoch that is talked about; epochs only ever step forward, and may wrap.
    fn note_epoch(&self, epoch: Epoch) {
        let known = self.epoch.load(Relaxed);
        if (epoch.0.wrapping_sub(known) as i32) > 0 {
            self.epoch.store(epoch.0, Relaxed);
        }
    }
}
