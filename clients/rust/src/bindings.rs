//! Functions for clients in other languages. Requires the feature `bindings`; may change at any time.
//!
//! Loaders of another language do not run in the task of a load: [`LoadChain`] carries what the task knows. Values are
//! decoded by the caller, so that the near cache can share decoded objects.

use std::{borrow::Cow, error::Error as StdError, sync::Arc};

use bytes::Bytes;

use crate::{
    Client, ClientBuilder, GetOrLoad, GetOrLoadMany, LoadOptions, Loaded,
    error::{Error, ErrorKind, Result},
    load::{Item, LoadError, Loader, ManyLoader, chain},
    near::store::Copy,
    net::descriptors,
    operations::read::Get,
};

/// A copy of the near cache.
#[derive(Debug)]
pub struct NearCopy(Arc<Copy>);

impl NearCopy {
    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> &Bytes {
        self.0.value()
    }

    /// Returns the decoded value, which is stored with the copy: a further hit decodes nothing. A value of another type than
    /// the first is decoded each time. `None` if `decode` returns `None`.
    pub fn decoded<T: Send + Sync + 'static>(&self, decode: impl FnOnce(&Bytes) -> Option<T>) -> Option<Arc<T>> {
        self.0.decoded(|bytes| decode(bytes).ok_or_else(|| Error::new(ErrorKind::Internal, ""))).ok()
    }
}

/// The loads that the present load was begun by. A loader that loads its own key would wait for itself.
#[derive(Debug, Clone)]
pub struct LoadChain(Arc<chain::Chain>);

impl LoadChain {
    /// Returns the chain of the current load; `None` outside of a loader.
    #[must_use]
    pub fn current() -> Option<Self> {
        chain::current().map(Self)
    }

    /// Runs an operation as a part of this load.
    pub async fn within<T>(self, operation: impl Future<Output = T>) -> T {
        chain::within(self.0, operation).await
    }
}

/// Failure of a load in another language.
#[derive(Debug)]
pub struct ForeignError {
    /// Name of the error's type, which other clients may see.
    pub type_name: Cow<'static, str>,
    /// The error.
    pub cause: Arc<dyn StdError + Send + Sync>,
}

impl From<ForeignError> for LoadError {
    fn from(error: ForeignError) -> Self {
        Self { cause: error.cause, type_name: error.type_name }
    }
}

/// Returns the descriptors of the connections that this process has inherited by a fork, to be closed. Called in the child,
/// before it opens connections.
#[must_use]
pub fn inherited_descriptors() -> Vec<std::os::fd::RawFd> {
    descriptors::take_all()
}

/// Checks the target and the settings of a builder, without a runtime.
///
/// # Errors
/// The target or a setting of the near cache is not valid.
pub fn check(builder: &ClientBuilder) -> Result<()> {
    builder.checked_target().map(|_target| ())
}

/// Returns a client for the operations of a task or thread with a number, which other processes may have too.
#[must_use]
pub fn for_task(client: &Client, task: u64) -> Client {
    client.with_context(client.context_of(task))
}

/// Returns the copy of the near cache, if it is proven to be no older than the maximum staleness.
#[must_use]
#[inline]
pub fn near_copy(client: &Client, key: &[u8]) -> Option<NearCopy> {
    client.near()?.get(key).map(NearCopy)
}

/// Reads a key of which the near cache has no copy.
pub fn get_missed(client: &Client, key: Bytes) -> Get<'_, Bytes> {
    client.get(key).without_copies()
}

/// Returns a get-or-load of a key of which the near cache has no copy.
pub fn get_or_load_missed<F, Fut>(client: &Client, key: Bytes, options: LoadOptions, load: F) -> GetOrLoad
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Loaded<Bytes>, ForeignError>> + Send + 'static,
{
    let loader = Loader::new(|| async { load().await.map_err(LoadError::from) });
    GetOrLoad::new(client.origin(), key, Arc::new(options), loader).without_copies()
}

/// Returns a get-or-load of many keys, each with its tags.
pub fn get_or_load_many<F, Fut>(
    client: &Client,
    keys: impl IntoIterator<Item = (Bytes, Vec<Bytes>)>,
    options: LoadOptions,
    load: F,
) -> GetOrLoadMany
where
    F: Fn(Vec<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Loaded<Bytes>>, ForeignError>> + Send + 'static,
{
    let loader = ManyLoader::new(move |keys| {
        let loaded = load(keys);
        async move { loaded.await.map_err(LoadError::from) }
    });
    let items = keys.into_iter().map(|(key, tags)| Item { key, tags }).collect();
    GetOrLoadMany::new(client.origin(), items, Arc::new(options), loader)
}
