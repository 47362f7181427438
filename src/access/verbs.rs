//! Permissions.

use std::fmt;

/// A set of verbs. Each verb permits a group of operations.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Verbs(u16);

impl Verbs {
    /// Number of verbs.
    pub(super) const COUNT: usize = 9;
    /// The verbs and their names in the users file.
    pub(super) const NAMED: [(&'static str, Self); Self::COUNT] = [
        ("read", Self::READ),
        ("write", Self::WRITE),
        ("delete", Self::DELETE),
        ("invalidate", Self::INVALIDATE),
        ("watch", Self::WATCH),
        ("inspect", Self::INSPECT),
        ("metrics", Self::METRICS),
        ("script", Self::SCRIPT),
        ("admin", Self::ADMIN),
    ];
    /// No verb.
    pub const NONE: Self = Self(0);
    /// Reads of values, TTLs and metadata of keys.
    pub const READ: Self = Self(1);
    /// Writes of values and TTLs.
    pub const WRITE: Self = Self(1 << 1);
    /// Deletions of keys.
    pub const DELETE: Self = Self(1 << 2);
    /// Invalidation by pattern and by tag, and warm-up.
    pub const INVALIDATE: Self = Self(1 << 3);
    /// Subscriptions to changes of keys.
    pub const WATCH: Self = Self(1 << 4);
    /// Statistics, key listings and explanations.
    pub const INSPECT: Self = Self(1 << 5);
    /// The metrics of the node.
    pub const METRICS: Self = Self(1 << 6);
    /// Administration of the node: flush, configuration, clients.
    pub const ADMIN: Self = Self(1 << 7);
    /// Scripts and functions in Redis. They can read and write any key of the database.
    pub const SCRIPT: Self = Self(1 << 8);
    /// All verbs.
    pub const ALL: Self = Self((1 << 9) - 1);
    /// Verbs that apply to keys, so that a prefix can limit them.
    pub const OF_KEYS: Self = Self((1 << 6) - 1);

    /// Returns whether all verbs of `other` are in the set.
    #[inline]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the verbs of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the verbs that are in both sets.
    #[must_use]
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the verbs that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the verb with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, verb)| *verb)
    }

    /// Returns the names of the verbs, in the order of the documentation.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.iter().filter(move |(_, verb)| self.contains(*verb)).map(|(name, _)| *name)
    }
}

impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.names().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verbs({self})")
    }
}
