//! Reads of one key.

use std::time::Duration;

use bytes::Bytes;
use terrace_proto::{
    Found, GetRequest, ReadOptions, get_response, operation::Operation, operation_result::Result as Answer,
};

use super::{Hook, Origin, Pending, empty, from_ms, response, timeout};
use crate::{Client, convert::IntoBytes, error::Result};

/// Tier that answered a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The memory of a node.
    L1,
    /// Redis or the embedded store.
    L2,
}

/// A read of one key: [`Client::get`](crate::Client::get).
///
/// It borrows the client and the key, so that a hit of the near cache allocates nothing and counts no references to them. The
/// future borrows neither: `client.get(key).into_future()` can be moved to another task.
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct Get<'a, K> {
    client: &'a Client,
    key: K,
    timeout: Option<Duration>,
    uses_copies: bool,
}

impl<'a, K: IntoBytes> Get<'a, K> {
    pub(crate) fn new(client: &'a Client, key: K) -> Self {
        Self { client, key, timeout: None, uses_copies: true }
    }

    timeout!();

    /// Does not look into the near cache: the caller has done so.
    pub(crate) fn without_copies(mut self) -> Self {
        self.uses_copies = false;
        self
    }
}

impl<K: IntoBytes> IntoFuture for Get<'_, K> {
    type Output = Result<Option<Bytes>>;
    type IntoFuture = Pending<Option<Bytes>>;

    // Inline, so that a hit does not move the unused space for the state of a call.
    #[inline]
    fn into_future(self) -> Self::IntoFuture {
        if let Some(near) = self.client.near()
            && self.uses_copies
            && let Some(copy) = near.get(self.key.as_bytes())
        {
            return Pending::ready(Ok(Some(copy.value().clone())));
        }
        call(self.client.origin(), self.key.into_bytes(), self.timeout)
    }
}

/// Reads a key from a node.
fn call(origin: Origin, key: Bytes, timeout: Option<Duration>) -> Pending<Option<Bytes>> {
    let (mut options, mut hook) = (None, Hook::None);
    if let Some(near) = &origin.core.near
        && let Some(reading) = near.begin(&key)
    {
        hook = Hook::keep(near, reading);
        options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
    }
    let request = GetRequest { key: key.clone(), options };
    let value = |answer| Ok(found(answer)?.map(|found| found.value));
    Pending::with_hook(origin.read(Operation::Get(request), &key, timeout), value, hook)
}

/// A value with its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Value of the key.
    pub value: Bytes,
    /// Tier that answered.
    pub tier: Tier,
    /// L2 is unavailable, and the copy is older than the coherence bound permits.
    pub is_stale: bool,
    /// Remaining TTL. `None` if the key does not expire.
    pub expires_in: Option<Duration>,
    /// Time until the value needs a refresh. `None` if the key does not expire.
    pub fresh_for: Option<Duration>,
    /// Time since the copy was read from L2; zero if L2 answered.
    pub age: Duration,
    /// Tags of the entry, in byte order.
    pub tags: Vec<Bytes>,
    /// Approximate number of reads that L1 answered with this copy.
    pub l1_hits: u64,
}

/// A read of one key with its metadata: [`Client::lookup`](crate::Client::lookup). The node answers it in any case; a near
/// cache keeps the answer, unless [`no_touch`](Self::no_touch) is set.
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct Lookup {
    pub(crate) origin: Origin,
    pub(crate) key: Bytes,
    pub(crate) options: ReadOptions,
    pub(crate) timeout: Option<Duration>,
}

impl Lookup {
    timeout!();

    /// Does not change recency, statistics or learning, and inserts nothing into L1.
    pub fn no_touch(mut self) -> Self {
        self.options.no_touch = true;
        self
    }
}

impl IntoFuture for Lookup {
    type Output = Result<Option<Entry>>;
    type IntoFuture = Pending<Option<Entry>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, key, options, timeout } = self;
        let near = origin.core.near.as_ref().filter(|_| !options.no_touch);
        let hook = near.and_then(|near| Some(Hook::keep(near, near.begin(&key)?))).unwrap_or(Hook::None);
        let request = GetRequest { key: key.clone(), options: Some(options) };
        let entry = |answer| Ok(found(answer)?.map(entry));
        Pending::with_hook(origin.read(Operation::Get(request), &key, timeout), entry, hook)
    }
}

fn found(answer: Answer) -> Result<Option<Found>> {
    {
        let response = response!(answer, Get);
        match response.result {
            Some(get_response::Result::Found(found)) => Ok(Some(found)),
            Some(get_response::Result::Missing(_)) => Ok(None),
            None => Err(empty()),
        }
    }
}

pub(crate) fn entry(found: Found) -> Entry {
    let tier = match found.tier() {
        terrace_proto::Tier::L1 => Tier::L1,
        terrace_proto::Tier::L2 | terrace_proto::Tier::Unspecified => Tier::L2,
    };
    Entry {
        tier,
        value: found.value,
        is_stale: found.stale,
        expires_in: found.ttl_ms.map(from_ms),
        fresh_for: found.fresh_ms.map(from_ms),
        age: from_ms(found.age_ms.unwrap_or(0)),
        tags: found.tags,
        l1_hits: found.l1_hits.unwrap_or(0),
    }
}
