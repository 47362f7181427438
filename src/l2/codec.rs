//! Header that L2 stores before the payload of an entry with tags. Pure: bytes in, bytes out.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | [`MAGIC`]; its first byte never starts UTF-8 text |
//! | 1 | version of the fields |
//! | 2 | length of the fields in bytes, big-endian, at most [`FIELDS_MAX_BYTES`] |
//! | 8 | checksum: the first bytes of the SHA-1 of version, length and fields |
//! | | fields, by bincode: version 1: the tags, each with its id at the time of the write |
//!
//! The checksum excludes the payload, so that an APPEND keeps it valid. A script in Redis can verify it
//! (`redis.sha1hex`). The checksum distinguishes headers from values that happen to start with the magic bytes. It is
//! no protection against clients that write to Redis directly, because they can write any bytes.
//!
//! Plain entries have no header. A value that starts with the magic bytes is stored behind an empty header. Bytes in
//! Redis that start with the magic bytes but have a wrong length or checksum are a plain value. A header of an unknown
//! version hides its payload, because this version of Terrace cannot determine whether the payload is still valid.

use bytes::{BufMut, Bytes, BytesMut};

use crate::model::Value;

/// First bytes of every header.
pub const MAGIC: [u8; 8] = *b"\x9fTERRACE";
/// Version of the fields.
const VERSION: u8 = 1;
/// Size of magic, version, length and checksum.
pub const FIXED_BYTES: usize = 8 + 1 + 2 + 8;
/// Maximum size of the fields in the header of a tagged value. 16 tags of 128 bytes need 2,209 bytes.
pub const FIELDS_MAX_BYTES: usize = 4096;
/// Maximum size of the header of a tagged value.
pub const HEAD_MAX_BYTES: usize = FIXED_BYTES + FIELDS_MAX_BYTES;

/// A tag of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Name of the tag.
    pub name: Bytes,
    /// Tag id at the time of the write; the entry is valid while the tag still has this id.
    pub id: u64,
}

/// The fields in the form that bincode encodes.
type Fields = Vec<(Vec<u8>, u64)>;

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<FIELDS_MAX_BYTES>()
}

fn checksum(version_and_length: &[u8], fields: &[u8]) -> [u8; 8] {
    let mut sha1 = sha1_smol::Sha1::new();
    sha1.update(version_and_length);
    sha1.update(fields);
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&sha1.digest().bytes()[..8]);
    checksum
}

/// Returns a checksum of tags: the first bytes of the SHA-1 of their fields.
#[must_use]
pub fn checksum_of(tags: &[Tag]) -> u64 {
    u64::from_be_bytes(checksum(&[], &head_of(tags)[FIXED_BYTES..]))
}

/// Returns true if the bytes start with the magic bytes of a header.
#[inline]
#[must_use]
pub fn is_marked(stored: &[u8]) -> bool {
    // The comparison has a fixed length and therefore compiles without a function call; every read executes it.
    stored.first_chunk() == Some(&MAGIC)
}

/// Returns the length in bytes of the header of `stored`; 0 for a plain value.
#[must_use]
pub fn head_len(stored: &[u8]) -> usize {
    if is_marked(stored) { checked_len(stored).unwrap_or(0) } else { 0 }
}

fn checked_len(stored: &[u8]) -> Option<usize> {
    let described = stored.get(8..11)?;
    let length = usize::from(u16::from_be_bytes([described[1], described[2]]));
    let fields = stored.get(FIXED_BYTES..FIXED_BYTES + length).filter(|_| length <= FIELDS_MAX_BYTES)?;
    (stored.get(11..FIXED_BYTES)? == checksum(described, fields)).then_some(FIXED_BYTES + length)
}

/// Splits stored bytes into header and payload.
#[must_use]
pub fn split(stored: &[u8]) -> (&[u8], &[u8]) {
    stored.split_at(head_len(stored))
}

/// Detects the header of a stored value; the returned value exposes only the payload.
#[inline]
#[must_use]
pub fn opened(value: Value) -> Value {
    if !is_marked(value.stored()) {
        return value;
    }
    let head_bytes = head_len(value.stored());
    // The header has at most `HEAD_MAX_BYTES` bytes, which fit in u16.
    value.behind(u16::try_from(head_bytes).unwrap_or(0))
}

/// Returns the tags of a header, or an empty list for an empty header; `None` for an unknown version.
#[must_use]
pub fn tags(head: &[u8]) -> Option<Vec<Tag>> {
    let Some((&version, fields)) = head.get(8).zip(head.get(FIXED_BYTES..)) else { return Some(Vec::new()) };
    if version != VERSION {
        return None;
    }
    let (fields, used): (Fields, usize) = bincode::serde::decode_from_slice(fields, format()).ok()?;
    let tags = fields.into_iter().map(|(name, id)| Tag { name: name.into(), id });
    (used == head.len() - FIXED_BYTES).then(|| tags.collect())
}

/// Returns the header of an entry with these tags. At most 16 tags of at most 128 bytes each always fit.
#[must_use]
pub fn head_of(tags: &[Tag]) -> Bytes {
    let fields: Fields = tags.iter().map(|tag| (tag.name.to_vec(), tag.id)).collect();
    head_with(VERSION, &bincode::serde::encode_to_vec(fields, format()).unwrap_or_default())
}

fn head_with(version: u8, fields: &[u8]) -> Bytes {
    let length = u16::try_from(fields.len()).unwrap_or(u16::MAX).to_be_bytes();
    let described = [version, length[0], length[1]];
    let mut head = BytesMut::with_capacity(FIXED_BYTES + fields.len());
    head.put_slice(&MAGIC);
    head.put_slice(&described);
    head.put_slice(&checksum(&described, fields));
    head.put_slice(fields);
    head.freeze()
}

/// Returns the stored form of a payload with a header; without a header, the same as [`guarded`].
#[must_use]
pub fn joined(head: &[u8], payload: Bytes) -> Bytes {
    if head.is_empty() { guarded(payload) } else { [head, &payload].concat().into() }
}

/// Returns the stored form of a payload without tags: the payload itself, or the payload behind an empty header if it
/// starts with the magic bytes.
#[must_use]
pub fn guarded(payload: Bytes) -> Bytes {
    if is_marked(&payload) { joined(&head_of(&[]), payload) } else { payload }
}

/// Returns a number as records contain it: 16 hexadecimal digits.
pub(crate) fn hex_of(number: u64) -> String {
    format!("{number:016x}")
}

/// Decodes [`hex_of`].
pub(crate) fn number_in_hex(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &[u8], id: u64) -> Tag {
        Tag { name: Bytes::copy_from_slice(name), id }
    }

    fn some_tags(random: &mut fastrand::Rng) -> Vec<Tag> {
        let name = |random: &mut fastrand::Rng| (0..random.usize(1..=128)).map(|_| random.u8(..)).collect::<Vec<_>>();
        (0..random.usize(..=16)).map(|_| tag(&name(random), random.u64(..) >> random.u32(..64))).collect()
    }

    /// Returns payloads of several kinds: short, long, similar to a header, and a header inside a header.
    fn payload(random: &mut fastrand::Rng) -> Bytes {
        let noise: Vec<u8> = (0..random.usize(..3_000)).map(|_| random.u8(..)).collect();
        match random.u8(..5) {
            0 => Bytes::new(),
            1 => noise.into(),
            2 => [&MAGIC[..], &noise].concat().into(),
            3 => [&MAGIC[..random.usize(..8)], &noise].concat().into(),
            _ => joined(&head_of(&some_tags(random)), noise.into()),
        }
    }

    #[test]
    fn what_was_put_in_comes_out() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (tags_in, payload) = (some_tags(&mut random), payload(&mut random));
            let head = head_of(&tags_in);
            let stored = joined(&head, payload.clone());
            assert!(head.len() <= HEAD_MAX_BYTES);
            assert_eq!(split(&stored), (&head[..], &payload[..]), "seed {seed}");
            assert_eq!(tags(&head).expect("of this version"), tags_in, "seed {seed}");
            let plain = guarded(payload.clone());
            assert_eq!(split(&plain).1, &payload[..], "seed {seed}");
            assert_eq!(tags(split(&plain).0), Some(Vec::new()));
            assert_eq!(plain.len() == payload.len(), !is_marked(&payload), "only what looks like a header gets one");
            let value = opened(Value::from(stored.clone()));
            assert_eq!((value.head(), &value[..], value.stored()), (&head[..], &payload[..], &stored[..]));
            assert_eq!(value.into_bytes(), payload);
        }
    }

    #[test]
    fn headers_in_headers_open_one_at_a_time() {
        let mut stored = Bytes::from_static(b"core");
        for id in 0..5 {
            stored = joined(&head_of(&[tag(b"t", id)]), stored);
        }
        for id in (0..5).rev() {
            assert_eq!(tags(split(&stored).0), Some(vec![tag(b"t", id)]));
            stored = stored.slice(head_len(&stored)..);
        }
        assert_eq!(stored, "core");
    }

    #[test]
    fn every_part_of_a_header_and_every_changed_byte_is_a_plain_value() {
        let head = head_of(&[tag(b"a", 1), tag(&[7; 128], u64::MAX)]);
        for end in 0..head.len() {
            assert_eq!(head_len(&head[..end]), 0, "{end}");
            let mut changed = [&head[..], b"payload"].concat();
            changed[end] ^= 1;
            assert_eq!(head_len(&changed), 0, "byte {end}");
        }
        assert_eq!(head_len(&head), head.len());
    }

    #[test]
    fn hostile_lengths_and_fields_do_no_harm() {
        for length in [0, 1, 4_095, 4_096, 4_097, u16::MAX] {
            let mut stored = MAGIC.to_vec();
            stored.extend([VERSION]);
            stored.extend(length.to_be_bytes());
            stored.extend([0; 4_200]);
            assert_eq!(head_len(&stored), 0, "{length}");
        }
        // A correct checksum over too many fields, or over fields that cannot be decoded.
        assert_eq!(head_len(&head_with(VERSION, &[0; FIELDS_MAX_BYTES + 1])), 0);
        for fields in [
            &b""[..],
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x00\x00",
        ] {
            let head = head_with(VERSION, fields);
            assert_eq!((head_len(&head), tags(&head)), (head.len(), None), "{fields:?}");
        }
        let newer = head_with(VERSION + 1, b"whatever");
        assert_eq!((head_len(&newer), tags(&newer)), (newer.len(), None));
    }
}
