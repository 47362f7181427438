//! Terrace: a shared cache server. Services use gRPC, people inspect it with redis-cli. Hot data is cached in the
//! server's memory (L1); all data is stored in L2: Redis or an embedded store.
//!
//! ```text
//!  gRPC ─┐                                 ┌─ L1  this node's memory: sharded, byte-bounded, with expiry
//!  RESP ─┼─► cache (one facade, all rules) ┤
//!  HTTP ─┘   read · write · inspect        └─ L2  redis | embedded | none, one trait
//! ```
//!
//! In reading order:
//!
//! 1. [`model`], [`error`], [`clock`], [`glob`], [`secret`]: the basic types. [`budget`]: memory that clients can make
//!    grow. [`node`]: state of this process. [`persist`]: its files. [`files`]: files that an operator names.
//!    [`access`]: users, roles and their permissions.
//! 2. [`cache`]: the facade. [`cache::read`] and [`mod@cache::write`] are its core.
//! 3. [`l1`] and [`l2`]: the tiers. [`l2::op`] defines the meaning of each write, for every store. [`learn`]: learning
//!    from traffic.
//! 4. [`grpc`], [`resp`], [`http`]: thin protocol layers over a [`socket`], which may have [`tls`]. Each validates and
//!    converts a request, calls the facade, and converts the result.
//! 5. [`server`]: ports, workers, background [`jobs`], drain. [`config`]: all settings. `cli`: subcommands.
//!
//! Invariants:
//!
//! * A failed read is never reported as a miss, and a write whose result is unknown is never reported as failed.
//! * With Redis as L2, L1 answers only if the invalidation link was known to be alive within the last second
//!   ([`cache::coherence::fence`]). A copy enters L1 only under a fill lease taken before the value was requested
//!   ([`l1`]).
//! * An expired entry is never returned, even if the sweeper is late.
//! * Each key of a user read is counted once, with one outcome ([`cache::stats`]).
//! * Every queue, loop, size and wait has a limit.
//!
//! Imports point in one direction only: protocol layers, facade, tiers, basic types. `tests/it/tidy.rs` checks it.

#[cfg(test)]
// Tests use `benches/support`, which refers to this crate by name, as benches do.
extern crate self as terrace;

pub mod access;
pub mod allocator;
pub mod budget;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod files;
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
pub mod secret;
pub mod server;
pub mod socket;
pub mod tls;

pub use terrace_proto as proto;
