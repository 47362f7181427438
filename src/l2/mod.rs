//! L2, the tier behind L1: one trait, three implementations.
//!
//! * [`redis`]: shared by many nodes; each worker owns its connections.
//! * [`embedded`]: an ordered store in a directory; this process is its only writer.
//! * [`none`]: no L2; L1 is the store.
//!
//! The meaning of each operation is defined only once, in [`op`]: the embedded store and `none` run [`op::apply`] under
//! their own lock; Redis has an equivalent command or script for each operation. [`loads`] has the operations on load
//! leases.
//!
//! The trait is [`Backend`] (`backend`); its parts for pattern bans and load leases are [`BanStore`] ([`bans`]) and [`LoadStore`] ([`loads`]). `entry` and `scan`
//! contain the results, `deadlines` the limits that callers set, `health` the state that callers observe, and `changes`
//! the changes that L2 announces.

mod backend;
pub mod bans;
mod changes;
pub mod codec;
mod deadlines;
pub mod embedded;
mod entry;
mod health;
pub mod loads;
pub mod none;
pub mod op;
pub mod redis;
pub(crate) mod scan;

pub use self::{
    backend::{Backend, Batch, Flavor, PARTS_MAX_BYTES},
    bans::{Ban, BanStore, Effort, SweepPage},
    changes::{ChangeSink, FENCE_SPAN, InvalidationSink, Source},
    deadlines::{Deadlines, Tunables},
    entry::{Described, Stored, TypeName},
    health::{Health, State},
    loads::LoadStore,
    op::{Applied, Op},
    redis::{RawConnection, each_element, elements, text},
    scan::{ScanPage, ScanRequest, Turn},
};
