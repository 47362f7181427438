//! The wire form of responses that carry values, written straight from the cache's value into the outgoing buffer.
//!
//! A generated message would hold each value as separate `Bytes`, which costs an allocation per L1 value, and its
//! length would be computed once for each level of nesting. The encoded bytes equal the bytes of the generated
//! messages; a test compares them.

use bytes::BufMut;
use prost::{Message, encoding::encode_varint, length_delimiter_len};

use super::convert;
use crate::{
    cache::{Found, Read, loads::lease::Freshness},
    error::Result,
    proto::{GetManyResult, GetOrLeaseResponse, GetResponse, OperationResult, operation_result},
};

/// Tag of field 1 with a length-delimited value: `results`, `found` and `value`.
const FIELD_1_BYTES: u8 = 0x0a;
/// Tag of `OperationResult.id`.
const ID_TAG: u8 = 0x08;
/// Tag of `OperationResult.get`.
const GET_TAG: u8 = 0x12;
/// Tag of `Found.tier`.
const TIER_TAG: u8 = 0x10;
/// Tag of `Found.stale`.
const STALE_TAG: u8 = 0x18;

/// Tag of `LeaseHit.needs_refresh`.
const NEEDS_REFRESH_TAG: u8 = 0x10;
/// Tag of `LeaseHit.fresh_ms`.
const FRESH_TAG: u8 = 0x20;
/// Tag of `OperationResult.get_or_lease`.
const LEASE_TAG: u8 = 0x42;

/// Tag of `OperationResult.get_many`.
const GET_MANY_TAG: u8 = 0x5a;
/// Maximum size in bytes that an item of PipelineResponse adds to the response of its operation: two tags with lengths,
/// and the id.
pub(super) const RESULT_OVERHEAD_BYTES: usize = 2 * 6 + 11;

/// A response in wire form.
pub(super) trait Encode {
    /// Returns the length of the wire form in bytes.
    fn wire_len(&self) -> usize;

    /// Appends the wire form.
    fn write(&self, buffer: &mut Vec<u8>);
}

impl<M: Message> Encode for M {
    fn wire_len(&self) -> usize {
        self.encoded_len()
    }

    fn write(&self, buffer: &mut Vec<u8>) {
        self.encode_raw(buffer);
    }
}

/// Returns the length of an item of a repeated field: a tag of one byte, the length, the item.
pub(super) fn item_len(item: &impl Encode) -> usize {
    delimited_len(item.wire_len())
}

/// Appends an item of a repeated field with number 1.
pub(super) fn write_item(item: &impl Encode, buffer: &mut Vec<u8>) {
    write_delimited(FIELD_1_BYTES, item.wire_len(), buffer);
    item.write(buffer);
}

/// The result of a read: a value without metadata, or a generated message.
#[derive(Debug, Clone)]
pub(super) enum ReadReply<M> {
    /// `found` with value, tier and `stale`.
    Value(Found),
    /// Any other result.
    Message(M),
}

/// The response to Get.
pub(super) type GetReply = ReadReply<GetResponse>;

impl GetReply {
    /// Converts a read; with `meta` including the metadata of the value.
    #[inline]
    pub(super) fn new(read: Read, meta: Option<Freshness>) -> Self {
        match read {
            Read::Found(found) if meta.is_none() => Self::Value(found),
            read @ (Read::Found(_) | Read::Missing) => Self::Message(convert::get_response(read, meta)),
        }
    }
}

impl ReadReply<GetManyResult> {
    /// Converts the read of one key of GetMany; with `meta` including the metadata of the value.
    pub(super) fn new(read: Result<Read>, meta: Option<Freshness>) -> Self {
        match read {
            Ok(Read::Found(found)) if meta.is_none() => Self::Value(found),
            read => Self::Message(convert::get_many_result(read, meta)),
        }
    }
}

impl<M: Message> Encode for ReadReply<M> {
    #[inline]
    fn wire_len(&self) -> usize {
        match self {
            Self::Value(found) => delimited_len(value_len(found)),
            Self::Message(message) => message.encoded_len(),
        }
    }

    #[inline]
    fn write(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Value(found) => {
                write_delimited(FIELD_1_BYTES, value_len(found), buffer);
                write_value(found, buffer);
            }
            Self::Message(message) => message.encode_raw(buffer),
        }
    }
}

/// The response to GetOrLease: a value without a grant, or a generated message.
#[derive(Debug)]
pub(super) enum LeaseReply {
    /// `hit` with value, tier and `stale` of `found`.
    Hit(LeaseHitReply),
    /// Any other response.
    Message(Box<GetOrLeaseResponse>),
}

/// A `LeaseHit` without a grant.
#[derive(Debug)]
pub(super) struct LeaseHitReply {
    found: Found,
    needs_refresh: bool,
    fresh_ms: Option<i64>,
    /// Length of the wire form, which each level of nesting needs.
    len: usize,
}

impl LeaseReply {
    /// Returns the response with a value and no grant.
    #[inline]
    pub(super) fn hit(found: Found, needs_refresh: bool, fresh_ms: Option<i64>) -> Self {
        let len = hit_len(&found, needs_refresh, fresh_ms);
        Self::Hit(LeaseHitReply { found, needs_refresh, fresh_ms, len })
    }
}

impl Encode for LeaseReply {
    #[inline]
    fn wire_len(&self) -> usize {
        match self {
            Self::Hit(hit) => delimited_len(hit.len),
            Self::Message(message) => message.encoded_len(),
        }
    }

    #[inline]
    fn write(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Hit(LeaseHitReply { found, needs_refresh, fresh_ms, len }) => {
                write_delimited(FIELD_1_BYTES, *len, buffer);
                write_delimited(FIELD_1_BYTES, value_len(found), buffer);
                write_value(found, buffer);
                if *needs_refresh {
                    buffer.put_u8(NEEDS_REFRESH_TAG);
                    buffer.put_u8(1);
                }
                if let Some(ms) = fresh_ms {
                    buffer.put_u8(FRESH_TAG);
                    encode_varint(ms.cast_unsigned(), buffer);
                }
            }
            Self::Message(message) => message.encode_raw(buffer),
        }
    }
}

/// Returns the length of a `LeaseHit` without a grant.
#[inline]
fn hit_len(found: &Found, needs_refresh: bool, fresh_ms: Option<i64>) -> usize {
    let fresh = fresh_ms.map_or(0, |ms| 1 + prost::encoding::encoded_len_varint(ms.cast_unsigned()));
    delimited_len(value_len(found)) + if needs_refresh { 2 } else { 0 } + fresh
}

/// The response to GetMany.
#[derive(Debug)]
pub(super) struct GetManyReply(pub(super) Vec<ReadReply<GetManyResult>>);

impl Encode for GetManyReply {
    fn wire_len(&self) -> usize {
        self.0.iter().map(item_len).sum()
    }

    fn write(&self, buffer: &mut Vec<u8>) {
        self.0.iter().for_each(|item| write_item(item, buffer));
    }
}

/// The result of one operation of a Pipeline.
#[derive(Debug)]
pub(super) enum OperationReply {
    /// The result of a Get.
    Get {
        /// The id of the operation.
        id: u64,
        /// The response.
        reply: GetReply,
    },
    /// The result of a GetOrLease.
    Lease {
        /// The id of the operation.
        id: u64,
        /// The response.
        reply: LeaseReply,
    },
    /// The result of a GetMany.
    GetMany {
        /// The id of the operation.
        id: u64,
        /// The response.
        reply: GetManyReply,
    },
    /// Any other result.
    Message(OperationResult),
}

impl OperationReply {
    /// Returns the id of the operation.
    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Get { id, .. } | Self::Lease { id, .. } | Self::GetMany { id, .. } => *id,
            Self::Message(result) => result.id,
        }
    }

    /// Returns the result of an operation other than Get.
    pub(super) fn of(id: u64, result: operation_result::Result) -> Self {
        Self::Message(OperationResult { id, result: Some(result) })
    }
}

impl Encode for OperationReply {
    #[inline]
    fn wire_len(&self) -> usize {
        match self {
            Self::Get { id, reply } => id_len(*id) + delimited_len(reply.wire_len()),
            Self::Lease { id, reply } => id_len(*id) + delimited_len(reply.wire_len()),
            Self::GetMany { id, reply } => id_len(*id) + delimited_len(reply.wire_len()),
            Self::Message(result) => result.encoded_len(),
        }
    }

    #[inline]
    fn write(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Get { id, reply } => {
                write_id(*id, buffer);
                write_delimited(GET_TAG, reply.wire_len(), buffer);
                reply.write(buffer);
            }
            Self::Lease { id, reply } => {
                write_id(*id, buffer);
                write_delimited(LEASE_TAG, reply.wire_len(), buffer);
                reply.write(buffer);
            }
            Self::GetMany { id, reply } => {
                write_id(*id, buffer);
                write_delimited(GET_MANY_TAG, reply.wire_len(), buffer);
                reply.write(buffer);
            }
            Self::Message(result) => result.encode_raw(buffer),
        }
    }
}

#[inline]
fn write_id(id: u64, buffer: &mut Vec<u8>) {
    if id != 0 {
        buffer.put_u8(ID_TAG);
        encode_varint(id, buffer);
    }
}

#[inline]
fn id_len(id: u64) -> usize {
    if id == 0 { 0 } else { 1 + prost::encoding::encoded_len_varint(id) }
}

/// Returns the length of a delimited field: a tag of one byte, the length, and `len` bytes.
#[inline]
fn delimited_len(len: usize) -> usize {
    1 + length_delimiter_len(len) + len
}

#[inline]
fn write_delimited(tag: u8, len: usize, buffer: &mut Vec<u8>) {
    buffer.put_u8(tag);
    encode_varint(len as u64, buffer);
}

/// Returns the length of a `Found` without metadata.
#[inline]
fn value_len(found: &Found) -> usize {
    let value = match found.value.len() {
        0 => 0,
        len => delimited_len(len),
    };
    value + 2 + if found.stale { 2 } else { 0 }
}

#[inline]
fn write_value(found: &Found, buffer: &mut Vec<u8>) {
    if !found.value.is_empty() {
        write_delimited(FIELD_1_BYTES, found.value.len(), buffer);
        buffer.put_slice(&found.value);
    }
    buffer.put_u8(TIER_TAG);
    // Both tiers have numbers below 128: one byte.
    buffer.put_u8(convert::tier(found.tier) as u8);
    if found.stale {
        buffer.put_u8(STALE_TAG);
        buffer.put_u8(1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::{
        model::{Life, Tier, Value},
        proto::{GetManyResponse, LeaseHit, PipelineResponse, get_or_lease_response},
    };

    fn found(value: usize, tier: Tier, stale: bool) -> Found {
        let value = Value::from(Bytes::from(vec![7; value]));
        Found { value, tier, stale, life: Life::Forever, age: Duration::from_secs(3), l1_hits: 5 }
    }

    fn all() -> Vec<Found> {
        let sizes = [0, 1, 100, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 16_376, 16_384, 70_000];
        let each = |size| {
            [Tier::L1, Tier::L2].into_iter().flat_map(move |tier| [false, true].map(|stale| found(size, tier, stale)))
        };
        sizes.into_iter().flat_map(each).collect()
    }

    fn bytes(reply: &impl Encode) -> Vec<u8> {
        let mut buffer = Vec::new();
        reply.write(&mut buffer);
        assert_eq!(buffer.len(), reply.wire_len());
        buffer
    }

    #[test]
    fn the_bytes_of_leases_are_those_of_the_generated_messages() {
        for found in all() {
            for (needs_refresh, fresh_ms) in
                [(false, None), (true, Some(0)), (false, Some(1)), (true, Some(127)), (true, Some(i64::MAX))]
            {
                let hit = LeaseHit { found: Some(convert::found(found.clone())), needs_refresh, grant: None, fresh_ms };
                let response = GetOrLeaseResponse { result: Some(get_or_lease_response::Result::Hit(hit)) };
                let reply = || LeaseReply::hit(found.clone(), needs_refresh, fresh_ms);
                assert_eq!(bytes(&reply()), response.encode_to_vec());
                for id in [0, 1, u64::MAX] {
                    let result = Some(operation_result::Result::GetOrLease(response.clone()));
                    let generated = OperationResult { id, result }.encode_to_vec();
                    assert_eq!(bytes(&OperationReply::Lease { id, reply: reply() }), generated);
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_generated_messages() {
        for found in all() {
            for meta in [None, Some(Freshness::default())] {
                let read = || Read::Found(found.clone());
                let response = convert::get_response(read(), meta);
                assert_eq!(bytes(&GetReply::new(read(), meta)), response.encode_to_vec());
                for id in [0, 1, 127, 128, u64::MAX] {
                    let reply = OperationReply::Get { id, reply: GetReply::new(read(), meta) };
                    let result = Some(operation_result::Result::Get(response.clone()));
                    assert_eq!(bytes(&reply), OperationResult { id, result: result.clone() }.encode_to_vec());
                    let mut items = Vec::new();
                    write_item(&reply, &mut items);
                    assert_eq!(items.len(), item_len(&reply));
                    assert_eq!(
                        items,
                        PipelineResponse { results: vec![OperationResult { id, result }] }.encode_to_vec()
                    );
                }
            }
        }
        let reads = || all().into_iter().map(|found| Ok(Read::Found(found))).chain([Ok(Read::Missing)]);
        let generated = GetManyResponse { results: reads().map(|read| convert::get_many_result(read, None)).collect() };
        let reply = || GetManyReply(reads().map(|read| ReadReply::<GetManyResult>::new(read, None)).collect());
        assert_eq!(bytes(&reply()), generated.encode_to_vec());
        for id in [0, 1, u64::MAX] {
            let result = OperationResult { id, result: Some(operation_result::Result::GetMany(generated.clone())) };
            let reply = OperationReply::GetMany { id, reply: reply() };
            assert_eq!(bytes(&reply), result.encode_to_vec());
            assert!(item_len(&reply) <= generated.encoded_len() + RESULT_OVERHEAD_BYTES);
        }
    }
}
