//! The facade that both protocols call: all rules stand here, once.
//!
//! * [`read`]: L1, else join or lead the key's flight, else L2; promote; one outcome a key.
//! * [`mod@write`]: policy, limits, then drop, write below, drop again.
//! * [`bans`]: patterns are invalidated. * [`tags`]: entries that are valid while their tags are. * [`inspect`]: looks that change and count nothing: scans, descriptions, sizes.
//! * [`ahead`]: prefetch: what rides with a miss, what is read in the background.
//! * [`flight`]: who waits for whom.
//! * [`gate`]: when L1 may answer (coherence over Redis); `check`: whether that holds, by samples.
//! * [`pass`], [`pairs`], [`turns`], [`watch`]: commands that go to Redis as they are, and what happens to several keys at
//!   one instant.
//! * [`events`]: who is told of changes; [`feed`]: what clients with copies of their own are told. * [`learned`]: what was
//!   learned, as keys. * [`warm`]: which keys are hot, and bringing them up after a start.
//! * [`tuning`]: TTLs from what was learned; [`slide`]: those that reads extend.
//! * [`explain`]: all that is known of one key; [`fates`]: what happened to keys lately.
//! * [`policy`]: what the operator said about groups of keys.
//! * [`stats`]: the one place that counts; [`latency`]: how it counts durations.
//!
//! Each worker holds its own [`Cache`]: the same [`Core`], but its own L2 connections and counters.

pub mod ahead;
pub mod bans;
pub(crate) mod check;
pub mod events;
pub mod explain;
pub mod fates;
pub mod feed;
pub mod flight;
pub mod gate;
pub mod inspect;
pub mod latency;
pub mod learned;
pub mod pairs;
pub mod pass;
pub mod policy;
pub mod read;
pub mod resident;
pub mod slide;
pub mod stats;
pub mod tags;
pub mod tuning;
pub mod turns;
pub mod warm;
pub mod watch;
pub mod write;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

use crate::{
    clock::{Clock, Tick},
    l1::{self, L1, Token},
    l2::Backend,
    learn::{
        self,
        recorder::{Recorder, Tap},
    },
};
pub use crate::{
    l1::{Removals, Resident, Usage},
    l2::{
        Applied, Batch, Described, Flavor, Health, Line, Op, ScanPage, ScanRequest, State, TypeName, elements,
        op::{self, Condition, ExpireOnly, NewExpiry, SetExpiry},
        text,
    },
    learn::recorder::Caller,
};
pub use bans::{Invalidation, Progress};
pub use pairs::{Renamed, Target};
pub use pass::{Passing, append_within};
pub use policy::Rules;
pub use read::{Found, Read, ReadOptions, TierChoice};
pub use tags::{TagNames, tags_of};
pub use watch::Watch;

/// What all workers of a server share.
pub struct Core {
    pub(crate) l1: L1,
    pub(crate) gate: gate::Gate,
    pub(crate) flights: flight::Flights,
    pub(crate) rules: ArcSwap<Rules>,
    pub(crate) clock: Clock,
    pub(crate) flavor: Flavor,
    pub(crate) stats: stats::Stats,
    pub(crate) sweeps: bans::Sweeps,
    pub(crate) in_use: tags::InUse,
    pub(crate) samples: check::Samples,
    pub(crate) events: events::Events,
    pub(crate) turns: turns::Turns,
    pub(crate) watched: watch::Watched,
    pub(crate) ahead: ahead::Ahead,
    pub(crate) warming: warm::Warming,
    pub(crate) started_at: Tick,
    pub(crate) what_if: stats::whatif::WhatIf,
    pub(crate) tuning: tuning::Tuning,
    pub(crate) fates: fates::Fates,
    pub(crate) slides: slide::Slides,
    recorder: Recorder,
    /// Tells of what Redis announces.
    heard: Arc<Tap>,
    tokens: AtomicU64,
    callers: AtomicU64,
}

impl Core {
    /// An empty cache over an L2 of this flavor.
    #[must_use]
    pub fn new(settings: l1::Settings, flavor: Flavor, rules: Rules, clock: Clock) -> Arc<Self> {
        Self::with_learning(settings, flavor, rules, clock, learn::Settings::default())
    }

    /// As [`Core::new`], where learning has its own bounds.
    #[must_use]
    pub fn with_learning(
        settings: l1::Settings,
        flavor: Flavor,
        rules: Rules,
        clock: Clock,
        learning: learn::Settings,
    ) -> Arc<Self> {
        let l1 = L1::new(settings);
        let recorder = Recorder::default();
        let core = Arc::new(Self {
            gate: gate::Gate::new(flavor, &l1),
            l1,
            started_at: clock.now(),
            what_if: stats::whatif::WhatIf::new(settings),
            tuning: tuning::Tuning::default(),
            fates: fates::Fates::default(),
            slides: slide::Slides::default(),
            flights: flight::Flights::default(),
            rules: ArcSwap::from_pointee(rules),
            clock,
            flavor,
            stats: stats::Stats::default(),
            sweeps: bans::Sweeps::default(),
            in_use: tags::InUse::new(flavor),
            samples: check::Samples::default(),
            events: events::Events::default(),
            turns: turns::Turns::default(),
            watched: watch::Watched::default(),
            warming: warm::Warming::default(),
            heard: recorder.tap(),
            ahead: ahead::Ahead::new(learning),
            recorder,
            tokens: AtomicU64::new(1),
            callers: AtomicU64::new(1),
        });
        core.slide_by(&core.rules.load());
        core
    }

    /// The clock of this server.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Who is told of changes.
    #[must_use]
    pub fn events(&self) -> &events::Events {
        &self.events
    }

    /// Which L2 this is.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// What the operator said, as of now.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Takes new rules; L1 begins afresh, because it may hold what the new rules keep out.
    pub fn set_rules(&self, rules: Rules) {
        self.slide_by(&rules);
        self.rules.store(Arc::new(rules));
        if self.flavor != Flavor::None {
            self.gate.step_all(&self.l1);
        }
    }

    /// Removes up to `budget` expired entries from L1; says how many.
    pub fn sweep(&self, budget: usize) -> usize {
        self.l1.sweep(self.clock.now(), budget)
    }

    /// Whether copies are kept beyond their deadlines, because a link is lost.
    #[must_use]
    pub fn holds_stale(&self) -> bool {
        self.l1.holds_stale()
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
    /// Whose requests come through this handle.
    caller: Caller,
    /// It has the exclusive turn.
    alone: bool,
}

impl Cache {
    /// A handle with counters of its own over `l2`.
    #[must_use]
    pub fn new(core: Arc<Core>, l2: Arc<dyn Backend>) -> Self {
        let counters = core.stats.register();
        let tap = core.recorder.tap();
        Self { core, l2, counters, tap, caller: Caller::UNKNOWN, alone: false }
    }

    /// The same handle for the requests of one caller.
    #[must_use]
    pub fn for_caller(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// The same handle for the requests of a caller of its own: a connection.
    #[must_use]
    pub fn for_new_caller(&self) -> Self {
        self.for_caller(Caller(self.core.callers.fetch_add(1, Relaxed)))
    }

    /// What all workers share.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Monotonic now.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.core.clock.now()
    }

    /// Which L2 this is.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.core.flavor
    }

    /// What the last contact with L2 said, the heartbeats of the invalidation links included.
    #[must_use]
    pub fn l2_state(&self) -> State {
        let state = self.l2.state();
        if state == State::Up && self.core.gate.is_silent(self.now()) {
            return State::Down("Redis does not answer the heartbeat of the invalidation link".to_owned());
        }
        state
    }
}
