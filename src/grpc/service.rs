//! The methods of `terrace.v1.Cache`. Each validates its request, calls the facade and converts the result.

use bytes::Bytes;

use super::{
    BATCH_MAX, Edge, convert,
    wire::{GetManyReply, GetReply, ReadReply, item_len},
};
use crate::{
    access::Verbs,
    cache::{Applied, Batch, Caller, ExpireOnly, Found, Op, Read, ReadOptions, TagNames, loads::lease::Freshness},
    clock::Tick,
    error::{CacheError, Kind, Result},
    model::Key,
    proto::{
        DeleteRequest, DeleteResponse, GetManyRequest, GetManyResult, GetMetaRequest, GetMetaResponse, GetRequest,
        IncrementRequest, IncrementResponse, KeyMeta, NotStored, SetManyRequest, SetManyResponse, SetManyResult,
        SetRequest, SetResponse, Stored, TouchRequest, TouchResponse, set_many_result, set_response,
    },
};

/// Result of the L1 lookup of a Get.
pub(super) enum FirstLook {
    /// L1 has the key.
    Answered(GetReply),
    /// L1 does not have the key, or the request is an inspection.
    Missed(MissedGet),
}

/// A Get that L1 did not answer, with validated key and converted options.
pub(super) struct MissedGet {
    key: Key,
    options: ReadOptions,
}

impl Edge {
    /// Answers a user's Get from L1 at `now`, if L1 has the key. This is the hot path.
    ///
    /// # Errors
    /// `InvalidArgument` for faulty options or a faulty key.
    #[inline]
    pub(super) fn get_from_l1(&self, request: GetRequest, now: Tick) -> Result<FirstLook> {
        self.get_from_l1_as(self.cache.caller(), request, now)
    }

    /// Like [`Edge::get_from_l1`], for a request of another caller.
    ///
    /// # Errors
    /// As [`Edge::get_from_l1`].
    #[inline]
    pub(super) fn get_from_l1_as(&self, caller: Caller, request: GetRequest, now: Tick) -> Result<FirstLook> {
        let options = convert::read_options(request.options)?;
        let key = Key::new(request.key)?;
        if options.is_user()
            && let Some(hit) = self.cache.get_from_l1_as(caller, &key, now)
        {
            let found = Read::Found(Found::in_l1(hit, now));
            return Ok(FirstLook::Answered(GetReply::new(found, self.meta(&key, options))));
        }
        Ok(FirstLook::Missed(MissedGet { key, options }))
    }

    /// Answers a Get that L1 did not answer.
    pub(super) async fn get_missed(&self, MissedGet { key, options }: MissedGet) -> Result<GetReply> {
        let meta = self.meta(&key, options);
        let read = self.cache.read_missed(key, options).await?;
        Ok(GetReply::new(read, meta))
    }

    /// Returns what the metadata of a key's value needs, if the client requested it.
    #[inline]
    fn meta(&self, key: &Key, options: ReadOptions) -> Option<Freshness> {
        options.want_meta.then(|| self.cache.freshness(key))
    }

    pub(super) async fn get(&self, request: GetRequest) -> Result<GetReply> {
        match self.get_from_l1(request, self.cache.now())? {
            FirstLook::Answered(response) => Ok(response),
            FirstLook::Missed(missed) => self.get_missed(missed).await,
        }
    }

    /// Reads keys. The response has at most `message_max` bytes; results that do not fit are errors.
    pub(super) async fn get_many(&self, request: GetManyRequest, message_max: usize) -> Result<GetManyReply> {
        check_batch(request.keys.len(), "keys")?;
        let options = convert::read_options(request.options)?;
        let (mut results, absent) = self.look_up(request.keys, options);
        if !absent.is_empty() {
            let (places, keys): (Vec<usize>, Vec<Key>) = absent.into_iter().unzip();
            let missed = keys.len();
            let metas: Vec<_> = keys.iter().map(|key| self.meta(key, options)).collect();
            let reads = self.cache.read_some_missed(keys, missed, options, message_max).await;
            for ((at, meta), read) in places.into_iter().zip(metas).zip(reads) {
                let read = read.unwrap_or_else(|| Err(does_not_fit(message_max)));
                results[at] = ReadReply::<GetManyResult>::new(read, meta);
            }
        }
        fit(&mut results, message_max);
        Ok(GetManyReply(results))
    }

    /// Looks up keys in L1. Returns one result per key, and the missed keys with their positions. Results of L1 hits
    /// and invalid keys are final; results of missed keys are placeholders.
    fn look_up(&self, keys: Vec<Bytes>, options: ReadOptions) -> (Vec<ReadReply<GetManyResult>>, Vec<(usize, Key)>) {
        let now = self.cache.now();
        let mut absent = Vec::new();
        let results = keys.into_iter().enumerate().map(|(at, key)| {
            let (read, meta) = match Key::new(key) {
                Ok(key) => match options.is_user().then(|| self.cache.get_from_l1(&key, now)).flatten() {
                    Some(hit) => (Ok(Read::Found(Found::in_l1(hit, now))), self.meta(&key, options)),
                    None => {
                        absent.push((at, key));
                        return ReadReply::Message(GetManyResult::default());
                    }
                },
                Err(fault) => (Err(fault), None),
            };
            ReadReply::<GetManyResult>::new(read, meta)
        });
        (results.collect(), absent)
    }

    pub(super) async fn set(&self, request: SetRequest) -> Result<SetResponse> {
        let (op, tags) = convert::set_op(request, &self.cache.core().rules())?;
        let mut written = self.cache.write_tagged(vec![op], &[tags], Batch::Independent).await;
        let result = match was_stored(written.pop().unwrap_or_else(|| Err(unexpected("a Set")))?)? {
            true => set_response::Result::Stored(Stored {}),
            false => set_response::Result::NotStored(NotStored {}),
        };
        Ok(SetResponse { result: Some(result) })
    }

    pub(super) async fn set_many(&self, request: SetManyRequest) -> Result<SetManyResponse> {
        check_batch(request.entries.len(), "entries")?;
        let rules = self.cache.core().rules();
        let (sets, faults) = split(request.entries, |entry| convert::set_op(entry, &rules));
        let (ops, tags): (Vec<_>, Vec<TagNames>) = sets.into_iter().unzip();
        let written = self.cache.write_tagged(ops, &tags, Batch::Independent).await;
        let results = merge(written, faults).map(|result| match result.and_then(was_stored) {
            Ok(true) => set_many_result::Result::Stored(Stored {}),
            Ok(false) => set_many_result::Result::NotStored(NotStored {}),
            Err(error) => set_many_result::Result::Error(convert::item_error(&error)),
        });
        Ok(SetManyResponse { results: results.map(|result| SetManyResult { result: Some(result) }).collect() })
    }

    pub(super) async fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse> {
        check_batch(request.keys.len(), "keys")?;
        let delete = |key| Ok((Key::new(key)?, Op::Delete { want_old: false }));
        let ops = request.keys.into_iter().map(delete).collect::<Result<Vec<_>>>()?;
        // Before any key is deleted: the response has no results of single keys.
        ops.iter().try_for_each(|(key, _)| self.principal().check(Verbs::DELETE, key))?;
        let results = self.cache.write_many(ops, Batch::Independent).await;
        Ok(DeleteResponse { deleted: count_deleted(&results)? })
    }

    pub(super) async fn touch(&self, request: TouchRequest) -> Result<TouchResponse> {
        let (key, op) = convert::touch_op(request)?;
        let always = matches!(&op, Op::Expire { only, .. } if *only == ExpireOnly::ALWAYS);
        let Applied::Expired { found, applied, .. } = self.cache.write(key, op).await? else {
            return Err(unexpected("a Touch"));
        };
        // Without a condition, the key now has the requested TTL, even if that changed nothing.
        Ok(TouchResponse { found, applied: applied || (found && always) })
    }

    pub(super) async fn increment(&self, request: IncrementRequest) -> Result<IncrementResponse> {
        let (key, op) = convert::increment_op(request)?;
        let Applied::Number(value) = self.cache.write(key, op).await? else {
            return Err(unexpected("an Increment"));
        };
        Ok(IncrementResponse { value })
    }

    pub(super) async fn get_meta(&self, request: GetMetaRequest) -> Result<GetMetaResponse> {
        check_batch(request.keys.len(), "keys")?;
        let (keys, faults) = split(request.keys, Key::new);
        let infos = self.cache.describe(&keys).await.into_iter().map(Ok).collect();
        let (now, has_l2) = (self.cache.now(), self.has_l2());
        let results = merge(infos, faults).map(|info| match info {
            Ok(info) => convert::key_meta(info, has_l2, now),
            Err(error) => KeyMeta { error: Some(convert::item_error(&error)), ..KeyMeta::default() },
        });
        Ok(GetMetaResponse { results: results.collect() })
    }
}

/// Returns whether a Set stored the value.
fn was_stored(applied: Applied) -> Result<bool> {
    let Applied::Set { stored, .. } = applied else { return Err(unexpected("a Set")) };
    Ok(stored)
}

fn unexpected(operation: &str) -> CacheError {
    CacheError::new(Kind::Internal, format!("L2 answered {operation} with the result of another operation"))
}

/// Returns the number of keys that a Delete removed.
///
/// # Errors
/// `Unknown` if the deletes of some keys succeeded and others failed: UNAVAILABLE would mean that nothing was done. If
/// all failed, an `Unknown` error takes precedence over the first error.
fn count_deleted(results: &[Result<Applied>]) -> Result<u64> {
    let mut deleted = 0;
    let mut done = 0;
    let mut failure = None;
    for result in results {
        match result {
            Ok(Applied::Deleted { existed, .. }) => (deleted, done) = (deleted + u64::from(*existed), done + 1),
            Ok(_) => return Err(unexpected("a Delete")),
            Err(error) if failure.is_none() || error.kind() == Kind::Unknown => failure = Some(error),
            Err(_) => {}
        }
    }
    match failure {
        None => Ok(deleted),
        Some(error) if done == 0 => Err(error.clone()),
        Some(error) => {
            let message = format!("{done} of {} keys were deleted; the others failed: {error}", results.len());
            Err(CacheError::new(Kind::Unknown, message))
        }
    }
}

/// Checks the number of items of a batch against [`BATCH_MAX`].
///
/// # Errors
/// `TooLarge`, with the field and the limit.
pub(super) fn check_batch(len: usize, field: &str) -> Result<()> {
    if len > BATCH_MAX {
        let message = format!("{field} has {len} items; at most {BATCH_MAX} are accepted per call");
        return Err(CacheError::new(Kind::TooLarge, message));
    }
    Ok(())
}

/// Valid items, and the faults of the invalid items with their positions.
type Split<T> = (Vec<T>, Vec<(usize, CacheError)>);

/// Checks each item of a batch.
fn split<I, T>(items: Vec<I>, check: impl Fn(I) -> Result<T>) -> Split<T> {
    let mut good = Vec::with_capacity(items.len());
    let mut faults = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        match check(item) {
            Ok(item) => good.push(item),
            Err(fault) => faults.push((at, fault)),
        }
    }
    (good, faults)
}

/// Merges results and faults in the order of the original items.
fn merge<T>(results: Vec<Result<T>>, faults: Vec<(usize, CacheError)>) -> impl Iterator<Item = Result<T>> {
    let len = results.len() + faults.len();
    let (mut results, mut faults) = (results.into_iter(), faults.into_iter().peekable());
    (0..len).map_while(move |at| match faults.next_if(|(place, _)| *place == at) {
        Some((_, fault)) => Some(Err(fault)),
        None => results.next(),
    })
}

fn does_not_fit(message_max: usize) -> CacheError {
    let message = format!("the result does not fit into the response; grpc.max_message is {message_max} bytes");
    CacheError::new(Kind::TooLarge, message)
}

/// Replaces results by errors where the response would exceed `message_max`. The first results are kept as long as they
/// fit.
fn fit(results: &mut [ReadReply<GetManyResult>], message_max: usize) {
    if results.iter().map(item_len).sum::<usize>() <= message_max {
        return;
    }
    let full = ReadReply::<GetManyResult>::new(Err(does_not_fit(message_max)), None);
    let mut left = message_max.saturating_sub(results.len() * item_len(&full));
    for result in results {
        let more = item_len(result).saturating_sub(item_len(&full));
        match left.checked_sub(more) {
            Some(rest) => left = rest,
            None => result.clone_from(&full),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{
        grpc::wire::Encode,
        proto::{Found, GetManyResponse, Tier, get_many_result},
    };

    #[test]
    fn an_answer_is_made_to_fit_and_no_smaller() {
        let found = |len: usize| GetManyResult {
            result: Some(get_many_result::Result::Found(Found {
                value: vec![0; len].into(),
                tier: Tier::L1.into(),
                ..Found::default()
            })),
        };
        for (len, message_max, fitting) in [(100, 100_000, 100), (1000, 50_000, 44), (100_000, 16_384, 0)] {
            let mut results = vec![ReadReply::Message(found(len)); 100];
            fit(&mut results, message_max);
            let mut buffer = Vec::new();
            GetManyReply(results).write(&mut buffer);
            assert!(buffer.len() <= message_max);
            let results = GetManyResponse::decode(&buffer[..]).unwrap().results;
            let found = |item: &&GetManyResult| matches!(item.result, Some(get_many_result::Result::Found(_)));
            assert_eq!((results.len(), results.iter().filter(found).count()), (100, fitting));
        }
    }

    #[test]
    fn faults_go_back_into_their_places() {
        let check = |n: u32| if n.is_multiple_of(3) { Err(convert::invalid(n.to_string())) } else { Ok(n) };
        let (good, faults) = split((0..10).collect(), check);
        let merged: Vec<String> = merge(good.into_iter().map(Ok).collect(), faults)
            .map(|result| result.map_or_else(|fault| format!("!{fault}"), |n| n.to_string()))
            .collect();
        assert_eq!(merged.join(" "), "!0 1 2 !3 4 5 !6 7 8 !9");
    }

    #[test]
    fn a_delete_that_half_failed_is_unknown() {
        let deleted = |existed| Ok(Applied::Deleted { existed, old: None });
        let failed = Err(CacheError::new(Kind::Unavailable, "L2 is unavailable"));
        assert_eq!(count_deleted(&[deleted(true), deleted(false)]), Ok(1));
        assert_eq!(count_deleted(&[failed.clone(), failed.clone()]).unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(count_deleted(&[deleted(true), failed]).unwrap_err().kind(), Kind::Unknown);
    }
}
