//! Recognizes a loader that loads its own key: it would wait for itself until its deadline.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    backend::Core,
    error::{Error, Result},
};

/// Loads that a load was begun by, innermost first.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Address of the client's state, as its identity.
    core: usize,
    keys: Vec<Bytes>,
    above: Option<Arc<Self>>,
}

tokio::task_local! {
    static CHAIN: Arc<Chain>;
}

fn identity(core: &Arc<Core>) -> usize {
    Arc::as_ptr(core) as usize
}

/// Checks that the current task does not load a key.
///
/// # Errors
/// `InvalidArgument` with the key's length: keys are not part of messages.
pub(super) fn check(core: &Arc<Core>, key: &[u8]) -> Result<()> {
    let is_loaded = CHAIN.try_with(|chain| {
        let mut next = Some(chain);
        while let Some(chain) = next {
            if chain.core == identity(core) && chain.keys.iter().any(|loaded| loaded == key) {
                return true;
            }
            next = chain.above.as_ref();
        }
        false
    });
    if is_loaded.unwrap_or(false) {
        let text = "get_or_load of a key inside the loader of this key would wait for itself; use get, or another key";
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// Returns the chain of a load that the current task begins.
pub(super) fn begin(core: &Arc<Core>, keys: Vec<Bytes>) -> Arc<Chain> {
    let above = CHAIN.try_with(Arc::clone).ok();
    Arc::new(Chain { core: identity(core), keys, above })
}

/// Returns the loads of the current task.
#[cfg(feature = "bindings")]
pub(crate) fn current() -> Option<Arc<Chain>> {
    CHAIN.try_with(Arc::clone).ok()
}

/// Runs a load.
pub(crate) async fn within<T>(chain: Arc<Chain>, load: impl Future<Output = T>) -> T {
    CHAIN.scope(chain, load).await
}
