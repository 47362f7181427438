//! Coherence: L1 never answers with a copy that is older than the coherence bound.
//!
//! * [`fence`]: the coherence fence: L1 may answer while every invalidation up to a recent time is known to be
//!   received.
//! * `self_check`: samples hits and compares them with L2, to detect violations.

pub mod fence;
pub(crate) mod self_check;
