//! Prefetch: reads predicted keys from L2, together with the miss that led to the prediction or in the background.
//!
//! **Where the learner runs.** The single learner is behind a lock that workers only *try* to take. A worker that
//! misses a key learns and predicts immediately, so the prediction includes the latest event and the predicted keys
//! travel in the same pipeline. A learner on its own thread would answer after the miss was sent. `benches/learning.rs`
//! measures the cost. A worker that finds the lock taken adds the event to a list and continues. The next holder of the
//! lock processes some of the list, and the keys predicted from it are prefetched in the background. No event and no
//! result of a prefetch is lost until the list is full; later losses are counted.
//!
//! **Piggybacked prefetches** are leased and registered like any flight before they are sent. A concurrent read of such
//! a key joins the flight, and an invalidation voids it. The entries are staged in L1 until their first use, which is
//! learned as well. A job (`jobs::prefetch`) reads the keys predicted then, so Terrace follows a chain of keys before
//! its keys are missed.
//!
//! * `learned_state`: reports, snapshots and queries of the learned state.

mod learned_state;

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

pub use self::learned_state::{PrefetchReport, SnapshotFiles};
pub use crate::learn::{
    prefetch::{Decisions, Evidence, FetchCounts, Learner, Prediction},
    snapshot::FORM,
};
use crate::{
    cache::{
        Cache, Caller, Core,
        flight::{Answer, Leader},
        policy::Prefetch,
    },
    clock::Tick,
    l1::{Filled, Residence},
    l2::Flavor,
    learn::prefetch::{L1View, PrefetchSettings, Presence, Trigger},
    model::Key,
};

/// Maximum number of keys that wait for a background prefetch. More prefetches would arrive too late.
const QUEUE_MAX: usize = 1_024;
/// Maximum number of keys that are prefetched together with one L2 read (piggybacked).
const PIGGYBACKED_MAX: usize = 64;
/// Maximum number of events that wait for the prefetch learner. Further events are not learned.
const NOTES_MAX: usize = 8_192;
const NOTES_PER_EVENT: usize = 8;

/// A note for the learner.
enum LearnerNote {
    /// L2 does not have the prefetched key.
    Absent,
    /// A prefetched key was not kept: L2 was unavailable, the key changed meanwhile, or its copy is too large.
    Dropped,
    /// An event that found the learner busy.
    Event(Caller, Trigger),
}

/// Prefetch of one server.
pub(crate) struct Prefetcher {
    pub(in crate::cache) learner: Mutex<Learner>,
    noted: Mutex<VecDeque<(Key, LearnerNote)>>,
    queue: Mutex<VecDeque<Fetch>>,
    waiting: Notify,
    /// Results of prefetches, by key group number.
    groups: Box<[GroupCounts]>,
    /// Events that found the learner busy and the list of notes full.
    busy: AtomicU64,
    settings: PrefetchSettings,
    files: Mutex<SnapshotFiles>,
}

impl Prefetcher {
    /// Creates the prefetch state. `groups` is the number of key groups that reads are counted in.
    pub(crate) fn new(settings: PrefetchSettings, groups: usize) -> Self {
        Self {
            learner: Mutex::new(Learner::new(settings)),
            noted: Mutex::new(VecDeque::new()),
            queue: Mutex::new(VecDeque::new()),
            waiting: Notify::new(),
            groups: (0..groups).map(|_| GroupCounts::default()).collect(),
            busy: AtomicU64::new(0),
            settings,
            files: Mutex::default(),
        }
    }

    /// Adds a note for the learner. Returns `false` if the list is full.
    fn note(&self, key: &Key, what: LearnerNote) -> bool {
        let mut noted = self.noted.lock();
        let has_room = noted.len() < NOTES_MAX;
        if has_room {
            noted.push_back((key.clone(), what));
        }
        has_room
    }

    fn ended(&self, key: &Key, what: LearnerNote) {
        // Without a note, the learner eventually forgets the prefetch.
        let _noted = self.note(key, what);
    }
}

/// Results of the prefetches of one key group.
#[derive(Default)]
struct GroupCounts {
    issued: AtomicU64,
    used: AtomicU64,
    late: AtomicU64,
    wasted: AtomicU64,
}

impl GroupCounts {
    fn counts(&self) -> FetchCounts {
        FetchCounts {
            issued: self.issued.load(Relaxed),
            used: self.used.load(Relaxed),
            late: self.late.load(Relaxed),
            wasted: self.wasted.load(Relaxed),
            shadow: 0,
        }
    }
}

/// A prefetch of one key, which leads the key's flight. Dropping it early leaves a note for the learner.
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
            self.core.prefetcher.ended(&leader.key, LearnerNote::Dropped);
        }
    }
}

impl Core {
    /// Returns the location of a key for prefetch, subject to the policy of its group.
    fn presence(&self, key: &[u8], now: Tick) -> Presence {
        match self.l1.residence(key, now) {
            Residence::Resident => Presence::Resident,
            Residence::Staged | Residence::InFlight => Presence::Prefetched,
            Residence::Absent => match self.rules.load().prefetch_of(key) {
                Prefetch::Auto => Presence::Absent,
                Prefetch::Shadow => Presence::ShadowOnly,
                // The key is never predicted, as if it were in L1.
                Prefetch::Off => Presence::Resident,
            },
        }
    }

    fn with_l1_view<R>(&self, now: Tick, run: impl FnOnce(&L1View<'_>) -> R) -> R {
        let presence = |key: &[u8]| self.presence(key, now);
        run(&L1View { presence: &presence, room: self.l1.room_entries(), displaced: self.l1.staged().displaced })
    }

    /// Passes one event to the learner, and counts the results of earlier prefetches for the key's group.
    fn teach(&self, learner: &mut Learner, key: &[u8], tell: impl FnOnce(&mut Learner)) {
        let before = learner.counts();
        tell(learner);
        let after = learner.counts();
        if (before.used, before.late, before.wasted) != (after.used, after.late, after.wasted) {
            let counts = &self.prefetcher.groups[usize::from(self.group_of_predicted(key))];
            counts.used.fetch_add(after.used - before.used, Relaxed);
            counts.late.fetch_add(after.late - before.late, Relaxed);
            counts.wasted.fetch_add(after.wasted - before.wasted, Relaxed);
        }
    }

    /// Processes some of the notes. Returns the keys to prefetch because of them.
    fn process_notes(&self, learner: &mut Learner, now: Tick) -> Vec<Key> {
        let mut fetched = Vec::new();
        let noted: SmallVec<[(Key, LearnerNote); NOTES_PER_EVENT]> = {
            let mut noted = self.prefetcher.noted.lock();
            let count = noted.len().min(NOTES_PER_EVENT);
            noted.drain(..count).collect()
        };
        for (key, what) in noted {
            self.teach(learner, &key, |learner| match what {
                LearnerNote::Absent => learner.absent(&key),
                LearnerNote::Dropped => learner.dropped(&key),
                LearnerNote::Event(caller, trigger) => {
                    self.with_l1_view(now, |l1| learner.learn(&key, caller, trigger, l1, &mut fetched));
                }
            });
        }
        self.l1.take_unused(|key| self.teach(learner, key, |learner| learner.unused(key)));
        fetched
    }
}

impl Cache {
    /// Learns from an event and returns leased prefetches of the predicted keys. Never waits.
    fn learn_and_predict(&self, caller: Caller, key: &[u8], trigger: Trigger, now: Tick) -> Vec<Fetch> {
        let core = &self.core;
        if core.flavor == Flavor::None || core.rules.load().prefetch_of(key) == Prefetch::Off {
            return Vec::new();
        }
        let Some(mut learner) = core.prefetcher.learner.try_lock() else {
            let noted =
                Key::copied(key).is_ok_and(|key| core.prefetcher.note(&key, LearnerNote::Event(caller, trigger)));
            core.prefetcher.busy.fetch_add(u64::from(!noted), Relaxed);
            return Vec::new();
        };
        let behind = core.process_notes(&mut learner, now);
        let mut keys = Vec::new();
        core.teach(&mut learner, key, |learner| {
            core.with_l1_view(now, |l1| learner.learn(key, caller, trigger, l1, &mut keys));
        });
        drop(learner);
        self.queue_prefetch(self.lease_all(behind, now));
        self.lease_all(keys, now)
    }

    fn lease_all(&self, keys: Vec<Key>, now: Tick) -> Vec<Fetch> {
        keys.into_iter().filter_map(|key| self.lease_prefetch(key, now)).collect()
    }

    /// Begins the flight of a key that no client has requested yet.
    fn lease_prefetch(&self, key: Key, now: Tick) -> Option<Fetch> {
        let core = &self.core;
        let token = core.next_token();
        core.flights.register_prefetch(token);
        let epoch = self.fill_epoch(&key, now);
        if !epoch.is_some_and(|epoch| core.l1.lease_prefetch(&key, token, now, epoch)) {
            core.flights.end(token);
            core.prefetcher.ended(&key, LearnerNote::Dropped);
            return None;
        }
        core.prefetcher.groups[usize::from(core.group_of_predicted(&key))].issued.fetch_add(1, Relaxed);
        Some(Fetch { core: Arc::clone(core), leader: Some(Leader::new(core, key, token)) })
    }

    /// Returns the piggybacked prefetches for a read of these missed keys. They have the same L2 source as their miss:
    /// another source might answer later, and the miss would wait for it. Other predicted keys are prefetched in the
    /// background.
    pub(in crate::cache) fn piggybacked(&self, missed: &[Key], now: Tick) -> Vec<Fetch> {
        let (mut piggybacked, mut others) = (Vec::new(), Vec::new());
        for key in missed {
            let source = self.l2.source(key);
            for fetch in self.learn_and_predict(self.caller, key, Trigger::Miss, now) {
                let is_near = fetch.key().is_some_and(|key| self.l2.source(key) == source);
                if is_near && piggybacked.len() < PIGGYBACKED_MAX {
                    piggybacked.push(fetch)
                } else {
                    others.push(fetch)
                }
            }
        }
        self.queue_prefetch(others);
        piggybacked
    }

    /// Learns from a miss whose prefetch is still in flight: the prefetch was late.
    pub(in crate::cache) fn note_late_prefetch(&self, key: &[u8], now: Tick) {
        self.queue_prefetch(self.learn_and_predict(self.caller, key, Trigger::Miss, now));
    }

    /// Learns from the first use of a prefetched key. Keys predicted from it are prefetched in the background.
    #[cold]
    pub(in crate::cache) fn on_first_use(&self, caller: Caller, key: &[u8], now: Tick) {
        self.queue_prefetch(self.learn_and_predict(caller, key, Trigger::FirstUse, now));
    }

    fn queue_prefetch(&self, fetches: Vec<Fetch>) {
        if fetches.is_empty() {
            return;
        }
        let mut queue = self.core.prefetcher.queue.lock();
        let room = QUEUE_MAX - queue.len();
        let (mut fetches, mut refused) = (fetches, Vec::new());
        if fetches.len() > room {
            refused = fetches.split_off(room);
        }
        queue.extend(fetches);
        drop(queue);
        // Dropped after the lock is released, because dropping a prefetch takes other locks.
        drop(refused);
        self.core.prefetcher.waiting.notify_one();
    }

    /// Waits for keys to prefetch in the background. Returns at most `most` keys.
    pub async fn next_prefetch(&self, most: usize) -> FetchBatch {
        loop {
            let waiting = self.core.prefetcher.waiting.notified();
            let batch: Vec<Fetch> = {
                let mut queue = self.core.prefetcher.queue.lock();
                let count = most.min(queue.len());
                queue.drain(..count).collect()
            };
            if !batch.is_empty() {
                return FetchBatch(batch);
            }
            waiting.await;
        }
    }

    /// Reads a batch of predicted keys from L2.
    pub async fn fetch_batch(&self, batch: FetchBatch) {
        let sent_at = self.now();
        let keys: Vec<Key> = batch.0.iter().filter_map(Fetch::key).cloned().collect();
        let (answers, _) = self.ask(&keys, usize::MAX).await;
        for (fetch, answer) in batch.0.into_iter().zip(answers) {
            // A fetch without an answer is dropped, which ends its flight.
            if let Some(answer) = answer {
                self.stage(fetch, sent_at, &answer);
            }
        }
    }

    /// Processes the answer to a prefetch: stages the copy in L1 for its first use, or passes it to the waiters of the
    /// flight.
    pub(in crate::cache) fn stage(&self, mut fetch: Fetch, sent_at: Tick, answer: &Answer) {
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
            Ok(None) => core.prefetcher.ended(&leader.key, LearnerNote::Absent),
            Ok(Some(_)) | Err(_) if !kept => core.prefetcher.ended(&leader.key, LearnerNote::Dropped),
            Ok(Some(_)) | Err(_) => {}
        }
        leader.land(answer);
    }
}

/// Leased keys to prefetch in the background.
pub struct FetchBatch(Vec<Fetch>);
