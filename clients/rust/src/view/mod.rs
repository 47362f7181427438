//! Typed views: a key template and a codec for the values of one kind of key.

#[cfg(feature = "macros")]
pub mod cached;
mod codec;
mod template;

use std::sync::Arc;

use bytes::Bytes;

#[cfg(feature = "json")]
pub use self::codec::Json;
use self::template::Template;
pub use self::{
    codec::{Codec, Raw, Text},
    template::KeyArgs,
};
use crate::{
    Client,
    error::{Error, ErrorKind, Result},
    load::{BoxError, GetOrLoad, GetOrLoadMany, Item, LoadError, LoadOptions, Loaded, Loader, ManyLoader, setters},
};

/// Values of one type under the keys of one template: [`Client::view`].
///
/// ```no_run
/// # async fn example(client: terrace_client::Client) -> terrace_client::Result<()> {
/// use std::time::Duration;
/// use terrace_client::Text;
///
/// let names = client.view("user:{id}:name", Text)?.ttl(Duration::from_secs(300)).tags(["user:{id}"])?;
/// let name = names.get_or_load(7, || async { Ok::<_, std::io::Error>(Some("Ada".to_owned())) }).await?;
/// assert_eq!(name.as_deref().map(String::as_str), Some("Ada"));
/// names.delete(7).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a view does nothing until it is used"]
pub struct View<C> {
    client: Client,
    codec: Arc<C>,
    template: Template,
    tags: Vec<Template>,
    names: Vec<String>,
    options: Arc<LoadOptions>,
}

impl<C> Clone for View<C> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            codec: Arc::clone(&self.codec),
            template: self.template.clone(),
            tags: self.tags.clone(),
            names: self.names.clone(),
            options: Arc::clone(&self.options),
        }
    }
}

impl<C: Codec> View<C> {
    pub(crate) fn new(client: Client, template: &str, codec: C) -> Result<Self> {
        let mut names = Vec::new();
        let template = Template::parse(template, &mut names, true)?;
        Ok(Self { client, codec: Arc::new(codec), template, tags: Vec::new(), names, options: Arc::default() })
    }

    setters!(this => Arc::make_mut(&mut this.options));

    /// Sets the tags of the values: at most 16 templates with arguments of the key, such as `user:{id}`.
    ///
    /// # Errors
    /// A template is not valid, or has an argument that the key does not have.
    pub fn tags<T: AsRef<str>>(mut self, tags: impl IntoIterator<Item = T>) -> Result<Self> {
        let names = &mut self.names;
        self.tags = tags.into_iter().map(|tag| Template::parse(tag.as_ref(), names, false)).collect::<Result<_>>()?;
        Ok(self)
    }

    /// Returns the key for arguments, in the order of their first use in the template.
    ///
    /// # Errors
    /// The number of arguments is wrong.
    pub fn key(&self, arguments: impl KeyArgs) -> Result<Bytes> {
        self.template.key(&arguments, self.names.len())
    }

    /// Reads a value. `None` if the key does not exist.
    ///
    /// # Errors
    /// As [`Client::get`]; `FailedPrecondition` if the value cannot be decoded.
    pub async fn get(&self, arguments: impl KeyArgs) -> Result<Option<Arc<C::Value>>> {
        let key = self.key(arguments)?;
        if let Some(copy) = self.copy(&key) {
            return Ok(Some(copy));
        }
        let value = self.client.get(key).without_copies().await?;
        value.map(|bytes| self.decoded(&bytes)).transpose()
    }

    /// Writes a value, with the TTL, the stale part and the tags of the view.
    ///
    /// # Errors
    /// As [`Client::set`]; `InvalidArgument` if the value cannot be encoded.
    pub async fn set(&self, arguments: impl KeyArgs, value: &C::Value) -> Result<()> {
        let Item { key, tags } = self.item(&arguments)?;
        let bytes =
            self.codec.encode(value).map_err(|error| Error::invalid(format!("cannot encode the value: {error}")))?;
        let mut set = self.client.set(key, bytes).tags(tags);
        if let Some(ttl) = self.options.ttl {
            set = set.ttl(ttl);
        }
        if let Some(stale) = self.options.stale {
            set = set.stale(stale);
        }
        set.await.map(|_stored| ())
    }

    /// Deletes a value. Returns whether it existed.
    ///
    /// # Errors
    /// As [`Client::delete`].
    pub async fn delete(&self, arguments: impl KeyArgs) -> Result<bool> {
        Ok(self.client.delete([self.key(arguments)?]).await? > 0)
    }

    /// Reads a value, and loads it if it is absent: [`Client::get_or_load`].
    ///
    /// # Errors
    /// As [`Client::get_or_load`].
    pub async fn get_or_load<F, Fut, L, E>(&self, arguments: impl KeyArgs, load: F) -> Result<Option<Arc<C::Value>>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<C::Value>>,
        E: Into<BoxError>,
    {
        self.load(self.item(&arguments)?, load, false).await
    }

    /// Loads a value even if it has a fresh one: [`GetOrLoad::refresh`].
    ///
    /// # Errors
    /// As [`Client::get_or_load`].
    pub async fn refresh<F, Fut, L, E>(&self, arguments: impl KeyArgs, load: F) -> Result<Option<Arc<C::Value>>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<C::Value>>,
        E: Into<BoxError>,
    {
        self.load(self.item(&arguments)?, load, true).await
    }

    async fn load<F, Fut, L, E>(&self, item: Item, load: F, refresh: bool) -> Result<Option<Arc<C::Value>>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<C::Value>>,
        E: Into<BoxError>,
    {
        if let Some(copy) = self.copy(&item.key).filter(|_| !refresh) {
            return Ok(Some(copy));
        }
        let codec = Arc::clone(&self.codec);
        let loader = Loader::new(move || async move {
            let loaded: Loaded<C::Value> = load().await.map_err(LoadError::of)?.into();
            loaded.try_map(|value| codec.encode(&value)).map_err(LoadError::of)
        });
        let mut options = Arc::clone(&self.options);
        if refresh || !item.tags.is_empty() {
            let options = Arc::make_mut(&mut options);
            options.refresh = refresh;
            options.tags = item.tags;
        }
        let codec = Arc::clone(&self.codec);
        let load = GetOrLoad::new(self.client.origin(), item.key, options, loader);
        let bytes = load.without_copies().valid_if(move |bytes| codec.decode(bytes).is_ok()).await?;
        bytes.map(|bytes| self.decoded(&bytes)).transpose()
    }

    /// Reads many values, and loads those that are absent. The loader receives the arguments of these keys, and returns their
    /// values in the same order.
    ///
    /// # Errors
    /// As [`Client::get_or_load_many`].
    pub async fn get_or_load_many<A, F, Fut, L, E>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        load: F,
    ) -> Result<Vec<Option<Arc<C::Value>>>>
    where
        A: KeyArgs + Clone + Send + Sync + 'static,
        F: Fn(Vec<A>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<L>, E>> + Send + 'static,
        L: Into<Loaded<C::Value>>,
        E: Into<BoxError>,
    {
        let arguments: Vec<A> = arguments.into_iter().collect();
        let items = arguments.iter().map(|arguments| self.item(arguments)).collect::<Result<Vec<Item>>>()?;
        let of_key: std::collections::HashMap<Bytes, A> =
            items.iter().map(|item| item.key.clone()).zip(arguments).collect();
        let codec = Arc::clone(&self.codec);
        let loader = ManyLoader::new(move |keys| {
            let loaded = load(keys.iter().filter_map(|key| of_key.get(key).cloned()).collect());
            let codec = Arc::clone(&codec);
            async move {
                let loaded = loaded.await.map_err(LoadError::of)?;
                let encoded = loaded.into_iter().map(|loaded| loaded.into().try_map(|value| codec.encode(&value)));
                encoded.collect::<Result<Vec<Loaded<Bytes>>, BoxError>>().map_err(LoadError::of)
            }
        });
        let load = GetOrLoadMany::new(self.client.origin(), items, Arc::clone(&self.options), loader);
        let codec = Arc::clone(&self.codec);
        let values = load.valid_if(move |bytes| codec.decode(bytes).is_ok()).await?;
        values.into_iter().map(|bytes| bytes.map(|bytes| self.decoded(&bytes)).transpose()).collect()
    }

    fn item(&self, arguments: &impl KeyArgs) -> Result<Item> {
        let count = self.names.len();
        let key = self.template.key(arguments, count)?;
        let tags = self.tags.iter().map(|tag| tag.key(arguments, count)).collect::<Result<Vec<Bytes>>>()?;
        Ok(Item { key, tags })
    }

    /// Returns the value of the near cache. It is decoded once, and shared.
    fn copy(&self, key: &[u8]) -> Option<Arc<C::Value>> {
        let copy = self.client.near()?.get(key)?;
        copy.decoded(|bytes| self.codec.decode(bytes).map_err(undecodable)).ok()
    }

    fn decoded(&self, bytes: &Bytes) -> Result<Arc<C::Value>> {
        self.codec.decode(bytes).map(Arc::new).map_err(undecodable)
    }
}

fn undecodable(error: BoxError) -> Error {
    let text = format!("cannot decode the value: {error}");
    Error::new(ErrorKind::FailedPrecondition, text).with_source(error.into())
}
