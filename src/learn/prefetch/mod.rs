//! Prefetch: predicts which keys are read next and decides which of them to read from L2 now.
//!
//! * `learner`: [`Learner`] receives misses and first uses of prefetched keys and returns the keys to prefetch.
//! * Predictors: `associations` (key B follows key A), `template_rules` (rules between key templates, which also apply to
//!   keys that were never seen) and `shared_window` (keys that recur together while many callers share a connection). `callers`
//!   keeps the last events of each caller.
//! * Decision: `proof` estimates how often predictions of one kind come true, `budget` limits wasted reads, `lateness`
//!   detects prefetches that arrive too late, and `l2_absent` remembers keys that L2 does not have.
//! * Measurement: `shadow` checks predictions that were not fetched, `control` measures the gain with keys that are left
//!   out, and `counts` counts outcomes.
//! * Types: `candidate` (a predicted key) and `l1_view` (what the learner has to know of L1).

mod associations;
mod budget;
mod callers;
mod candidate;
mod control;
mod counts;
mod l1_view;
mod l2_absent;
mod lateness;
mod learner;
mod proof;
mod shadow;
mod shared_window;
mod template_rules;

pub(in crate::learn) use self::{
    associations::NodeRow,
    budget::BudgetRow,
    proof::{CellRow, Proof},
    template_rules::SkeletonRow,
};
pub use self::{
    candidate::FETCHES_MAX,
    control::{Decisions, Evidence},
    counts::{FetchCounts, PrefixGroup},
    l1_view::{L1View, Presence},
    learner::{
        Learner, PrefetchSettings, Trigger,
        explain::{Prediction, Successor},
    },
    template_rules::RuleView,
};
