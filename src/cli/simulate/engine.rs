//! Simulation engine: sends requests through an L1 and its learner, in this process and without a real clock. `terrace
//! simulate` and `benches/prefetch` use it.
//!
//! Time is taken from the requests. All random choices depend on a seed, so the same requests give the same results.

use std::collections::VecDeque;

use bytes::Bytes;
use clap::ValueEnum;
use hashbrown::{HashMap, hash_map::Entry};

use super::ttl::{Ledger, Tuner};
use crate::{
    cli::trace::Request,
    clock::Tick,
    l1::{Epoch, Fill, Filled, L1, Leased, PolicyKind, Residence, Settings, Staged, Token},
    learn::{
        prefetch::{FETCHES_MAX, FetchCounts, L1View, Learner, PrefetchSettings, Presence, Trigger},
        recorder::Caller,
        ttl::Reuse,
    },
    model::Key,
};

/// Tick at trace time 0. A tick is never 0.
const START_MS: u64 = 1;
/// Maximum size of a value that `terrace simulate` keeps.
const VALUE_MAX_BYTES: u64 = 64 << 20;
/// Caller ID of requests without a caller.
const ALONE: u64 = 1;

/// A capacity with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Entries, each with weight 1.
    Entries(u64),
    /// Bytes; entries have their real weight.
    Bytes(u64),
}

/// Prefetch mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Learn nothing.
    Off,
    /// Learn and measure predictions, and prefetch nothing.
    Shadow,
    /// Prefetch predictions with measured precision.
    Auto,
}

/// Source of the TTLs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ttl {
    /// No expiry.
    #[default]
    Ignore,
    /// TTLs recorded in the trace.
    Recorded,
    /// TTLs that a server would learn.
    Tune,
    /// The same TTL for all entries, in ms.
    Fixed(u64),
}

/// Expiry settings of a playback.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expiry {
    /// Source of the TTLs.
    pub ttl: Ttl,
    /// Recorded TTL to assume for requests without one, in ms.
    pub none_ms: Option<u64>,
    /// Minimum learned TTL in ms.
    pub min_ms: u64,
}

/// Settings of one run: an L1 with its learner.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Capacity.
    pub room: Room,
    /// Eviction policy.
    pub policy: PolicyKind,
    /// Number of shards; `None` uses as many as a server of the same capacity.
    pub shards: Option<usize>,
    /// Seed for the random choices of L1.
    pub seed: u64,
    /// Prefetch mode.
    pub prefetch: Mode,
    /// Delay of background prefetches in requests. Piggybacked prefetches arrive with the miss.
    pub delay: u64,
    /// Settings of the learner.
    pub learn: PrefetchSettings,
}

/// Results so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Number of requests.
    pub requests: u64,
    /// Number of requests that L1 did not answer.
    pub misses: u64,
    /// Number of L2 reads, prefetches included.
    pub l2_reads: u64,
    /// Outcomes of prefetches.
    pub counts: FetchCounts,
    /// Prefetched entries that have not been read yet.
    pub staged: Staged,
    /// Memory of learned state in bytes.
    pub learned_bytes: u64,
}

/// Simulated L2: holds each key of the trace from the start, with its largest size and its first TTL.
#[derive(Debug, Default)]
pub struct Below(HashMap<Vec<u8>, Stored>);

#[derive(Debug, Clone, Copy)]
struct Stored {
    size: u64,
    ttl_ms: Option<u64>,
}

impl Below {
    /// Adds the key of a request.
    pub fn add(&mut self, request: &Request) {
        let &Request { size, ttl_ms, .. } = request;
        match self.0.entry(request.key.clone()) {
            Entry::Occupied(mut known) => known.get_mut().size = size.max(known.get().size),
            Entry::Vacant(free) => {
                free.insert(Stored { size, ttl_ms });
            }
        }
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns the total size of the values in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|stored| stored.size).sum()
    }
}

/// Replays requests. Holds the state that all runs share.
pub struct Playback {
    expiry: Expiry,
    tuner: Tuner,
    /// Source of values, at least as long as the largest value so far.
    zeros: Bytes,
    now: Tick,
    below: Below,
}

impl Playback {
    /// Creates a playback over this L2.
    #[must_use]
    pub fn new(below: Below, expiry: Expiry) -> Self {
        Self { expiry, tuner: Tuner::new(expiry.min_ms), zeros: Bytes::new(), now: Tick(START_MS), below }
    }

    /// Plays one request through each run and reports to `told` the index of the run and `true` for a hit.
    pub fn play<'a>(
        &mut self,
        request: &Request,
        runs: impl IntoIterator<Item = &'a mut Run>,
        mut told: impl FnMut(usize, bool),
    ) {
        // Time never moves backwards, even if the trace is out of order.
        self.now = self.now.max(Tick(START_MS + request.at_ms));
        let key = Key::copied(&request.key).ok();
        let caller = Caller(request.caller.as_deref().map_or(ALONE, caller_of));
        let offer = (self.expiry.ttl == Ttl::Tune).then(|| self.tuner.offer(&request.key, self.now));
        let recorded_ms = request.ttl_ms.or(self.expiry.none_ms);
        for (number, run) in runs.into_iter().enumerate() {
            let offer = offer.filter(|_| run.fixed_ms.is_none());
            let tuned_ms = offer.map(|offer| run.reuse.ttl_ms(&request.key, &offer, self.now));
            let ttl_ms = run.fixed_ms.or(tuned_ms).or_else(|| self.ttl_of(request.ttl_ms));
            // A request that Terrace would reject is always a miss.
            let fill = self.fill(run.plan.room, request.size, ttl_ms);
            let expires_at = self.end_of(ttl_ms);
            let hit = run.request(key.as_ref().zip(fill), caller, self);
            if let Some((offer, given_ms)) = offer.zip(tuned_ms).filter(|_| !hit) {
                run.reuse.note_write(&request.key, &offer, self.now, given_ms);
            }
            if self.expiry.ttl != Ttl::Ignore {
                run.ledger.note(request, hit, self.now, expires_at, recorded_ms);
            }
            told(number, hit);
        }
    }

    /// Returns the TTL of a value, unless it is tuned or fixed per run.
    fn ttl_of(&self, recorded_ms: Option<u64>) -> Option<u64> {
        match self.expiry.ttl {
            Ttl::Ignore => None,
            Ttl::Recorded | Ttl::Tune => recorded_ms.or(self.expiry.none_ms),
            Ttl::Fixed(ms) => Some(ms),
        }
    }

    fn end_of(&self, ttl_ms: Option<u64>) -> Tick {
        ttl_ms.map_or(Tick::FAR, |ms| Tick(self.now.0 + ms))
    }

    /// Returns a copy of a value as this kind of L1 stores it, or `None` if the value is too large.
    fn fill(&mut self, room: Room, size: u64, ttl_ms: Option<u64>) -> Option<Fill> {
        let value = match room {
            Room::Entries(_) => Some(Bytes::new()),
            Room::Bytes(_) => self.value(size),
        };
        let expires_at = self.end_of(ttl_ms);
        value.map(|value| Fill { value: value.into(), expires_at, deadline: expires_at, group: 0 })
    }

    /// Returns the value that a prefetch of this key reads, if L2 has it.
    fn fetch(&mut self, room: Room, key: &Key) -> Option<Fill> {
        let stored = *self.below.0.get(&**key)?;
        let ttl_ms = self.ttl_of(stored.ttl_ms);
        self.fill(room, stored.size, ttl_ms)
    }

    fn value(&mut self, size: u64) -> Option<Bytes> {
        let size = usize::try_from(size).ok().filter(|&size| size as u64 <= VALUE_MAX_BYTES)?;
        if self.zeros.len() < size {
            self.zeros = vec![0; size.next_power_of_two()].into();
        }
        Some(self.zeros.slice(..size))
    }
}

/// One simulated L1.
pub struct Run {
    plan: Plan,
    l1: L1,
    epoch: Option<Epoch>,
    ahead: Option<Ahead>,
    requests: u64,
    misses: u64,
    l2_reads: u64,
    ledger: Ledger,
    /// TTL for all entries in ms; overrides the playback's TTL.
    fixed_ms: Option<u64>,
    reuse: Reuse,
}

impl Run {
    /// Creates a run with an empty L1 and an empty learner.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let (capacity_bytes, max_entries) = match plan.room {
            Room::Entries(entries) => (u64::MAX, Some(entries)),
            Room::Bytes(bytes) => (bytes, None),
        };
        let settings = Settings { capacity_bytes, max_entries, policy: plan.policy };
        let l1 = match plan.shards {
            Some(shards) => L1::with_shards(settings, shards, Some(plan.seed)),
            None => L1::seeded(settings, plan.seed),
        };
        let epoch = l1.begin(Tick::FAR);
        let ahead = (plan.prefetch != Mode::Off).then(|| Ahead::new(plan.learn));
        let (ledger, reuse) = (Ledger::default(), Reuse::default());
        Self { plan, l1, epoch, ahead, requests: 0, misses: 0, l2_reads: 0, ledger, fixed_ms: None, reuse }
    }

    /// Creates a run with the same TTL in ms for all entries.
    pub(super) fn fixed(plan: Plan, ttl_ms: u64) -> Self {
        Self { fixed_ms: Some(ttl_ms), ..Self::new(plan) }
    }

    /// Returns the fixed TTL in ms, if any.
    pub(super) fn fixed_ms(&self) -> Option<u64> {
        self.fixed_ms
    }

    /// Returns the settings of this run.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the results so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let &Self { requests, misses, l2_reads, .. } = self;
        let learner = self.learner();
        let counts = learner.map(Learner::counts).unwrap_or_default();
        let learned_bytes = learner.map_or(0, |learner| learner.bytes() as u64);
        Figures { requests, misses, l2_reads, counts, staged: self.l1.staged(), learned_bytes }
    }

    /// Returns the learner; `None` if prefetch is off.
    #[must_use]
    pub fn learner(&self) -> Option<&Learner> {
        self.ahead.as_ref().map(|ahead| &ahead.learner)
    }

    /// Returns the record of stale hits and held bytes.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Plays one read: get, and insert after a miss. Returns `true` for a hit.
    fn request(&mut self, copy: Option<(&Key, Fill)>, caller: Caller, played: &mut Playback) -> bool {
        self.requests += 1;
        self.land(played);
        let Some((key, fill)) = copy else {
            self.misses += 1;
            self.l2_reads += 1;
            return false;
        };
        match self.l1.get(key, played.now, true) {
            Some(hit) if hit.is_first_use => {
                self.learn(key, caller, Trigger::FirstUse, played);
                true
            }
            Some(_) => true,
            None => {
                self.misses += 1;
                self.miss(key, fill, played.now);
                self.learn(key, caller, Trigger::Miss, played);
                false
            }
        }
    }

    /// Reads a key that is absent from L1, or joins the prefetch in flight.
    fn miss(&mut self, key: &Key, fill: Fill, now: Tick) {
        let own = self.token(0);
        let token = match self.l1.lease(key, own, now, self.epoch, false) {
            Leased::Lead => {
                self.l2_reads += 1;
                own
            }
            Leased::Join(other) => other,
            Leased::Hit(_) => return,
        };
        // L1 rejects a value larger than an eighth of its capacity, as on a server.
        let _kept: Filled = self.l1.fill(key, token, fill, now);
    }

    /// Returns the token of a fetch of this request.
    fn token(&self, number: u64) -> Token {
        Token(self.requests * (FETCHES_MAX as u64 + 1) + number)
    }

    /// Completes the background prefetches that are due.
    fn land(&mut self, played: &mut Playback) {
        while let Some((key, token)) = self.ahead.as_mut().and_then(|ahead| ahead.next_due(self.requests)) {
            self.bring(&key, token, played);
        }
    }

    /// Completes one prefetch.
    fn bring(&mut self, key: &Key, token: Token, played: &mut Playback) {
        let filled = match played.fetch(self.plan.room, key) {
            Some(fill) => self.l1.fill_staged(key, token, fill, played.now),
            None => {
                self.l1.release(key, token);
                if let Some(ahead) = &mut self.ahead {
                    ahead.learner.absent(key);
                }
                Filled::Voided
            }
        };
        if let Some(ahead) = &mut self.ahead
            && matches!(filled, Filled::TooLarge | Filled::Expired)
        {
            ahead.learner.unused(key);
        }
    }

    /// Updates the learner and sends the prefetches that it predicts.
    fn learn(&mut self, key: &Key, caller: Caller, trigger: Trigger, played: &mut Playback) {
        let Some(ahead) = &mut self.ahead else { return };
        let (l1, now, mode) = (&self.l1, played.now, self.plan.prefetch);
        l1.take_unused(|key| ahead.learner.unused(key));
        let presence = |key: &[u8]| match (l1.residence(key, now), mode) {
            (Residence::Resident, _) => Presence::Resident,
            (Residence::Staged | Residence::InFlight, _) => Presence::Prefetched,
            (Residence::Absent, Mode::Auto) => Presence::Absent,
            (Residence::Absent, Mode::Shadow | Mode::Off) => Presence::ShadowOnly,
        };
        let view = L1View { presence: &presence, room: l1.room_entries(), displaced: l1.staged().displaced };
        let mut fetches = std::mem::take(&mut ahead.fetches);
        ahead.learner.learn(key, caller, trigger, &view, &mut fetches);
        for (number, key) in fetches.drain(..).enumerate() {
            let token = self.token(1 + number as u64);
            self.l2_reads += 1;
            let leased = self.epoch.is_some_and(|epoch| self.l1.lease_prefetch(&key, token, now, epoch));
            match (trigger, leased) {
                (_, false) => {}
                (Trigger::Miss, true) => self.bring(&key, token, played),
                (Trigger::FirstUse, true) => {
                    if let Some(ahead) = &mut self.ahead {
                        ahead.due.push_back((self.requests + self.plan.delay, key, token));
                    }
                }
            }
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.fetches = fetches;
        }
    }
}

/// Prefetch state of one L1.
struct Ahead {
    learner: Learner,
    /// Background prefetches in flight with their arrival times, in order of arrival.
    due: VecDeque<(u64, Key, Token)>,
    fetches: Vec<Key>,
}

impl Ahead {
    fn new(settings: PrefetchSettings) -> Self {
        Self { learner: Learner::new(settings), due: VecDeque::new(), fetches: Vec::new() }
    }

    /// Removes and returns the next prefetch that arrives before this request.
    fn next_due(&mut self, request: u64) -> Option<(Key, Token)> {
        let is_due = self.due.front().is_some_and(|&(at, ..)| at <= request);
        is_due.then(|| self.due.pop_front()).flatten().map(|(_, key, token)| (key, token))
    }
}

/// Returns the ID of a caller of the trace.
fn caller_of(name: &[u8]) -> u64 {
    name.iter().fold(ALONE, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)).max(ALONE + 1)
}
