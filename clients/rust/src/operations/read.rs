//! Reads of one key.

use std::time::Duration;

use bytes::Bytes;
use terrace_proto::{
    Found, GetRequest, ReadOptions, get_response, operation::Operation, operation_result::Result as Answer,
};

use super::{Origin, Pending, empty, from_ms, response, timeout};
use crate::error::Result;

/// Tier that answered a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The memory of a node.
    L1,
    /// Redis or the embedded store.
    L2,
}

/// A read of one key: [`Client::get`](crate::Client::get).
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct Get {
    pub(crate) origin: Origin,
    pub(crate) key: Bytes,
    pub(crate) timeout: Option<Duration>,
}

impl Get {
    timeout!();
}

impl IntoFuture for Get {
    type Output = Result<Option<Bytes>>;
    type IntoFuture = Pending<Option<Bytes>>;

    fn into_future(self) -> Self::IntoFuture {
        let request = GetRequest { key: self.key.clone(), options: None };
        Pending::new(self.origin.read(Operation::Get(request), &self.key, self.timeout), |answer| {
            Ok(found(answer)?.map(|found| found.value))
        })
    }
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
    /// Time since the copy was read from L2; zero if L2 answered.
    pub age: Duration,
    /// Tags of the entry, in byte order.
    pub tags: Vec<Bytes>,
    /// Approximate number of reads that L1 answered with this copy.
    pub l1_hits: u64,
}

/// A read of one key with its metadata: [`Client::lookup`](crate::Client::lookup).
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
        let request = GetRequest { key: self.key.clone(), options: Some(self.options) };
        Pending::new(self.origin.read(Operation::Get(request), &self.key, self.timeout), |answer| {
            Ok(found(answer)?.map(entry))
        })
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
        age: from_ms(found.age_ms.unwrap_or(0)),
        tags: found.tags,
        l1_hits: found.l1_hits.unwrap_or(0),
    }
}
