//! Bans over Redis: one log for all nodes, a note of each key that is written while a ban is open, and the sweep.
//!
//! **The log** is the hash `__terrace:bans`: field `n` is the greatest number given, each other field the number of an open
//! ban with its pattern. A change of it is announced like any change; whoever hears of it reads it again, and until it has
//! no fence moves on. So L1 never answers for longer than Δ beyond a ban, and no call goes to Redis with a knowledge of
//! the log that is older than Δ: it reads the log first. Where the server of the log cannot be reached but others of
//! the cluster can, calls go on with the bans that are known, since nobody can open another.
//!
//! **Notes.** A write under a key that an open ban matches is preceded, on the same connection, by a script that adds the
//! key to the set `__terrace:fresh:<ban>` and, where it was not in it, removes what stood there. So a noted key holds
//! nothing of before the ban, and reads believe only noted keys. A read looks for the note *before* the value: what is
//! written in between is then a miss, as if it came later; the other way round an old value could pass for a new one. In
//! a cluster a set is `__terrace:fresh:<ban>:{tag}`, with a tag of the key's slot.
//!
//! **Who has not heard.** A node may write before it hears of a ban. Each pipeline with a write therefore ends with a
//! question for the greatest number (in a cluster each primary keeps a copy of it, its *stamp*, which the opening of a
//! ban sets). An answer above what the node knows makes it read the log, clear the keys that the new ban matches, as
//! above, and write once more what was so removed, or what the sweep has removed meanwhile; only then is the write
//! acknowledged.
//!
//! **The sweep** may be another node's in the middle. Each page tells the server until when it may be swept, so that a page
//! that was held up does nothing once another node can have ended the ban.
//!
//! **Lost records** cost misses only: without its note a value of after a ban counts as one of before. A log that is
//! missing or shorter than it was ends all copies in L1 and is written again from what this node knows.
//!
//! * `records`: keys and numbers. * `state`: what this process knows. * `log`, `notes`, `sweep`: the requests.
//! * `store`: [`BanStore`](crate::l2::BanStore) over these.

mod log;
pub(crate) mod notes;
pub(crate) mod records;
pub(crate) mod state;
mod store;
mod sweep;
