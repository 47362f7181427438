//! Background work: a third client of the cache.

pub mod ahead;
pub mod bans;
pub mod check;
pub mod learn;
pub mod learned;
pub mod marks;
pub mod slide;
pub mod sweep;
pub mod warm;
pub mod watch;
