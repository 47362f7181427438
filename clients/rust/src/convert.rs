//! Conversion of keys, values and tags.

use std::time::Duration;

use bytes::Bytes;

/// A key, a value or a tag: text or bytes. `Bytes` and `&'static [u8]` in `Bytes` are not copied.
pub trait IntoBytes {
    /// Returns the bytes. A read that a near cache answers converts nothing.
    fn as_bytes(&self) -> &[u8];

    /// Converts into shared bytes; by default, copies them.
    fn into_bytes(self) -> Bytes
    where
        Self: Sized,
    {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoBytes for Bytes {
    fn into_bytes(self) -> Bytes {
        self
    }

    fn as_bytes(&self) -> &[u8] {
        self
    }
}

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }

    fn as_bytes(&self) -> &[u8] {
        self
    }
}

impl IntoBytes for &str {
    fn as_bytes(&self) -> &[u8] {
        str::as_bytes(self)
    }
}

impl IntoBytes for &String {
    fn as_bytes(&self) -> &[u8] {
        str::as_bytes(self)
    }
}

impl IntoBytes for String {
    fn into_bytes(self) -> Bytes {
        self.into()
    }

    fn as_bytes(&self) -> &[u8] {
        str::as_bytes(self)
    }
}

impl IntoBytes for &[u8] {
    fn as_bytes(&self) -> &[u8] {
        self
    }
}

impl IntoBytes for &Vec<u8> {
    fn as_bytes(&self) -> &[u8] {
        self
    }
}

impl IntoBytes for Vec<u8> {
    fn into_bytes(self) -> Bytes {
        self.into()
    }

    fn as_bytes(&self) -> &[u8] {
        self
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn as_bytes(&self) -> &[u8] {
        *self
    }
}

/// Maximum deadline and waiting time: a longer one, such as `Duration::MAX`, means no limit, and would overflow clocks.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Limits a deadline or a waiting time to a value that clocks can represent.
pub(crate) fn bounded(duration: Duration) -> Duration {
    duration.min(WAIT_MAX)
}

/// Converts a list of keys or tags.
pub(crate) fn all<K: IntoBytes>(items: impl IntoIterator<Item = K>) -> Vec<Bytes> {
    items.into_iter().map(IntoBytes::into_bytes).collect()
}
