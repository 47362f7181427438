//! The methods of `terrace.v1.Cache`: check, convert, call the facade, convert.

use prost::Message;

use super::{BATCH_MAX, Edge, convert};
use crate::{
    cache::{Applied, Batch, ExpireOnly, Op, Read},
    error::{CacheError, Kind, Result},
    model::{self, Key},
    proto::{
        DeleteRequest, DeleteResponse, GetManyRequest, GetManyResponse, GetManyResult, GetMetaRequest, GetMetaResponse,
        GetRequest, GetResponse, IncrementRequest, IncrementResponse, KeyMeta, NotStored, SetManyRequest,
        SetManyResponse, SetManyResult, SetRequest, SetResponse, Stored, TouchRequest, TouchResponse, set_many_result,
        set_response,
    },
};

/// Bytes kept back in an answer of GetMany for each key, so that each can at least have its error.
const ITEM_ERROR_BYTES: usize = 128;

impl Edge {
    /// A user's Get, if L1 can answer it: the hot path.
    #[inline]
    pub(super) fn get_now(&self, request: &GetRequest) -> Option<GetResponse> {
        let options = convert::read_options(request.options).ok()?;
        if !options.is_user() || model::check_key(&request.key).is_err() {
            return None;
        }
        let now = self.cache.now();
        let hit = self.cache.get_resident(&request.key, now)?;
        Some(convert::get_response(Read::Found(hit.found(now)), options.want_meta))
    }

    pub(super) async fn get(&self, request: GetRequest) -> Result<GetResponse> {
        let options = convert::read_options(request.options)?;
        let read = self.cache.get(Key::new(request.key)?, options).await?;
        Ok(convert::get_response(read, options.want_meta))
    }

    pub(super) async fn get_many(&self, request: GetManyRequest) -> Result<GetManyResponse> {
        check_batch(request.keys.len(), "keys")?;
        let options = convert::read_options(request.options)?;
        let (keys, faults) = split(request.keys, Key::new);
        let reads = self.cache.get_many(keys, options).await;
        let mut room = Room::new(self.settings.load().message_max, reads.len() + faults.len());
        let results = merge(reads, faults).map(|read| room.admit(convert::get_many_result(read, options.want_meta)));
        Ok(GetManyResponse { results: results.collect() })
    }

    pub(super) async fn set(&self, request: SetRequest) -> Result<SetResponse> {
        let (key, op) = convert::set_op(request)?;
        let result = match was_stored(self.cache.write(key, op).await?)? {
            true => set_response::Result::Stored(Stored {}),
            false => set_response::Result::NotStored(NotStored {}),
        };
        Ok(SetResponse { result: Some(result) })
    }

    pub(super) async fn set_many(&self, request: SetManyRequest) -> Result<SetManyResponse> {
        check_batch(request.entries.len(), "entries")?;
        let (ops, faults) = split(request.entries, convert::set_op);
        let written = self.cache.write_many(ops, Batch::Independent).await;
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
        let results = self.cache.write_many(ops, Batch::Independent).await;
        Ok(DeleteResponse { deleted: count_deleted(&results)? })
    }

    pub(super) async fn touch(&self, request: TouchRequest) -> Result<TouchResponse> {
        let (key, op) = convert::touch_op(request)?;
        let always = matches!(&op, Op::Expire { only, .. } if *only == ExpireOnly::ALWAYS);
        let Applied::Expired { found, applied, .. } = self.cache.write(key, op).await? else {
            return Err(unexpected("a Touch"));
        };
        // Without a condition the TTL is then as asked, also where that changed nothing.
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

/// Whether a Set stored.
fn was_stored(applied: Applied) -> Result<bool> {
    let Applied::Set { stored, .. } = applied else { return Err(unexpected("a Set")) };
    Ok(stored)
}

fn unexpected(asked: &str) -> CacheError {
    CacheError::new(Kind::Internal, format!("L2 answered {asked} with the result of another operation"))
}

/// How many keys a Delete removed.
///
/// # Errors
/// The first error, if no key was deleted; `Unknown` where some were and others failed: UNAVAILABLE would say that
/// nothing was done.
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
            let message = format!("{done} of {} keys were deleted, the others not: {error}", results.len());
            Err(CacheError::new(Kind::Unknown, message))
        }
    }
}

/// # Errors
/// `TooLarge`, naming the field and the limit.
pub(super) fn check_batch(len: usize, field: &str) -> Result<()> {
    if len > BATCH_MAX {
        let message = format!("{field} has {len} items; one call takes at most {BATCH_MAX}");
        return Err(CacheError::new(Kind::TooLarge, message));
    }
    Ok(())
}

/// Items that can be done, and the faults of the others with their places.
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

/// Puts the faults back into their places among the results.
fn merge<T>(results: Vec<Result<T>>, faults: Vec<(usize, CacheError)>) -> impl Iterator<Item = Result<T>> {
    let len = results.len() + faults.len();
    let (mut results, mut faults) = (results.into_iter(), faults.into_iter().peekable());
    (0..len).map_while(move |at| match faults.next_if(|(place, _)| *place == at) {
        Some((_, fault)) => Some(Err(fault)),
        None => results.next(),
    })
}

/// Room in an answer. What no longer fits becomes an error of its own; the others stand.
struct Room {
    left: usize,
    message_max: usize,
}

impl Room {
    fn new(message_max: usize, items: usize) -> Self {
        Self { left: message_max.saturating_sub(items * ITEM_ERROR_BYTES), message_max }
    }

    fn admit(&mut self, result: GetManyResult) -> GetManyResult {
        let len = result.encoded_len();
        if len <= ITEM_ERROR_BYTES {
            return result;
        }
        match self.left.checked_sub(len) {
            Some(left) => {
                self.left = left;
                result
            }
            None => convert::get_many_result(Err(self.full()), false),
        }
    }

    fn full(&self) -> CacheError {
        let message = format!("no room in this answer; grpc.max_message is {} bytes", self.message_max);
        CacheError::new(Kind::TooLarge, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let gone = Err(CacheError::new(Kind::Unavailable, "L2 is away"));
        assert_eq!(count_deleted(&[deleted(true), deleted(false)]), Ok(1));
        assert_eq!(count_deleted(&[gone.clone(), gone.clone()]).unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(count_deleted(&[deleted(true), gone]).unwrap_err().kind(), Kind::Unknown);
    }
}
