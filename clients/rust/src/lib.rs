//! Client of the Terrace cache server.
//!
//! ```no_run
//! # async fn example() -> terrace_client::Result<()> {
//! use std::time::Duration;
//! use terrace_client::Client;
//!
//! let client = Client::connect("127.0.0.1:7400").await?;
//! client.set("user:1", "Ada").ttl(Duration::from_secs(300)).tags(["team:7"]).await?;
//! if let Some(name) = client.get("user:1").await? {
//!     println!("{}", String::from_utf8_lossy(&name));
//! }
//! let names = client.get_many(["user:1", "user:2"]).await?;
//! assert_eq!(names.len(), 2);
//! client.increment("visits", 1).await?;
//! client.invalidate_tags(["team:7"]).await?;
//! # Ok(()) }
//! ```
//!
//! [`Client::get_or_load`] loads absent keys from their origin, once for all processes; [`Client::view`] has keys of a
//! template and values of a type.
//!
//! All operations of a process go over one stream per node. What is queued at a time is sent as one message, so that many
//! tasks cost the network little. Each operation has a deadline: [`READ_TIMEOUT`], [`WRITE_TIMEOUT`], or `timeout` of the
//! operation.
//!
//! # Repetition
//!
//! | | not sent, or the node drains | sent, then the connection broke | deadline passed |
//! |---|---|---|---|
//! | reads, `get_or_lease` | repeated on another node | repeated | `DeadlineExceeded` |
//! | `delete`, invalidations | repeated | repeated: a newer value may be removed, which is a miss | `OutcomeUnknown` if it was sent |
//! | `fill`, `fail` of a grant | repeated | repeated: an applied fill answers `LeaseLost` | `OutcomeUnknown` if it was sent |
//! | `set`, `set_many`, `touch` | repeated | `OutcomeUnknown`; repeated with `retry_writes` | `OutcomeUnknown` if it was sent |
//! | `set` with a condition, `increment` | repeated | `OutcomeUnknown` | `OutcomeUnknown` if it was sent |
//!
//! # Near cache
//!
//! [`ClientBuilder::near_cache`] keeps copies of values in this process, which the change feeds of the nodes end: a hit needs
//! no call. A copy is usually about a millisecond old, and never older than [`NearCache::max_staleness`]. After a write or an
//! invalidation of this client has returned, no read of this client returns an older copy.
//!
//! # Cargo features
//!
//! | feature | default | |
//! |---|---|---|
//! | `tls` | yes | connections with TLS |
//! | `json` | no | values of views as JSON |
//! | `macros` | no | `cached`, which caches the results of an asynchronous function; enables `json` |
//! | `testing` | no | `testing::Fake`: an in-memory cache for the unit tests of applications |
//!
//! # Limits
//!
//! A node has at most 16,384 operations or about 64 MiB of requests in progress; further operations wait for their turn
//! until their deadlines.
//!

mod backend;
#[cfg(feature = "bindings")]
#[doc(hidden)]
pub mod bindings;
mod client;
mod clock;
mod convert;
mod engine;
mod error;
#[cfg(feature = "testing")]
mod glob;
mod load;
mod near;
mod net;
pub mod nodes;
mod operations;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;
mod view;

pub use client::Client;
pub use convert::IntoBytes;
pub use engine::connection::{Channel, Received};
pub use error::{Error, ErrorKind, Result};
pub use load::{
    BoxError, DIRECT_LOADS_MAX, GetOrLoad, GetOrLoadMany, LOAD_TIMEOUT, LOADS_MAX, LoadOptions, Loaded, OnUnavailable,
    REFRESHES_MAX, WAIT,
};
pub use near::{NearCache, NearStats};
pub use net::address::{Address, AddressError, NODES_MAX, Target};
#[cfg(feature = "tls")]
pub use net::tls::Tls;
pub use operations::{
    Pending,
    invalidate::{InvalidatePattern, InvalidateTags, Invalidated},
    lease::{Filled, GetOrLease, Grant, Lease},
    many::{Delete, GetMany, NewEntry, SetMany},
    read::{Entry, Get, Lookup, Tier},
    watch::{Watch, WatchFeed},
    write::{Increment, Set, Touch, Touched},
};
pub use settings::{CONNECT_TIMEOUT, ClientBuilder, MESSAGE_MAX, READ_TIMEOUT, Routing, WRITE_TIMEOUT};
#[doc = include_str!("cached.md")]
#[cfg(feature = "macros")]
pub use terrace_client_macros::cached;
/// Messages of the gRPC API.
pub use terrace_proto as proto;
#[cfg(feature = "json")]
pub use view::Json;
#[cfg(feature = "macros")]
#[doc(hidden)]
pub use view::cached as __private;
pub use view::{Codec, KeyArgs, Raw, Text, View};
