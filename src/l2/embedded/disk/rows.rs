//! Encoding of the rows of the table. Pure: bytes in, bytes out.
//!
//! One ordered table contains five kinds of rows, distinguished by their first byte:
//!
//! | row | bytes of the row's key | value |
//! |---|---|---|
//! | record | `k` key | header (17 B), tail of a long key, value |
//! | order  | `s` written (8 B) | key |
//! | expiry | `x` expires_at (8 B) written (8 B) | none |
//! | tally  | `m` | version, next `written`, entries, bytes |
//! | ban    | `b` number (8 B) | version, pattern |
//!
//! `written` is the unique number of a write. The order rows are the queue from which eviction takes the oldest entry;
//! the expiry rows are the calendar of the sweep. Every record has exactly one order row, and an expiry row only if it
//! expires; all of them change in one commit. Integers are big-endian, so that their rows sort by number.
//!
//! fjall limits row keys to 64 KiB - 1, but keys have up to 64 KiB. The row key of a key longer than [`HEAD_BYTES`]
//! consists of that many bytes and a hash of the remaining bytes, which are stored in the record. Two keys with the
//! same row key replace one another, which a cache may do.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::{
    clock::UnixMs,
    error::{CacheError, Kind, Result},
    glob::Glob,
    l2::Ban,
};

/// Version of records and of the tally.
const VERSION: u8 = 1;
/// Version, expires_at (0 = never), written.
const HEADER_BYTES: usize = 1 + 8 + 8;
/// Number of bytes of a long key that are part of the row key.
pub(crate) const HEAD_BYTES: usize = 1024;
/// Approximate bytes per row in addition to row key and value: sequence number, type, lengths, share of filters and
/// index.
const ROW_OVERHEAD_BYTES: usize = 16;
/// Size in bytes below which a value is copied out of its block. A slice would keep the whole block in memory.
const COPY_BELOW_BYTES: usize = 16 * 1024;

/// Row key of the tally.
pub(crate) const TALLY_ROW: &[u8] = b"m";
/// First byte of record rows, and the next byte value.
pub(crate) const RECORDS: (&[u8], &[u8]) = (b"k", b"l");
/// First byte of order rows, and the next byte value.
pub(crate) const ORDER: (&[u8], &[u8]) = (b"s", b"t");
/// First byte of ban rows, and the next byte value.
pub(crate) const BANS: (&[u8], &[u8]) = (b"b", b"c");
/// First byte of expiry rows.
pub(crate) const EXPIRIES: &[u8] = b"x";
/// The byte value after the first byte of expiry rows.
pub(crate) const EXPIRIES_END: &[u8] = b"y";

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The whole key.
    pub(crate) key: Bytes,
    /// The value.
    pub(crate) value: Bytes,
    /// Expiry; `None` = never.
    pub(crate) expires_at: Option<UnixMs>,
    /// Number of the write that set the value.
    pub(crate) written: u64,
}

/// Returns the row key of a ban. Its number is a write number: the ban hides records with smaller numbers.
pub(crate) fn ban_row(number: u64) -> Bytes {
    let mut row = Vec::with_capacity(9);
    row.put_slice(BANS.0);
    row.put_u64(number);
    Bytes::from(row)
}

/// Encodes the value of a ban's row.
pub(crate) fn encode_ban(glob: &Glob) -> Bytes {
    [&[VERSION], &glob.pattern()[..]].concat().into()
}

/// Decodes the ban of a row.
///
/// # Errors
/// `Internal` for bytes that no version of Terrace wrote.
pub(crate) fn decode_ban(row: &[u8], bytes: &[u8]) -> Result<Ban> {
    let number = row.get(1..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
    match (number, bytes.split_first()) {
        (Some(number), Some((&VERSION, pattern))) => Ok(Ban { number, glob: Glob::new(pattern)? }),
        _ => Err(unreadable("a ban")),
    }
}

/// Returns true if one of `bans` hides the record.
pub(crate) fn is_hidden(bans: &[Arc<Ban>], record: &Record) -> bool {
    bans.iter().any(|ban| record.written < ban.number && ban.matches(&record.key))
}

/// Totals of the store, updated in the same commits as the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Number of the next write.
    pub(crate) next_written: u64,
    /// Number of records, including expired records.
    pub(crate) entries: u64,
    /// Sum of the weights of all records in bytes.
    pub(crate) bytes: u64,
    /// Number of Terrace's own records among them. Not stored: the writer counts them when it opens a table.
    pub(crate) own: u64,
}

impl Tally {
    /// Tally of an empty store.
    pub(crate) const EMPTY: Self = Self { next_written: 1, entries: 0, bytes: 0, own: 0 };

    /// Returns the tally after the removal of all records. Numbers continue: a node that remembers the ban or the record
    /// with a number would otherwise take a later one for it.
    pub(crate) fn cleared(&self) -> Self {
        Self { next_written: self.next_written, ..Self::EMPTY }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(25);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.next_written);
        bytes.put_u64(self.entries);
        bytes.put_u64(self.bytes);
        Bytes::from(bytes)
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self> {
        if bytes.len() != 25 || bytes.get_u8() != VERSION {
            return Err(unreadable("the tally"));
        }
        Ok(Self { next_written: bytes.get_u64(), entries: bytes.get_u64(), bytes: bytes.get_u64(), own: 0 })
    }
}

fn unreadable(what: &str) -> CacheError {
    CacheError::new(Kind::Internal, format!("the embedded store is damaged: cannot decode {what}"))
}

/// Returns the row key of a record.
pub(crate) fn record_row(key: &[u8]) -> Bytes {
    let mut row = Vec::with_capacity(1 + key.len().min(HEAD_BYTES + 8));
    row.put_slice(RECORDS.0);
    if key.len() <= HEAD_BYTES {
        row.put_slice(key);
    } else {
        row.put_slice(&key[..HEAD_BYTES]);
        row.put_u64(hash(&key[HEAD_BYTES..]));
    }
    Bytes::from(row)
}

/// Computes the FNV-1a hash. It is stored, so it must not change between versions and machines; a collision costs one
/// of the two keys.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns the row key in the queue of writes.
pub(crate) fn order_row(written: u64) -> Bytes {
    let mut row = Vec::with_capacity(9);
    row.put_slice(ORDER.0);
    row.put_u64(written);
    Bytes::from(row)
}

/// Returns the row key in the calendar of expiries.
pub(crate) fn expiry_row(at: UnixMs, written: u64) -> Bytes {
    let mut row = Vec::with_capacity(17);
    row.put_slice(EXPIRIES);
    row.put_u64(at.0);
    row.put_u64(written);
    Bytes::from(row)
}

/// Returns the write number of an order row.
pub(crate) fn written_of(mut row: &[u8]) -> Result<u64> {
    if row.len() != 9 {
        return Err(unreadable("an order row"));
    }
    row.advance(1);
    Ok(row.get_u64())
}

/// Returns time and write number of an expiry row.
pub(crate) fn expiry_of(mut row: &[u8]) -> Result<(UnixMs, u64)> {
    if row.len() != 17 {
        return Err(unreadable("an expiry row"));
    }
    row.advance(1);
    Ok((UnixMs(row.get_u64()), row.get_u64()))
}

impl Record {
    /// Returns the bytes of all rows of the record, which count toward the maximum size.
    pub(crate) fn weight(&self) -> u64 {
        let record = 1 + self.key.len() + HEADER_BYTES + self.value.len() + ROW_OVERHEAD_BYTES;
        let order = 9 + self.key.len() + ROW_OVERHEAD_BYTES;
        let expiry = self.expires_at.map_or(0, |_| 17 + ROW_OVERHEAD_BYTES);
        (record + order + expiry) as u64
    }

    /// Returns true if the record has expired at `now`.
    pub(crate) fn is_expired(&self, now: UnixMs) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Encodes the value of the record's row.
    pub(crate) fn encode(&self) -> Bytes {
        let tail = self.key.get(HEAD_BYTES..).filter(|tail| !tail.is_empty());
        let tail_bytes = tail.map_or(0, |tail| 4 + tail.len());
        let mut bytes = Vec::with_capacity(HEADER_BYTES + tail_bytes + self.value.len());
        bytes.put_u8(VERSION);
        bytes.put_u64(self.expires_at.map_or(0, |at| at.0));
        bytes.put_u64(self.written);
        if let Some(tail) = tail {
            bytes.put_u32(u32::try_from(tail.len()).unwrap_or(u32::MAX));
            bytes.put_slice(tail);
        }
        bytes.put_slice(&self.value);
        Bytes::from(bytes)
    }

    /// Decodes the record of a row.
    ///
    /// # Errors
    /// `Internal` for bytes that no version of Terrace wrote.
    pub(crate) fn decode(row: &[u8], bytes: &Bytes) -> Result<Self> {
        let mut header = bytes.get(..HEADER_BYTES).ok_or_else(|| unreadable("a record"))?;
        if header.get_u8() != VERSION || row.len() < 2 {
            return Err(unreadable("a record"));
        }
        let expires_at = Some(UnixMs(header.get_u64())).filter(|at| at.0 != 0);
        let written = header.get_u64();
        let body = bytes.slice(HEADER_BYTES..);
        let (key, value) = split(&row[1..], body)?;
        let value = if value.len() < COPY_BELOW_BYTES { Bytes::copy_from_slice(&value) } else { value };
        Ok(Self { key, value, expires_at, written })
    }
}

/// Returns the whole key and the value.
fn split(head: &[u8], mut body: Bytes) -> Result<(Bytes, Bytes)> {
    if head.len() <= HEAD_BYTES {
        return Ok((Bytes::copy_from_slice(head), body));
    }
    let length = body.get(..4).map(|mut bytes| bytes.get_u32() as usize).ok_or_else(|| unreadable("a long key"))?;
    let tail = body.get(4..4 + length).ok_or_else(|| unreadable("a long key"))?;
    let key = [&head[..HEAD_BYTES], tail].concat();
    body.advance(4 + length);
    Ok((Bytes::from(key), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &[u8], value: &[u8], expires_at: Option<u64>) -> Record {
        Record {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            expires_at: expires_at.map(UnixMs),
            written: 7,
        }
    }

    #[test]
    fn records_come_back_as_they_were() {
        for length in [1, 2, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, HEAD_BYTES + 8, HEAD_BYTES + 9, 65_536] {
            for value in [&b""[..], b"value"] {
                let record = record(&vec![b'a'; length], value, Some(9));
                let row = record_row(&record.key);
                assert!(row.len() <= 1 + HEAD_BYTES + 8);
                assert_eq!(Record::decode(&row, &record.encode()).expect("a record"), record, "key of {length} bytes");
            }
        }
    }

    #[test]
    fn long_keys_differ_by_their_tail() {
        let (mut one, mut other) = (vec![b'a'; 3000], vec![b'a'; 3000]);
        one[2999] = 1;
        other[2999] = 2;
        assert_ne!(record_row(&one), record_row(&other));
    }

    #[test]
    fn damage_is_an_error() {
        let row = record_row(b"key");
        let long = record_row(&[b'a'; 2000]);
        let bytes = record(&[b'a'; 2000], b"", None).encode();
        assert!(Record::decode(&row, &Bytes::new()).is_err());
        assert!(Record::decode(&row, &Bytes::from(vec![9; 40])).is_err());
        assert!(Record::decode(&long, &bytes.slice(..HEADER_BYTES + 2)).is_err());
        assert!(Record::decode(&long, &bytes.slice(..HEADER_BYTES + 20)).is_err());
        assert!(Tally::decode(b"").is_err());
        assert!(written_of(b"s").is_err());
        assert!(expiry_of(b"x").is_err());
    }

    #[test]
    fn rows_sort_by_their_numbers() {
        assert!(order_row(255) < order_row(256));
        assert!(expiry_row(UnixMs(255), 9) < expiry_row(UnixMs(256), 1));
        assert_eq!(written_of(&order_row(300)).expect("a number"), 300);
        assert_eq!(expiry_of(&expiry_row(UnixMs(5), 6)).expect("both"), (UnixMs(5), 6));
        let tally = Tally { next_written: 4, entries: 2, bytes: 99, own: 0 };
        assert_eq!(Tally::decode(&tally.encode()).expect("a tally"), tally);
    }
}
