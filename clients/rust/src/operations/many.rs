//! Operations on many keys: split by node and by the limits of the server, executed at the same time, joined in order.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use terrace_proto::{
    DeleteRequest, GetManyRequest, GetOrLeaseManyRequest, LeaseItem, ReadOptions, SetManyRequest, SetRequest,
    get_many_result, get_or_lease_many_result, get_or_lease_response, operation::Operation,
    operation_result::Result as Answer, set_many_result,
};
use tokio::task::coop::consume_budget;

use super::{
    Hook, Origin, Pending, Place, empty,
    lease::{Lease, Nonces, lease},
    response, timeout, to_ms,
    write::repeat_write,
};
use crate::{
    clock::Moment,
    convert::{IntoBytes, all},
    engine::call::AfterBreak,
    error::{Error, Result},
    load::{Item, LoadOptions},
    near::{
        Change, Near,
        store::{Copy, Reading},
    },
    nodes::{Node, routing::RouteHash},
};

/// Maximum number of keys or entries of an operation of the server.
const KEYS_MAX: usize = 1_000;
/// Size of the entries of one operation above which a further one begins. The server accepts messages of 16 MiB by
/// default.
const BYTES_MAX: usize = 4 << 20;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The items that one operation carries, and their places in the list of the caller.
struct Part<T> {
    node: Option<Arc<Node>>,
    items: Vec<T>,
    places: Vec<usize>,
    bytes: usize,
}

impl<T> Part<T> {
    fn new(node: Option<Arc<Node>>) -> Self {
        Self { node, items: Vec::new(), places: Vec::new(), bytes: 0 }
    }

    fn is_of(&self, node: Option<&Arc<Node>>) -> bool {
        self.node.as_ref().map(Arc::as_ptr) == node.map(Arc::as_ptr)
    }
}

/// Splits items by the nodes of their keys.
fn split<T>(origin: &Origin, items: Vec<T>, key: impl Fn(&T) -> &Bytes, size: impl Fn(&T) -> usize) -> Vec<Part<T>> {
    let mut parts: Vec<Part<T>> = Vec::new();
    // The last part of each node.
    let mut open: Vec<usize> = Vec::new();
    for (place, item) in items.into_iter().enumerate() {
        // Without a node, the operation reports the error.
        let node = origin.core.backend.choose(RouteHash::of(key(&item)));
        let bytes = size(&item);
        let known = open.iter().position(|part| parts[*part].is_of(node.as_ref()));
        let part = known.map(|known| open[known]).filter(|part| {
            let part: &Part<T> = &parts[*part];
            part.items.len() < KEYS_MAX && part.bytes + bytes <= BYTES_MAX
        });
        let part = part.unwrap_or_else(|| {
            parts.push(Part::new(node));
            let part = parts.len() - 1;
            match known {
                Some(known) => open[known] = part,
                None => open.push(part),
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
        let Self { origin, keys, timeout } = self;
        let Some(near) = &origin.core.near else { return read_all(&origin, keys, timeout, None).await };
        let now = Moment::now();
        let copies: Vec<Option<Arc<Copy>>> = keys.iter().map(|key| near.get_at(key, now)).collect();
        let is_missing = |(key, copy): (Bytes, &Option<Arc<Copy>>)| copy.is_none().then_some(key);
        let missing: Vec<Bytes> = keys.into_iter().zip(&copies).filter_map(is_missing).collect();
        let mut read = if missing.is_empty() {
            // As a read of one key that a copy answers.
            consume_budget().await;
            Vec::new()
        } else {
            let readings = missing.iter().map(|key| near.begin(key)).collect();
            read_all(&origin, missing, timeout, Some((near, readings))).await?
        }
        .into_iter();
        let value = |copy: Option<Arc<Copy>>| match copy {
            Some(copy) => Ok(Some(copy.value().clone())),
            None => read.next().unwrap_or_else(|| Err(empty())),
        };
        Ok(copies.into_iter().map(value).collect())
    }
}

/// Reads keys from the nodes, and keeps the answers to the readings.
async fn read_all(
    origin: &Origin,
    keys: Vec<Bytes>,
    timeout: Option<Duration>,
    mut near: Option<(&Arc<Near>, Vec<Option<Reading>>)>,
) -> Result<Vec<Result<Option<Bytes>>>> {
    let parts = split(origin, keys, |key| key, Bytes::len).into_iter().map(|part| {
        let first = part.items[0].clone();
        let (mut options, mut hook) = (None, Hook::None);
        if let Some((near, readings)) = &mut near {
            let readings: Vec<_> = part.places.iter().map(|place| readings[*place].take()).collect();
            if readings.iter().any(Option::is_some) {
                hook = Hook::keep_many(near, readings);
                options = Some(ReadOptions { want_meta: true, ..ReadOptions::default() });
            }
        }
        let request = GetManyRequest { keys: part.items, options };
        let place = Place::Selected { key: &first, node: part.node };
        let call = origin.call(Operation::GetMany(request), place, None, timeout);
        let read = Pending::with_hook(call, read_results, hook);
        async move { Ok::<_, Error>((part.places, read.await?)) }
    });
    join(try_join_all(parts).await?)
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

/// Reads keys with the options of a load, without waiting for loads of other clients.
pub(crate) async fn lease_many(origin: &Origin, items: Vec<Item>, options: &LoadOptions) -> Vec<Result<Lease>> {
    let count = items.len();
    let parts = split(origin, items, |item| &item.key, |item| item.key.len()).into_iter().map(|part| {
        let first = part.items[0].key.clone();
        let request = GetOrLeaseManyRequest {
            items: part.items.iter().map(|item| lease_item(item, &origin.core.nonces)).collect(),
            stale_ms: options.stale.map(to_ms),
            lease_ms: options.lease.map(to_ms),
            refresh: options.refresh,
            want_meta: origin.core.near.is_some(),
        };
        let hook = origin.core.near.as_ref().map_or(Hook::None, |near| {
            Hook::keep_many(near, part.items.iter().map(|item| near.begin(&item.key)).collect())
        });
        let place = Place::Selected { key: &first, node: part.node };
        let call = origin.call(Operation::GetOrLeaseMany(request), place, None, None);
        let read = Pending::with_hook(call, |answer| Ok(response!(answer, GetOrLeaseMany).results), hook);
        async move { (part.places, part.items, read.await) }
    });
    let mut leases: Vec<Option<Result<Lease>>> = std::iter::repeat_with(|| None).take(count).collect();
    for (places, items, results) in join_all(parts).await {
        match results {
            Ok(results) => {
                for ((place, item), result) in places.into_iter().zip(items).zip(results) {
                    leases[place] = Some(lease_result(origin, &item, result.result));
                }
            }
            Err(error) => places.into_iter().for_each(|place| leases[place] = Some(Err(error.clone()))),
        }
    }
    leases.into_iter().map(|lease| lease.unwrap_or_else(|| Err(empty()))).collect()
}

fn lease_item(item: &Item, nonces: &Nonces) -> LeaseItem {
    LeaseItem { key: item.key.clone(), tags: item.tags.clone(), nonce: Some(nonces.next()) }
}

fn lease_result(origin: &Origin, item: &Item, result: Option<get_or_lease_many_result::Result>) -> Result<Lease> {
    use get_or_lease_many_result::Result as Many;
    use get_or_lease_response::Result as One;
    let answer = match result {
        Some(Many::Hit(hit)) => One::Hit(hit),
        Some(Many::Load(load)) => One::Load(load),
        Some(Many::Busy(busy)) => One::Busy(busy),
        Some(Many::Absent(absent)) => One::Absent(absent),
        Some(Many::Failed(failed)) => One::Failed(failed),
        Some(Many::Error(error)) => return Err(Error::of_item(error)),
        None => return Err(empty()),
    };
    lease(origin, &item.key, &item.tags, answer)
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
        let keys = || self.entries.iter().map(|entry| entry.0.key.clone()).collect();
        let _changing = self.origin.changing(|| Change::Keys(keys()));
        let size = |entry: &NewEntry| entry.0.key.len() + entry.0.value.len();
        let parts = split(&self.origin, self.entries, |entry| &entry.0.key, size).into_iter().map(|part| {
            let first = part.items[0].0.key.clone();
            let request = SetManyRequest { entries: part.items.into_iter().map(|entry| entry.0).collect() };
            let place = Place::Selected { key: &first, node: part.node };
            let call = self.origin.call(Operation::SetMany(request), place, Some(repeat), self.timeout);
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
            let _changing = origin.changing(|| Change::Keys(keys.clone()));
            let parts = split(&origin, keys, |key| key, Bytes::len).into_iter().map(|part| {
                let first = part.items[0].clone();
                let request = DeleteRequest { keys: part.items };
                let place = Place::Selected { key: &first, node: part.node };
                let call = origin.call(Operation::Delete(request), place, Some(AfterBreak::Repeat), timeout);
                Pending::new(call, |answer| {
                    let response = response!(answer, Delete);
                    Ok(response.deleted)
                })
            });
            Ok(try_join_all(parts).await?.into_iter().sum())
        })
    }
}
