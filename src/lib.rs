//! Terrace: a shared cache server. Services talk gRPC to it, people look into it with redis-cli, hot data sits in its
//! memory (L1), everything in Redis or an embedded store (L2).
//!
//! ```text
//!  gRPC ─┐                                 ┌─ L1  this node's memory: sharded, byte-bounded, with expiry
//!  RESP ─┼─► cache (one facade, all rules) ┤
//!  HTTP ─┘   read · write · inspect        └─ L2  redis | embedded | none, one trait
//! ```
//!
//! In reading order:
//!
//! 1. [`model`], [`error`], [`clock`], [`glob`]: the vocabulary. [`node`]: this process. [`persist`]: its files.
//! 2. [`cache`]: the facade. [`cache::read`] and [`mod@cache::write`] are the heart of it.
//! 3. [`l1`] and [`l2`]: the tiers; [`l2::op`] says what each write means, for every store. [`learn`]: what the traffic
//!    teaches.
//! 4. [`grpc`], [`resp`], [`http`]: thin edges over a [`socket`]; each checks, converts, calls the facade, converts back.
//! 5. [`server`]: ports, workers, background [`jobs`], drain. [`config`]: all that can be set. `cli`: subcommands.
//!
//! What always holds:
//!
//! * A failed read is never reported as a miss, and a write whose fate is unknown is never reported as failed.
//! * Over Redis, L1 answers only while the invalidation link has shown, within the last second, that it is alive
//!   ([`cache::coherence::fence`]); a copy enters L1 only under a lease that was taken before the value was asked for ([`l1`]).
//! * An expired entry is never returned, however late the sweeper.
//! * Each key of a user read is counted once, with one outcome ([`cache::stats`]).
//! * Every queue, loop, size and wait has a limit.
//!
//! Imports go downwards only: edges to facade to tiers to words; `tests/it/tidy.rs` guards it.

#[cfg(test)]
// Tests play what `benches/support` makes, which names this crate as benches do.
extern crate self as terrace;

pub mod allocator;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod glob;
pub mod grpc;
pub mod http;
pub mod jobs;
pub mod l1;
pub mod l2;
pub mod learn;
pub mod metrics;
pub mod model;
pub mod node;
pub mod persist;
pub mod resp;
pub mod server;
pub mod socket;

/// The generated messages and services of `proto/terrace/v1`.
pub mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::wildcard_enum_match_arm,
        clippy::unwrap_used,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("terrace.v1");
    /// What reflection serves.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/terrace_descriptor.bin"));
}
