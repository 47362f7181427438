//! The words everything else is said in: keys, values, lives of keys, outcomes of reads, causes of removal.

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
/// Keys of Terrace's own records begin with this; clients neither see nor touch them.
pub const RESERVED_PREFIX: &[u8; 10] = b"__terrace:";

/// A key that was checked: 1 B to [`KEY_MAX_BYTES`], not reserved. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Checks and wraps a client's key.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for an empty or too long key, [`Kind::ReservedPrefix`] for one of Terrace's own.
    pub fn new(bytes: Bytes) -> Result<Self> {
        check_key(&bytes)?;
        Ok(Self(bytes))
    }

    /// Copies a client's key out of the buffer it came in, after checking it.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn copied(bytes: &[u8]) -> Result<Self> {
        check_key(bytes)?;
        Ok(Self(Bytes::copy_from_slice(bytes)))
    }

    /// The key of a record of Terrace's own, which no client can name. `name` is short.
    #[must_use]
    pub(crate) fn own(name: &[&[u8]]) -> Self {
        Self([&RESERVED_PREFIX[..], &name.concat()].concat().into())
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Whether a client may use this key.
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
        return Err(CacheError::new(Kind::ReservedPrefix, "reserved prefix: keys under __terrace: are Terrace's own"));
    }
    Ok(())
}

impl Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Equal, ordered and hashed as its bytes are.
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

/// A value as clients see it: loose bytes, or a view into an entry of L1. Cheap to clone; its bytes never appear in
/// `Debug`, so that no log can show them.
///
/// What a store keeps may begin with a header (`l2::codec`). Once that was found, the value shows what comes after it and
/// still holds both.
#[derive(Clone)]
pub struct Value {
    stored: Payload,
    /// Bytes of the header.
    head_bytes: u16,
}

#[derive(Clone)]
enum Payload {
    Loose(Bytes),
    Kept(Record),
}

impl Value {
    /// A view into an entry of L1; keeps that entry's memory, not its place in L1.
    #[inline]
    pub(crate) fn kept(record: Record) -> Self {
        Self { stored: Payload::Kept(record), head_bytes: 0 }
    }

    /// Hides a header of so many bytes.
    #[must_use]
    pub(crate) fn behind(self, head_bytes: u16) -> Self {
        Self { head_bytes, ..self }
    }

    /// All that is stored, the header included.
    #[inline]
    #[must_use]
    pub(crate) fn stored(&self) -> &[u8] {
        match &self.stored {
            Payload::Loose(bytes) => bytes,
            Payload::Kept(record) => record.value(),
        }
    }

    /// The header; empty where there is none.
    #[must_use]
    pub(crate) fn head(&self) -> &[u8] {
        self.stored().get(..usize::from(self.head_bytes)).unwrap_or_default()
    }

    /// The payload; shares the memory it lies in.
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

/// Lets `Bytes` own a record and show its value.
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

/// How much longer a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It never expires.
    Forever,
    /// It expires after this.
    For(Duration),
}

impl Life {
    /// When it ends, counted from `now`; [`Tick::FAR`] never.
    #[must_use]
    pub fn until(self, now: Tick) -> Tick {
        match self {
            Self::Forever => Tick::FAR,
            Self::For(life) => now.plus(life),
        }
    }
}

/// A tier that answered or that holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// This node's memory.
    L1,
    /// Redis or the embedded store.
    L2,
}

/// The one outcome of each user read of a key (design: statistics).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// L1 answered within its coherence bound.
    HitL1,
    /// L1 answered past its bound, because L2 was away.
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
    /// Room was needed.
    Size,
    /// Its deadline passed.
    Expired,
    /// A write or another node's invalidation.
    Invalidated,
    /// A newer value took its place.
    Replaced,
}
