//! Redis as L2. Each worker owns its data connections, so that a miss wakes no other thread.
//!
//! * [`url`]: the URL, parsed without I/O. `settings`: all settings.
//! * `client`: [`Redis`], the state that all workers share.
//! * `worker`: [`RedisBackend`], the connections of one worker; `backend`: the operations of [`Backend`](super::Backend).
//! * `command`: operations as commands and scripts; replies and errors.
//! * `connection`: opening a connection (TLS, backoff); raw connections for pass-through commands.
//! * `requests`: routing to primaries, pipelined data connections, the circuit breaker.
//! * `topology`: primaries and hash slots (Sentinel, Cluster), and the invalidation links that keep L1 coherent.
//! * `bans`: pattern bans.
//!
//! **Reads with the remaining TTL** send PTTL *before* GET. A TTL that was read first can only be shorter than the TTL of
//! the value, counted from the arrival of the reply. In the other order, a key that expired and was set again between the
//! two commands would give its longer TTL to the old value. A key that is replaced between PTTL and GET is announced on
//! the invalidation link, which voids the fill lease. A value whose key was missing at PTTL (TTL 0) is never kept.
//!
//! **Cost** of a read in CPU time of the caller's thread (values of 100 B on loopback, one current-thread runtime, two
//! shared cores; `cargo bench --bench l2_redis`): 1.45 µs (GET) and 2.05 µs (PTTL and GET) with 64 concurrent callers,
//! 1.50 and 2.10 µs with 256, 2.3 and 2.8 µs with 8, 8.3 and 8.9 µs with one. The multiplexing of the redis crate takes
//! 1.6 to 1.9 µs with 64 callers, 2.2 µs with 8 and 6.6 µs with one (without deadlines and limits); its explicit
//! pipelines of 16 take 0.75 µs. The difference is the caller's own task, timer and reply channel.
//!
//! **Sentinel and Cluster**: the process has one [`Redis`], whose `topology` maps keys to primaries. `sentinel` and `cluster`
//! find the primaries, `follow` keeps an invalidation link to each of them, `route` sends operations to the primaries of
//! their keys. Each worker has a `group` of connections to each primary, behind a `circuit_breaker` that all workers
//! share. A single server is a topology of one primary that never changes.
//!
//! **SWAPDB** sends no invalidation (Redis 7.0): after it, L1 returns entries of the old database for up to `l1.max_age`.
//! Deny it in the ACL of every client that shares a Redis with Terrace (`-swapdb`).

mod backend;
mod bans;
mod client;
mod command;
mod connection;
mod loads;
mod requests;
mod settings;
mod topology;
pub mod url;
mod worker;

pub use self::{
    client::Redis,
    connection::{
        login::PasswordFiles,
        passthrough::{RawConnection, each_element, elements, text},
        tls::TlsFiles,
    },
    settings::{CONNECTIONS_DEFAULT, FAILURES_DEFAULT, QUEUE_LIMIT_DEFAULT, RedisSettings},
    topology::{follow::Following, invalidation_link::LinkSettings},
    worker::RedisBackend,
};
