//! Operations that wait to be sent, in wire form: a `PipelineRequest` with its gRPC prefix.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};
use terrace_proto::operation::Operation;

use super::table::Id;

/// Maximum number of operations of a batch: the limit of the server.
const OPERATIONS_MAX: usize = 1_000;
/// Size in bytes above which a batch accepts no further operation, so that a large value does not delay others for long.
const FULL_BYTES: usize = 256 << 10;
/// Length of the prefix of a gRPC message: a flag and the length.
pub(super) const PREFIX_BYTES: usize = 5;
/// Tag of `PipelineRequest.operations`.
const OPERATIONS_TAG: u8 = 0x0a;
/// Tag of `Operation.id`.
const ID_TAG: u8 = 0x08;
/// Tag of `Operation.context`.
const CONTEXT_TAG: u8 = 0x79;
/// Length of a context with its tag.
const CONTEXT_BYTES: usize = 9;

/// Operations that are sent as one message.
#[derive(Debug)]
pub(super) struct Batch {
    buffer: BytesMut,
    /// Operations with the length of their wire form. The id 0 stands for a cancel.
    operations: Vec<(Id, u32)>,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut buffer = BytesMut::with_capacity(256);
        buffer.put_bytes(0, PREFIX_BYTES);
        Self { buffer, operations: Vec::new() }
    }

    /// Returns whether the batch accepts another operation.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.operations.is_empty()
            || (self.operations.len() < OPERATIONS_MAX && self.buffer.len() + bytes <= FULL_BYTES)
    }

    /// Appends an operation. `len` is the length of `operation` in wire form.
    #[inline]
    pub(super) fn push(&mut self, id: Id, wire_id: u64, operation: &Operation, len: usize, context: u64) {
        let context_len = if context == 0 { 0 } else { CONTEXT_BYTES };
        let id_len = if wire_id == 0 { 0 } else { 1 + encoded_len_varint(wire_id) };
        let item = id_len + len + context_len;
        let begin = self.buffer.len();
        self.buffer.reserve(item + 1 + encoded_len_varint(item as u64));
        self.buffer.put_u8(OPERATIONS_TAG);
        encode_varint(item as u64, &mut self.buffer);
        if wire_id != 0 {
            self.buffer.put_u8(ID_TAG);
            encode_varint(wire_id, &mut self.buffer);
        }
        operation.encode(&mut self.buffer);
        if context != 0 {
            self.buffer.put_u8(CONTEXT_TAG);
            self.buffer.put_u64_le(context);
        }
        // A message of 4 GiB or more does not pass the limits of the server.
        self.operations.push((id, u32::try_from(self.buffer.len() - begin).unwrap_or(u32::MAX)));
    }

    /// Returns the message, without the operations that `keep` does not accept; `None` if no operation is left.
    pub(super) fn into_message(mut self, mut keep: impl FnMut(Id) -> bool) -> Option<Bytes> {
        let kept: Vec<bool> = self.operations.iter().map(|(id, _)| keep(*id)).collect();
        if kept.iter().any(|kept| !kept) {
            self = self.filtered(&kept);
        }
        if self.operations.is_empty() {
            return None;
        }
        let len = u32::try_from(self.buffer.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
        self.buffer[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
        Some(self.buffer.freeze())
    }

    fn filtered(&self, kept: &[bool]) -> Self {
        let mut left = Self::new();
        let mut begin = PREFIX_BYTES;
        for ((id, len), kept) in self.operations.iter().zip(kept) {
            let end = begin + *len as usize;
            if *kept {
                left.buffer.extend_from_slice(&self.buffer[begin..end]);
                left.operations.push((*id, *len));
            }
            begin = end;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use terrace_proto::{GetRequest, PipelineRequest};

    use super::*;

    fn get(key: &'static str) -> Operation {
        Operation::Get(GetRequest { key: key.into(), options: None })
    }

    #[test]
    fn the_wire_form_equals_the_generated_one_and_dropped_operations_are_left_out() {
        let mut batch = Batch::new();
        let operations = [(1, "first", 0), (1 << 21, "dropped", 7), (u64::MAX, "last", u64::MAX)];
        for (id, key, context) in operations {
            let operation = get(key);
            batch.push(Id(id), id, &operation, operation.encoded_len(), context);
        }
        let message = batch.into_message(|id| id != Id(1 << 21)).expect("two operations");
        let expected = [operations[0], operations[2]].map(|(id, key, context)| terrace_proto::Operation {
            id,
            operation: Some(get(key)),
            context,
        });
        let decoded = PipelineRequest::decode(&message[PREFIX_BYTES..]).expect("a message");
        assert_eq!(decoded.operations, expected);
        assert_eq!(message[..PREFIX_BYTES], [0, 0, 0, 0, (message.len() - PREFIX_BYTES) as u8]);
        assert_eq!(decoded.encode_to_vec(), message[PREFIX_BYTES..]);
    }

    #[test]
    fn a_batch_without_operations_is_no_message() {
        let mut batch = Batch::new();
        batch.push(Id(5), 5, &get("key"), get("key").encoded_len(), 0);
        assert!(batch.into_message(|_| false).is_none());
    }
}
