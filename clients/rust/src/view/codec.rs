//! Conversion between values of the application and bytes of the cache.

use bytes::Bytes;

use crate::load::BoxError;

/// Converts values to bytes and back. A value that cannot be decoded, for example one of an older version of the application,
/// counts as absent for [`View::get_or_load`](crate::View::get_or_load): it is loaded again.
pub trait Codec: Send + Sync + 'static {
    /// Type of the values.
    type Value: Send + Sync + 'static;

    /// Converts a value to bytes.
    ///
    /// # Errors
    /// The value has no byte form.
    fn encode(&self, value: &Self::Value) -> Result<Bytes, BoxError>;

    /// Converts bytes to a value.
    ///
    /// # Errors
    /// The bytes are no value.
    fn decode(&self, bytes: &Bytes) -> Result<Self::Value, BoxError>;
}

/// Bytes without conversion.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Value = Bytes;

    fn encode(&self, value: &Bytes) -> Result<Bytes, BoxError> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: &Bytes) -> Result<Bytes, BoxError> {
        Ok(bytes.clone())
    }
}

/// UTF-8 text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Text;

impl Codec for Text {
    type Value = String;

    fn encode(&self, value: &String) -> Result<Bytes, BoxError> {
        Ok(Bytes::copy_from_slice(value.as_bytes()))
    }

    fn decode(&self, bytes: &Bytes) -> Result<String, BoxError> {
        Ok(std::str::from_utf8(bytes)?.to_owned())
    }
}

/// JSON, through `serde`.
#[cfg(feature = "json")]
pub struct Json<T>(std::marker::PhantomData<fn() -> T>);

#[cfg(feature = "json")]
impl<T> Json<T> {
    /// Returns the codec.
    #[must_use]
    pub fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

#[cfg(feature = "json")]
impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "json")]
impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

#[cfg(feature = "json")]
impl<T> std::fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Json")
    }
}

#[cfg(feature = "json")]
impl<T: serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static> Codec for Json<T> {
    type Value = T;

    fn encode(&self, value: &T) -> Result<Bytes, BoxError> {
        Ok(serde_json::to_vec(value)?.into())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
