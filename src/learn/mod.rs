//! Learning from traffic: which keys to prefetch, and which TTLs to use.
//!
//! All parts but [`recorder`] are synchronous and have no clock: callers pass events with their times, so tests pass values.
//!
//! * [`recorder`]: carries events from workers to the learning job without blocking a worker.
//! * [`prefetch`]: associations between keys and rules between key templates, and the decision what to prefetch.
//! * [`ttl`]: intervals between reads and between changes, and the TTL advice derived from them.
//! * [`key_template`]: splits keys into tokens and learns which tokens vary (`user:17` is `user:{d}`).
//! * `key_class`: small numbers that stand for a key or its template: hash, prefix group, class.
//! * [`snapshot`]: the learned prefetch state as blocks of bytes.

mod key_class;
pub mod key_template;
pub mod prefetch;
pub mod recorder;
pub mod snapshot;
pub mod ttl;
