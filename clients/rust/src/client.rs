//! [`Client`]: the operations of a cache server, over all its nodes.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use terrace_proto::{
    GetOrLeaseRequest, GetStatsRequest, GetStatsResponse, IncrementRequest, ReadOptions, SetRequest, TouchRequest,
    WatchRequest, insight_client::InsightClient, invalidate_pattern_request::Keys,
};
use tokio::{sync::watch, time::timeout};

use crate::{
    Target,
    convert::{IntoBytes, all},
    error::Result,
    nodes::{self, Fleet},
    operations::{
        Origin,
        invalidate::{InvalidatePattern, InvalidateTags},
        lease::GetOrLease,
        many::{Delete, GetMany, NewEntry, SetMany},
        read::{Get, Lookup},
        to_ms,
        watch::Watch,
        write::{Increment, Set, Touch},
    },
    settings::{ClientBuilder, Settings},
};

/// A client of one or more nodes of Terrace. Clones share the connections; one client serves a whole process.
///
/// Operations are builders: set options, then await. The connections close when the last clone is dropped.
///
/// ```no_run
/// # async fn example() -> terrace_client::Result<()> {
/// use std::time::Duration;
/// use terrace_client::Client;
///
/// let client = Client::connect("127.0.0.1:7400").await?;
/// client.set("user:1", "Ada").ttl(Duration::from_secs(300)).tags(["team:7"]).await?;
/// let name = client.get("user:1").await?;
/// assert_eq!(name.as_deref(), Some(&b"Ada"[..]));
/// client.invalidate_tags(["team:7"]).await?;
/// assert_eq!(client.get("user:1").await?, None);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    context: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    fleet: Arc<Fleet>,
    /// Added to the ids of tasks, which are equal in all processes.
    seed: u64,
    closed: watch::Sender<bool>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}

impl Client {
    /// Connects to nodes and waits until one of them is ready. `target` is a list such as `cache-a:7400,cache-b:7400`,
    /// `unix:/path`, or `dns:///host:port`, whose addresses are the nodes.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(target: impl Into<String>) -> Result<Self> {
        Self::builder(target).connect().await
    }

    /// Returns a builder for a client with other settings than the defaults.
    pub fn builder(target: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(target)
    }

    pub(crate) fn start(target: Target, settings: Settings) -> Self {
        let fleet = Arc::new(Fleet::new(settings));
        let (closed, watched) = watch::channel(false);
        nodes::start(&fleet, target, watched);
        Self { inner: Arc::new(Inner { fleet, seed: fastrand::u64(..), closed }), context: None }
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn ready(&self) -> Result<()> {
        self.inner.fleet.ready().await
    }

    /// Returns the number of operations of this client and its clones that have no result.
    #[must_use]
    pub fn operations_in_progress(&self) -> usize {
        self.inner.fleet.nodes().iter().map(|node| node.link.pending()).sum()
    }

    /// Returns a client whose operations count as one caller, for prefetch: a random number or the hash of a trace id.
    /// Default: one caller per task.
    #[must_use]
    pub fn with_context(&self, context: u64) -> Self {
        Self { inner: Arc::clone(&self.inner), context: Some(context) }
    }

    /// Reads a key. `None` if it does not exist.
    pub fn get(&self, key: impl IntoBytes) -> Get {
        Get { origin: self.origin(), key: key.into_bytes(), timeout: None }
    }

    /// Reads a key with its metadata: tier, remaining TTL, tags.
    pub fn lookup(&self, key: impl IntoBytes) -> Lookup {
        let options = ReadOptions { want_meta: true, ..ReadOptions::default() };
        Lookup { origin: self.origin(), key: key.into_bytes(), options, timeout: None }
    }

    /// Reads many keys. Returns one value per key, in order; [`GetMany::each`] returns one result per key.
    pub fn get_many<K: IntoBytes>(&self, keys: impl IntoIterator<Item = K>) -> GetMany {
        GetMany { origin: self.origin(), keys: all(keys), timeout: None }
    }

    /// Writes a key and replaces its TTL and tags. `true` if the value was stored, `false` if a condition did not hold.
    pub fn set(&self, key: impl IntoBytes, value: impl IntoBytes) -> Set {
        let request = SetRequest { key: key.into_bytes(), value: value.into_bytes(), ..SetRequest::default() };
        Set { origin: self.origin(), request, timeout: None }
    }

    /// Writes many keys. Not atomic; [`SetMany::each`] returns one result per entry.
    pub fn set_many(&self, entries: impl IntoIterator<Item = NewEntry>) -> SetMany {
        SetMany { origin: self.origin(), entries: entries.into_iter().collect(), timeout: None }
    }

    /// Deletes keys. Returns the number of keys that existed.
    pub fn delete<K: IntoBytes>(&self, keys: impl IntoIterator<Item = K>) -> Delete {
        Delete { origin: self.origin(), keys: all(keys), timeout: None }
    }

    /// Changes the TTL of a key; `None` removes it.
    pub fn touch(&self, key: impl IntoBytes, ttl: Option<std::time::Duration>) -> Touch {
        let request = TouchRequest { key: key.into_bytes(), ttl_ms: ttl.map(to_ms), only: 0 };
        Touch { origin: self.origin(), request, timeout: None }
    }

    /// Adds a number to the value of a key, which must be a decimal 64-bit integer. An absent key counts as 0.
    pub fn increment(&self, key: impl IntoBytes, delta: i64) -> Increment {
        let request = IncrementRequest { key: key.into_bytes(), delta, ttl_ms: None };
        Increment { origin: self.origin(), request, timeout: None }
    }

    /// Reads a key. If it is absent or its value needs a refresh, one client receives the load lease: the permission to
    /// load the key from its origin.
    pub fn get_or_lease(&self, key: impl IntoBytes) -> GetOrLease {
        let request = GetOrLeaseRequest { key: key.into_bytes(), ..GetOrLeaseRequest::default() };
        GetOrLease { origin: self.origin(), request, timeout: None }
    }

    /// Invalidates all keys that match a Redis glob, at most 1 KiB, on all nodes.
    pub fn invalidate_pattern(&self, pattern: impl IntoBytes) -> InvalidatePattern {
        self.invalidate(Keys::Pattern(pattern.into_bytes()))
    }

    /// Invalidates all keys with a prefix, at most 512 bytes, on all nodes.
    pub fn invalidate_prefix(&self, prefix: impl IntoBytes) -> InvalidatePattern {
        self.invalidate(Keys::Prefix(prefix.into_bytes()))
    }

    /// Invalidates all entries that carry one of the tags, at most 1,000, on all nodes.
    pub fn invalidate_tags<T: IntoBytes>(&self, tags: impl IntoIterator<Item = T>) -> InvalidateTags {
        InvalidateTags { origin: self.origin(), tags: all(tags), timeout: None }
    }

    /// Follows the changes of keys, on one node.
    pub fn watch(&self) -> Watch {
        Watch { origin: self.origin(), request: WatchRequest::default() }
    }

    /// Returns the statistics of each node, with its name. The deadline of each node is that of a connection.
    ///
    /// # Errors
    /// A node cannot be reached.
    pub async fn stats(&self) -> Result<Vec<(String, GetStatsResponse)>> {
        let mut stats = Vec::new();
        for node in self.inner.fleet.nodes().iter() {
            let channel = node.channel();
            let Some(channel) = channel else {
                return Err(node.link.fault().unwrap_or_else(|| {
                    crate::Error::new(crate::ErrorKind::Unavailable, format!("{}: not connected yet", node.name))
                }));
            };
            let limit = self.inner.fleet.settings.connect_timeout;
            let mut insight = InsightClient::new(channel);
            let answer = timeout(limit, insight.get_stats(GetStatsRequest {})).await.map_err(|_elapsed| {
                let text = format!("{}: no answer within {limit:?}", node.name);
                crate::Error::new(crate::ErrorKind::DeadlineExceeded, text)
            })?;
            stats.push((node.name.clone(), answer?.into_inner()));
        }
        Ok(stats)
    }

    fn invalidate(&self, keys: Keys) -> InvalidatePattern {
        InvalidatePattern { origin: self.origin(), keys, dry_run: false, wait: false, timeout: None }
    }

    fn origin(&self) -> Origin {
        Origin { fleet: Arc::clone(&self.inner.fleet), context: self.context.unwrap_or_else(|| self.task_context()) }
    }

    /// Returns the context of the current task; 0 outside of tasks.
    fn task_context(&self) -> u64 {
        let Some(task) = tokio::task::try_id() else { return 0 };
        let mut hasher = Number(0);
        task.hash(&mut hasher);
        // Multiplication with an odd number keeps tasks distinct and spreads them.
        (hasher.0 ^ self.inner.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }
}

/// Takes the number out of a task id, whose only access is its hash.
struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
