//! Get-or-load of many keys: one lookup, and one load for all keys that this client has to load.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::Instrument;

use super::{
    BoxFuture, LoadError, LoadOptions, Loaded, OnUnavailable, Permit, abandoned, chain, last_load_failed,
    loaded::{guarded, is_outage},
    one::{FILL_PATIENCE, IsValid, fill, late, report, stale_copy},
    setters, undecodable,
};
use crate::{
    convert::{IntoBytes, all, bounded},
    error::{Error, Result},
    operations::{
        Origin,
        lease::{Grant, Lease, get_or_lease},
        many::lease_many,
    },
};

type Value = Result<Option<Bytes>>;

type LoadMany = dyn Fn(Vec<Bytes>) -> BoxFuture<Result<Vec<Loaded<Bytes>>, LoadError>> + Send + Sync;

/// Loads the values of keys. Called at most once for absent keys, for keys whose load by another client did not end, and for
/// keys that need a refresh.
#[derive(Clone)]
pub(crate) struct ManyLoader(Arc<LoadMany>);

impl std::fmt::Debug for ManyLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ManyLoader")
    }
}

impl ManyLoader {
    pub(crate) fn new<F, Fut>(load: F) -> Self
    where
        F: Fn(Vec<Bytes>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Loaded<Bytes>>, LoadError>> + Send + 'static,
    {
        Self(Arc::new(move |keys| Box::pin(load(keys))))
    }
}

/// The loader returned a wrong number of results.
#[derive(Debug, thiserror::Error)]
#[error("the loader returned {returned} results for {keys} keys")]
struct WrongCount {
    returned: usize,
    keys: usize,
}

/// A key with the tags of its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Item {
    pub(crate) key: Bytes,
    pub(crate) tags: Vec<Bytes>,
}

/// A read that loads absent keys: [`Client::get_or_load_many`](crate::Client::get_or_load_many).
#[derive(Debug)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct GetOrLoadMany {
    origin: Origin,
    items: Vec<Item>,
    options: Arc<LoadOptions>,
    loader: ManyLoader,
    timeout: Option<Duration>,
    is_valid: IsValid,
}

impl GetOrLoadMany {
    pub(crate) fn new(origin: Origin, items: Vec<Item>, options: Arc<LoadOptions>, loader: ManyLoader) -> Self {
        Self { origin, items, options, loader, timeout: None, is_valid: IsValid::default() }
    }

    setters!(this => Arc::make_mut(&mut this.options));

    /// Sets the tags of all loaded values: at most 16, with 1 to 128 bytes each.
    pub fn tags<T: IntoBytes>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        let tags = all(tags);
        self.items.iter_mut().for_each(|item| item.tags.clone_from(&tags));
        self
    }

    /// Loads keys also if they have a value that cannot be used.
    pub(crate) fn valid_if(mut self, is_valid: impl Fn(&Bytes) -> bool + Send + Sync + 'static) -> Self {
        self.is_valid = IsValid::new(is_valid);
        self
    }

    /// Limits the time until the caller has all results. A load that has begun goes on in the background. Default: the time
    /// to wait and the deadline of a load limit it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(bounded(timeout));
        self
    }

    /// Returns one result per key, in order. A key that cannot be loaded does not affect the others.
    pub async fn each(self) -> Vec<Value> {
        let (count, limit) = (self.items.len(), self.timeout);
        let Some(limit) = limit else { return self.results().await };
        timeout(limit, self.results()).await.unwrap_or_else(|_elapsed| vec![Err(late(limit)); count])
    }

    async fn results(self) -> Vec<Value> {
        let checked = self
            .options
            .check()
            .and_then(|()| self.items.iter().try_for_each(|item| chain::check(&self.origin.core, &item.key)));
        if let Err(error) = checked {
            return vec![Err(error); self.items.len()];
        }
        let Self { origin, items, options, loader, timeout: _, is_valid } = self;
        let (unique, places) = deduplicated(items);
        let mut run = Run {
            origin,
            options,
            loader,
            results: unique.iter().map(|_| None).collect(),
            items: unique,
            loads: Vec::new(),
            is_valid,
            began: Instant::now(),
        };
        run.run().await;
        let results: Vec<Value> =
            run.results.into_iter().map(|result| result.unwrap_or_else(|| Err(abandoned()))).collect();
        places.into_iter().map(|place| results[place].clone()).collect()
    }
}

impl IntoFuture for GetOrLoadMany {
    type Output = Result<Vec<Option<Bytes>>>;
    type IntoFuture = BoxFuture<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.each().await.into_iter().collect() })
    }
}

/// Returns the different items, and for each item its place among them.
fn deduplicated(items: Vec<Item>) -> (Vec<Item>, Vec<usize>) {
    let mut known: HashMap<Bytes, usize> = HashMap::with_capacity(items.len());
    let mut unique = Vec::with_capacity(items.len());
    let mut places = Vec::with_capacity(items.len());
    for item in items {
        let place = *known.entry(item.key.clone()).or_insert(unique.len());
        if place == unique.len() {
            unique.push(item);
        }
        places.push(place);
    }
    (unique, places)
}

/// A load in progress: the places of its keys, and their values.
type Load = (Vec<usize>, oneshot::Receiver<Vec<Value>>);

struct Run {
    origin: Origin,
    items: Vec<Item>,
    options: Arc<LoadOptions>,
    loader: ManyLoader,
    results: Vec<Option<Value>>,
    loads: Vec<Load>,
    is_valid: IsValid,
    began: Instant,
}

/// Keys by what has to be done for them.
#[derive(Default)]
struct Work {
    load: Vec<(usize, Grant)>,
    refresh: Vec<(usize, Grant)>,
    busy: Vec<usize>,
    /// Keys whose values cannot be used, without a grant.
    invalid: Vec<usize>,
    /// Keys to load without the cache.
    direct: Vec<usize>,
    /// The reason for it.
    why: Option<Error>,
}

impl Run {
    async fn run(&mut self) {
        self.take_copies();
        let asked: Vec<usize> = (0..self.items.len()).filter(|place| self.results[*place].is_none()).collect();
        let items = asked.iter().map(|place| self.items[*place].clone()).collect();
        let leases = lease_many(&self.origin, items, &self.options).await;
        let mut work = Work::default();
        for (place, lease) in asked.into_iter().zip(leases) {
            self.classify(place, lease, &mut work);
        }
        self.begin(std::mem::take(&mut work.load));
        self.refresh(std::mem::take(&mut work.refresh));
        self.wait(&mut work).await;
        self.replace(&mut work).await;
        self.begin(std::mem::take(&mut work.load));
        self.refresh(std::mem::take(&mut work.refresh));
        self.without_cache(work).await;
        for (places, values) in std::mem::take(&mut self.loads) {
            let Ok(values) = values.await else { continue };
            for (place, value) in places.into_iter().zip(values) {
                self.results[place] = Some(value);
            }
        }
    }

    /// Answers what the near cache has.
    fn take_copies(&mut self) {
        let Some(near) = &self.origin.core.near else { return };
        for (item, result) in self.items.iter().zip(&mut self.results) {
            let copy = near.get(&item.key).filter(|copy| self.is_valid.check(copy.value()));
            *result = copy.map(|copy| Ok(Some(copy.value().clone())));
        }
    }

    fn classify(&mut self, place: usize, lease: Result<Lease>, work: &mut Work) {
        let value = match lease {
            Ok(Lease::Hit { entry, grant, .. }) if !self.is_valid.check(&entry.value) => match grant {
                Some(grant) => return work.load.push((place, grant)),
                None => return work.invalid.push(place),
            },
            Ok(Lease::Hit { entry, grant, .. }) => {
                if let Some(grant) = grant {
                    work.refresh.push((place, grant));
                }
                Ok(Some(entry.value))
            }
            Ok(Lease::Load(grant)) => return work.load.push((place, grant)),
            Ok(Lease::Busy { .. }) => return work.busy.push(place),
            Ok(Lease::Absent { .. }) => Ok(None),
            Ok(Lease::Failed { message, retry_after }) => Err(last_load_failed(&message, retry_after)),
            Err(error) if is_outage(&error) => match self.options.on_unavailable {
                OnUnavailable::Load => {
                    work.why = Some(error);
                    return work.direct.push(place);
                }
                OnUnavailable::Stale => stale_copy(&self.origin, &self.items[place].key, &self.is_valid)
                    .map_or(Err(error), |copy| Ok(Some(copy))),
                OnUnavailable::Error => Err(error),
            },
            Err(error) => Err(error),
        };
        self.results[place] = Some(value);
    }

    /// Requests leases of the keys whose values cannot be used.
    async fn replace(&mut self, work: &mut Work) {
        let invalid = std::mem::take(&mut work.invalid);
        let timeout = self.origin.settings().read_timeout;
        let asks = invalid.iter().map(|place| {
            let item = &self.items[*place];
            let options = LoadOptions { tags: item.tags.clone(), refresh: true, ..(*self.options).clone() };
            let origin = &self.origin;
            async move { get_or_lease(origin, &item.key, &options, Duration::ZERO, timeout).await }
        });
        let leases = join_all(asks).await;
        for (place, lease) in invalid.into_iter().zip(leases) {
            if let Ok(Lease::Load(grant) | Lease::Hit { grant: Some(grant), .. }) = lease {
                work.load.push((place, grant));
            } else {
                work.why = Some(undecodable());
                work.direct.push(place);
            }
        }
    }

    /// Waits for the loads of other clients.
    async fn wait(&mut self, work: &mut Work) {
        let busy = std::mem::take(&mut work.busy);
        let wait = self.options.wait;
        let timeout = wait + self.origin.settings().read_timeout;
        let waits = busy.iter().map(|place| {
            let item = &self.items[*place];
            let options = LoadOptions { tags: item.tags.clone(), ..(*self.options).clone() };
            let origin = &self.origin;
            async move { get_or_lease(origin, &item.key, &options, wait, timeout).await }
        });
        let leases = join_all(waits).await;
        for (place, lease) in busy.into_iter().zip(leases) {
            self.classify(place, lease, work);
        }
        if !work.busy.is_empty() {
            work.why = Some(super::busy(wait));
            work.direct.append(&mut work.busy);
        }
    }

    fn begin(&mut self, work: Vec<(usize, Grant)>) {
        if work.is_empty() {
            return;
        }
        match self.origin.core.loads.any() {
            Ok(permit) => {
                let (places, grants): (Vec<usize>, Vec<Grant>) = work.into_iter().unzip();
                self.spawn(places, grants, permit);
            }
            Err(error) => {
                for (place, _) in work {
                    self.results[place] = Some(Err(error.clone()));
                }
            }
        }
    }

    /// Begins a load in the background. Without permission, the drop of the grants releases their leases.
    fn refresh(&mut self, work: Vec<(usize, Grant)>) {
        if work.is_empty() {
            return;
        }
        let Some(permit) = self.origin.core.loads.refresh() else { return };
        let (places, grants): (Vec<usize>, Vec<Grant>) = work.into_iter().unzip();
        self.spawn(places, grants, permit);
        // The callers have their values.
        self.loads.pop();
    }

    async fn without_cache(&mut self, work: Work) {
        let Work { direct, why: Some(why), .. } = work else { return };
        let limit = (self.began + self.options.wait).saturating_duration_since(Instant::now());
        match self.origin.core.loads.direct(limit, &why).await {
            Ok(permit) => self.spawn(direct, Vec::new(), permit),
            Err(error) => {
                for place in direct {
                    self.results[place] = Some(Err(error.clone()));
                }
            }
        }
    }

    /// Starts the task of a load. The task goes on if the caller leaves.
    fn spawn(&mut self, places: Vec<usize>, grants: Vec<Grant>, permit: Permit) {
        let keys: Vec<Bytes> = places.iter().map(|place| self.items[*place].key.clone()).collect();
        let chain = chain::begin(&self.origin.core, keys.clone());
        let (sender, receiver) = oneshot::channel();
        let task = Task { options: Arc::clone(&self.options), keys, grants, permit, chain, sender };
        let span = tracing::debug_span!("load", keys = places.len());
        tokio::spawn(task.run(self.loader.clone()).instrument(span).in_current_span());
        self.loads.push((places, receiver));
    }
}

/// A load of some keys.
struct Task {
    options: Arc<LoadOptions>,
    keys: Vec<Bytes>,
    /// Empty, or one for each key.
    grants: Vec<Grant>,
    permit: Permit,
    chain: Arc<chain::Chain>,
    sender: oneshot::Sender<Vec<Value>>,
}

impl Task {
    async fn run(self, loader: ManyLoader) {
        let count = self.keys.len();
        let load = async move {
            let loaded = (loader.0)(self.keys).await?;
            let returned = loaded.len();
            if returned == count { Ok(loaded) } else { Err(LoadError::of(WrongCount { returned, keys: count })) }
        };
        let loaded = chain::within(self.chain, guarded(load, self.options.load_timeout)).await;
        drop(self.permit);
        match loaded {
            Ok(loaded) => {
                let values = loaded.iter().map(|loaded| Ok(loaded.value.clone())).collect();
                let fills = self.grants.into_iter().zip(loaded);
                let filled = join_all(fills.map(|(grant, loaded)| fill(grant, loaded, &self.options)));
                tokio::pin!(filled);
                let is_late = timeout(FILL_PATIENCE, &mut filled).await.is_err();
                // A caller that has left needs no values.
                let _left = self.sender.send(values);
                if is_late {
                    filled.await;
                }
            }
            Err(error) => {
                let text = error.shared_text(&self.options);
                let error = error.into_error();
                let _left = self.sender.send((0..count).map(|_| Err(error.clone())).collect());
                join_all(self.grants.into_iter().map(|grant| report(Some(grant), text.clone()))).await;
            }
        }
    }
}
