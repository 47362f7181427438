//! Prefetch: what the learner says is read with the miss that made it say so, or in the background.
//!
//! **Where the learner runs.** There is one, behind a lock that workers only ever *try*. A worker that misses a key learns
//! and predicts on the spot, so that the prediction knows the very last event and rides in the same pipeline; a learner on
//! a thread of its own would answer after the miss has been sent. What that costs: `benches/learning.rs`. A worker that finds
//! the lock taken notes the event in a list and goes on without; who has the lock next takes up the list, some of it at a
//! time, and what follows from that is fetched in the background. So nothing that was learned, and no outcome of a fetch,
//! is lost before the list is full; what is lost then is counted.
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
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{Cache, Caller, Core, flight::Answer, flight::Leader, policy::Prefetch, stats::groups::GROUPS_MAX};
pub use crate::learn::{
    Counts, Learner, Prediction,
    control::{Decisions, Evidence},
    snapshot::FORM,
};
use crate::{
    clock::Tick,
    l1::{Filled, Residence},
    l2::Flavor,
    learn::{self, Group, Moment, Presence, RuleView, Successor, World, snapshot::Cursor},
    model::Key,
};

/// Keys that wait for a background read at most: with more the fetches would come too late anyway.
const QUEUE_MAX: usize = 1_024;
/// Keys that ride with one read below at most, however many keys it misses.
const RIDERS_MAX: usize = 64;
/// What waits for the learner at most, and how much of it one event takes up: its miss waits for that.
const NOTED_MAX: usize = 8_192;
const TAKEN_UP: usize = 8;

/// What the learner is to be told.
enum Noted {
    /// L2 has no such key, which was fetched.
    Absent,
    /// A fetched key could not be kept: L2 is away, the key changed meanwhile, its copy is too large.
    Dropped,
    /// What taught something found the learner at work.
    Event(Caller, Moment),
}

/// Prefetch of one server.
pub(crate) struct Ahead {
    pub(super) learner: Mutex<Learner>,
    noted: Mutex<VecDeque<(Key, Noted)>>,
    queue: Mutex<VecDeque<Fetch>>,
    waiting: Notify,
    /// By number of the key group: what became of its keys.
    groups: Box<[GroupCounts]>,
    /// Events that found the learner at work, and no room to be noted.
    busy: AtomicU64,
    settings: learn::Settings,
    files: Mutex<Files>,
}

impl Ahead {
    pub(crate) fn new(settings: learn::Settings) -> Self {
        Self {
            learner: Mutex::new(Learner::new(settings)),
            noted: Mutex::new(VecDeque::new()),
            queue: Mutex::new(VecDeque::new()),
            waiting: Notify::new(),
            groups: (0..GROUPS_MAX).map(|_| GroupCounts::default()).collect(),
            busy: AtomicU64::new(0),
            settings,
            files: Mutex::default(),
        }
    }

    /// Keeps something for the learner. `false` if too much waits already.
    fn note(&self, key: &Key, what: Noted) -> bool {
        let mut noted = self.noted.lock();
        let has_room = noted.len() < NOTED_MAX;
        if has_room {
            noted.push_back((key.clone(), what));
        }
        has_room
    }

    fn ended(&self, key: &Key, what: Noted) {
        // What is not told is let go of by the learner in the end.
        let _told = self.note(key, what);
    }
}

/// What became of the fetched keys of one key group.
#[derive(Default)]
struct GroupCounts {
    issued: AtomicU64,
    used: AtomicU64,
    late: AtomicU64,
    wasted: AtomicU64,
}

impl GroupCounts {
    fn counts(&self) -> Counts {
        Counts {
            issued: self.issued.load(Relaxed),
            used: self.used.load(Relaxed),
            late: self.late.load(Relaxed),
            wasted: self.wasted.load(Relaxed),
            shadow: 0,
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
            self.core.ahead.ended(&leader.key, Noted::Dropped);
        }
    }
}

/// Numbers of prefetch since start, and of now.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// All keys.
    pub counts: Counts,
    /// By what keys begin with.
    pub groups: Vec<Group>,
    /// By key group, as reads are counted (`shadow` is not): those with any, by name.
    pub key_groups: Vec<(Arc<str>, Counts)>,
    /// Whether it pays.
    pub evidence: Evidence,
    /// Entries that wait for their first use.
    pub staged_entries: u64,
    /// Their weight.
    pub staged_bytes: u64,
    /// Keys whose successors are known.
    pub keys: u64,
    /// Memory of all that was learned.
    pub bytes: u64,
    /// Events that taught nothing: the learner was at work for another, and too many waited for it already.
    pub busy: u64,
    /// Events of which the tap had to drop what it would have told.
    pub dropped: u64,
    /// The probability that is asked of a prediction now; above 1 nothing is fetched.
    pub floor: f32,
    /// Files of what was learned.
    pub snapshots: Files,
}

/// What became of files of what was learned, since start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Files {
    /// Taken back.
    pub loaded: u64,
    /// Could not be used.
    pub set_aside: u64,
    /// Written.
    pub written: u64,
    /// Could not be read or written.
    pub failed: u64,
    /// Size of the last one.
    pub bytes: u64,
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
            key_groups: self.prefetch_groups(),
            evidence: learner.evidence(),
            staged_entries: staged.entries,
            staged_bytes: staged.bytes,
            keys: learner.keys() as u64,
            bytes: learner.bytes() as u64,
            busy: self.ahead.busy.load(Relaxed),
            dropped: self.events_dropped(),
            floor: learner.floor(),
            snapshots: *self.ahead.files.lock(),
        }
    }

    /// What became of prefetched keys since start.
    #[must_use]
    pub fn prefetch_counts(&self) -> Counts {
        self.ahead.learner.lock().counts()
    }

    fn prefetch_groups(&self) -> Vec<(Arc<str>, Counts)> {
        let names = self.stats.groups.names().into_iter();
        let all = names.zip(&self.ahead.groups).map(|(name, group)| (name, group.counts()));
        all.filter(|(_, counts)| *counts != Counts::default()).collect()
    }

    /// Tells the learner of one key; what that made of earlier fetches is counted for its group.
    fn teach(&self, learner: &mut Learner, key: &[u8], tell: impl FnOnce(&mut Learner)) {
        let before = learner.counts();
        tell(learner);
        let after = learner.counts();
        if (before.used, before.late, before.wasted) != (after.used, after.late, after.wasted) {
            let counts = &self.ahead.groups[usize::from(self.group_of(key))];
            counts.used.fetch_add(after.used - before.used, Relaxed);
            counts.late.fetch_add(after.late - before.late, Relaxed);
            counts.wasted.fetch_add(after.wasted - before.wasted, Relaxed);
        }
    }

    /// Takes up some of what was noted while the learner was at work; what is to be fetched because of it.
    fn take_up(&self, learner: &mut Learner, now: Tick) -> Vec<Key> {
        let mut fetched = Vec::new();
        let noted: SmallVec<[(Key, Noted); TAKEN_UP]> = {
            let mut noted = self.ahead.noted.lock();
            let count = noted.len().min(TAKEN_UP);
            noted.drain(..count).collect()
        };
        for (key, what) in noted {
            self.teach(learner, &key, |learner| match what {
                Noted::Absent => learner.absent(&key),
                Noted::Dropped => learner.dropped(&key),
                Noted::Event(caller, moment) => {
                    self.with_world(now, |world| learner.learn(&key, caller, moment, world, &mut fetched));
                }
            });
        }
        self.l1.take_unused(|key| self.teach(learner, key, |learner| learner.unused(key)));
        fetched
    }

    /// The next block of what was learned; `None` after the last.
    #[must_use]
    pub fn keep_learned(&self, cursor: &mut Cursor) -> Option<Vec<u8>> {
        self.ahead.learner.lock().keep(cursor)
    }

    /// A learner like this node's that knows nothing yet, to take back what was learned.
    #[must_use]
    pub fn new_learner(&self) -> Learner {
        Learner::new(self.ahead.settings)
    }

    /// Goes on with this learner. What was in flight for the former is no longer awaited.
    pub fn set_learner(&self, learner: Learner) {
        let _former = std::mem::replace(&mut *self.ahead.learner.lock(), learner);
    }

    /// Most bytes of a file of what was learned: it is smaller than the memory that it takes.
    #[must_use]
    pub fn learned_max_bytes(&self) -> u64 {
        self.ahead.settings.memory_bytes as u64
    }

    /// Counts what became of a file of what was learned.
    pub fn note_learned(&self, note: impl FnOnce(&mut Files)) {
        note(&mut self.ahead.files.lock());
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
            let noted = Key::copied(key).is_ok_and(|key| core.ahead.note(&key, Noted::Event(self.caller, moment)));
            core.ahead.busy.fetch_add(u64::from(!noted), Relaxed);
            return Vec::new();
        };
        let behind = core.take_up(&mut learner, now);
        let mut keys = Vec::new();
        core.teach(&mut learner, key, |learner| {
            core.with_world(now, |world| learner.learn(key, self.caller, moment, world, &mut keys));
        });
        drop(learner);
        self.queue_ahead(self.lease_all(behind, now));
        self.lease_all(keys, now)
    }

    fn lease_all(&self, keys: Vec<Key>, now: Tick) -> Vec<Fetch> {
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
            core.ahead.ended(&key, Noted::Dropped);
            return None;
        }
        core.ahead.groups[usize::from(core.group_of(&key))].issued.fetch_add(1, Relaxed);
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
            Ok(None) => core.ahead.ended(&leader.key, Noted::Absent),
            Ok(Some(_)) | Err(_) if !kept => core.ahead.ended(&leader.key, Noted::Dropped),
            Ok(Some(_)) | Err(_) => {}
        }
        leader.land(answer);
    }
}

/// Keys to fetch in the background, leased.
pub struct Batch(Vec<Fetch>);
