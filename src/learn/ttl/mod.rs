//! TTL advice: how often keys are read and change, and which TTL follows from that.
//!
//! * `intervals`: [`Intervals`] samples keys and advises a TTL for each key template.
//! * `hot_key_intervals`: [`HotKeyIntervals`] does the same for each of the hottest keys.
//! * `reuse`: [`Reuse`] remembers which keys are written again after their TTL ended, and adjusts the template's TTL for
//!   each key.
//! * `advice`: the formula, its settings, and the expected effect of a TTL.
//! * `key_track`: the last intervals of one key.

mod advice;
mod hot_key_intervals;
mod intervals;
mod key_track;
mod reuse;

pub use self::{
    advice::{Advice, Expected, TtlSettings},
    hot_key_intervals::{HotKeyAdvice, HotKeyIntervals},
    intervals::{Intervals, TEMPLATES_MAX},
    key_track::Spread,
    reuse::{Reuse, TtlOffer},
};
