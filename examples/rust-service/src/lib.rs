//! An example of a service that reads a slow database through a Terrace cache.
//!
//! * `database`: teams and their members in SQLite, with a simulated delay and simulated outages.
//! * `pages`: reads and changes of pages, once with `#[cached]` and once with plain cache-aside.
//! * `http`: the endpoints.

mod database;
mod http;
pub mod pages;

use std::time::Duration;

use terrace_client::Client;

pub use self::{
    database::{Database, DatabaseError, Page},
    http::router,
};

/// Lifetimes of cached pages.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Time for which a page is fresh.
    pub ttl: Duration,
    /// Time after the TTL in which a page is still returned while it is loaded again.
    pub stale: Duration,
}

/// State of the service. A clone shares the cache client and the database.
#[derive(Debug, Clone)]
pub struct App {
    /// Client of the cache.
    pub cache: Client,
    /// The origin of the pages.
    pub database: Database,
    /// Lifetimes of cached pages.
    pub lifetimes: Lifetimes,
}
