//! Warming up: which keys are hot, and bringing keys up from L2 before somebody asks for them.
//!
//! Such reads are no user reads: they have no outcome and nothing is learned from them; the calls to L2 are counted as the
//! load that they are.

use std::{
    cmp::Reverse,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::{Cache, Core, flight::Leader};
use crate::{
    clock::Tick,
    hot::HotKey,
    l1::{Leased, Resident},
    l2::Flavor,
    model::Key,
};

/// Entries of L1 that are looked at before other tasks get a turn.
const SCAN_STEP: usize = 1_000;

/// What warming up has come to, since start.
#[derive(Debug, Default)]
pub(crate) struct Warming {
    found: AtomicU64,
    absent: AtomicU64,
    resident: AtomicU64,
    failed: AtomicU64,
    left: AtomicU64,
    at_work: AtomicBool,
}

/// What became of keys that were to be brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Warmed {
    /// L2 had them.
    pub found: u64,
    /// L2 has them no more.
    pub absent: u64,
    /// They were in L1, or on their way, already.
    pub resident: u64,
    /// L2 could not be asked, or L1 is closed.
    pub failed: u64,
}

/// How far warming up after the start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// All warming up since start, that by hand included.
    pub keys: Warmed,
    /// Keys of the former life that are still to be brought up.
    pub left: u64,
    /// Whether it goes on.
    pub at_work: bool,
}

impl Warmed {
    /// All of them.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.found + self.absent + self.resident + self.failed
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.found += other.found;
        self.absent += other.absent;
        self.resident += other.resident;
        self.failed += other.failed;
    }
}

impl Core {
    /// The hottest keys of L1, hottest first, `most` at most. Heat is reads a second of idleness: what was read often and
    /// just now comes first.
    pub async fn hot_keys(&self, most: usize) -> Vec<HotKey> {
        let mut keys: Vec<HotKey> = Vec::new();
        let mut cursor = 0;
        loop {
            let now = self.clock.now();
            cursor = self.l1.scan(cursor, SCAN_STEP, now, |key, resident| {
                keys.extend(Key::copied(key).map(|key| HotKey { key, heat: heat(resident, now) }));
            });
            // Twice as many before the colder half goes: then each look costs little.
            if keys.len() >= most.saturating_mul(2).max(SCAN_STEP) {
                keep_hottest(&mut keys, most);
            }
            if cursor == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        keep_hottest(&mut keys, most);
        keys.sort_unstable_by_key(|hot| Reverse(hot.heat));
        keys
    }

    /// How far warming up has come.
    #[must_use]
    pub fn warming(&self) -> Progress {
        let warming = &self.warming;
        Progress {
            keys: Warmed {
                found: warming.found.load(Relaxed),
                absent: warming.absent.load(Relaxed),
                resident: warming.resident.load(Relaxed),
                failed: warming.failed.load(Relaxed),
            },
            left: warming.left.load(Relaxed),
            at_work: warming.at_work.load(Relaxed),
        }
    }

    /// Tells how many keys of the former life are left; `None` when it is over.
    pub fn set_warming(&self, left: Option<u64>) {
        self.warming.at_work.store(left.is_some(), Relaxed);
        self.warming.left.store(left.unwrap_or(0), Relaxed);
    }

    /// Entries that have left L1 for want of room: while that goes on, warming up would drive out what is hotter.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.l1.removals().size
    }
}

fn heat(resident: &Resident, now: Tick) -> u32 {
    const SCALE: u64 = 1_000;
    let idle_s = now.since(resident.used_at).as_secs();
    let heat = (u64::from(resident.hit.hits) + 1) * SCALE / (idle_s + 1);
    u32::try_from(heat).unwrap_or(u32::MAX)
}

fn keep_hottest(keys: &mut Vec<HotKey>, most: usize) {
    if keys.len() > most {
        keys.select_nth_unstable_by_key(most, |hot| Reverse(hot.heat));
        keys.truncate(most);
    }
}

impl Cache {
    /// Brings keys up from L2 into L1, in one call below.
    pub async fn warm(&self, keys: Vec<Key>) -> Warmed {
        let warmed = self.bring_up(keys).await;
        let warming = &self.core.warming;
        warming.found.fetch_add(warmed.found, Relaxed);
        warming.absent.fetch_add(warmed.absent, Relaxed);
        warming.resident.fetch_add(warmed.resident, Relaxed);
        warming.failed.fetch_add(warmed.failed, Relaxed);
        warmed
    }

    async fn bring_up(&self, keys: Vec<Key>) -> Warmed {
        let mut warmed = Warmed::default();
        if self.core.flavor == Flavor::None {
            // L1 is the store: what is not there is nowhere.
            warmed.absent = keys.len() as u64;
            return warmed;
        }
        let _turn = self.turn().await;
        let sent_at = self.now();
        let led: Vec<Leader> = keys.into_iter().filter_map(|key| self.lead_warm(key, sent_at, &mut warmed)).collect();
        if led.is_empty() {
            return warmed;
        }
        let wanted: Vec<Key> = led.iter().map(|leader| leader.key.clone()).collect();
        let (answers, _) = self.ask(&wanted).await;
        for (leader, answer) in led.into_iter().zip(answers) {
            self.promote(&leader, sent_at, &answer, self.core.group_of(&leader.key));
            match &answer {
                Ok(Some(_)) => warmed.found += 1,
                Ok(None) => warmed.absent += 1,
                Err(_) => warmed.failed += 1,
            }
            leader.land(&answer);
        }
        warmed
    }

    /// The right to fill a key, unless it is there, on its way, or may not come in now.
    fn lead_warm(&self, key: Key, now: Tick, warmed: &mut Warmed) -> Option<Leader> {
        // Looked at first, because the look of a lease counts as a use.
        if self.core.l1.peek(&key, now).is_some() {
            warmed.resident += 1;
            return None;
        }
        let epoch = self.core.gate.epoch(self.l2.source(&key)).filter(|&epoch| self.core.l1.is_open(epoch, now));
        if epoch.is_none() {
            warmed.failed += 1;
            return None;
        }
        let token = self.core.next_token();
        self.core.flights.register(token);
        match self.core.l1.lease(&key, token, now, epoch, false) {
            Leased::Lead => Some(Leader::new(&self.core, key, token)),
            Leased::Hit(_) | Leased::Join(_) => {
                self.core.flights.end(token);
                warmed.resident += 1;
                None
            }
        }
    }
}
