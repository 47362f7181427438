//! Code that `#[cached]` calls. It is not part of the API, and changes without notice.

use std::sync::Arc;

use bytes::Bytes;

use super::{Codec, View};
use crate::{
    Client, LoadOptions,
    convert::all,
    error::Result,
    load::{BoxError, Item, Loaded},
};

/// A call of a cached function.
#[derive(Debug)]
pub struct Call {
    /// Key of the result.
    pub key: String,
    /// Tags of the result.
    pub tags: Vec<String>,
    /// Options of the load.
    pub options: LoadOptions,
    /// Loads the key even if it has a fresh value.
    pub refresh: bool,
}

/// Reads the result of a call, and loads it if it is absent.
///
/// # Errors
/// As [`Client::get_or_load`].
pub async fn load<C, F, Fut, L, E>(client: Client, codec: C, call: Call, load: F) -> Result<Option<Arc<C::Value>>>
where
    C: Codec,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<L, E>> + Send + 'static,
    L: Into<Loaded<C::Value>>,
    E: Into<BoxError>,
{
    // The macro has checked and filled in the templates.
    let mut view = View::new(client, "", codec)?;
    view.options = Arc::new(call.options);
    view.load(Item { key: call.key.into(), tags: all(call.tags) }, load, call.refresh).await
}

/// Values of another codec in an `Arc`, which callers share instead of cloning the value.
#[derive(Debug, Clone, Copy)]
pub struct Shared<C>(pub C);

impl<C: Codec> Codec for Shared<C> {
    type Value = Arc<C::Value>;

    fn encode(&self, value: &Arc<C::Value>) -> Result<Bytes, BoxError> {
        self.0.encode(value)
    }

    fn decode(&self, bytes: &Bytes) -> Result<Arc<C::Value>, BoxError> {
        self.0.decode(bytes).map(Arc::new)
    }
}
