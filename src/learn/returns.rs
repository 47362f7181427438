//! Which keys come back once their life is over, and how soon: what sets keys of one template apart where a TTL is tuned.
//!
//! The advice of a template is a TTL for its mean key. Keys of one template differ, though: many are read once and never
//! again, and to hold those as long as the rest is what a tuned TTL loses against a fixed one of the same hit rate. What a
//! write sees of a key is how long it was away: the *wait* from the end of its last life to the write that brought it back.
//! For a key that is read at random that is a mean of its intervals, and no read has to be counted for it. From the mean
//! wait, each as much as all before it:
//!
//! * A key that is not known gets the shortest TTL, where fewer than half of the keys of its template came back within the
//!   template's TTL after their first life. Where most do, and where that is not known yet, it gets the template's TTL.
//! * A key that was away for longer than the TTL gets the shortest one: all of its last life was for nobody.
//! * All others get the template's TTL. Where that is short, under [`RAISED_SHORTEST`] times the shortest, it is raised up to
//!   there, to [`RAISED_WAITS`] waits: reads that come in bursts have a short mean interval, and the pauses between the
//!   bursts are what a key is away for. Such a key is held nearly all the time anyway; what changes is how often it is
//!   fetched. Never beyond what changes allow.
//!
//! On dns-wrccdc (shortest TTL 5 s) that takes the bytes held, against a fixed TTL of the same hit rate, from 2.08 times to
//! 0.93; without what is raised to 1.28, and the shortest TTL for what is new alone, with a memory like the doorkeeper of
//! TinyLFU (Einziger, Friedman, Manes, ACM Transactions on Storage 2017), to 1.53. Keys of one rhythm get what the formula
//! says, whether they are read regularly or at random, as hardly any of them is away for a whole TTL.
//!
//! What other nodes write is seen by what L2 answers here. Bounded: [`KEYS_MAX`] keys, 3 MB, from the first write on. A
//! new key takes the place of the one of eight that ended first. Where keys are forgotten sooner than the TTL, an unknown
//! key is no new key: it gets the template's TTL.

use hashbrown::HashMap;

use super::{intervals::TEMPLATES_MAX, shape::hash_of};
use crate::clock::Tick;

/// Keys that are known at most.
pub const KEYS_MAX: usize = SETS * WAYS;
const SETS: usize = 16_384;
/// Places that a key may have.
const WAYS: usize = 8;
/// A life may be raised to so many shortest TTLs.
const RAISED_SHORTEST: u64 = 5;
/// And to so many mean waits: the key is there ten parts in eleven of the time.
const RAISED_WAITS: f32 = 10.0;
/// What a wait weighs in the mean, against all before it. From 0.25 to 0.7 the bytes held are the same within 0.04.
const WAIT_WEIGHT: f32 = 0.5;
/// First lives of a template that must be known before they say that its keys do not come back.
const FIRSTS_MIN: u32 = 8;
/// First lives after which both counts are halved.
const FIRSTS_KEPT: u32 = 64;
/// What the place that was taken last weighs in how far the memory reaches back.
const REACH_WEIGHT: f64 = 1.0 / 64.0;

/// What a write that brings no TTL is offered, before its key is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The template of its key.
    pub template: u64,
    /// The template's TTL, ms; where nothing is advised for it, the one that its policy gives.
    pub ttl_ms: u64,
    /// Whether that is advice: what is not is never shortened.
    pub is_advised: bool,
    /// The shortest TTL, ms.
    pub shortest_ms: u64,
    /// What changes allow, ms; `u64::MAX` where none are known.
    pub fresh_ms: u64,
}

/// The keys that are known.
#[derive(Debug, Default)]
pub struct Returns {
    /// [`SETS`] times [`WAYS`], or none before the first write.
    places: Vec<Place>,
    /// By template.
    firsts: HashMap<u64, Firsts>,
    /// For how long a key was over, on average, when its place was taken, ms; `None` while there was room.
    reach_ms: Option<f64>,
}

/// One key.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The part of its hash that does not say where it is.
    tag: u32,
    /// Mean wait, ms; `None` before it came back for the first time.
    wait_ms: Option<f32>,
    /// When its life is over; [`Tick::ZERO`] in a place that is free.
    ends_at: Tick,
}

impl Place {
    const FREE: Self = Self { tag: 0, wait_ms: None, ends_at: Tick::ZERO };

    /// The mean wait, were it back now.
    fn wait_at(&self, now: Tick) -> Option<f32> {
        if now <= self.ends_at {
            return self.wait_ms;
        }
        let wait = (now.0 - self.ends_at.0) as f32;
        Some(self.wait_ms.map_or(wait, |mean| mean + WAIT_WEIGHT * (wait - mean)))
    }
}

/// First lives of a template's keys.
#[derive(Debug, Clone, Copy, Default)]
struct Firsts {
    begun: u32,
    /// Of these, back within the TTL after their end.
    back: u32,
}

impl Firsts {
    fn begin(&mut self) {
        self.begun += 1;
        if self.begun >= FIRSTS_KEPT {
            (self.begun, self.back) = (self.begun / 2, self.back / 2);
        }
    }

    fn come_back(&mut self) {
        self.back = (self.back + 1).min(self.begun);
    }

    fn are_in_vain(self) -> bool {
        self.begun >= FIRSTS_MIN && self.back * 2 < self.begun
    }
}

impl Returns {
    /// The life, ms, that a value of this key gets.
    #[must_use]
    pub fn life_ms(&self, key: &[u8], terms: &Terms, now: Tick) -> u64 {
        let &Terms { ttl_ms, is_advised, .. } = terms;
        let shortest = if is_advised { terms.shortest_ms.min(ttl_ms) } else { ttl_ms };
        let place = self.find(key).map(|at| self.places[at]);
        let Some(wait) = place.and_then(|place| place.wait_at(now)) else {
            let is_forgotten = place.is_none() && self.reach_ms.is_some_and(|reach| reach < ttl_ms as f64);
            let is_in_vain = self.firsts.get(&terms.template).is_some_and(|firsts| firsts.are_in_vain());
            return if is_in_vain && !is_forgotten { shortest } else { ttl_ms };
        };
        let raised_max = terms.shortest_ms.saturating_mul(RAISED_SHORTEST).min(terms.fresh_ms);
        let raised = ttl_ms.max(((RAISED_WAITS * wait) as u64).min(raised_max));
        if wait > raised as f32 { shortest } else { raised }
    }

    /// A value of this key, which gets a life of so many ms, is written.
    pub fn wrote(&mut self, key: &[u8], terms: &Terms, now: Tick, life_ms: u64) {
        let ends_at = Tick(now.0.saturating_add(life_ms));
        let Some(at) = self.find(key) else {
            self.begin(key, terms.template, now, ends_at);
            return;
        };
        let place = &mut self.places[at];
        let is_first_return = place.wait_ms.is_none() && now > place.ends_at;
        let is_soon = now.0.saturating_sub(place.ends_at.0) <= terms.ttl_ms;
        *place = Place { wait_ms: place.wait_at(now), ends_at, ..*place };
        if is_first_return
            && is_soon
            && let Some(firsts) = self.firsts.get_mut(&terms.template)
        {
            firsts.come_back();
        }
    }

    /// L2 answered a read of this key: where its life was over, another node has written it.
    pub fn seen(&mut self, key: &[u8], at: Tick) {
        let place = self.find(key).map(|place| &mut self.places[place]);
        if let Some(place) = place.filter(|place| at > place.ends_at) {
            *place = Place { wait_ms: place.wait_at(at), ends_at: at, ..*place };
        }
    }

    fn begin(&mut self, key: &[u8], template: u64, now: Tick, ends_at: Tick) {
        if self.places.is_empty() {
            self.places = vec![Place::FREE; KEYS_MAX];
        }
        let (set, tag) = place_of(key);
        if let Some(oldest) = self.places[set..set + WAYS].iter_mut().min_by_key(|place| place.ends_at) {
            let over_ms = now.0.saturating_sub(oldest.ends_at.0) as f64;
            if oldest.ends_at > Tick::ZERO {
                self.reach_ms = Some(self.reach_ms.map_or(over_ms, |reach| reach + REACH_WEIGHT * (over_ms - reach)));
            }
            *oldest = Place { tag, wait_ms: None, ends_at };
        }
        if self.firsts.len() < TEMPLATES_MAX || self.firsts.contains_key(&template) {
            self.firsts.entry(template).or_default().begin();
        }
    }

    /// Where this key is.
    fn find(&self, key: &[u8]) -> Option<usize> {
        let (set, tag) = place_of(key);
        let mut ways = self.places.get(set..set + WAYS)?.iter();
        ways.position(|place| place.tag == tag && place.ends_at > Tick::ZERO).map(|way| set + way)
    }
}

/// Where a key's places begin, and what tells it from others there. Two keys that share both share a memory: one in some
/// 500 million pairs of a set.
fn place_of(key: &[u8]) -> (usize, u32) {
    let hash = hash_of(0, key);
    ((hash >> 32) as usize % SETS * WAYS, hash as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000;
    const TERMS: Terms =
        Terms { template: 1, ttl_ms: 100 * SECOND, is_advised: true, shortest_ms: 5 * SECOND, fresh_ms: u64::MAX };

    fn name(number: u64) -> Vec<u8> {
        format!("user:{number}").into_bytes()
    }

    /// A write at this second, as a server does it: the life that it gets, in seconds.
    fn write(returns: &mut Returns, number: u64, terms: &Terms, second: u64) -> u64 {
        let now = Tick(second * SECOND + 1);
        let life = returns.life_ms(&name(number), terms, now);
        returns.wrote(&name(number), terms, now, life);
        life / SECOND
    }

    /// New keys, from the first second on one each second.
    fn new_keys(returns: &mut Returns, from: u64, count: u64) -> Vec<u64> {
        (0..count).map(|number| write(returns, from + number, &TERMS, 1 + number)).collect()
    }

    #[test]
    fn new_keys_of_a_template_whose_keys_do_not_come_back_are_kept_for_the_shortest_time() {
        let mut returns = Returns::default();
        let lives = new_keys(&mut returns, 0, 20);
        assert_eq!(lives[..8], [100; 8], "nothing is known yet");
        assert_eq!(lives[8..], [5; 12]);
        // One that comes back is worth the TTL; and where most do, a new one is as well.
        assert_eq!(write(&mut returns, 19, &TERMS, 30), 100);
        (8..19).for_each(|number| assert_eq!(write(&mut returns, number, &TERMS, 40), 100));
        assert_eq!(write(&mut returns, 100, &TERMS, 41), 100);
        // Another template is another matter.
        let other = Terms { template: 2, ..TERMS };
        assert_eq!(write(&mut Returns::default(), 0, &other, 1), 100);
    }

    #[test]
    fn who_is_away_for_longer_than_the_ttl_gets_the_shortest_until_it_is_back_sooner() {
        let mut returns = Returns::default();
        assert_eq!(write(&mut returns, 1, &TERMS, 0), 100);
        assert_eq!(write(&mut returns, 1, &TERMS, 201), 5, "101 s");
        assert_eq!(write(&mut returns, 1, &TERMS, 216), 100, "10 s, 55 s on average");
        assert_eq!(write(&mut returns, 1, &TERMS, 250), 100, "it was there all the time, which says nothing");
    }

    #[test]
    fn a_short_life_is_raised_to_ten_waits_but_only_so_far() {
        let quick = Terms { ttl_ms: 5 * SECOND, ..TERMS };
        let life = |wait: u64, terms: &Terms| {
            let mut returns = Returns::default();
            assert_eq!(write(&mut returns, 1, terms, 0), terms.ttl_ms / SECOND);
            write(&mut returns, 1, terms, terms.ttl_ms / SECOND + wait)
        };
        assert_eq!((life(1, &quick), life(2, &quick), life(3, &quick)), (10, 20, 25));
        assert_eq!((life(25, &quick), life(26, &quick)), (25, 5));
        assert_eq!(life(2, &Terms { fresh_ms: 8 * SECOND, ..quick }), 8, "it changes");
        assert_eq!(life(2, &Terms { ttl_ms: 60 * SECOND, ..quick }), 60, "long enough");
        // What is no advice is raised and never shortened.
        let default = Terms { is_advised: false, ttl_ms: 20 * SECOND, ..TERMS };
        assert_eq!((life(1, &default), life(3, &default), life(500, &default)), (20, 25, 20));
    }

    #[test]
    fn a_key_that_another_node_wrote_is_not_away() {
        let mut returns = Returns::default();
        assert_eq!(write(&mut returns, 1, &TERMS, 0), 100);
        (11..50).for_each(|ten| returns.seen(&name(1), Tick(ten * 10 * SECOND)));
        assert_eq!(write(&mut returns, 1, &TERMS, 500), 100, "10 s");
        returns.seen(&name(2), Tick(SECOND));
        assert_eq!(returns.find(&name(2)), None, "reads make nobody known");
    }

    #[test]
    fn where_keys_are_forgotten_sooner_than_the_ttl_nobody_is_new() {
        let mut returns = Returns::default();
        let many = 2 * KEYS_MAX as u64;
        new_keys(&mut returns, 0, many);
        assert_eq!(write(&mut returns, many, &TERMS, many), 5, "those that had to go were over for long");
        // As many in one second push out who lives.
        (0..many).for_each(|number| {
            write(&mut returns, 2 * many + number, &TERMS, many);
        });
        assert_eq!(write(&mut returns, 9 * many, &TERMS, many), 100);
        assert_eq!(returns.places.len(), KEYS_MAX);
        // Who has to go later was over for long again.
        (0..1_000).for_each(|number| {
            write(&mut returns, 4 * many + number, &TERMS, 2 * many);
        });
        assert_eq!(write(&mut returns, 10 * many, &TERMS, 2 * many), 5);
    }
}
