//! Counts of operations and loads.

use std::collections::HashMap;

use bytes::Bytes;
use terrace_proto::{LoadStats, operation::Operation};

/// Kind of an operation that the fake counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// A read of one key: `get` and `lookup`.
    Get,
    /// A read of many keys.
    GetMany,
    /// A write of one key.
    Set,
    /// A write of many keys.
    SetMany,
    /// A deletion of keys.
    Delete,
    /// A change of a TTL.
    Touch,
    /// An addition to a number.
    Increment,
    /// A read that may take the load lease of its key.
    GetOrLease,
    /// A read of many keys that may take their load leases.
    GetOrLeaseMany,
    /// A fill of a granted key, with a value or a negative answer.
    Fill,
    /// The end of a lease without a value: a failed load, or a dropped grant.
    Release,
    /// A description of keys. The fake refuses it.
    GetMeta,
    /// An invalidation of a pattern or a prefix, with or without `dry_run`.
    InvalidatePattern,
    /// An invalidation of tags.
    InvalidateTags,
    /// An opened change feed.
    Watch,
    /// A request for statistics.
    Stats,
}

impl OperationKind {
    /// Returns the kind of an operation; `None` for a cancellation.
    pub(super) fn of(operation: &Operation) -> Option<Self> {
        Some(match operation {
            Operation::Get(_) => Self::Get,
            Operation::Set(_) => Self::Set,
            Operation::Delete(_) => Self::Delete,
            Operation::Touch(_) => Self::Touch,
            Operation::Increment(_) => Self::Increment,
            Operation::GetMeta(_) => Self::GetMeta,
            Operation::GetOrLease(_) => Self::GetOrLease,
            Operation::Fill(_) => Self::Fill,
            Operation::Release(_) => Self::Release,
            Operation::GetMany(_) => Self::GetMany,
            Operation::SetMany(_) => Self::SetMany,
            Operation::GetOrLeaseMany(_) => Self::GetOrLeaseMany,
            Operation::Cancel(_) => return None,
        })
    }
}

/// Returns the keys of an operation.
pub(super) fn keys_of(operation: &Operation) -> Vec<Bytes> {
    let one = |key: &Bytes| vec![key.clone()];
    match operation {
        Operation::Get(request) => one(&request.key),
        Operation::Set(request) => one(&request.key),
        Operation::Delete(request) => request.keys.clone(),
        Operation::Touch(request) => one(&request.key),
        Operation::Increment(request) => one(&request.key),
        Operation::GetMeta(request) => request.keys.clone(),
        Operation::GetOrLease(request) => one(&request.key),
        Operation::Fill(request) => one(&request.key),
        Operation::Release(request) => one(&request.key),
        Operation::GetMany(request) => request.keys.clone(),
        Operation::SetMany(request) => request.entries.iter().map(|entry| entry.key.clone()).collect(),
        Operation::GetOrLeaseMany(request) => request.items.iter().map(|item| item.key.clone()).collect(),
        Operation::Cancel(_) => Vec::new(),
    }
}

/// Counts since the creation of the fake.
#[derive(Debug, Default)]
pub(super) struct Counts {
    operations: HashMap<OperationKind, u64>,
    /// Loads that ended with a fill or a failure, by key.
    loads: HashMap<Bytes, u64>,
    /// Leases and fills by their results.
    pub(super) leases: LoadStats,
}

impl Counts {
    pub(super) fn add(&mut self, kind: OperationKind) {
        *self.operations.entry(kind).or_default() += 1;
    }

    pub(super) fn of(&self, kind: OperationKind) -> u64 {
        self.operations.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn add_load(&mut self, key: &Bytes) {
        *self.loads.entry(key.clone()).or_default() += 1;
    }

    pub(super) fn loads(&self, key: &[u8]) -> u64 {
        self.loads.get(key).copied().unwrap_or(0)
    }

    pub(super) fn total_loads(&self) -> u64 {
        self.loads.values().sum()
    }
}
