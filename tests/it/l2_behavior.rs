//! The behavior of every L2: one list of cases that runs over each implementation of `Backend`.
//!
//! To add an implementation, add one line at the end of this file and a function that starts it.

mod bans;
mod embedded;
mod expiry;
mod headers;
mod keys;
mod none;
mod numbers;
mod redis;
mod values;

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use terrace::{
    clock::ManualClock,
    error::{CacheError, Result},
    l2::{
        Applied, Backend, Batch, Op, ScanPage, ScanRequest,
        op::{Condition, SetExpiry},
    },
    model::{Key, Life},
};

use crate::support::backend::key as key_of;

/// An implementation under test, initially empty, and its clock.
pub(crate) struct Subject {
    backend: Arc<dyn Backend>,
    time: Time,
    /// A directory or server that must outlive the backend.
    _keep: Box<dyn Any + Send + Sync>,
}

/// The clock of an implementation.
pub(crate) enum Time {
    /// A manual clock.
    Manual(Arc<ManualClock>),
    /// The clock of another process.
    Real,
}

impl Subject {
    /// `backend` holds no keys; `keep` is dropped after it.
    pub(crate) fn new(backend: Arc<dyn Backend>, time: Time, keep: impl Any + Send + Sync) -> Self {
        Self { backend, time, _keep: Box::new(keep) }
    }

    /// Advances the time.
    async fn pass(&self, span: Duration) {
        match &self.time {
            Time::Manual(clock) => clock.advance(span),
            // The clock of another process cannot be advanced, so the test waits.
            // Redis expires a key after its expiration time, not at that time.
            Time::Real => tokio::time::sleep(span + Duration::from_millis(2)).await,
        }
    }

    async fn apply(&self, key: &str, op: Op) -> Result<Applied> {
        self.backend.apply(vec![(key_of(key), op)], Batch::Independent).await.remove(0)
    }

    async fn batch(&self, batch: Batch, ops: Vec<(&str, Op)>) -> Vec<Result<Applied>> {
        self.backend.apply(ops.into_iter().map(|(key, op)| (key_of(key), op)).collect(), batch).await
    }

    async fn set(&self, key: &str, value: &str) {
        let done = self.apply(key, set(value, SetExpiry::Never, Condition::Always)).await;
        assert_eq!(done, Ok(Applied::Set { stored: true, old: None }), "SET {key}");
    }

    async fn set_for(&self, key: &str, value: &str, life: Duration) {
        let done = self.apply(key, set(value, SetExpiry::In(life), Condition::Always)).await;
        assert_eq!(done, Ok(Applied::Set { stored: true, old: None }), "SET {key} PX");
    }

    async fn try_get(&self, key: &[u8]) -> Result<Option<(Bytes, Life)>> {
        let key = Key::copied(key).expect("a key");
        let stored = self.backend.get(&[key], true).await.remove(0)?;
        Ok(stored.map(|stored| (stored.value.into_bytes(), stored.life)))
    }

    async fn get(&self, key: &str) -> Option<Bytes> {
        self.try_get(key.as_bytes()).await.expect("a read").map(|(value, _)| value)
    }

    /// Remaining TTL; `None` if the key is missing.
    async fn life(&self, key: &str) -> Option<Life> {
        self.try_get(key.as_bytes()).await.expect("a read").map(|(_, life)| life)
    }

    async fn count(&self) -> u64 {
        self.backend.count().await.expect("a count")
    }

    async fn page(&self, request: ScanRequest) -> ScanPage {
        self.backend.scan(request).await.expect("a page")
    }

    /// All keys of a scan, sorted, each once.
    async fn keys(&self, pattern: Option<&str>, count: usize) -> Vec<String> {
        let mut cursor = 0;
        let mut found = std::collections::BTreeSet::new();
        for _ in 0..100_000 {
            let pattern = pattern.map(|pattern| Bytes::copy_from_slice(pattern.as_bytes()));
            let page = self.page(ScanRequest { cursor, pattern, count, type_name: None }).await;
            found.extend(page.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()));
            cursor = page.cursor;
            if cursor == 0 {
                return found.into_iter().collect();
            }
        }
        panic!("the scan does not end");
    }
}

fn set(value: &str, expiry: SetExpiry, condition: Condition) -> Op {
    Op::Set { value: Bytes::copy_from_slice(value.as_bytes()), expiry, condition, want_old: false }
}

/// Asserts that `life` is `expected`, less the time that may have passed on a real clock.
fn assert_life(life: Option<Life>, expected: Duration) {
    let Some(Life::For(left)) = life else { panic!("{life:?} is not about {expected:?}") };
    assert!(left <= expected && left + Duration::from_secs(5) > expected, "{left:?} is not about {expected:?}");
}

fn message(result: &Result<Applied>) -> &str {
    result.as_ref().err().map_or("no error", CacheError::message)
}

/// One test for each case, over the implementation that `$start` starts.
macro_rules! behavior {
    ($name:ident, $start:path) => {
        mod $name {
            behavior! { @cases $start:
                values::set_and_get, values::empty_values, values::binary_keys_and_values, values::longest_keys,
                values::largest_values, values::set_replaces_value_and_expiry, values::want_old, values::conditions,
                values::append, values::delete, values::values_over_the_limit_are_not_returned,
                values::many_keys_in_request_order, values::atomic_batches, values::independent_batches,
                values::concurrent_increments, values::batches_are_seen_whole,
                expiry::keys_expire, expiry::set_keeps_or_drops_the_expiry, expiry::set_in_the_past_removes,
                expiry::expire_and_persist, expiry::expire_conditions, expiry::expire_in_the_past_removes,
                expiry::expire_returns_the_value, expiry::lives_of_new_keys,
                expiry::conditions_see_expired_keys_as_absent,
                numbers::increment, numbers::increment_refuses, numbers::increment_float,
                numbers::increment_float_refuses,
                keys::count_and_clear, keys::random_key, keys::scan_finds_all, keys::scan_patterns,
                keys::scan_of_a_changing_store, keys::unknown_cursors_begin_again, keys::scan_types, keys::describe,
                headers::reads_show_payloads, headers::writes_act_on_payloads, headers::sums_keep_their_digits_and_refusals,
                headers::batches_act_on_payloads, headers::sets_replace_headers, headers::lives_stay,
                headers::what_becomes_like_a_header_stays_a_value, headers::limits_are_of_payloads,
                headers::a_burial_removes_only_what_it_names
            }
        }
    };
    (@cases $start:path: $($module:ident::$case:ident),*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let subject = $start().await;
                crate::l2_behavior::$module::$case(&subject).await;
            }
        )*
    };
}

behavior!(over_embedded, crate::l2_behavior::embedded::start);
behavior!(over_redis, crate::l2_behavior::redis::start);
behavior!(over_none, crate::l2_behavior::none::start);

/// Pattern bans need an L2.
mod bans_over_embedded {
    behavior! { @cases crate::l2_behavior::embedded::start:
        bans::hides_what_was_there, bans::operations_find_nothing, bans::batches_find_nothing,
        bans::sweeps_page_by_page,
        bans::several_bans_and_the_same_again, bans::their_number_is_bounded
    }
}
mod bans_over_redis {
    behavior! { @cases crate::l2_behavior::redis::start:
        bans::hides_what_was_there, bans::operations_find_nothing, bans::batches_find_nothing,
        bans::sweeps_page_by_page,
        bans::several_bans_and_the_same_again, bans::their_number_is_bounded
    }
}
