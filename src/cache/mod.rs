//! The facade that both protocols call. Every rule about reading, writing and invalidating is implemented here, once.
//!
//! The request path:
//!
//! * [`read`]: L1, then the single flight of the key, then L2; one outcome per key. [`read_types`]: its options and
//!   results.
//! * `l2_reads`: reads of L2 within the byte budget.
//! * [`mod@write`]: policies and limits, then the coherent write to L2.
//! * [`flight`]: single flight: the leader of a key's L2 read and its waiters.
//! * [`inspect`]: descriptions, scans and sizes. Inspection changes and counts nothing.
//! * [`warm_up`]: the hottest keys, and loading keys from L2 before they are requested.
//! * [`policy`]: the operator's settings for groups of keys.
//! * [`l1_store`]: L1 as the only store, for `l2 = "none"`.
//! * [`loads`]: get-or-load: load leases, fills, negative answers.
//! * [`learning`]: passes recorded events to the learners.
//!
//! By subject:
//!
//! * [`coherence`]: the condition under which L1 may answer, and the self-check that samples hits.
//! * [`invalidate`]: pattern bans, tags, change events and the change feed.
//! * [`ttl`]: tuned TTLs and touch on read.
//! * [`prefetch`]: predicted keys, read from L2 with a miss or in the background.
//! * [`explain`]: the state of one key, its recent history, and the learned state as keys.
//! * [`stats`]: all counters.
//! * `store_id`: the id of the data in L2.
//! * [`multi_key`]: commands on several keys, transactions, watched keys, and commands passed through to Redis.
//!
//! Each worker holds its own [`Cache`]: all share one [`Core`], but each has its own L2 connections and counters.

pub mod coherence;
pub mod explain;
pub mod flight;
pub mod inspect;
pub mod invalidate;
pub mod l1_store;
mod l2_reads;
pub mod learning;
pub mod loads;
pub mod multi_key;
pub mod policy;
pub mod prefetch;
pub mod read;
pub mod read_types;
pub mod stats;
mod store_id;
pub mod ttl;
pub mod warm_up;
pub mod write;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, Release},
    },
};

use arc_swap::ArcSwap;

use crate::{
    access::Principal,
    budget::{Account, Budget},
    clock::{Clock, Tick},
    l1::{self, L1, Token},
    l2::Backend,
    learn::{
        prefetch::PrefetchSettings,
        recorder::{Recorder, Tap},
    },
};
pub use crate::{
    l1::{Removals, Resident, Usage},
    l2::{
        Applied, Batch, Described, Flavor, Health, Op, RawConnection, ScanPage, ScanRequest, State, Turn, TypeName,
        each_element, elements,
        op::{self, Condition, ExpireOnly, NewExpiry, SetExpiry},
        text,
    },
    learn::recorder::Caller,
};
pub use invalidate::{
    pattern_bans::{Invalidation, SweepProgress},
    tags::{TagNames, tags_of},
};
pub use loads::{
    FillRequest, Grant, GrantReason, GroupLoads, HitLook, LeaseAnswer, LeaseNeeds, LeaseRequest, LoadOutcome,
    LoadState, LoadedValue,
};
pub use multi_key::{
    passthrough::{Passing, append_within},
    rename_copy::{Renamed, Target},
    watched_keys::KeyWatch,
};
pub use policy::Rules;
pub use read_types::{Found, Read, ReadOptions, TierChoice};

/// The state that all workers of a server share.
pub struct Core {
    pub(crate) l1: L1,
    pub(crate) fence: coherence::fence::Fence,
    pub(crate) flights: flight::Flights,
    pub(crate) loads: loads::Loads,
    pub(crate) rules: ArcSwap<Rules>,
    /// False if the rules have no policies, so that the hot path of leases does not load the rules.
    pub(crate) has_policies: AtomicBool,
    pub(crate) clock: Clock,
    pub(crate) flavor: Flavor,
    pub(crate) stats: stats::Stats,
    pub(crate) ban_sweeps: invalidate::pattern_bans::BanSweeps,
    pub(crate) tags_in_use: invalidate::tags::TagsInUse,
    pub(crate) store_id: store_id::StoreId,
    pub(crate) hit_samples: coherence::self_check::HitSamples,
    pub(crate) events: invalidate::events::Events,
    pub(crate) exclusive_lock: multi_key::exclusive::ExclusiveLock,
    pub(crate) watched_keys: multi_key::watched_keys::WatchedKeys,
    pub(crate) script_places: multi_key::scripts::ScriptPlaces,
    pub(crate) prefetcher: prefetch::Prefetcher,
    pub(crate) warm_up: warm_up::WarmUpCounters,
    pub(crate) started_at: Tick,
    /// Wall clock minus monotonic clock, by which the expiries of the copies in L1 were computed.
    wall_offset_ms: AtomicU64,
    pub(crate) what_if: stats::whatif::WhatIf,
    pub(crate) read_gate: stats::recording::ReadGate,
    pub(crate) recordings: stats::recording::Recordings,
    pub(crate) tuning: ttl::tuning::Tuning,
    pub(crate) key_history: explain::key_history::KeyHistories,
    pub(crate) touch_queue: ttl::touch_on_read::TouchQueue,
    recorder: Recorder,
    budget: Budget,
    /// Number of L2 reads that continue although their callers have left.
    abandoned_reads: AtomicU64,
    /// Records the changes that Redis announces.
    announcements: Arc<Tap>,
    tokens: AtomicU64,
    callers: AtomicU64,
}

impl Core {
    /// Creates an empty cache over an L2 of this flavor.
    #[must_use]
    pub fn new(settings: l1::Settings, flavor: Flavor, rules: Rules, clock: Clock) -> Arc<Self> {
        Self::with_learning(settings, flavor, rules, clock, PrefetchSettings::default())
    }

    /// Like [`Core::new`], with settings for learning.
    #[must_use]
    pub fn with_learning(
        settings: l1::Settings,
        flavor: Flavor,
        rules: Rules,
        clock: Clock,
        learning: PrefetchSettings,
    ) -> Arc<Self> {
        let l1 = L1::new(settings);
        let recorder = Recorder::default();
        let what_if = stats::whatif::WhatIf::new(settings);
        let core = Arc::new(Self {
            fence: coherence::fence::Fence::new(flavor, &l1),
            l1,
            started_at: clock.now(),
            wall_offset_ms: AtomicU64::new(ttl::wall_offset_ms(&clock)),
            read_gate: stats::recording::ReadGate::new(what_if.threshold()),
            what_if,
            recordings: stats::recording::Recordings::default(),
            tuning: ttl::tuning::Tuning::default(),
            key_history: explain::key_history::KeyHistories::default(),
            touch_queue: ttl::touch_on_read::TouchQueue::default(),
            flights: flight::Flights::default(),
            loads: loads::Loads::new(clock.clone()),
            has_policies: AtomicBool::new(!rules.policies.is_empty()),
            rules: ArcSwap::from_pointee(rules),
            clock,
            flavor,
            stats: stats::Stats::default(),
            ban_sweeps: invalidate::pattern_bans::BanSweeps::default(),
            tags_in_use: invalidate::tags::TagsInUse::new(flavor),
            store_id: store_id::StoreId::new(flavor),
            hit_samples: coherence::self_check::HitSamples::default(),
            events: invalidate::events::Events::default(),
            exclusive_lock: multi_key::exclusive::ExclusiveLock::default(),
            watched_keys: multi_key::watched_keys::WatchedKeys::default(),
            script_places: multi_key::scripts::ScriptPlaces::default(),
            warm_up: warm_up::WarmUpCounters::default(),
            announcements: recorder.tap(),
            prefetcher: prefetch::Prefetcher::new(learning, stats::groups::GROUPS_MAX),
            recorder,
            budget: Budget::default(),
            abandoned_reads: AtomicU64::new(0),
            tokens: AtomicU64::new(1),
            callers: AtomicU64::new(1),
        });
        core.apply_touch_policy(&core.rules.load());
        core
    }

    /// Returns the clock of this server.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Returns the byte budget of this server.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Returns the listeners for changes of keys.
    #[must_use]
    pub fn events(&self) -> &invalidate::events::Events {
        &self.events
    }

    /// Returns the kind of L2.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Returns the current policies and limits.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Replaces the rules. Ends all copies in L1, because the new rules may exclude some of them.
    pub fn set_rules(&self, rules: Rules) {
        self.apply_touch_policy(&rules);
        let has_policies = !rules.policies.is_empty();
        // Before the policies are in effect, and removed after the last policy.
        if has_policies {
            self.has_policies.store(true, Release);
        }
        self.rules.store(Arc::new(rules));
        self.has_policies.store(has_policies, Release);
        if self.flavor != Flavor::None {
            self.fence.step_all(&self.l1);
        }
    }

    /// Removes up to `budget` expired entries from L1. Returns how many.
    pub fn sweep(&self, budget: usize) -> usize {
        self.l1.sweep(self.clock.now(), budget)
    }

    /// Returns whether copies are kept beyond their deadlines, because an invalidation link is lost.
    #[must_use]
    pub fn holds_stale(&self) -> bool {
        self.l1.holds_stale()
    }

    /// Begins the drain: calls that wait for the loads of other clients are answered, and leases outlive their connections.
    pub fn begin_drain(&self) {
        self.loads.drain();
    }

    fn next_token(&self) -> Token {
        Token(self.tokens.fetch_add(1, Relaxed))
    }
}

/// One worker's handle on the cache.
#[derive(Clone)]
pub struct Cache {
    core: Arc<Core>,
    l2: Arc<dyn Backend>,
    counters: Arc<stats::Counters>,
    tap: Arc<Tap>,
    /// The caller whose requests use this handle.
    caller: Caller,
    /// The account that is charged for the memory of these requests.
    account: Arc<Account>,
    /// The permissions of the client whose requests use this handle.
    principal: Arc<Principal>,
    /// The load leases of the connection whose requests use this handle.
    leases: Arc<loads::OpenLeases>,
    /// True if this handle holds the exclusive lock.
    is_exclusive: bool,
}

impl Cache {
    /// Creates a handle over `l2` with its own counters and all permissions.
    #[must_use]
    pub fn new(core: Arc<Core>, l2: Arc<dyn Backend>) -> Self {
        let counters = core.stats.register();
        let tap = core.recorder.tap();
        let account = core.budget.system_account();
        let principal = Principal::system();
        let leases = loads::OpenLeases::new(&core, &l2);
        if let Some(id) = l2.store_id() {
            // Before the first client can connect: it compares the id when it opens a stream.
            core.store_id.set(id);
        }
        Self { core, l2, counters, tap, caller: Caller::UNKNOWN, account, principal, leases, is_exclusive: false }
    }

    /// Returns the caller whose requests use this handle.
    #[inline]
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// Returns this handle for the requests of one caller.
    #[must_use]
    pub fn for_caller(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// Returns this handle for the requests of a new caller: a connection, with an account and permissions of its own.
    #[must_use]
    pub fn for_new_caller(&self, principal: Arc<Principal>) -> Self {
        let caller = Caller(self.core.callers.fetch_add(1, Relaxed));
        let leases = loads::OpenLeases::new(&self.core, &self.l2);
        Self { caller, account: self.core.budget.account(), principal, leases, ..self.clone() }
    }

    /// Returns this handle with other permissions.
    #[must_use]
    pub fn for_principal(&self, principal: Arc<Principal>) -> Self {
        Self { principal, ..self.clone() }
    }

    /// Returns the permissions of the client whose requests use this handle.
    #[inline]
    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// Returns the account that is charged for the requests of this handle.
    #[inline]
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Returns the state that all workers share.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Returns the current monotonic time.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.core.clock.now()
    }

    /// Returns the kind of L2.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.core.flavor
    }

    /// Returns current figures of L2.
    #[must_use]
    pub fn l2_health(&self) -> Health {
        self.l2.health()
    }

    /// Returns the state of L2 by its last contact, including the heartbeats of the invalidation links.
    #[must_use]
    pub fn l2_state(&self) -> State {
        let state = self.l2.state();
        if state == State::Up && self.core.fence.is_silent(self.now()) {
            return State::Down("Redis does not answer the heartbeat of the invalidation link".to_owned());
        }
        state
    }
}
