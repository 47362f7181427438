//! Skeletons of keys: a key in which some parts are variables.
//!
//! A key has up to three skeletons: one with all its variables; one in which numbers with few values stay literal, because
//! they may be types or versions; and one in which everything after the first word is one variable.

use std::ops::Range;

use smallvec::SmallVec;

use crate::learn::key_template::{KeyTemplate, Token, TokenClass, stable_hash};

/// Ranges of the variables in a key.
pub(super) type Variables = SmallVec<[Range<usize>; 8]>;

/// One of the skeletons of a key.
pub(super) struct Skeleton {
    pub(super) hash: u64,
    pub(super) variables: Variables,
}

/// Returns the skeletons of a key.
pub(super) fn skeletons(key: &[u8], template: &KeyTemplate) -> SmallVec<[Skeleton; 3]> {
    let mut all = SmallVec::new();
    let variables = |of: &dyn Fn(&Token) -> bool| -> Variables {
        template.tokens.iter().filter(|token| of(token)).map(|token| token.start..token.end).collect()
    };
    let all_variables = variables(&|token| token.is_variable);
    let last_only =
        all_variables.len() == 1 && template.tokens.len() == 2 && template.tokens.last().is_some_and(|t| t.is_variable);
    if !all_variables.is_empty() {
        all.push(Skeleton { hash: template.hash, variables: all_variables });
    }
    if template.tokens.iter().any(|token| token.is_few) {
        let many_valued = variables(&|token| token.is_variable && !token.is_few);
        if !many_valued.is_empty() {
            all.push(Skeleton { hash: hash_without(key, &many_valued), variables: many_valued });
        }
    }
    if let Some(rest) = rest_of(key, template)
        && !last_only
    {
        let variables: Variables = SmallVec::from_iter([rest]);
        all.push(Skeleton { hash: hash_without(key, &variables), variables });
    }
    all
}

/// Returns the range after the first word and its separator.
pub(super) fn rest_of(key: &[u8], template: &KeyTemplate) -> Option<Range<usize>> {
    let [first, second, ..] = &template.tokens[..] else { return None };
    (first.class == TokenClass::Word && second.start > first.end).then_some(second.start..key.len())
}

/// Returns the hash of the skeleton with these variables; it differs from any [`KeyTemplate::hash`].
fn hash_without(key: &[u8], variables: &Variables) -> u64 {
    let (mut hash, mut at) = (stable_hash(7, b""), 0);
    for variable in variables {
        hash = stable_hash(stable_hash(hash, &key[at..variable.start]), b"{}");
        at = variable.end;
    }
    stable_hash(hash, &key[at..])
}

/// Returns hashes of the values that identify related keys: all but single digits and short words.
pub(super) fn values_of(key: &[u8], template: &KeyTemplate) -> SmallVec<[u64; 8]> {
    let is_strong = |token: &&Token| match token.class {
        TokenClass::Digits => token.end - token.start >= 2 && !token.is_few,
        TokenClass::Word => token.is_variable && token.end - token.start >= 3,
        TokenClass::Hex | TokenClass::Uuid | TokenClass::Mixed => true,
    };
    let mut values: SmallVec<[u64; 8]> =
        template.tokens.iter().filter(is_strong).map(|token| stable_hash(3, token.of(key))).collect();
    if let Some(rest) = rest_of(key, template) {
        let value = stable_hash(3, &key[rest]);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values.truncate(8);
    values
}
