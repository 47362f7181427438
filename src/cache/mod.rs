//! The facade that both protocols call: all rules stand here, once.
//!
//! * [`read`]: L1, else join or lead the key's flight, else L2; promote; one outcome a key.
//! * [`mod@write`]: policy, limits, then drop, write below, drop again.
//! * [`inspect`]: looks that change and count nothing: scans, descriptions, sizes.
//! * [`flight`]: who waits for whom.
//! * [`gate`]: when L1 may answer (coherence over Redis).
//! * [`policy`]: what the operator said about groups of keys.
//! * [`stats`]: the one place that counts; [`latency`]: how it counts durations.
//!
//! Each worker holds its own [`Cache`]: the same [`Core`], but its own L2 connections and counters.

pub mod flight;
pub mod gate;
pub mod inspect;
pub mod latency;
pub mod policy;
pub mod read;
pub mod resident;
pub mod stats;
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
};
pub use crate::{
    l1::{Resident, Usage},
    l2::{
        Applied, Batch, Described, Flavor, Op, ScanPage, ScanRequest, State, TypeName,
        op::{self, Condition, ExpireOnly, NewExpiry, SetExpiry},
    },
};
pub use policy::Rules;
pub use read::{Found, Read, ReadOptions, TierChoice};

/// What all workers of a server share.
pub struct Core {
    pub(crate) l1: L1,
    pub(crate) gate: gate::Gate,
    pub(crate) flights: flight::Flights,
    pub(crate) rules: ArcSwap<Rules>,
    pub(crate) clock: Clock,
    pub(crate) flavor: Flavor,
    pub(crate) stats: stats::Stats,
    tokens: AtomicU64,
}

impl Core {
    /// An empty cache over an L2 of this flavor.
    #[must_use]
    pub fn new(l1: l1::Settings, flavor: Flavor, rules: Rules, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            l1: L1::new(l1),
            gate: gate::Gate::new(flavor),
            flights: flight::Flights::default(),
            rules: ArcSwap::from_pointee(rules),
            clock,
            flavor,
            stats: stats::Stats::default(),
            tokens: AtomicU64::new(1),
        })
    }

    /// The clock of this server.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
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
        self.rules.store(Arc::new(rules));
        if self.flavor != Flavor::None {
            self.gate.step_data();
        }
    }

    /// Removes up to `budget` expired entries from L1; says how many.
    pub fn sweep(&self, budget: usize) -> usize {
        self.l1.sweep(self.clock.now(), budget)
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
}

impl Cache {
    /// A handle with counters of its own over `l2`.
    #[must_use]
    pub fn new(core: Arc<Core>, l2: Arc<dyn Backend>) -> Self {
        let counters = core.stats.register();
        Self { core, l2, counters }
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

    /// What the last contact with L2 said.
    #[must_use]
    pub fn l2_state(&self) -> State {
        self.l2.state()
    }
}
