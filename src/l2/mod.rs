//! L2, the tier behind L1: one trait, three implementations.
//!
//! * [`redis`]: shared by many nodes; each worker owns its connections.
//! * [`embedded`]: an ordered store in a directory; this process is its only writer.
//! * [`none`]: no L2; L1 is the store.
//!
//! What an operation means is said once, in [`op`]: the embedded store and `none` run [`op::apply`] under their own
//! lock, Redis has a command or a script for each.
//!
//! The trait is [`Backend`] (`backend`); its part about pattern bans is [`BanStore`] ([`bans`]). `entry` and `scan` hold
//! its results, `deadlines` and `health` what callers set and observe, `changes` the way back: changes that L2 announces.

mod backend;
pub mod bans;
mod changes;
pub mod codec;
mod deadlines;
pub mod embedded;
mod entry;
mod health;
pub mod none;
pub mod op;
pub mod redis;
mod scan;

pub use self::{
    backend::{Backend, Batch, Flavor},
    bans::{Ban, BanStore, Effort, SweepPage},
    changes::{ChangeSink, FENCE_SPAN, InvalidationSink, Source},
    deadlines::{Deadlines, Tunables},
    entry::{Described, Stored, TypeName},
    health::{Health, State},
    op::{Applied, Op},
    redis::{RawConnection, elements, text},
    scan::{ScanPage, ScanRequest},
};
