//! What a key is called and counted by: a hash, a group, what it looks like.

use super::shape::{self, Shape};

/// Groups that are counted apart.
pub(super) const GROUPS: usize = 64;

pub(super) fn hash_of(key: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::fast::FixedState::with_seed(0x7E44_ACE5).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// What stands before a key's first separator.
pub(super) fn head_of(key: &[u8]) -> &[u8] {
    let end = key.iter().skip(1).position(|byte| !byte.is_ascii_alphanumeric()).map_or(key.len(), |at| at + 1);
    &key[..end]
}

/// The group of a key: one of 64, by its head.
pub(super) fn group_of(key: &[u8]) -> u8 {
    (shape::hash_of(0, head_of(key)) >> 58) as u8
}

/// What a key looks like, one of 256: its head, unless that varies, and its template. Keys of no structure may be of any
/// kind: they are one of the first 64, by chance.
pub(super) fn form_of(key: &[u8], shape: &Shape) -> u8 {
    let head = head_of(key);
    if head.len() == key.len() {
        return group_of(key);
    }
    let varies = shape.tokens.first().is_none_or(|token| token.is_variable && !token.is_few);
    let form = shape::hash_of(shape.hash, if varies { b"" } else { head });
    (GROUPS as u64 + (form >> 32) % (256 - GROUPS as u64)) as u8
}

/// Names a pair of forms, one of 256: keys of the one look are followed by keys of the other about as often.
pub(super) fn pair_of(form: u8, target: u8) -> u8 {
    if usize::from(form) < GROUPS { form } else { (shape::hash_of(u64::from(form), &[target]) >> 56) as u8 }
}
