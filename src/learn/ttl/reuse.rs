//! Adjusts the TTL of a template for each key, by how soon the key is written again after its TTL ended.
//!
//! The advice for a template suits its mean key. But many keys of a template are read once and never again; holding them as
//! long as all others makes a tuned TTL worse than a fixed TTL of the same hit rate. A write shows how long its key was
//! absent: the *wait* from the end of the last TTL to the write. For a key that is read at random, the wait is a mean of its
//! intervals, and no read has to be counted for it. The mean wait, in which the last wait weighs as much as all before it,
//! decides:
//!
//! * A key that is not known gets the shortest TTL if fewer than half of the keys of its template came back within the
//!   template's TTL after their first one. Otherwise, and while that is not known, it gets the template's TTL.
//! * A key that was absent for longer than the TTL gets the shortest TTL: its last TTL served no read.
//! * All other keys get the template's TTL. If that is below [`RAISED_SHORTEST`] times the shortest TTL, it is raised to
//!   [`RAISED_WAITS`] waits, up to that limit: reads in bursts have a short mean interval, and a key is absent in the pauses
//!   between bursts. Such a key is held most of the time anyway; raising its TTL only reduces fetches. The TTL is never
//!   raised beyond the limit by changes.
//!
//! On dns-wrccdc (shortest TTL 5 s) this reduces the bytes held, compared with a fixed TTL of the same hit rate, from 2.08
//! times to 0.93 times; without raising, to 1.28; with the shortest TTL for new keys alone, with a memory like the doorkeeper
//! of TinyLFU (Einziger, Friedman, Manes, ACM Transactions on Storage 2017), to 1.53. Keys with similar intervals get the TTL
//! of the formula, whether they are read regularly or at random, because few of them are absent for a whole TTL.
//!
//! Writes by other nodes are detected when L2 answers a read here. Bounded: [`KEYS_MAX`] keys, 3 MB, allocated at the first
//! write. A new key replaces the key of its set of eight whose TTL ended first. If keys are replaced sooner than the TTL, an
//! unknown key need not be new: it gets the template's TTL.

use hashbrown::HashMap;

use super::intervals::TEMPLATES_MAX;
use crate::{clock::Tick, learn::key_template::stable_hash};

/// Maximum number of keys whose absence after expiration is tracked for TTL tuning.
const KEYS_MAX: usize = SETS * WAYS;
const SETS: usize = 16_384;
/// Places in each set.
const WAYS: usize = 8;
/// A TTL is raised to at most this many shortest TTLs.
const RAISED_SHORTEST: u64 = 5;
/// A TTL is raised to at most this many mean waits: the key is then held 10/11 of the time.
const RAISED_WAITS: f32 = 10.0;
/// Weight of the last wait in the mean. From 0.25 to 0.7 the bytes held differ by at most 0.04.
const WAIT_WEIGHT: f32 = 0.5;
/// First writes of a template that are needed to decide that its keys do not come back.
const FIRSTS_MIN: u32 = 8;
/// First writes after which both counts are halved.
const FIRSTS_KEPT: u32 = 64;
/// Weight of the last replaced key in the mean reach of the memory.
const REACH_WEIGHT: f64 = 1.0 / 64.0;

/// The TTL that a write without a TTL is offered, before it is adjusted for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlOffer {
    /// Hash of the key's template.
    pub template: u64,
    /// TTL of the template in ms; without advice, the TTL of the key's policy.
    pub ttl_ms: u64,
    /// The TTL is advised. Other TTLs are never shortened.
    pub is_advised: bool,
    /// Shortest TTL in ms.
    pub shortest_ms: u64,
    /// Maximum TTL by changes in ms; `u64::MAX` if no changes are known.
    pub fresh_ms: u64,
}

/// The known keys.
#[derive(Debug, Default)]
pub struct Reuse {
    /// [`SETS`] times [`WAYS`] places; empty before the first write.
    places: Vec<KnownKey>,
    /// By template.
    firsts: HashMap<u64, FirstWrites>,
    /// Mean time in ms from the end of a key's TTL to its replacement; `None` while there was room.
    reach_ms: Option<f64>,
}

/// One known key.
#[derive(Debug, Clone, Copy)]
struct KnownKey {
    /// Part of the hash that does not select the set.
    tag: u32,
    /// Mean wait in ms; `None` before the key came back for the first time.
    wait_ms: Option<f32>,
    /// End of the TTL; [`Tick::ZERO`] in a free place.
    ends_at: Tick,
}

impl KnownKey {
    const FREE: Self = Self { tag: 0, wait_ms: None, ends_at: Tick::ZERO };

    /// Returns the mean wait if the key came back now.
    fn wait_at(&self, now: Tick) -> Option<f32> {
        if now <= self.ends_at {
            return self.wait_ms;
        }
        let wait = (now.0 - self.ends_at.0) as f32;
        Some(self.wait_ms.map_or(wait, |mean| mean + WAIT_WEIGHT * (wait - mean)))
    }
}

/// First writes of a template's keys.
#[derive(Debug, Clone, Copy, Default)]
struct FirstWrites {
    begun: u32,
    /// Keys that came back within the TTL after the end of their first one.
    back: u32,
}

impl FirstWrites {
    fn begin(&mut self) {
        self.begun += 1;
        if self.begun >= FIRSTS_KEPT {
            (self.begun, self.back) = (self.begun / 2, self.back / 2);
        }
    }

    fn note_return(&mut self) {
        self.back = (self.back + 1).min(self.begun);
    }

    fn mostly_do_not_return(self) -> bool {
        self.begun >= FIRSTS_MIN && self.back * 2 < self.begun
    }
}

impl Reuse {
    /// Returns the TTL in ms for a value of this key.
    #[must_use]
    pub fn ttl_ms(&self, key: &[u8], offer: &TtlOffer, now: Tick) -> u64 {
        let &TtlOffer { ttl_ms, is_advised, .. } = offer;
        let shortest = if is_advised { offer.shortest_ms.min(ttl_ms) } else { ttl_ms };
        let place = self.find(key).map(|at| self.places[at]);
        let Some(wait) = place.and_then(|place| place.wait_at(now)) else {
            let is_forgotten = place.is_none() && self.reach_ms.is_some_and(|reach| reach < ttl_ms as f64);
            let is_unlikely_to_return =
                self.firsts.get(&offer.template).is_some_and(|firsts| firsts.mostly_do_not_return());
            return if is_unlikely_to_return && !is_forgotten { shortest } else { ttl_ms };
        };
        let raised_max = offer.shortest_ms.saturating_mul(RAISED_SHORTEST).min(offer.fresh_ms);
        let raised = ttl_ms.max(((RAISED_WAITS * wait) as u64).min(raised_max));
        if wait > raised as f32 { shortest } else { raised }
    }

    /// Notes a write of this key with a TTL of `given_ms`.
    pub fn note_write(&mut self, key: &[u8], offer: &TtlOffer, now: Tick, given_ms: u64) {
        let ends_at = Tick(now.0.saturating_add(given_ms));
        let Some(at) = self.find(key) else {
            self.begin(key, offer.template, now, ends_at);
            return;
        };
        let place = &mut self.places[at];
        let is_first_return = place.wait_ms.is_none() && now > place.ends_at;
        let is_soon = now.0.saturating_sub(place.ends_at.0) <= offer.ttl_ms;
        *place = KnownKey { wait_ms: place.wait_at(now), ends_at, ..*place };
        if is_first_return
            && is_soon
            && let Some(firsts) = self.firsts.get_mut(&offer.template)
        {
            firsts.note_return();
        }
    }

    /// Notes that L2 answered a read of this key: if its TTL had ended, another node has written it.
    pub fn note_l2_hit(&mut self, key: &[u8], at: Tick) {
        let place = self.find(key).map(|place| &mut self.places[place]);
        if let Some(place) = place.filter(|place| at > place.ends_at) {
            *place = KnownKey { wait_ms: place.wait_at(at), ends_at: at, ..*place };
        }
    }

    fn begin(&mut self, key: &[u8], template: u64, now: Tick, ends_at: Tick) {
        if self.places.is_empty() {
            self.places = vec![KnownKey::FREE; KEYS_MAX];
        }
        let (set, tag) = place_of(key);
        if let Some(oldest) = self.places[set..set + WAYS].iter_mut().min_by_key(|place| place.ends_at) {
            let over_ms = now.0.saturating_sub(oldest.ends_at.0) as f64;
            if oldest.ends_at > Tick::ZERO {
                self.reach_ms = Some(self.reach_ms.map_or(over_ms, |reach| reach + REACH_WEIGHT * (over_ms - reach)));
            }
            *oldest = KnownKey { tag, wait_ms: None, ends_at };
        }
        if self.firsts.len() < TEMPLATES_MAX || self.firsts.contains_key(&template) {
            self.firsts.entry(template).or_default().begin();
        }
    }

    /// Returns the place of this key.
    fn find(&self, key: &[u8]) -> Option<usize> {
        let (set, tag) = place_of(key);
        let mut ways = self.places.get(set..set + WAYS)?.iter();
        ways.position(|place| place.tag == tag && place.ends_at > Tick::ZERO).map(|way| set + way)
    }
}

/// Returns the first place of a key's set, and its tag. Two keys that share both are taken for one key: about one in 500
/// million pairs of a set.
fn place_of(key: &[u8]) -> (usize, u32) {
    let hash = stable_hash(0, key);
    ((hash >> 32) as usize % SETS * WAYS, hash as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000;
    const OFFER: TtlOffer =
        TtlOffer { template: 1, ttl_ms: 100 * SECOND, is_advised: true, shortest_ms: 5 * SECOND, fresh_ms: u64::MAX };

    fn name(number: u64) -> Vec<u8> {
        format!("user:{number}").into_bytes()
    }

    /// Writes a key at this second as a server does, and returns its TTL in seconds.
    fn write(reuse: &mut Reuse, number: u64, offer: &TtlOffer, second: u64) -> u64 {
        let now = Tick(second * SECOND + 1);
        let ttl_ms = reuse.ttl_ms(&name(number), offer, now);
        reuse.note_write(&name(number), offer, now, ttl_ms);
        ttl_ms / SECOND
    }

    /// Writes one new key per second, and returns their TTLs.
    fn new_keys(reuse: &mut Reuse, from: u64, count: u64) -> Vec<u64> {
        (0..count).map(|number| write(reuse, from + number, &OFFER, 1 + number)).collect()
    }

    #[test]
    fn new_keys_get_the_shortest_ttl_if_keys_of_their_template_do_not_come_back() {
        let mut reuse = Reuse::default();
        let ttls = new_keys(&mut reuse, 0, 20);
        assert_eq!(ttls[..8], [100; 8], "nothing is known yet");
        assert_eq!(ttls[8..], [5; 12]);
        // A key that comes back gets the TTL; where most keys do, a new key does as well.
        assert_eq!(write(&mut reuse, 19, &OFFER, 30), 100);
        (8..19).for_each(|number| assert_eq!(write(&mut reuse, number, &OFFER, 40), 100));
        assert_eq!(write(&mut reuse, 100, &OFFER, 41), 100);
        // Another template has its own counts.
        let other = TtlOffer { template: 2, ..OFFER };
        assert_eq!(write(&mut Reuse::default(), 0, &other, 1), 100);
    }

    #[test]
    fn a_key_that_is_gone_for_longer_than_the_ttl_gets_the_shortest_until_it_is_back_sooner() {
        let mut reuse = Reuse::default();
        assert_eq!(write(&mut reuse, 1, &OFFER, 0), 100);
        assert_eq!(write(&mut reuse, 1, &OFFER, 201), 5, "101 s");
        assert_eq!(write(&mut reuse, 1, &OFFER, 216), 100, "10 s, 55 s on average");
        assert_eq!(write(&mut reuse, 1, &OFFER, 250), 100, "its TTL had not ended: no wait");
    }

    #[test]
    fn a_short_ttl_is_raised_to_ten_waits_up_to_a_limit() {
        let quick = TtlOffer { ttl_ms: 5 * SECOND, ..OFFER };
        let ttl = |wait: u64, offer: &TtlOffer| {
            let mut reuse = Reuse::default();
            assert_eq!(write(&mut reuse, 1, offer, 0), offer.ttl_ms / SECOND);
            write(&mut reuse, 1, offer, offer.ttl_ms / SECOND + wait)
        };
        assert_eq!((ttl(1, &quick), ttl(2, &quick), ttl(3, &quick)), (10, 20, 25));
        assert_eq!((ttl(25, &quick), ttl(26, &quick)), (25, 5));
        assert_eq!(ttl(2, &TtlOffer { fresh_ms: 8 * SECOND, ..quick }), 8, "it changes");
        assert_eq!(ttl(2, &TtlOffer { ttl_ms: 60 * SECOND, ..quick }), 60, "long enough");
        // A TTL that is not advised is raised and never shortened.
        let default = TtlOffer { is_advised: false, ttl_ms: 20 * SECOND, ..OFFER };
        assert_eq!((ttl(1, &default), ttl(3, &default), ttl(500, &default)), (20, 25, 20));
    }

    #[test]
    fn a_key_that_another_node_wrote_is_not_gone() {
        let mut reuse = Reuse::default();
        assert_eq!(write(&mut reuse, 1, &OFFER, 0), 100);
        (11..50).for_each(|ten| reuse.note_l2_hit(&name(1), Tick(ten * 10 * SECOND)));
        assert_eq!(write(&mut reuse, 1, &OFFER, 500), 100, "10 s");
        reuse.note_l2_hit(&name(2), Tick(SECOND));
        assert_eq!(reuse.find(&name(2)), None, "a read does not make a key known");
    }

    #[test]
    fn an_unknown_key_is_not_new_where_keys_are_replaced_sooner_than_the_ttl() {
        let mut reuse = Reuse::default();
        let many = 2 * KEYS_MAX as u64;
        new_keys(&mut reuse, 0, many);
        assert_eq!(write(&mut reuse, many, &OFFER, many), 5, "the replaced keys had ended long before");
        // As many keys in one second replace keys whose TTL has not ended.
        (0..many).for_each(|number| {
            write(&mut reuse, 2 * many + number, &OFFER, many);
        });
        assert_eq!(write(&mut reuse, 9 * many, &OFFER, many), 100);
        assert_eq!(reuse.places.len(), KEYS_MAX);
        // Keys that are replaced later had ended long before.
        (0..1_000).for_each(|number| {
            write(&mut reuse, 4 * many + number, &OFFER, 2 * many);
        });
        assert_eq!(write(&mut reuse, 10 * many, &OFFER, 2 * many), 5);
    }
}
