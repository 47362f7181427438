//! Writes: policies and limits, then the coherent write to L2.
//!
//! With Redis, the copy is dropped and the fill lease voided before the write is sent and again after it, on *any*
//! outcome: acknowledged, failed, timed out, or cancelled by the caller (`Dropped` does it). Nothing is inserted on
//! acknowledgement; the next read fills L1. Redis also announces a write that takes effect after the caller stopped
//! waiting, because the invalidation link is tracked without NOLOOP. The embedded store notifies the sink itself when a
//! write has taken effect, whether or not the caller still waits.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Cache, Core, SetExpiry,
    invalidate::{
        events::{PendingEvents, took_effect},
        tags::TagNames,
    },
};
use crate::{
    access::Verbs,
    budget::Held,
    clock::{Tick, UnixMs, stopwatch_ns},
    error::{CacheError, Kind, Result},
    l2::{Applied, Batch, Flavor, Op, codec},
    learn::recorder::{Happened, Wrote},
    model::{Key, Outcome, RESERVED_PREFIX, Value},
};

/// Size from which the copies of a written value are charged.
const LARGE_BYTES: usize = 64 * 1024;

/// Keys whose copies are dropped now, and again when this guard is dropped.
pub(super) struct Dropped {
    core: Arc<Core>,
    keys: Vec<Key>,
}

impl Dropped {
    pub(super) fn new(core: &Arc<Core>, keys: Vec<Key>) -> Self {
        let dropped = Self { core: Arc::clone(core), keys };
        dropped.drop_copies();
        dropped
    }

    fn drop_copies(&self) {
        self.core.drop_copies(&self.keys);
    }
}

impl Core {
    /// Drops the L1 copies of these keys. A read that L2 answered before does not create a new copy.
    pub(in crate::cache) fn drop_copies<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            self.l1.invalidate(key);
        }
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.drop_copies();
    }
}

/// Returns the effect of an operation on its key, for the recorder.
fn what(op: &Op, now: Tick, unix: UnixMs) -> Option<Wrote> {
    Some(match op {
        Op::Set { expiry, .. } => Wrote::Value(match expiry {
            SetExpiry::Never => Some(Tick::FAR),
            SetExpiry::In(life) => Some(now.plus(*life)),
            SetExpiry::At(at) => Some(Tick(now.0 + at.0.saturating_sub(unix.0))),
            SetExpiry::Keep { .. } => None,
        }),
        Op::Delete { .. } => Wrote::Deletion,
        // The entry was invalid before.
        Op::Bury { .. } => return None,
        Op::Expire { .. } => Wrote::Lifetime,
        Op::Increment { .. } | Op::IncrementFloat { .. } | Op::Append { .. } | Op::SetRange { .. } => {
            Wrote::Value(None)
        }
    })
}

/// Returns the verbs that an operation requires: as the key specifications of Redis, an operation that returns the value
/// is also a read.
fn verbs_of(op: &Op) -> Verbs {
    let write = match op {
        Op::Delete { .. } | Op::Bury { .. } => Verbs::DELETE,
        Op::Increment { .. } | Op::IncrementFloat { .. } => Verbs::READ.with(Verbs::WRITE),
        Op::Set { .. } | Op::Expire { .. } | Op::Append { .. } | Op::SetRange { .. } => Verbs::WRITE,
    };
    if op.returns_value() { write.with(Verbs::READ) } else { write }
}

/// Returns the header of the previous value in a result; empty without one.
fn old_head(result: &Result<Applied>) -> &[u8] {
    match result {
        Ok(Applied::Set { old, .. } | Applied::Deleted { old, .. } | Applied::Expired { value: old, .. }) => {
            old.as_ref().map_or(&[], Value::head)
        }
        Ok(Applied::Number(_) | Applied::Decimal(_) | Applied::Length(_)) | Err(_) => &[],
    }
}

/// Makes a result say that the key had no value.
fn forget_old(result: &mut Result<Applied>) {
    match result {
        Ok(Applied::Set { old, .. }) => *old = None,
        Ok(Applied::Deleted { existed, old }) => (*existed, *old) = (false, None),
        Ok(Applied::Expired { found, applied, value }) => (*found, *applied, *value) = (false, false, None),
        Ok(Applied::Number(_) | Applied::Decimal(_) | Applied::Length(_)) | Err(_) => {}
    }
}

/// Returns whether a value could be mistaken for a header.
fn needs_heads(ops: &[(Key, Op)]) -> bool {
    ops.iter().any(|(_, op)| matches!(op, Op::Set { value, .. } if codec::is_marked(value)))
}

impl Cache {
    /// Applies one operation. `op` is the client's request; policies are applied here.
    ///
    /// # Errors
    /// As [`Backend::apply`](crate::l2::Backend::apply), and `TooLarge` for a value over its limit.
    pub async fn write(&self, key: Key, op: Op) -> Result<Applied> {
        let mut results = self.write_many(vec![(key, op)], Batch::Independent).await;
        results.pop().unwrap_or_else(|| Err(CacheError::new(Kind::Internal, "bug: a write has no result")))
    }

    /// Like [`Cache::write`], for an operation that is also a user read (GETDEL, GETEX): counts its outcome.
    ///
    /// # Errors
    /// As [`Cache::write`].
    pub async fn read_and_write(&self, key: Key, op: Op) -> Result<Applied> {
        let group = self.core.group_of(&key);
        let result = self.write(key, op).await;
        let found = match self.core.flavor {
            Flavor::Redis | Flavor::Embedded => Outcome::HitL2,
            Flavor::None => Outcome::HitL1,
        };
        let outcome = match &result {
            Ok(Applied::Deleted { existed: true, .. } | Applied::Expired { found: true, .. }) => found,
            Ok(_) => Outcome::Miss,
            Err(_) => Outcome::Error,
        };
        self.counters.outcome(group, outcome, false);
        result
    }

    /// Applies operations in one pipeline. Returns one result per operation, in order. An atomic batch with an invalid
    /// operation does nothing: each result is then that error.
    pub async fn write_many(&self, ops: Vec<(Key, Op)>, batch: Batch) -> Vec<Result<Applied>> {
        self.write_tagged(ops, &[], batch).await
    }

    /// Like [`Cache::write_many`]. A Set stores its entry with the tags at its index. `tags` may be shorter than `ops`.
    pub async fn write_tagged(&self, ops: Vec<(Key, Op)>, tags: &[TagNames], batch: Batch) -> Vec<Result<Applied>> {
        let len = ops.len();
        let (accepted, mut results) = self.accept(ops, tags);
        if batch == Batch::Atomic
            && let Some(fault) = results.iter().flatten().find_map(|result| result.as_ref().err().cloned())
        {
            return vec![Err(fault); len];
        }
        let (mut places, mut ops): (Vec<usize>, Vec<(Key, Op)>) = accepted.into_iter().unzip();
        for (at, fault) in self.make_ready(&mut places, &mut ops, tags).await {
            results[at] = Some(Err(fault));
        }
        if batch == Batch::Atomic
            && let Some(fault) = results.iter().flatten().find_map(|result| result.as_ref().err().cloned())
        {
            return vec![Err(fault); len];
        }
        for (at, result) in places.into_iter().zip(self.without_dead_old(self.apply(ops, batch).await).await) {
            results[at] = Some(result);
        }
        let unanswered = || Err(CacheError::new(Kind::Internal, "bug: a write has no result"));
        results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect()
    }

    /// Checks permissions and applies policies. Returns the accepted operations with their indexes, and the errors at their indexes.
    #[expect(clippy::type_complexity, reason = "two lists that are made and taken apart in one place")]
    fn accept(
        &self,
        ops: Vec<(Key, Op)>,
        tags: &[TagNames],
    ) -> (Vec<(usize, (Key, Op))>, Vec<Option<Result<Applied>>>) {
        let rules = self.core.rules.load();
        let now = self.core.clock.unix();
        let mut results = Vec::with_capacity(ops.len());
        let mut accepted = Vec::with_capacity(ops.len());
        for (at, (key, mut op)) in ops.into_iter().enumerate() {
            let permitted = self.check_write(&key, &op, tags.get(at));
            let tuned = self.core.tuned_ttl(&rules, &key, &op);
            match permitted.and_then(|()| rules.resolve(&key, &mut op, now, tuned)) {
                Ok(()) => {
                    self.core.note_set(&key, &op);
                    accepted.push((at, (key, op)));
                    results.push(None);
                }
                Err(fault) => results.push(Some(Err(fault))),
            }
        }
        (accepted, results)
    }

    /// Checks the permissions for a write.
    fn check_write(&self, key: &[u8], op: &Op, tags: Option<&TagNames>) -> Result<()> {
        if self.principal.may_everywhere(Verbs::ALL) {
            return Ok(());
        }
        self.principal.check(verbs_of(op), key)?;
        tags.into_iter().flat_map(TagNames::iter).try_for_each(|tag| self.principal.check_tag(tag))
    }

    /// Adds headers to values with tags, and removes invalid entries that the operations depend on. Removes the
    /// operations that cannot be done, and returns their indexes and errors.
    async fn make_ready(
        &self,
        places: &mut Vec<usize>,
        ops: &mut Vec<(Key, Op)>,
        tags: &[TagNames],
    ) -> Vec<(usize, CacheError)> {
        let tags: SmallVec<[&TagNames; 4]> = places.iter().map_while(|&at| tags.get(at)).collect();
        let mut faults: Vec<(usize, CacheError)> = Vec::new();
        if needs_heads(ops) || tags.iter().any(|tags| !tags.is_empty()) {
            let found = self.put_heads(ops, &tags).await;
            for (at, fault) in found.into_iter().enumerate().rev() {
                if let Some(fault) = fault {
                    faults.push((places.remove(at), fault));
                    ops.remove(at);
                }
            }
        }
        if !ops.iter().any(|(_, op)| op.depends_on_present()) {
            return faults;
        }
        let keys: Vec<Key> = ops.iter().filter(|(_, op)| op.depends_on_present()).map(|(key, _)| key.clone()).collect();
        if let Err(error) = self.bury_dead(&keys).await {
            ops.clear();
            faults.extend(places.drain(..).map(|at| (at, error.clone())));
        }
        faults
    }

    /// Removes previous values whose tags were invalidated: another node can store such a value after this node has removed
    /// the invalid entries.
    async fn without_dead_old(&self, mut results: Vec<Result<Applied>>) -> Vec<Result<Applied>> {
        if results.iter().all(|result| old_head(result).is_empty()) {
            return results;
        }
        let heads: Vec<Bytes> = results.iter().map(|result| Bytes::copy_from_slice(old_head(result))).collect();
        for (result, dead) in results.iter_mut().zip(self.are_dead(&heads).await) {
            match dead {
                Ok(false) => {}
                Ok(true) => forget_old(result),
                Err(error) => {
                    let message = format!("the operation is done, but its previous value is unknown: {error}");
                    *result = Err(CacheError::new(Kind::Unknown, message));
                }
            }
        }
        results
    }

    pub(super) async fn apply(&self, ops: Vec<(Key, Op)>, batch: Batch) -> Vec<Result<Applied>> {
        if ops.is_empty() {
            return Vec::new();
        }
        let _dropped = match self.core.flavor {
            Flavor::Redis => Some(Dropped::new(&self.core, ops.iter().map(|(key, _)| key.clone()).collect())),
            Flavor::Embedded | Flavor::None => None,
        };
        let _access = self.shared_access().await;
        let (begun, len) = (stopwatch_ns(), ops.len());
        let pending = PendingEvents::of(&self.core, &ops);
        let (now, unix) = (self.now(), self.core.clock.unix());
        let wrote: Vec<(Key, Option<Wrote>)> = ops.iter().map(|(key, op)| (key.clone(), what(op, now, unix))).collect();
        let _held = self.hold_payload(&ops);
        let results = self.l2.apply(ops, batch).await;
        if self.core.flavor == Flavor::Embedded {
            // The store announces no write that changes nothing, such as a Delete of an absent key, but the write has ended
            // the lease of the key.
            wrote.iter().for_each(|(key, _)| self.core.loads.changed(key));
        }
        self.emit_written(&wrote, &results);
        pending.emit(&self.core, &results);
        let failed = results.iter().filter(|result| result.is_err()).count();
        self.counters.l2_written(len, failed, (stopwatch_ns() - begun) / 1000);
        results
    }

    /// Charges the copies of large values that a write makes: the arguments of a RESP request and the commands for L2.
    /// The request itself is charged by its port.
    fn hold_payload(&self, ops: &[(Key, Op)]) -> Option<Held> {
        let bytes: usize = ops.iter().map(|(_, op)| op.payload_bytes()).sum();
        (bytes >= LARGE_BYTES).then(|| self.account.hold(2 * bytes as u64))
    }

    fn emit_written(&self, wrote: &[(Key, Option<Wrote>)], results: &[Result<Applied>]) {
        let now = self.now();
        for ((key, what), result) in wrote.iter().zip(results) {
            if let Some(what) = *what
                && result.as_ref().is_ok_and(took_effect)
                && !key.starts_with(RESERVED_PREFIX)
            {
                self.tap.record(key, Happened::Written(what), self.caller, now);
            }
        }
    }
}
