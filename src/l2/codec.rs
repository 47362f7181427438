//! The header that L2 stores in front of the payload of an entry with tags. Pure: bytes in, bytes out.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`]; its first byte begins no UTF-8 text |
//! | 1 | version of the fields |
//! | 2 | how many bytes of fields, big-endian, at most [`FIELDS_MAX_BYTES`] |
//! | 8 | checksum: the first bytes of the SHA-1 of version, length and fields |
//! | | fields, by bincode: version 1: the tags, each with the id it was written under |
//!
//! The checksum leaves the payload out, so that an APPEND keeps it valid, and is one that a script in Redis can verify
//! (`redis.sha1hex`). It tells our headers from values that happen to begin like one; it proves nothing against somebody who
//! writes straight to Redis, who may write anything there.
//!
//! Plain entries carry no header. A value that itself begins with the magic is stored behind an empty one. Bytes in Redis that
//! begin with the magic but fail length or checksum are a plain value. A header of a version that is not known hides its
//! payload: nobody here can tell whether that is still valid.

use bytes::{BufMut, Bytes, BytesMut};

use crate::model::Value;

/// What a header begins with.
pub const MAGIC: [u8; 8] = *b"\x9fTERRACE";
/// Of the fields below.
const VERSION: u8 = 1;
/// Magic, version, length, checksum.
pub const FIXED_BYTES: usize = 8 + 1 + 2 + 8;
/// Maximum size of the fields in the header of a tagged value. 16 tags of 128 bytes need 2,209 bytes.
pub const FIELDS_MAX_BYTES: usize = 4096;
/// Maximum size of the header of a tagged value.
pub const HEAD_MAX_BYTES: usize = FIXED_BYTES + FIELDS_MAX_BYTES;

/// A tag of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub name: Bytes,
    /// The id it had when the entry was written: the entry is valid while the tag still has it.
    pub id: u64,
}

/// Fields as bincode takes them.
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

/// Whether bytes begin like a header.
#[inline]
#[must_use]
pub fn is_marked(stored: &[u8]) -> bool {
    // Of a known length, so that no function is called for it: each read asks.
    stored.first_chunk() == Some(&MAGIC)
}

/// Bytes of the header that `stored` begins with; 0 for a plain value.
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

/// Header and payload.
#[must_use]
pub fn split(stored: &[u8]) -> (&[u8], &[u8]) {
    stored.split_at(head_len(stored))
}

/// Finds the header of what is stored: the value then shows its payload.
#[inline]
#[must_use]
pub fn opened(value: Value) -> Value {
    if !is_marked(value.stored()) {
        return value;
    }
    let head_bytes = head_len(value.stored());
    // At most `HEAD_MAX_BYTES`.
    value.behind(u16::try_from(head_bytes).unwrap_or(0))
}

/// The tags of a header (or of no bytes: none); `None` for a version that is not known.
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

/// The header of an entry under these tags: at most 16 of at most 128 B, which always fit.
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

/// What is stored for a payload under a header; without one as [`guarded`].
#[must_use]
pub fn joined(head: &[u8], payload: Bytes) -> Bytes {
    if head.is_empty() { guarded(payload) } else { [head, &payload].concat().into() }
}

/// What is stored for a payload without tags: itself, unless it begins like a header.
#[must_use]
pub fn guarded(payload: Bytes) -> Bytes {
    if is_marked(&payload) { joined(&head_of(&[]), payload) } else { payload }
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

    /// Payloads of all kinds: short, long, like a header, a header in a header.
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
        // A right checksum over too many fields, or over fields that are none.
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
