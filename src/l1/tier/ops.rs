//! What is asked of one key: look, lease, fill, drop, change.

use std::time::Duration;

use super::{Freed, Incoming, Place, Tier, account};
use crate::{
    clock::Tick,
    error::{CacheError, Kind, Result},
    l1::{
        epochs::Epoch,
        policy::Policy,
        shard::{Shard, hit},
        slot::Slot,
        types::{Change, Current, Fill, Filled, Hit, Leased, Resident, Token},
    },
    model::{Key, Lifetime, RemovalCause},
};

impl<P: Policy> Tier<P> {
    #[inline]
    pub(in crate::l1) fn get(&self, key: &[u8], now: Tick, touch: bool) -> Option<Hit> {
        let place = self.place(key);
        let shard = self.cells[place.cell].shard.read();
        let slot = shard.live(place.hash, key, now, &self.epochs)?;
        if touch {
            shard.touch(slot, now, &self.shared);
        }
        slot.record().map(|record| hit(record, place.hash, now))
    }

    pub(in crate::l1) fn get_stale(&self, key: &[u8], now: Tick, grace: Duration) -> Option<Hit> {
        let place = self.place(key);
        let shard = self.cells[place.cell].shard.read();
        let slot = shard.slot(shard.find(place.hash, key)?)?;
        if !slot.is_stale_allowed(now, grace, &self.epochs) || shard.hides(slot, now) {
            return None;
        }
        shard.touch(slot, now, &self.shared);
        slot.record().map(|record| hit(record, place.hash, now))
    }

    pub(in crate::l1) fn peek(&self, key: &[u8], now: Tick) -> Option<Resident> {
        let place = self.place(key);
        let shard = self.cells[place.cell].shard.read();
        shard.resident(shard.live(place.hash, key, now, &self.epochs)?, now)
    }

    pub(in crate::l1) fn lease(&self, key: &Key, token: Token, now: Tick, epoch: Option<Epoch>, look: bool) -> Leased {
        let place = self.place(key);
        let mut shard = self.write(place.cell);
        if look
            && let Some(slot) = shard.live(place.hash, key, now, &self.epochs)
            && let Some(record) = slot.record()
        {
            shard.touch(slot, now, &self.shared);
            return Leased::Hit(hit(record, place.hash, now));
        }
        if let Some(holder) = shard.leases.holder(place.hash, key) {
            return Leased::Join(holder);
        }
        shard.leases.grant(place.hash, key, token, epoch);
        Leased::Lead
    }

    pub(in crate::l1) fn fill(&self, key: &Key, token: Token, fill: &Fill, now: Tick) -> Filled {
        let place = self.place(key);
        let mut freed = Freed::new(&self.budget);
        let mut shard = self.write(place.cell);
        let Some(leased_in) = shard.leases.end(place.hash, key, token) else { return Filled::Voided };
        let Some(epoch) = leased_in else { return Filled::Closed };
        if !self.epochs.is_live(epoch) {
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
        let removed = drop_key(place, &mut shard, key, &mut freed);
        self.note(place.cell, &shard);
        removed
    }

    /// Whether neither entry nor lease is there. Most invalidations that Redis sends are for keys this node never read;
    /// these take no exclusive lock. What comes in after this look was leased after the invalidation.
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
        let mut shard = self.write(place.cell);
        let there = shard.find(place.hash, key);
        let present = there.and_then(|at| shard.live_at(at, now, &self.epochs)).and_then(Slot::record);
        let current = present.map(|record| Current { value: record.value(), expires_at: record.expires_at() });
        let (change, answer) = change(current)?;
        let applied = self.apply(place, &mut shard, there, key, change, now, epoch, group, &mut freed);
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
        group: u8,
        freed: &mut Freed<'_>,
    ) -> Result<()> {
        match change {
            Change::Keep => {}
            Change::Remove => {
                drop_key(place, shard, key, freed);
            }
            Change::Reexpire(at) => {
                if let Some(there) = there.filter(|&there| shard.live_at(there, now, &self.epochs).is_some()) {
                    shard.advance(now);
                    shard.set_lifetime(there, Lifetime { expires_at: at, deadline: at });
                }
            }
            Change::Put(value, at) => {
                let fill = Fill { value: value.into(), expires_at: at, deadline: at, group };
                // Whoever asked below before this write must not fill its answer over it.
                shard.leases.void(place.hash, key);
                if !self.put(place, shard, &Incoming { key, fill: &fill, there, now, epoch }, freed) {
                    return Err(CacheError::new(Kind::TooLarge, "the entry is over an eighth of L1"));
                }
            }
        }
        Ok(())
    }
}

fn drop_key<P: Policy>(place: Place, shard: &mut Shard<P>, key: &[u8], freed: &mut Freed<'_>) -> bool {
    let Some(at) = shard.find(place.hash, key) else { return false };
    let Some(gone) = shard.remove(at, true) else { return false };
    account(shard, gone, RemovalCause::Invalidated, freed);
    true
}
