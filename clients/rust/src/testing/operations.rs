//! Execution of the operations that never wait.

use bytes::Bytes;
use terrace_proto::{
    DeleteRequest, DeleteResponse, Found, GetManyRequest, GetManyResponse, GetManyResult, GetOrLeaseManyRequest,
    GetOrLeaseManyResponse, GetOrLeaseManyResult, GetRequest, GetResponse, IncrementRequest, IncrementResponse,
    InvalidatePatternRequest, L1Stats, L2Stats, Missing, NotStored, ReadOptions, SetManyRequest, SetManyResponse,
    SetManyResult, SetRequest, SetResponse, Stored, TierSelection, TouchOnly, TouchRequest, TouchResponse, WatchCause,
    get_many_result, get_or_lease_many_result, get_or_lease_response, get_response, invalidate_pattern_request::Keys,
    operation::Operation, operation_result::Result as Answer, set_many_result, set_request::Condition, set_response,
};
use tonic::Code;

use super::{
    leases::Plan,
    limits::{self, Checked, answer, invalid, refusal},
    state::{Meta, State},
};
use crate::{glob, operations::to_ms};

impl State {
    /// Executes an operation. A GetOrLease is executed by the server, because it may wait.
    pub(super) fn execute(&mut self, operation: Operation) -> Answer {
        answer(match operation {
            Operation::Get(request) => self.get(&request).map(Answer::Get),
            Operation::GetMany(request) => self.get_many(&request).map(Answer::GetMany),
            Operation::Set(request) => self.set(request).map(|stored| Answer::Set(set_response(stored))),
            Operation::SetMany(request) => self.set_many(request).map(Answer::SetMany),
            Operation::Delete(request) => self.delete(&request).map(Answer::Delete),
            Operation::Touch(request) => self.touch(&request).map(Answer::Touch),
            Operation::Increment(request) => self.increment(&request).map(Answer::Increment),
            Operation::GetOrLeaseMany(request) => self.get_or_lease_many(request).map(Answer::GetOrLeaseMany),
            Operation::Fill(request) => self.fill(request).map(Answer::Fill),
            Operation::Release(request) => self.release(request).map(Answer::Release),
            Operation::GetOrLease(_) | Operation::GetMeta(_) | Operation::Cancel(_) => {
                Err(refusal(Code::Unimplemented, "the fake does not implement this operation"))
            }
        })
    }

    fn get(&mut self, request: &GetRequest) -> Checked<GetResponse> {
        let found = self.get_one(&request.key, request.options)?;
        let result = match found {
            Some(found) => get_response::Result::Found(found),
            None => get_response::Result::Missing(Missing {}),
        };
        Ok(GetResponse { result: Some(result) })
    }

    fn get_one(&mut self, key: &Bytes, options: Option<ReadOptions>) -> Checked<Option<Found>> {
        limits::check_key(key)?;
        let options = options.unwrap_or_default();
        let meta = if options.want_meta { Meta::With } else { Meta::Without };
        match TierSelection::try_from(options.tier) {
            Ok(TierSelection::Unspecified | TierSelection::Any) => Ok(self.read(key, meta, !options.no_touch)),
            Ok(TierSelection::L1Only) => Ok(self.read(key, meta, false)),
            Ok(TierSelection::L2Only) => {
                Err(invalid("tier L2_ONLY is not available: this server has no L2 (l2 = \"none\")"))
            }
            Err(_) => Err(invalid(format!(
                "options.tier has the unknown value {}; expected 1 (ANY), 2 (L1_ONLY) or 3 (L2_ONLY)",
                options.tier
            ))),
        }
    }

    fn get_many(&mut self, request: &GetManyRequest) -> Checked<GetManyResponse> {
        limits::check_batch(request.keys.len(), "keys")?;
        use get_many_result::Result as Item;
        let results = request.keys.iter().map(|key| {
            let result = match self.get_one(key, request.options) {
                Ok(Some(found)) => Item::Found(found),
                Ok(None) => Item::Missing(Missing {}),
                Err(error) => Item::Error(error),
            };
            GetManyResult { result: Some(result) }
        });
        Ok(GetManyResponse { results: results.collect() })
    }

    /// Writes a key. Returns whether the condition held.
    fn set(&mut self, request: SetRequest) -> Checked<bool> {
        let SetRequest { key, value, ttl_ms, tags, condition, stale_ms } = request;
        limits::check_key(&key)?;
        let tags = limits::entry_tags(tags)?;
        let life = match stale_ms {
            None => limits::ttl(ttl_ms)?,
            Some(stale_ms) => Some(limits::ttl_with_stale(ttl_ms, stale_ms)?),
        };
        limits::check_value(&value)?;
        self.leases.forget(&key);
        let present = self.entries.get(&key);
        let holds = match condition {
            None => true,
            Some(Condition::IfAbsent(_)) => present.is_none(),
            Some(Condition::IfPresent(_)) => present.is_some(),
            Some(Condition::IfEqual(bytes)) => present.is_some_and(|present| present.value == bytes),
        };
        if holds {
            self.put(&key, value, tags, life);
        }
        Ok(holds)
    }

    fn set_many(&mut self, request: SetManyRequest) -> Checked<SetManyResponse> {
        limits::check_batch(request.entries.len(), "entries")?;
        use set_many_result::Result as Item;
        let results = request.entries.into_iter().map(|entry| {
            let result = match self.set(entry) {
                Ok(true) => Item::Stored(Stored {}),
                Ok(false) => Item::NotStored(NotStored {}),
                Err(error) => Item::Error(error),
            };
            SetManyResult { result: Some(result) }
        });
        Ok(SetManyResponse { results: results.collect() })
    }

    fn delete(&mut self, request: &DeleteRequest) -> Checked<DeleteResponse> {
        limits::check_batch(request.keys.len(), "keys")?;
        request.keys.iter().try_for_each(|key| limits::check_key(key))?;
        let deleted = request.keys.iter().filter(|key| {
            self.leases.forget(key);
            self.remove(key)
        });
        Ok(DeleteResponse { deleted: deleted.count() as u64 })
    }

    fn touch(&mut self, request: &TouchRequest) -> Checked<TouchResponse> {
        limits::check_key(&request.key)?;
        let ttl = limits::ttl(request.ttl_ms)?;
        let Ok(only) = TouchOnly::try_from(request.only) else {
            let only = request.only;
            let text =
                format!("only has the unknown value {only}; expected 1 (ALWAYS), 2 (IF_LONGER) or 3 (IF_SHORTER)");
            return Err(invalid(text));
        };
        self.leases.forget(&request.key);
        let target = ttl.map(|ttl| self.now.saturating_add(ttl));
        let Some(entry) = self.entries.get_mut(&request.key) else {
            return Ok(TouchResponse { found: false, applied: false });
        };
        // Never expiring is the longest TTL.
        let rank = |at: Option<std::time::Duration>| at.unwrap_or(std::time::Duration::MAX);
        let applied = match only {
            TouchOnly::Unspecified | TouchOnly::Always => target.is_some() || entry.expires_at.is_some(),
            TouchOnly::IfLonger => rank(target) > rank(entry.expires_at),
            TouchOnly::IfShorter => rank(target) < rank(entry.expires_at),
        };
        if applied {
            entry.expires_at = target;
            self.note(&request.key, WatchCause::Lifetime);
        }
        Ok(TouchResponse { found: true, applied })
    }

    fn increment(&mut self, request: &IncrementRequest) -> Checked<IncrementResponse> {
        limits::check_key(&request.key)?;
        let ttl_if_new = limits::ttl(request.ttl_ms)?;
        self.leases.forget(&request.key);
        let present = self.entries.get(&request.key);
        let failed = |text: &str| refusal(Code::FailedPrecondition, text);
        let current = present.map_or(Some(0), |present| integer(&present.value));
        let current = current.ok_or_else(|| failed("value is not an integer or out of range"))?;
        let value =
            current.checked_add(request.delta).ok_or_else(|| failed("increment or decrement would overflow"))?;
        let (tags, life) = match present {
            Some(present) => (present.tags.clone(), present.left(self.now)),
            None => (Vec::new(), ttl_if_new),
        };
        self.put(&request.key, value.to_string().into(), tags, life);
        Ok(IncrementResponse { value })
    }

    fn get_or_lease_many(&mut self, mut request: GetOrLeaseManyRequest) -> Checked<GetOrLeaseManyResponse> {
        limits::check_batch(request.items.len(), "items")?;
        limits::within(&limits::STALE, "stale_ms", request.stale_ms)?;
        limits::within(&limits::LEASE, "lease_ms", request.lease_ms)?;
        let items = std::mem::take(&mut request.items);
        let results = items.into_iter().map(|item| {
            let leased = Plan::of_item(item, &request).map(|plan| self.take_lease(&plan, true));
            GetOrLeaseManyResult {
                result: leased.map_or_else(|error| Some(Item::Error(error)), |got| got.map(item_of)),
            }
        });
        Ok(GetOrLeaseManyResponse { results: results.collect() })
    }

    /// Counts or removes the keys that match. Returns their number.
    pub(super) fn invalidate(&mut self, request: InvalidatePatternRequest) -> Checked<u64> {
        let pattern = match request.keys {
            Some(Keys::Pattern(pattern)) => pattern,
            Some(Keys::Prefix(prefix)) => glob::of_prefix(&prefix).into(),
            None => return Err(invalid("neither pattern nor prefix is set; set one of them")),
        };
        let glob = limits::glob(&pattern)?;
        if request.dry_run {
            return Ok(self.count_matching(&glob));
        }
        Ok(self.invalidate_pattern(pattern, &glob))
    }

    /// Invalidates tags. Returns the number of tags that were in use.
    pub(super) fn invalidate_tags(&mut self, mut tags: Vec<Bytes>) -> Checked<u64> {
        limits::check_batch(tags.len(), "tags")?;
        tags.iter().try_for_each(|tag| limits::check_tag(tag))?;
        tags.sort_unstable();
        tags.dedup();
        Ok(tags.iter().filter(|tag| self.invalidate_tag(tag)).count() as u64)
    }

    pub(super) fn stats(&self, waiting: usize) -> terrace_proto::GetStatsResponse {
        let bytes = self.entries.iter().map(|(key, entry)| (key.len() + entry.value.len()) as u64).sum();
        terrace_proto::GetStatsResponse {
            uptime_ms: to_ms(self.now),
            reads: Some(self.reads),
            l1: Some(L1Stats { entries: self.entries.len() as u64, bytes, ..L1Stats::default() }),
            l2: Some(L2Stats { kind: "none".to_owned(), up: true, ..L2Stats::default() }),
            loads: Some(self.counts.leases),
            load_waiters: waiting as u64,
            ..terrace_proto::GetStatsResponse::default()
        }
    }
}

use get_or_lease_many_result::Result as Item;

fn item_of(leased: get_or_lease_response::Result) -> Item {
    use get_or_lease_response::Result as One;
    match leased {
        One::Hit(hit) => Item::Hit(hit),
        One::Load(load) => Item::Load(load),
        One::Busy(busy) => Item::Busy(busy),
        One::Absent(absent) => Item::Absent(absent),
        One::Failed(failed) => Item::Failed(failed),
    }
}

fn set_response(stored: bool) -> SetResponse {
    let result =
        if stored { set_response::Result::Stored(Stored {}) } else { set_response::Result::NotStored(NotStored {}) };
    SetResponse { result: Some(result) }
}

/// Parses a decimal 64-bit integer by the rules of Redis: no blanks, no plus sign, no leading zeros.
fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
