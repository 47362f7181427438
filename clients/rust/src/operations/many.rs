//! Operations on many keys: split by node and by the limits of the server, executed at the same time, joined in order.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::try_join_all;
use terrace_proto::{
    DeleteRequest, GetManyRequest, SetManyRequest, SetRequest, get_many_result, operation::Operation,
    operation_result::Result as Answer, set_many_result,
};

use super::{Origin, Pending, empty, response, timeout, to_ms, write::repeat_write};
use crate::{
    convert::{IntoBytes, all},
    engine::call::AfterBreak,
    error::{Error, Result},
    nodes::routing::RouteHash,
};

/// Maximum number of keys or entries of an operation of the server.
const KEYS_MAX: usize = 1_000;
/// Size of the entries of one operation above which a further one begins. The server accepts messages of 16 MiB by
/// default.
const BYTES_MAX: usize = 4 << 20;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The items that one operation carries, and their places in the list of the caller.
struct Part<T> {
    items: Vec<T>,
    places: Vec<usize>,
    bytes: usize,
}

/// Splits items by the nodes of their keys.
fn split<T>(origin: &Origin, items: Vec<T>, key: impl Fn(&T) -> &Bytes, size: impl Fn(&T) -> usize) -> Vec<Part<T>> {
    let mut parts: Vec<Part<T>> = Vec::new();
    // The last part of each node.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        // Without a node, the operation reports the error.
        let node =
            origin.fleet.choose(Some(RouteHash::of(key(&item))), None).map_or(0, |node| Arc::as_ptr(&node) as usize);
        let bytes = size(&item);
        let known = open.iter().position(|(open, _)| *open == node);
        let part = known.map(|known| open[known].1).filter(|part| {
            let part: &Part<T> = &parts[*part];
            part.items.len() < KEYS_MAX && part.bytes + bytes <= BYTES_MAX
        });
        let part = part.unwrap_or_else(|| {
            parts.push(Part { items: Vec::new(), places: Vec::new(), bytes: 0 });
            let part = parts.len() - 1;
            match known {
                Some(known) => open[known].1 = part,
                None => open.push((node, part)),
            }
            part
        });
        let part = &mut parts[part];
        part.items.push(item);
        part.places.push(place);
        part.bytes += bytes;
    }
    parts
}

/// Joins the results of parts in the order of the caller's list.
fn join<T>(results: Vec<(Vec<usize>, Vec<T>)>) -> Result<Vec<T>> {
    let count = results.iter().map(|(places, _)| places.len()).sum();
    let mut joined: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
    for (places, results) in results {
        for (place, result) in places.into_iter().zip(results) {
            joined[place] = Some(result);
        }
    }
    joined.into_iter().collect::<Option<Vec<T>>>().ok_or_else(empty)
}

/// Reads of many keys: [`Client::get_many`](crate::Client::get_many).
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct GetMany {
    pub(crate) origin: Origin,
    pub(crate) keys: Vec<Bytes>,
    pub(crate) timeout: Option<Duration>,
}

impl GetMany {
    timeout!();

    /// Returns one result per key, in order. A failed read does not affect the others.
    ///
    /// # Errors
    /// A part of the keys could not be read at all.
    pub async fn each(self) -> Result<Vec<Result<Option<Bytes>>>> {
        let parts = split(&self.origin, self.keys, |key| key, Bytes::len).into_iter().map(|part| {
            let first = part.items[0].clone();
            let request = GetManyRequest { keys: part.items, options: None };
            let call = self.origin.read(Operation::GetMany(request), &first, self.timeout);
            let read = Pending::new(call, read_results);
            async move { Ok::<_, Error>((part.places, read.await?)) }
        });
        join(try_join_all(parts).await?)
    }
}

fn read_results(answer: Answer) -> Result<Vec<Result<Option<Bytes>>>> {
    use get_many_result::Result as Item;
    let response = response!(answer, GetMany);
    let results = response.results.into_iter().map(|result| match result.result {
        Some(Item::Found(found)) => Ok(Some(found.value)),
        Some(Item::Missing(_)) => Ok(None),
        Some(Item::Error(error)) => Err(Error::of_item(error)),
        None => Err(empty()),
    });
    Ok(results.collect())
}

impl IntoFuture for GetMany {
    type Output = Result<Vec<Option<Bytes>>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.each().await?.into_iter().collect() })
    }
}

/// An entry of [`Client::set_many`](crate::Client::set_many).
#[derive(Debug, Clone)]
pub struct NewEntry(SetRequest);

impl NewEntry {
    /// Returns an entry without TTL and tags.
    pub fn new(key: impl IntoBytes, value: impl IntoBytes) -> Self {
        Self(SetRequest { key: key.into_bytes(), value: value.into_bytes(), ..SetRequest::default() })
    }

    /// Sets the TTL, at least 1 ms.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl_ms = Some(to_ms(ttl));
        self
    }

    /// Sets the tags.
    #[must_use]
    pub fn tags<T: IntoBytes>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.0.tags = all(tags);
        self
    }
}

/// Writes of many keys: [`Client::set_many`](crate::Client::set_many). Not atomic: each entry has its own result.
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct SetMany {
    pub(crate) origin: Origin,
    pub(crate) entries: Vec<NewEntry>,
    pub(crate) timeout: Option<Duration>,
}

impl SetMany {
    timeout!();

    /// Returns one result per entry, in order.
    ///
    /// # Errors
    /// A part of the entries could not be sent, or its outcome is unknown.
    pub async fn each(self) -> Result<Vec<Result<()>>> {
        let repeat = repeat_write(&self.origin, true);
        let size = |entry: &NewEntry| entry.0.key.len() + entry.0.value.len();
        let parts = split(&self.origin, self.entries, |entry| &entry.0.key, size).into_iter().map(|part| {
            let first = part.items[0].0.key.clone();
            let request = SetManyRequest { entries: part.items.into_iter().map(|entry| entry.0).collect() };
            let call = self.origin.write(Operation::SetMany(request), &first, repeat, self.timeout);
            let write = Pending::new(call, write_results);
            async move { Ok::<_, Error>((part.places, write.await?)) }
        });
        join(try_join_all(parts).await?)
    }
}

fn write_results(answer: Answer) -> Result<Vec<Result<()>>> {
    use set_many_result::Result as Item;
    let response = response!(answer, SetMany);
    let results = response.results.into_iter().map(|result| match result.result {
        Some(Item::Stored(_) | Item::NotStored(_)) => Ok(()),
        Some(Item::Error(error)) => Err(Error::of_item(error)),
        None => Err(empty()),
    });
    Ok(results.collect())
}

impl IntoFuture for SetMany {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.each().await?.into_iter().collect() })
    }
}

/// Deletions: [`Client::delete`](crate::Client::delete). The result is the number of keys that existed.
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct Delete {
    pub(crate) origin: Origin,
    pub(crate) keys: Vec<Bytes>,
    pub(crate) timeout: Option<Duration>,
}

impl Delete {
    timeout!();
}

impl IntoFuture for Delete {
    type Output = Result<u64>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, keys, timeout } = self;
        Box::pin(async move {
            let parts = split(&origin, keys, |key| key, Bytes::len).into_iter().map(|part| {
                let first = part.items[0].clone();
                let request = DeleteRequest { keys: part.items };
                let call = origin.write(Operation::Delete(request), &first, AfterBreak::Repeat, timeout);
                Pending::new(call, |answer| {
                    let response = response!(answer, Delete);
                    Ok(response.deleted)
                })
            });
            Ok(try_join_all(parts).await?.into_iter().sum())
        })
    }
}
