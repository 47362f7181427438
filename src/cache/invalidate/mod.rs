//! Invalidation, and the notifications about it.
//!
//! * [`pattern_bans`]: pattern bans and the sweep that removes the keys they cover.
//! * [`tags`]: entries that are valid only while the ids of their tags are unchanged.
//! * [`events`]: notifies the RESP port and the change feed about changed keys.
//! * [`feed`]: the change feed: a numbered stream of invalidations for clients that keep copies.

pub mod events;
pub mod feed;
pub mod pattern_bans;
pub mod tags;
