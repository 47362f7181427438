//! The basic types: keys, values, lifetimes of keys, outcomes of reads, causes of removal.

use std::{borrow::Borrow, fmt, ops::Deref, time::Duration};

use bytes::Bytes;

use crate::{
    clock::Tick,
    error::{CacheError, Kind, Result},
};

mod record;
pub(crate) use record::{Lifetime, Record};

/// Maximum size of a key in bytes. The value is fixed: L1 and the embedded store depend on it.
pub const KEY_MAX_BYTES: usize = 64 * 1024;
/// Prefix of the keys of Terrace's internal records. Clients can neither read nor write them.
pub const RESERVED_PREFIX: &[u8; 10] = b"__terrace:";

/// A validated key: 1 B to [`KEY_MAX_BYTES`], without the reserved prefix. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Validates and wraps a client's key.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] if the key is empty or too long, [`Kind::ReservedPrefix`] if it has the reserved
    /// prefix.
    pub fn new(bytes: Bytes) -> Result<Self> {
        check_key(&bytes)?;
        Ok(Self(bytes))
    }

    /// Validates a client's key and copies it out of its receive buffer.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn copied(bytes: &[u8]) -> Result<Self> {
        check_key(bytes)?;
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    /// Creates the key of an internal record, which no client can name. `name` is short.
    #[must_use]
    pub(crate) fn own(name: &[&[u8]]) -> Self {
        Self([&RESERVED_PREFIX[..], &name.concat()].concat().into())
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Checks that a client may use this key.
///
/// # Errors
/// As [`Key::new`].
pub fn check_key(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Err(CacheError::new(Kind::InvalidArgument, "the key is empty; a key has 1 to 65536 bytes"));
    }
    if bytes.len() > KEY_MAX_BYTES {
        let message = format!("the key has {} bytes; a key has 1 to {KEY_MAX_BYTES} bytes", bytes.len());
        return Err(CacheError::new(Kind::InvalidArgument, message));
    }
    if bytes.starts_with(RESERVED_PREFIX) {
        return Err(CacheError::new(
            Kind::ReservedPrefix,
            "reserved prefix: keys that start with __terrace: are internal to Terrace",
        ));
    }
    Ok(())
}

impl Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Compares, orders and hashes like its bytes.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.0)
    }
}

/// A value as clients see it: separate bytes, or a view into an L1 entry. Cheap to clone. `Debug` never shows its
/// bytes, so no log can contain them.
///
/// A stored value may begin with a header (`l2::codec`). Once the header was parsed, the value shows only the bytes
/// after it, but still holds both.
#[derive(Clone)]
pub struct Value {
    stored: Payload,
    /// Size of the header in bytes.
    head_bytes: u16,
}

#[derive(Clone)]
enum Payload {
    Loose(Bytes),
    Kept(Record),
}

impl Value {
    /// Creates a view into an L1 entry. The view keeps the entry's memory alive, but does not keep the entry in L1.
    #[inline]
    pub(crate) fn kept(record: Record) -> Self {
        Self { stored: Payload::Kept(record), head_bytes: 0 }
    }

    /// Hides a header of `head_bytes` bytes.
    #[must_use]
    pub(crate) fn behind(self, head_bytes: u16) -> Self {
        Self { head_bytes, ..self }
    }

    /// Replaces the stored bytes by `change` of them, which must show the same bytes. A view into an L1 entry is
    /// unchanged.
    #[must_use]
    pub(crate) fn map_loose(self, change: impl FnOnce(Bytes) -> Bytes) -> Self {
        let stored = match self.stored {
            Payload::Loose(bytes) => Payload::Loose(change(bytes)),
            kept @ Payload::Kept(_) => kept,
        };
        Self { stored, ..self }
    }

    /// Returns all stored bytes, including the header.
    #[inline]
    #[must_use]
    pub(crate) fn stored(&self) -> &[u8] {
        match &self.stored {
            Payload::Loose(bytes) => bytes,
            Payload::Kept(record) => record.value(),
        }
    }

    /// Returns the header; empty if there is none.
    #[must_use]
    pub(crate) fn head(&self) -> &[u8] {
        self.stored().get(..usize::from(self.head_bytes)).unwrap_or_default()
    }

    /// Returns the payload, which shares the memory of this value.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let head_bytes = usize::from(self.head_bytes);
        let mut bytes = match self.stored {
            Payload::Loose(bytes) => bytes,
            Payload::Kept(record) => Bytes::from_owner(ValueOf(record)),
        };
        if head_bytes > 0 { bytes.split_off(head_bytes.min(bytes.len())) } else { bytes }
    }
}

/// Adapter that lets `Bytes` own a record and show its value.
struct ValueOf(Record);

impl AsRef<[u8]> for ValueOf {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}

impl Default for Value {
    fn default() -> Self {
        Bytes::new().into()
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self { stored: Payload::Loose(bytes), head_bytes: 0 }
    }
}

impl Deref for Value {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        self.stored().get(usize::from(self.head_bytes)..).unwrap_or_default()
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.len())
    }
}

/// Remaining lifetime of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// The key never expires.
    Forever,
    /// The key expires after this time.
    For(Duration),
}

impl Life {
    /// Returns the end of the lifetime, counted from `now`; [`Tick::FAR`] if it never ends.
    #[must_use]
    pub fn until(self, now: Tick) -> Tick {
        match self {
            Self::Forever => Tick::FAR,
            Self::For(life) => now.plus(life),
        }
    }
}

/// The tier that answered, or that holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// This node's memory.
    L1,
    /// Redis or the embedded store.
    L2,
}

/// The outcome of a user read; each key of a read has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// L1 answered within its coherence bound.
    HitL1,
    /// L1 answered past its coherence bound, because L2 was unavailable.
    Stale,
    /// L2 answered.
    HitL2,
    /// No tier has the key.
    Miss,
    /// The read failed.
    Error,
}

/// Why an entry left L1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalCause {
    /// Evicted to free space.
    Size,
    /// The entry's deadline passed.
    Expired,
    /// The key was written, or another node invalidated it.
    Invalidated,
    /// A newer value replaced the entry.
    Replaced,
}
