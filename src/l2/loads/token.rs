//! [`LeaseToken`]: what a client carries from its grant to its fill, so that no node has to remember the grant.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | [`VERSION`] |
//! | | the fields of [`LeaseToken`], by bincode |
//!
//! A token is opaque to clients, but not secret: whoever may fill a key may also write it.

use super::{Holder, LeaseFence};
use crate::l2::codec;
use bytes::Bytes;

/// Maximum size of a token in bytes.
pub const TOKEN_MAX_BYTES: usize = 512;
/// Version of the fields.
const VERSION: u8 = 1;

/// The fencing values of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseToken {
    /// The client that received the grant.
    pub holder: Holder,
    /// The values that the store compares.
    pub fence: LeaseFence,
    /// Ids of the tags at the time of the grant, in the order of the sorted names.
    pub tag_ids: Vec<u64>,
    /// Checksum of the sorted tag names.
    pub tag_names: u64,
}

/// The fields in the form that bincode encodes.
type Fields = (Holder, u64, u64, u64, Vec<u64>, u64);

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<TOKEN_MAX_BYTES>()
}

impl LeaseToken {
    /// Returns the token as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let LeaseFence { generation, ban, mark } = self.fence;
        let fields: Fields = (self.holder, generation, ban, mark, self.tag_ids.clone(), self.tag_names);
        let mut token = vec![VERSION];
        // 16 tags need 216 bytes, so the limit is never reached.
        token.extend(bincode::serde::encode_to_vec(fields, format()).unwrap_or_default());
        token.into()
    }

    /// Decodes a token; `None` for bytes that no node of this version has issued.
    #[must_use]
    pub fn decode(token: &[u8]) -> Option<Self> {
        let (&version, fields) = token.split_first()?;
        if version != VERSION || token.len() > TOKEN_MAX_BYTES {
            return None;
        }
        let (decoded, used): (Fields, usize) = bincode::serde::decode_from_slice(fields, format()).ok()?;
        let (holder, generation, ban, mark, tag_ids, tag_names) = decoded;
        let fence = LeaseFence { generation, ban, mark };
        (used == fields.len()).then_some(Self { holder, fence, tag_ids, tag_names })
    }
}

/// Returns the checksum of sorted tag names that a token contains.
#[must_use]
pub fn checksum_of<'a>(names: impl Iterator<Item = &'a Bytes>) -> u64 {
    let tags: Vec<codec::Tag> = names.map(|name| codec::Tag { name: name.clone(), id: 0 }).collect();
    codec::checksum_of(&tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(tags: usize) -> LeaseToken {
        LeaseToken {
            holder: [7; 16],
            fence: LeaseFence { generation: u64::MAX, ban: u64::MAX, mark: u64::MAX },
            tag_ids: vec![u64::MAX; tags],
            tag_names: u64::MAX,
        }
    }

    #[test]
    fn a_token_is_decoded_and_stays_within_its_size() {
        for tags in [0, 1, 16] {
            let bytes = token(tags).encode();
            assert!(bytes.len() <= TOKEN_MAX_BYTES, "{} bytes", bytes.len());
            assert_eq!(LeaseToken::decode(&bytes), Some(token(tags)));
        }
    }

    #[test]
    fn damaged_tokens_are_not_decoded() {
        let bytes = token(2).encode();
        for end in 0..bytes.len() {
            assert_eq!(LeaseToken::decode(&bytes[..end]), None, "the first {end} bytes");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(LeaseToken::decode(&longer), None);
        let other_version = [&[VERSION + 1], &bytes[1..]].concat();
        assert_eq!(LeaseToken::decode(&other_version), None);
        assert_eq!(LeaseToken::decode(&[VERSION; TOKEN_MAX_BYTES + 1]), None);
        // A length of tags that no memory holds.
        let hostile = [&[VERSION][..], &[0; 16], &[0, 0, 0], &[0xfd, 255, 255, 255, 255, 255, 255, 255, 127]].concat();
        assert_eq!(LeaseToken::decode(&hostile), None);
    }

    #[test]
    fn checksums_distinguish_names() {
        let of = |names: &[&'static str]| {
            checksum_of(names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect::<Vec<_>>().iter())
        };
        assert_ne!(of(&["a"]), of(&["b"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
    }
}
