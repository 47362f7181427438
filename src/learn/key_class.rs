//! Numbers that stand for a key: its hash, its prefix group, and the class of keys that it belongs to.

use super::key_template::{KeyTemplate, stable_hash};

/// Prefix groups that are counted separately.
pub(super) const GROUPS: usize = 64;

/// Returns the hash by which the learner identifies a key.
pub(super) fn key_hash(key: &[u8]) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = foldhash::fast::FixedState::with_seed(0x7E44_ACE5).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// Returns the part of a key before its first separator.
pub(super) fn prefix_of(key: &[u8]) -> &[u8] {
    let end = key.iter().skip(1).position(|byte| !byte.is_ascii_alphanumeric()).map_or(key.len(), |at| at + 1);
    &key[..end]
}

/// Returns the prefix group of a key, one of [`GROUPS`].
pub(super) fn group_of(key: &[u8]) -> u8 {
    (stable_hash(0, prefix_of(key)) >> 58) as u8
}

/// Returns the class of a key, one of 256, from its template and from its prefix unless the prefix is a variable. Keys
/// without a separator share the first [`GROUPS`] classes, by hash.
pub(super) fn class_of(key: &[u8], template: &KeyTemplate) -> u8 {
    let prefix = prefix_of(key);
    if prefix.len() == key.len() {
        return group_of(key);
    }
    let varies = template.tokens.first().is_none_or(|token| token.is_variable && !token.is_few);
    let class = stable_hash(template.hash, if varies { b"" } else { prefix });
    (GROUPS as u64 + (class >> 32) % (256 - GROUPS as u64)) as u8
}

/// Returns a number for a pair of classes, one of 256. How often a key of one class follows a key of another is learned for
/// each pair.
pub(super) fn class_pair(class: u8, target: u8) -> u8 {
    if usize::from(class) < GROUPS { class } else { (stable_hash(u64::from(class), &[target]) >> 56) as u8 }
}
