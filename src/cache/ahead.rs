//! Prefetch: what the learner says is read with the miss that made it say so, or in the background.
//!
//! **Where the learner runs.** There is one, behind a lock that workers only ever *try*. A worker that misses a key learns
//! and predicts on the spot, 1 to 3 µs before a read below that takes 50 and more, so that the prediction knows the very
//! last event and rides in the same pipeline; a learner on a thread of its own would answer after the miss has been
//! sent. A worker that finds the lock taken goes on without: nothing is learned from that event, nothing is fetched,
//! and it is counted. What becomes of fetched keys is noted in a list of its own and taken up with the next event, so
//! that it is never lost.
//!
//! **Riders** are leased and registered like any flight before they are asked for: a demand for one in flight joins it, an
//! invalidation voids it. They are staged in L1 until their first use, which teaches in turn; what that predicts is read
//! by a job (`jobs::ahead`), so that a chain is followed before it is missed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Cache, Core, flight::Answer, flight::Leader, policy::Prefetch};
pub use crate::learn::{Counts, Prediction};
use crate::{
    clock::Tick,
    l1::{Filled, Residence},
    l2::Flavor,
    learn::{self, Group, Learner, Moment, Presence, RuleView, Successor, World},
    model::Key,
};

/// Keys that wait for a background read at most: with more the fetches would come too late anyway.
const QUEUE_MAX: usize = 1_024;
/// Keys that ride with one read below at most, however many keys it misses.
const RIDERS_MAX: usize = 64;
/// Outcomes that wait for the next event at most.
const OUTCOMES_MAX: usize = 8_192;

/// What became of a fetched key, as far as L1 does not tell.
enum Outcome {
    /// L2 has no such key.
    Absent,
    /// It could not be kept: L2 is away, the key changed meanwhile, its copy is too large.
    Dropped,
}

/// Prefetch of one server.
pub(crate) struct Ahead {
    learner: Mutex<Learner>,
    outcomes: Mutex<Vec<(Key, Outcome)>>,
    queue: Mutex<VecDeque<Fetch>>,
    waiting: Notify,
    /// Events that found the learner at work.
    busy: AtomicU64,
}

impl Ahead {
    pub(crate) fn new(settings: learn::Settings) -> Self {
        Self {
            learner: Mutex::new(Learner::new(settings)),
            outcomes: Mutex::new(Vec::new()),
            queue: Mutex::new(VecDeque::new()),
            waiting: Notify::new(),
            busy: AtomicU64::new(0),
        }
    }

    fn ended(&self, key: &Key, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock();
        if outcomes.len() < OUTCOMES_MAX {
            outcomes.push((key.clone(), outcome));
        }
    }
}

/// A key that is fetched ahead: it leads the flight of its key. Whoever lets go of it early is noted.
pub(crate) struct Fetch {
    core: Arc<Core>,
    leader: Option<Leader>,
}

impl Fetch {
    pub(crate) fn key(&self) -> Option<&Key> {
        self.leader.as_ref().map(|leader| &leader.key)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(leader) = &self.leader {
            self.core.ahead.ended(&leader.key, Outcome::Dropped);
        }
    }
}

/// Numbers of prefetch since start, and of now.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All keys.
    pub counts: Counts,
    /// By group of keys.
    pub groups: Vec<Group>,
    /// Entries that wait for their first use.
    pub staged_entries: u64,
    /// Their weight.
    pub staged_bytes: u64,
    /// Keys whose successors are known.
    pub keys: u64,
    /// Memory of all that was learned.
    pub bytes: u64,
    /// Events that taught nothing, because the learner was at work for another.
    pub busy: u64,
    /// Events of which the tap had to drop what it would have told.
    pub dropped: u64,
    /// The probability that is asked of a prediction now; above 1 nothing is fetched.
    pub floor: f32,
}

impl Core {
    /// Where a key is, for prefetch; the policy of its group has a say.
    fn presence(&self, key: &[u8], now: Tick) -> Presence {
        match self.l1.residence(key, now) {
            Residence::Resident => Presence::Resident,
            Residence::Staged | Residence::InFlight => Presence::Coming,
            Residence::Absent => match self.rules.load().prefetch_of(key) {
                Prefetch::Auto => Presence::Absent,
                Prefetch::Shadow => Presence::Barred,
                // Not to be spoken of: as if it were there.
                Prefetch::Off => Presence::Resident,
            },
        }
    }

    fn with_world<R>(&self, now: Tick, run: impl FnOnce(&World<'_>) -> R) -> R {
        let presence = |key: &[u8]| self.presence(key, now);
        run(&World { presence: &presence, room: self.l1.room_entries(), displaced: self.l1.staged().displaced })
    }

    /// Numbers of prefetch.
    #[must_use]
    pub fn prefetch(&self) -> Report {
        let staged = self.l1.staged();
        let learner = self.ahead.learner.lock();
        Report {
            counts: learner.counts(),
            groups: learner.groups().cloned().collect(),
            staged_entries: staged.entries,
            staged_bytes: staged.bytes,
            keys: learner.keys() as u64,
            bytes: learner.bytes() as u64,
            busy: self.ahead.busy.load(Relaxed),
            dropped: self.events_dropped(),
            floor: learner.floor(),
        }
    }

    /// What became of prefetched keys since start.
    #[must_use]
    pub fn prefetch_counts(&self) -> Counts {
        self.ahead.learner.lock().counts()
    }

    /// What would be fetched if this key were missed now, and why.
    #[must_use]
    pub fn predict(&self, key: &[u8]) -> Vec<Prediction> {
        self.with_world(self.clock.now(), |world| self.ahead.learner.lock().predict(key, world))
    }

    /// What followed a key; `None` if nothing is known of it.
    #[must_use]
    pub fn successors(&self, key: &[u8]) -> Option<Vec<Successor>> {
        self.ahead.learner.lock().successors(key)
    }

    /// The templates that have rules.
    #[must_use]
    pub fn template_rules(&self) -> Vec<(String, Vec<RuleView>)> {
        self.ahead.learner.lock().rules()
    }

    /// Up to `count` keys whose successors are known, from place `from` on, and where to go on.
    #[must_use]
    pub fn known_keys(&self, from: usize, count: usize) -> (Vec<Vec<u8>>, Option<usize>) {
        self.ahead.learner.lock().page(from, count)
    }
}

impl Cache {
    /// Learns from an event; the keys to fetch, leased. Never waits.
    fn foresee(&self, key: &[u8], moment: Moment, now: Tick) -> Vec<Fetch> {
        let core = &self.core;
        if core.flavor == Flavor::None || core.rules.load().prefetch_of(key) == Prefetch::Off {
            return Vec::new();
        }
        let Some(mut learner) = core.ahead.learner.try_lock() else {
            core.ahead.busy.fetch_add(1, Relaxed);
            return Vec::new();
        };
        for (key, outcome) in core.ahead.outcomes.lock().drain(..) {
            match outcome {
                Outcome::Absent => learner.absent(&key),
                Outcome::Dropped => learner.dropped(&key),
            }
        }
        core.l1.take_unused(|key| learner.unused(key));
        let mut keys = Vec::new();
        core.with_world(now, |world| learner.learn(key, self.caller, moment, world, &mut keys));
        drop(learner);
        keys.into_iter().filter_map(|key| self.lease_ahead(key, now)).collect()
    }

    /// Begins the flight of a key nobody has asked for yet.
    fn lease_ahead(&self, key: Key, now: Tick) -> Option<Fetch> {
        let core = &self.core;
        let token = core.next_token();
        core.flights.register_ahead(token);
        let epoch = core.gate.epoch(self.l2.source(&key)).filter(|&epoch| core.l1.is_open(epoch, now));
        if !epoch.is_some_and(|epoch| core.l1.lease_ahead(&key, token, now, epoch)) {
            core.flights.end(token);
            core.ahead.ended(&key, Outcome::Dropped);
            return None;
        }
        Some(Fetch { core: Arc::clone(core), leader: Some(Leader::new(core, key, token)) })
    }

    /// What rides with a read of these missed keys. Only what goes to the same place as its miss does: another might answer
    /// later, and the miss would wait for it. The rest goes in the background.
    pub(super) fn riders(&self, missed: &[Key], now: Tick) -> Vec<Fetch> {
        let (mut riders, mut others) = (Vec::new(), Vec::new());
        for key in missed {
            let source = self.l2.source(key);
            for fetch in self.foresee(key, Moment::Missed, now) {
                let is_near = fetch.key().is_some_and(|key| self.l2.source(key) == source);
                if is_near && riders.len() < RIDERS_MAX { riders.push(fetch) } else { others.push(fetch) }
            }
        }
        self.queue_ahead(others);
        riders
    }

    /// A key was missed whose fetch is under way: it was late, and it teaches all the same.
    pub(super) fn was_late(&self, key: &[u8], now: Tick) {
        self.queue_ahead(self.foresee(key, Moment::Missed, now));
    }

    /// The first use of a prefetched key: what follows is fetched in the background.
    #[cold]
    pub(super) fn first_use(&self, key: &[u8], now: Tick) {
        self.queue_ahead(self.foresee(key, Moment::Used, now));
    }

    fn queue_ahead(&self, fetches: Vec<Fetch>) {
        if fetches.is_empty() {
            return;
        }
        let mut queue = self.core.ahead.queue.lock();
        let room = QUEUE_MAX - queue.len();
        let (mut fetches, mut refused) = (fetches, Vec::new());
        if fetches.len() > room {
            refused = fetches.split_off(room);
        }
        queue.extend(fetches);
        drop(queue);
        // After the lock: to let go of a fetch takes others.
        drop(refused);
        self.core.ahead.waiting.notify_one();
    }

    /// Waits for keys to fetch in the background, `most` at a time.
    pub async fn next_ahead(&self, most: usize) -> Batch {
        loop {
            let waiting = self.core.ahead.waiting.notified();
            let batch: Vec<Fetch> = {
                let mut queue = self.core.ahead.queue.lock();
                let count = most.min(queue.len());
                queue.drain(..count).collect()
            };
            if !batch.is_empty() {
                return Batch(batch);
            }
            waiting.await;
        }
    }

    /// Reads keys ahead of their demand.
    pub async fn fetch_ahead(&self, batch: Batch) {
        let sent_at = self.now();
        let keys: Vec<Key> = batch.0.iter().filter_map(Fetch::key).cloned().collect();
        let (answers, _) = self.ask(&keys).await;
        for (fetch, answer) in batch.0.into_iter().zip(answers) {
            self.stage(fetch, sent_at, &answer);
        }
    }

    /// A fetch has its answer: the copy waits in L1 for its first use, or goes to those who ask for it already.
    pub(super) fn stage(&self, mut fetch: Fetch, sent_at: Tick, answer: &Answer) {
        let Some(leader) = fetch.leader.take() else { return };
        let core = &self.core;
        let kept = match answer {
            Ok(Some(_)) if core.flights.has_waiters(leader.token) => {
                self.promote(&leader, sent_at, answer, core.group_of(&leader.key));
                true
            }
            Ok(Some(stored)) if core.rules.load().may_promote(&leader.key, &stored.value) => {
                let fill = self.copy_of(&leader.key, stored, sent_at, core.group_of(&leader.key));
                let filled = core.l1.fill_staged(&leader.key, leader.token, fill, self.now());
                filled == Filled::Inserted
            }
            Ok(_) | Err(_) => {
                core.l1.release(&leader.key, leader.token);
                false
            }
        };
        match answer {
            Ok(None) => core.ahead.ended(&leader.key, Outcome::Absent),
            Ok(Some(_)) | Err(_) if !kept => core.ahead.ended(&leader.key, Outcome::Dropped),
            Ok(Some(_)) | Err(_) => {}
        }
        leader.land(answer);
    }
}

/// Keys to fetch in the background, leased.
pub struct Batch(Vec<Fetch>);
