//! [`Client`]: the operations of a cache server, over all its nodes.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use terrace_proto::{
    GetOrLeaseRequest, GetStatsRequest, GetStatsResponse, IncrementRequest, ReadOptions, SetRequest, TouchRequest,
    WatchRequest, insight_client::InsightClient, invalidate_pattern_request::Keys,
};

use crate::{
    Target,
    backend::{Backend, Core},
    convert::{IntoBytes, all},
    error::Result,
    load::{BoxError, GetOrLoad, GetOrLoadMany, Item, LoadError, Loaded, Loader, ManyLoader},
    near::{Near, NearStats},
    nodes::within,
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
    view::{Codec, View},
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
    core: Arc<Core>,
    context: Option<u64>,
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
        Self { core: Arc::new(Core::connect(target, settings)), context: None }
    }

    /// Returns a client of an in-memory cache.
    #[cfg(feature = "testing")]
    pub(crate) fn fake(server: Arc<crate::testing::Server>, settings: Settings) -> Self {
        Self { core: Arc::new(Core::fake(server, settings)), context: None }
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn ready(&self) -> Result<()> {
        match &self.core.backend {
            Backend::Fleet(fleet) => fleet.ready().await,
            #[cfg(feature = "testing")]
            Backend::Fake(server) => server.ready(),
        }
    }

    /// Returns the number of operations of this client and its clones that have no result.
    #[must_use]
    pub fn operations_in_progress(&self) -> usize {
        match &self.core.backend {
            Backend::Fleet(fleet) => fleet.nodes().iter().map(|node| node.link.pending()).sum(),
            #[cfg(feature = "testing")]
            Backend::Fake(server) => server.in_progress(),
        }
    }

    /// Returns a client whose operations count as one caller, for prefetch: a random number or the hash of a trace id.
    /// Default: one caller per task.
    #[must_use]
    pub fn with_context(&self, context: u64) -> Self {
        Self { core: Arc::clone(&self.core), context: Some(context) }
    }

    /// Reads a key. `None` if it does not exist.
    #[inline]
    pub fn get<K: IntoBytes>(&self, key: K) -> Get<'_, K> {
        Get::new(self, key)
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

    /// Reads a key. If it is absent, loads it from its origin and stores it; one client of all nodes loads at a time, and the
    /// others receive its value. `None` if the origin does not have the key.
    ///
    /// The loader runs in a task of its own, and goes on if the caller leaves. If the value is in its stale part, it is
    /// returned at once, and the load runs in the background. If no node answers, the key is loaded without being stored
    /// ([`GetOrLoad::on_unavailable`]).
    ///
    /// ```no_run
    /// # async fn example(client: terrace_client::Client) -> terrace_client::Result<()> {
    /// use std::time::Duration;
    /// use bytes::Bytes;
    ///
    /// async fn query(id: u64) -> Result<Option<Bytes>, std::io::Error> {
    ///     Ok(Some("Ada".into()))
    /// }
    ///
    /// let name = client
    ///     .get_or_load("user:1", || query(1))
    ///     .ttl(Duration::from_secs(300))
    ///     .stale(Duration::from_secs(3600))
    ///     .negative_ttl(Duration::from_secs(30))
    ///     .tags(["team:7"])
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `LoadFailed` if the load failed here or elsewhere: [`Error::source`](std::error::Error::source) is the error of the
    /// loader, if it ran in this process. `Unavailable` if no node answers and the maximum number of loads without the cache is in
    /// progress. `ResourceExhausted` if [`LOADS_MAX`](crate::LOADS_MAX) loads are in progress. `InvalidArgument` for a TTL that
    /// the server does not accept, and inside the loader of the same key.
    pub fn get_or_load<F, Fut, L, E>(&self, key: impl IntoBytes, load: F) -> GetOrLoad
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<Bytes>>,
        E: Into<BoxError>,
    {
        let loader = Loader::new(|| async { load().await.map(L::into).map_err(LoadError::of) });
        GetOrLoad::new(self.origin(), key.into_bytes(), Arc::default(), loader)
    }

    /// Reads many keys, and loads those that are absent with one call of the loader. The loader receives the absent keys and
    /// returns one result per key, in order. It is called once more for keys that need a refresh, and once more for keys that
    /// another client did not load.
    ///
    /// # Errors
    /// As [`Self::get_or_load`], for any of the keys; [`GetOrLoadMany::each`] returns one result per key.
    pub fn get_or_load_many<K, F, Fut, L, E>(&self, keys: impl IntoIterator<Item = K>, load: F) -> GetOrLoadMany
    where
        K: IntoBytes,
        F: Fn(Vec<Bytes>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<L>, E>> + Send + 'static,
        L: Into<Loaded<Bytes>>,
        E: Into<BoxError>,
    {
        let items = all(keys).into_iter().map(|key| Item { key, tags: Vec::new() }).collect();
        let loader = ManyLoader::new(move |keys| {
            let loaded = load(keys);
            async move { Ok(loaded.await.map_err(LoadError::of)?.into_iter().map(L::into).collect()) }
        });
        GetOrLoadMany::new(self.origin(), items, Arc::default(), loader)
    }

    /// Returns a view of the keys of a template such as `user:{id}`, with values of one type.
    ///
    /// # Errors
    /// The template is not valid.
    pub fn view<C: Codec>(&self, template: &str, codec: C) -> Result<View<C>> {
        View::new(self.clone(), template, codec)
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

    /// Returns the statistics of the near cache; `None` without one.
    #[must_use]
    pub fn near_stats(&self) -> Option<NearStats> {
        self.core.near.as_ref().map(|near| near.stats(&self.core.backend.nodes()))
    }

    /// Returns the statistics of each node, with its name. The deadline of each node is that of a connection.
    ///
    /// # Errors
    /// A node cannot be reached.
    pub async fn stats(&self) -> Result<Vec<(String, GetStatsResponse)>> {
        let fleet = match &self.core.backend {
            Backend::Fleet(fleet) => Arc::clone(fleet),
            #[cfg(feature = "testing")]
            Backend::Fake(server) => return server.stats(self.core.settings.connect_timeout).await,
        };
        let mut stats = Vec::new();
        fleet.ready().await?;
        for node in fleet.nodes().iter() {
            let channel = fleet.channel_of(node).await?;
            let answer = async { Ok(InsightClient::new(channel).get_stats(GetStatsRequest {}).await?.into_inner()) };
            let limit = self.core.settings.connect_timeout;
            stats.push((node.name.clone(), within(limit, Some(&node.name), answer).await?));
        }
        Ok(stats)
    }

    fn invalidate(&self, keys: Keys) -> InvalidatePattern {
        InvalidatePattern { origin: self.origin(), keys, dry_run: false, wait: false, timeout: None }
    }

    pub(crate) fn near(&self) -> Option<&Arc<Near>> {
        self.core.near.as_ref()
    }

    #[inline]
    pub(crate) fn origin(&self) -> Origin {
        Origin { core: Arc::clone(&self.core), context: self.context.unwrap_or_else(|| self.task_context()) }
    }

    /// Returns the context of the current task; 0 outside of tasks.
    #[inline]
    fn task_context(&self) -> u64 {
        let Some(task) = tokio::task::try_id() else { return 0 };
        let mut hasher = Number(0);
        task.hash(&mut hasher);
        self.context_of(hasher.0)
    }

    /// Returns the context of a task with a number, which other processes may have too.
    #[inline]
    pub(crate) fn context_of(&self, task: u64) -> u64 {
        // Multiplication with an odd number keeps tasks distinct and spreads them.
        (task ^ self.core.nonces.seed()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
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
