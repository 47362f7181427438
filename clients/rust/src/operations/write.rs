//! Writes of one key.

use std::time::Duration;

use bytes::Bytes;
use terrace_proto::{
    IfAbsent, IfPresent, IncrementRequest, SetRequest, TouchOnly, TouchRequest, operation::Operation,
    set_request::Condition, set_response,
};

use super::{Origin, Pending, empty, response, timeout, to_ms};
use crate::{
    convert::{IntoBytes, all},
    engine::call::AfterBreak,
    error::Result,
    near::Change,
};

/// A write of one key: [`Client::set`](crate::Client::set). The result is `false` if a condition did not hold.
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct Set {
    pub(crate) origin: Origin,
    pub(crate) request: SetRequest,
    pub(crate) timeout: Option<Duration>,
}

impl Set {
    timeout!();

    /// Sets the TTL, at least 1 ms. Default: by the policy of the key on the server, otherwise the key does not expire.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl_ms = Some(to_ms(ttl));
        self
    }

    /// Keeps the value for this time after its TTL, as a value that needs a refresh (see get-or-load).
    pub fn stale(mut self, stale: Duration) -> Self {
        self.request.stale_ms = Some(to_ms(stale));
        self
    }

    /// Sets the tags of the entry: at most 16, with 1 to 128 bytes each.
    pub fn tags<T: IntoBytes>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.request.tags = all(tags);
        self
    }

    /// Stores the value only if the key does not exist.
    pub fn if_absent(mut self) -> Self {
        self.request.condition = Some(Condition::IfAbsent(IfAbsent {}));
        self
    }

    /// Stores the value only if the key exists.
    pub fn if_present(mut self) -> Self {
        self.request.condition = Some(Condition::IfPresent(IfPresent {}));
        self
    }

    /// Stores the value only if the current value equals these bytes.
    pub fn if_equal(mut self, current: impl IntoBytes) -> Self {
        self.request.condition = Some(Condition::IfEqual(current.into_bytes()));
        self
    }
}

impl IntoFuture for Set {
    type Output = Result<bool>;
    type IntoFuture = Pending<bool>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, request, timeout } = self;
        let repeat = repeat_write(&origin, request.condition.is_none());
        let key = request.key.clone();
        let hook = origin.changing(|| Change::Key(key.clone())).into();
        let stored = |answer| {
            let response = response!(answer, Set);
            match response.result {
                Some(set_response::Result::Stored(_)) => Ok(true),
                Some(set_response::Result::NotStored(_)) => Ok(false),
                None => Err(empty()),
            }
        };
        Pending::with_hook(origin.write(Operation::Set(request), &key, repeat, timeout), stored, hook)
    }
}

/// Returns whether a write is repeated after its connection broke.
pub(crate) fn repeat_write(origin: &Origin, is_unconditional: bool) -> AfterBreak {
    if is_unconditional && origin.settings().retry_writes { AfterBreak::Repeat } else { AfterBreak::Unknown }
}

/// Result of a [`Touch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The key exists.
    pub found: bool,
    /// The TTL was changed.
    pub applied: bool,
}

/// A change of the TTL of a key: [`Client::touch`](crate::Client::touch).
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct Touch {
    pub(crate) origin: Origin,
    pub(crate) request: TouchRequest,
    pub(crate) timeout: Option<Duration>,
}

impl Touch {
    timeout!();

    /// Changes the TTL only if the new TTL is longer.
    pub fn if_longer(mut self) -> Self {
        self.request.only = TouchOnly::IfLonger.into();
        self
    }

    /// Changes the TTL only if the new TTL is shorter.
    pub fn if_shorter(mut self) -> Self {
        self.request.only = TouchOnly::IfShorter.into();
        self
    }
}

impl IntoFuture for Touch {
    type Output = Result<Touched>;
    type IntoFuture = Pending<Touched>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { origin, request, timeout } = self;
        let repeat = repeat_write(&origin, true);
        let key = request.key.clone();
        let hook = origin.changing(|| Change::Key(key.clone())).into();
        let touched = |answer| {
            let response = response!(answer, Touch);
            Ok(Touched { found: response.found, applied: response.applied })
        };
        Pending::with_hook(origin.write(Operation::Touch(request), &key, repeat, timeout), touched, hook)
    }
}

/// An addition to a decimal value: [`Client::increment`](crate::Client::increment). The result is the value after it.
#[derive(Debug, Clone)]
#[must_use = "an operation does nothing until it is awaited"]
pub struct Increment {
    pub(crate) origin: Origin,
    pub(crate) request: IncrementRequest,
    pub(crate) timeout: Option<Duration>,
}

impl Increment {
    timeout!();

    /// Sets the TTL, if this operation creates the key.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl_ms = Some(to_ms(ttl));
        self
    }
}

impl IntoFuture for Increment {
    type Output = Result<i64>;
    type IntoFuture = Pending<i64>;

    fn into_future(self) -> Self::IntoFuture {
        let key: Bytes = self.request.key.clone();
        let hook = self.origin.changing(|| Change::Key(key.clone())).into();
        let call = self.origin.write(Operation::Increment(self.request), &key, AfterBreak::Unknown, self.timeout);
        let value = |answer| {
            let response = response!(answer, Increment);
            Ok(response.value)
        };
        Pending::with_hook(call, value, hook)
    }
}
