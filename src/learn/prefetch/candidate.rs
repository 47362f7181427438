//! A predicted key: its probability and the predictor that named it.

use super::{proof::ProofState, template_rules::RuleRef};

/// Maximum number of keys that are prefetched for one event.
pub const FETCHES_MAX: usize = 4;
/// Probability of a key that must not be prefetched: its prediction is measured only.
pub(super) const SHADOW_ONLY: f32 = -1.0;

/// The predictor of a key; the outcome of the prediction is credited to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PredictionSource {
    /// A key that was read before, in this state of evidence.
    KnownKey(ProofState),
    /// A rule between key templates.
    Rule(RuleRef),
}

/// A key that may be prefetched.
pub(super) struct Candidate {
    pub(super) p: f32,
    pub(super) hash: u64,
    pub(super) key: Box<[u8]>,
    pub(super) source: PredictionSource,
    /// Events until the key is expected.
    pub(super) lag: u8,
}
