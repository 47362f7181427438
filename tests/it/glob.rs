//! Patterns match as in Redis: `KEYS` of a real Redis lists exactly the keys that [`Glob`] matches, and long texts match
//! as Redis's function says.

use std::collections::BTreeSet;

use fastrand::Rng;
use terrace::glob::Glob;

use crate::support::redis::RedisServer;

/// All characters with a meaning in a pattern, twice, and bytes around them: NUL, the ends of ASCII, a letter of two
/// bytes, and 0x80 and 0xFF, which are negative if a `char` is signed.
const ALPHABET: &[u8] = b"**??[[]]^^--\\\\aabbcz:\0\x01\x7f\x80\xc3\xa9\xff";
const KEYS: usize = 400;
const PATTERNS: usize = 1_500;

fn word(rng: &mut Rng, least: usize, most: usize) -> Vec<u8> {
    (0..rng.usize(least..=most)).map(|_| ALPHABET[rng.usize(..ALPHABET.len())]).collect()
}

/// Random words of special bytes rarely match. Most patterns are therefore a key with some bytes generalized.
fn pattern(rng: &mut Rng, keys: &[Vec<u8>]) -> Vec<u8> {
    if rng.u8(..3) == 0 {
        return word(rng, 0, 12);
    }
    let mut pattern = Vec::new();
    for &byte in &keys[rng.usize(..keys.len())] {
        match rng.u8(..7) {
            0 => pattern.push(b'*'),
            1 => pattern.push(b'?'),
            2 => pattern.extend([b'\\', byte]),
            3 => pattern.extend([b'[', byte, b']']),
            4 => pattern.extend([&b"["[..], &word(rng, 0, 3), &[byte], &word(rng, 0, 2), b"]"].concat()),
            5 => {
                let other = ALPHABET[rng.usize(..ALPHABET.len())];
                let (low, high) = if rng.bool() { (byte, other) } else { (other, byte) };
                pattern.extend([b'[', low, b'-', high, b']']);
            }
            _ => pattern.push(byte),
        }
    }
    pattern
}

#[test]
fn random_patterns_match_what_keys_of_redis_lists() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let server = RedisServer::start();
    let mut redis = server.connect();
    // Keys are never empty in Terrace.
    let keys: Vec<Vec<u8>> = (0..KEYS).map(|_| word(&mut rng, 1, 6)).collect();
    for key in &keys {
        redis::cmd("SET").arg(key).arg("v").exec(&mut redis).unwrap();
    }
    let mut matched = 0;
    for _ in 0..PATTERNS {
        let pattern = pattern(&mut rng, &keys);
        let glob = Glob::new(&pattern).unwrap();
        let theirs: BTreeSet<Vec<u8>> = redis::cmd("KEYS").arg(&pattern).query(&mut redis).unwrap();
        let ours: BTreeSet<Vec<u8>> = keys.iter().filter(|key| glob.matches(key)).cloned().collect();
        let shown = pattern.escape_ascii();
        assert_eq!(ours, theirs, "{shown}");
        assert!(ours.iter().all(|key| key.starts_with(glob.literal_prefix())), "the prefix of {shown}");
        matched += ours.len();
    }
    assert!(matched > PATTERNS, "patterns that match nothing show nothing: {matched} matches");
    let prefix = word(&mut rng, 0, 2);
    let glob = Glob::of_prefix(&prefix).unwrap();
    let theirs: BTreeSet<Vec<u8>> = redis::cmd("KEYS").arg(&glob.pattern()[..]).query(&mut redis).unwrap();
    let ours: BTreeSet<Vec<u8>> = keys.into_iter().filter(|key| key.starts_with(&prefix)).collect();
    assert_eq!(ours, theirs, "all that begins with {}", prefix.escape_ascii());
}

/// Redis's `stringmatchlen` (src/util.c of Redis 7.0), step by step. `skip` is its `skipLongerMatches`.
fn as_in_redis(mut pattern: &[u8], mut text: &[u8], skip: &mut bool) -> bool {
    while let (Some(&first), Some(&byte)) = (pattern.first(), text.first()) {
        match first {
            b'*' => {
                while pattern.get(1) == Some(&b'*') {
                    pattern = &pattern[1..];
                }
                if pattern.len() == 1 {
                    return true;
                }
                while !text.is_empty() {
                    if as_in_redis(&pattern[1..], text, skip) {
                        return true;
                    }
                    if *skip {
                        return false;
                    }
                    text = &text[1..];
                }
                *skip = true;
                return false;
            }
            b'?' => {}
            b'[' => {
                pattern = &pattern[1..];
                let negated = pattern.first() == Some(&b'^');
                pattern = &pattern[usize::from(negated)..];
                let mut hit = false;
                let closed = loop {
                    match pattern {
                        [b'\\', escaped, ..] => {
                            hit |= *escaped == byte;
                            pattern = &pattern[1..];
                        }
                        [b']', ..] => break true,
                        [] => break false,
                        [from, b'-', to, ..] => {
                            let (from, to) = (*from as i8, *to as i8);
                            hit |= (from.min(to)..=from.max(to)).contains(&(byte as i8));
                            pattern = &pattern[2..];
                        }
                        [literal, ..] => hit |= *literal == byte,
                    }
                    pattern = &pattern[1..];
                };
                if hit == negated {
                    return false;
                }
                if !closed {
                    return text.len() == 1;
                }
            }
            _ => {
                if first == b'\\' && pattern.len() >= 2 {
                    pattern = &pattern[1..];
                }
                if pattern[0] != byte {
                    return false;
                }
            }
        }
        (pattern, text) = (&pattern[1..], &text[1..]);
        if text.is_empty() {
            while pattern.first() == Some(&b'*') {
                pattern = &pattern[1..];
            }
            break;
        }
    }
    pattern.is_empty() && text.is_empty()
}

/// Texts of up to 600 bytes over few letters, and patterns made of their parts: these use the searches that short texts
/// never reach.
#[test]
fn long_random_patterns_match_as_redis_says() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut matched = 0;
    for _ in 0..100_000 {
        let length = if rng.u8(..4) == 0 { rng.usize(..600) } else { rng.usize(..60) };
        let mut letter = b'a';
        let text: Vec<u8> = (0..length)
            .map(|_| {
                if rng.u8(..12) == 0 {
                    letter = *rng.choice(b"abc-]").unwrap();
                }
                letter
            })
            .collect();
        let mut pattern = Vec::new();
        for &byte in &text {
            match rng.u8(..40) {
                0 => pattern.push(b'*'),
                1 => pattern.push(b'?'),
                2 => pattern.extend([b'[', byte, *rng.choice(b"abc^]-\\").unwrap(), b']']),
                3 => pattern.extend([b'[', b'^', *rng.choice(b"abc").unwrap(), b']']),
                4 => pattern.push(*rng.choice(b"abc*").unwrap()),
                // Texts between stars move, so that they are found elsewhere.
                5 if pattern.last() == Some(&b'*') => {}
                _ => pattern.push(byte),
            }
        }
        let Ok(glob) = Glob::new(&pattern) else { continue };
        let theirs = as_in_redis(&pattern, &text, &mut false);
        assert_eq!(glob.matches(&text), theirs, "{} on {}", pattern.escape_ascii(), text.escape_ascii());
        matched += usize::from(theirs);
    }
    assert!((5_000..95_000).contains(&matched), "{matched} matches of 100,000");
}
