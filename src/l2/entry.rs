//! Results of L2 for a key: its value with the remaining TTL, or a description without the value.

use bytes::Bytes;

use crate::model::{Life, Value};

/// A value and the remaining TTL of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The payload, with its header if one exists.
    pub value: Value,
    /// Remaining TTL when the store replied.
    pub life: Life,
}

/// Description of a key without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Remaining TTL.
    pub life: Life,
    /// Expiry in Unix milliseconds; `None` for a key without expiry.
    pub expires_at_ms: Option<u64>,
    /// Size of the payload in bytes; 0 for types other than strings.
    pub size_bytes: u64,
    /// Type of the value, by its Redis name.
    pub type_name: TypeName,
    /// The header before the payload; empty for a plain value.
    pub head: Bytes,
}

/// Types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeName {
    /// The only type of stores other than Redis.
    String,
    /// Redis's `list`.
    List,
    /// Redis's `set`.
    Set,
    /// Redis's `zset`.
    ZSet,
    /// Redis's `hash`.
    Hash,
    /// Redis's `stream`.
    Stream,
    /// A type of a Redis module.
    Other,
}

impl TypeName {
    /// Returns the name that TYPE replies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::ZSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Other => "other",
        }
    }
}
