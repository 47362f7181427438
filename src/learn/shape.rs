//! What keys look like: `user:17:profile` is `user:{d}:profile`.
//!
//! A key is split at everything that is neither letter nor digit, and digits at the end of a word stand alone (`page12`
//! is `page{d}`). A UUID is one token. Numbers, hexadecimal numbers, UUIDs and mixtures are variables at sight; a word
//! becomes one when its position has shown many different words, so that names of tenants or users are found without
//! being told; but words that stand there all the time stay what they are, so that `user:17` is no `{w}:{d}` because
//! somebody else's keys begin with anything. A position is what stands before it, variables marked, and the separator
//! behind it: what is learned behind `user:` says nothing about what stands behind `order:`.
//!
//! Bounded: [`TOKENS_MAX`] tokens of the first [`LOOKED_AT_BYTES`] of a key, [`POSITIONS_MAX`] positions of 48 bytes.
//! Keys without any structure end in few templates, because their words soon are variables.

use hashbrown::{HashMap, hash_map::Entry};
use smallvec::SmallVec;

/// Tokens that a key is split into at most; what is left is one more.
pub const TOKENS_MAX: usize = 16;
/// Bytes of a key that are split; the rest is one token.
const LOOKED_AT_BYTES: usize = 256;
/// Positions whose values are counted at most: some 200 KB.
pub const POSITIONS_MAX: usize = 4_096;
/// Different words (by bits of a bitmap of 256) that make a position variable: 34 words set 32 bits.
const WORDS_MANY: u32 = 32;
/// The same for the first token of a key, which mostly names what kind of thing this is: 120 words.
const FIRST_WORDS_MANY: u32 = 96;
/// A word is frequent if it is at least this part of the words of its position: of so many, none would be a variable.
const FREQUENT_PART: u32 = 34;
const FIRST_FREQUENT_PART: u32 = 120;
/// And if it was seen so often: before that a part says nothing.
const FREQUENT_MIN: u32 = 16;
/// Counts of words: two rows, 64 KB. They are halved when so many words were counted; a count is too high by 4 on average
/// then.
const COUNTS: usize = 16_384;
const COUNTED_MAX: u32 = 65_536;
/// Different numbers under which a position is taken to hold a type or a version and not an id.
const NUMBERS_FEW: u32 = 32;

/// What a token is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Digits.
    Digits,
    /// Hexadecimal: at least 8 with a digit among them, or at least 12.
    Hex,
    /// 8-4-4-4-12 hexadecimal digits.
    Uuid,
    /// Letters and digits in turn, or bytes that are no text.
    Mixed,
    /// Letters.
    Word,
}

impl Class {
    /// How a variable of this class is written.
    #[must_use]
    pub fn mark(self) -> &'static str {
        match self {
            Self::Digits => "{d}",
            Self::Hex => "{x}",
            Self::Uuid => "{u}",
            Self::Mixed => "{m}",
            Self::Word => "{w}",
        }
    }
}

/// One token of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Where it begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// What it is made of.
    pub class: Class,
    /// Whether it is one of many.
    pub is_variable: bool,
    /// A number whose position has shown few: it may be a type or a version.
    pub is_few: bool,
}

impl Token {
    /// Its bytes in the key that it is of.
    #[must_use]
    pub fn of<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        key.get(self.start..self.end).unwrap_or_default()
    }
}

/// The tokens of one key, in order; what lies between two of them separates them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The tokens.
    pub tokens: SmallVec<[Token; TOKENS_MAX]>,
    /// Names the template: the same for all keys that differ in variables only.
    pub hash: u64,
}

impl Shape {
    /// The template of the key that this is the shape of: `user:{d}:profile`.
    #[must_use]
    pub fn name(&self, key: &[u8]) -> String {
        let (mut name, mut at) = (String::new(), 0);
        for token in self.tokens.iter().filter(|token| token.is_variable) {
            name.push_str(&String::from_utf8_lossy(&key[at..token.start]));
            name.push_str(token.class.mark());
            at = token.end;
        }
        name.push_str(&String::from_utf8_lossy(&key[at..]));
        name
    }
}

/// Which positions hold variables.
#[derive(Debug, Default)]
pub struct Shapes {
    positions: HashMap<u64, Values, foldhash::fast::FixedState>,
    words: Words,
}

/// A position, a bit for each of 256 values, and how many values it has shown in all.
pub type KeptPosition = (u64, [u64; 4], u32);

/// Which of 256 values a position has shown, by their hash, and how many in all.
#[derive(Debug, Clone, Copy, Default)]
struct Values {
    shown: [u64; 4],
    total: u32,
}

impl Values {
    fn note(&mut self, hash: u64) {
        let bit = hash >> 56;
        self.shown[(bit / 64) as usize] |= 1 << (bit % 64);
        self.total = self.total.saturating_add(1);
    }

    fn count(&self) -> u32 {
        self.shown.iter().map(|word| word.count_ones()).sum()
    }
}

/// How often words stand where they stand: a count-min sketch that forgets.
#[derive(Debug)]
struct Words {
    rows: [Box<[u16]>; 2],
    counted: u32,
}

impl Default for Words {
    fn default() -> Self {
        Self { rows: [0; 2].map(|_| vec![0; COUNTS].into()), counted: 0 }
    }
}

impl Words {
    fn places(position: u64, value: u64) -> [usize; 2] {
        let hash = (position ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        [hash >> 50, hash >> 36].map(|place| place as usize % COUNTS)
    }

    fn note(&mut self, position: u64, value: u64) {
        for (row, place) in self.rows.iter_mut().zip(Self::places(position, value)) {
            row[place] = row[place].saturating_add(1);
        }
        self.counted += 1;
    }

    fn count(&self, position: u64, value: u64) -> u32 {
        let counts = self.rows.iter().zip(Self::places(position, value)).map(|(row, place)| u32::from(row[place]));
        counts.min().unwrap_or(0)
    }

    fn halve(&mut self) {
        self.counted = 0;
        self.rows.iter_mut().flat_map(|row| row.iter_mut()).for_each(|count| *count /= 2);
    }
}

/// What is known of a value where it stands.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    /// Values that its position has shown.
    values: u32,
    /// Of all that stood there, it is one in so many at least.
    one_in: u32,
}

impl Shapes {
    /// The shape of a key, and learns from it.
    pub fn learn(&mut self, key: &[u8]) -> Shape {
        shape_of(key, |position, value, class| self.note(position, value, class))
    }

    /// The shape of a key; learns nothing.
    #[must_use]
    pub fn look(&self, key: &[u8]) -> Shape {
        shape_of(key, |position, value, class| self.standing(position, value, class))
    }

    /// Notes a value where it stands.
    fn note(&mut self, position: u64, value: u64, class: Class) -> Standing {
        if self.positions.len() >= POSITIONS_MAX && !self.positions.contains_key(&position) {
            self.make_room();
        }
        match self.positions.entry(position) {
            Entry::Occupied(mut there) => there.get_mut().note(value),
            Entry::Vacant(free) => free.insert(Values::default()).note(value),
        }
        if class == Class::Word {
            self.words.note(position, value);
            if self.words.counted >= COUNTED_MAX {
                self.words.halve();
                self.positions.values_mut().for_each(|values| values.total /= 2);
            }
        }
        self.standing(position, value, class)
    }

    fn standing(&self, position: u64, value: u64, class: Class) -> Standing {
        let Some(values) = self.positions.get(&position) else { return Standing { values: 0, one_in: u32::MAX } };
        let count = if class == Class::Word { self.words.count(position, value) } else { 0 };
        let one_in = if count < FREQUENT_MIN { u32::MAX } else { values.total / count };
        Standing { values: values.count(), one_in }
    }

    /// What has shown one value only says least; where that is not enough, all begins anew.
    fn make_room(&mut self) {
        self.positions.retain(|_, values| values.count() > 1);
        if self.positions.len() > POSITIONS_MAX / 2 {
            self.positions.clear();
        }
    }

    /// The positions with which of 256 values they have shown, as they are kept between two lives of a node.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptPosition> {
        self.positions.iter().map(|(&position, values)| (position, values.shown, values.total)).collect()
    }

    /// Takes positions back: [`POSITIONS_MAX`] of them at most.
    pub fn take(&mut self, positions: Vec<KeptPosition>) {
        let positions = positions.into_iter().take(POSITIONS_MAX);
        self.positions = positions.map(|(position, shown, total)| (position, Values { shown, total })).collect();
    }

    /// How often words stand where they stand, as it is kept.
    #[must_use]
    pub fn kept_words(&self) -> Vec<u16> {
        self.words.rows.iter().flat_map(|row| row.iter().copied()).collect()
    }

    /// Takes these counts back, if they are as many.
    pub fn take_words(&mut self, counts: &[u16]) -> Option<()> {
        if counts.len() != 2 * COUNTS {
            return None;
        }
        for (row, kept) in self.words.rows.iter_mut().zip(counts.chunks(COUNTS)) {
            row.copy_from_slice(kept);
        }
        Some(())
    }

    /// Positions now.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions.len()
    }
}

/// Splits a key; `standing` tells what is known of a value at a position.
fn shape_of(key: &[u8], mut standing: impl FnMut(u64, u64, Class) -> Standing) -> Shape {
    let mut tokens = split(key);
    let (mut hash, mut at) = (hash_of(0, b""), 0);
    for (number, token) in tokens.iter_mut().enumerate() {
        hash = hash_of(hash, &key[at..token.start]);
        let text = &key[token.start..token.end];
        match token.class {
            Class::Word => {
                let (many, part) = match number {
                    0 => (FIRST_WORDS_MANY, FIRST_FREQUENT_PART),
                    _ => (WORDS_MANY, FREQUENT_PART),
                };
                let position = hash_of(hash, &key[token.end..key.len().min(token.end + 1)]);
                let Standing { values, one_in } = standing(position, hash_of(1, text), token.class);
                token.is_variable = values >= many && one_in > part;
            }
            Class::Digits => {
                token.is_few = standing(hash ^ 1, hash_of(1, text), token.class).values < NUMBERS_FEW;
            }
            Class::Hex | Class::Uuid | Class::Mixed => {}
        }
        hash = if token.is_variable { hash_of(hash, token.class.mark().as_bytes()) } else { hash_of(hash, text) };
        at = token.end;
    }
    Shape { hash: hash_of(hash, &key[at..]), tokens }
}

/// The tokens of a key, words not yet variable.
fn split(key: &[u8]) -> SmallVec<[Token; TOKENS_MAX]> {
    let mut tokens = SmallVec::new();
    let mut at = 0;
    while at < key.len() {
        if is_separator(key[at]) {
            at += 1;
            continue;
        }
        // A run is up to two tokens.
        if tokens.len() >= TOKENS_MAX - 2 || at >= LOOKED_AT_BYTES {
            tokens.push(variable(at, key.len(), Class::Mixed));
            break;
        }
        if is_uuid(key, at) {
            tokens.push(variable(at, at + UUID_BYTES, Class::Uuid));
            at += UUID_BYTES;
            continue;
        }
        let end = key[at..].iter().position(|&byte| is_separator(byte)).map_or(key.len(), |length| at + length);
        push_run(&mut tokens, key, at, end);
        at = end;
    }
    tokens
}

/// One run without a separator: a token, or a word and the digits at its end.
fn push_run(tokens: &mut SmallVec<[Token; TOKENS_MAX]>, key: &[u8], start: usize, end: usize) {
    let class = class_of(&key[start..end]);
    if class != Class::Mixed {
        return tokens.push(Token { is_variable: class != Class::Word, ..variable(start, end, class) });
    }
    let digits = key[start..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > 0 && class_of(&key[start..end - digits]) == Class::Word {
        tokens.push(Token { is_variable: false, ..variable(start, end - digits, Class::Word) });
        return tokens.push(variable(end - digits, end, Class::Digits));
    }
    tokens.push(variable(start, end, class));
}

fn variable(start: usize, end: usize, class: Class) -> Token {
    Token { start, end, class, is_variable: true, is_few: false }
}

fn is_separator(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric() && !byte.is_ascii_control()
}

fn class_of(run: &[u8]) -> Class {
    let (mut digits, mut hexes, mut letters) = (0, 0, 0);
    for byte in run {
        digits += usize::from(byte.is_ascii_digit());
        hexes += usize::from(byte.is_ascii_hexdigit());
        // Letters of other scripts are several bytes, none of them ASCII.
        letters += usize::from(byte.is_ascii_alphabetic() || !byte.is_ascii());
    }
    match run.len() {
        length if digits == length => Class::Digits,
        length if hexes == length && (length >= 12 || length >= 8 && digits > 0) => Class::Hex,
        length if letters == length => Class::Word,
        _ => Class::Mixed,
    }
}

const UUID_BYTES: usize = 36;

/// Whether a UUID stands at `at`, and ends there too.
fn is_uuid(key: &[u8], at: usize) -> bool {
    let Some(text) = key.get(at..at + UUID_BYTES) else { return false };
    let dashes = [8, 13, 18, 23];
    key.get(at + UUID_BYTES).is_none_or(|&byte| is_separator(byte))
        && text.iter().enumerate().all(|(place, byte)| match dashes.contains(&place) {
            true => *byte == b'-',
            false => byte.is_ascii_hexdigit(),
        })
}

/// FNV-1a, continued from `hash`, and mixed: names stay the same over restarts. Who builds keys that collide gets two
/// templates counted as one.
pub(crate) fn hash_of(hash: u64, text: &[u8]) -> u64 {
    let start = hash ^ 0xCBF2_9CE4_8422_2325;
    let hash = text.iter().fold(start, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    (hash ^ hash >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> String {
        Shapes::default().look(key.as_bytes()).name(key.as_bytes())
    }

    #[test]
    fn what_varies_is_seen_without_having_learned() {
        for (key, expected) in [
            ("user:17", "user:{d}"),
            ("/api/v1/orders/123/items", "/api/v{d}/orders/{d}/items"),
            ("t7/order/55", "t{d}/order/{d}"),
            ("page12", "page{d}"),
            ("s:6fa459ea-ee8a-3ca4-894e-db77e160355e:x", "s:{u}:x"),
            ("blob:00ff12ab34", "blob:{x}"),
            ("deadbeefcafe", "{x}"),
            ("facade", "facade"),
            ("a1b2c3", "{m}"),
            ("user_profile:9", "user_profile:{d}"),
            ("{user9}.cart", "{user{d}}.cart"),
            ("straße:5", "straße:{d}"),
            ("", ""),
            (":::", ":::"),
        ] {
            assert_eq!(name(key), expected, "{key}");
        }
    }

    #[test]
    fn a_word_varies_where_many_stand() {
        let mut shapes = Shapes::default();
        let word = |number: usize| -> String {
            (0..4).map(|place| char::from(b'a' + (number / 7_usize.pow(place) % 26) as u8)).collect()
        };
        for number in 0..200 {
            shapes.learn(format!("session:{}:cart", word(number)).as_bytes());
        }
        for (key, expected) in [("session:quentin:cart", "session:{w}:cart"), ("other:quentin", "other:quentin")] {
            assert_eq!(shapes.look(key.as_bytes()).name(key.as_bytes()), expected);
        }
        let [left, right] = ["session:ab:cart", "session:cd:cart"].map(|key| shapes.look(key.as_bytes()).hash);
        assert_eq!(left, right, "one template, one hash");
        assert_ne!(left, shapes.look(b"session:ab:list").hash);
    }

    #[test]
    fn what_stands_there_all_the_time_stays_whatever_else_does() {
        let mut shapes = Shapes::default();
        let mut rng = fastrand::Rng::with_seed(6);
        let mut word = || -> String { (0..9).map(|_| rng.lowercase()).collect() };
        let kinds = ["user", "profile", "order", "price"];
        for number in 0..4_000 {
            shapes.learn(format!("{}:{number}", kinds[number % 4]).as_bytes());
            shapes.learn(format!("{}:{number}", word()).as_bytes());
            shapes.learn(word().as_bytes());
        }
        for (key, expected) in
            [("user:77", "user:{d}"), ("price:1", "price:{d}"), ("seldom:5", "{w}:{d}"), ("orderly", "{w}")]
        {
            assert_eq!(shapes.look(key.as_bytes()).name(key.as_bytes()), expected);
        }
    }

    #[test]
    fn few_numbers_may_be_a_type() {
        let mut shapes = Shapes::default();
        for id in 0..500 {
            shapes.learn(format!("v{}/item:{id}", id % 3).as_bytes());
        }
        let shape = shapes.look(b"v2/item:77");
        let few: Vec<bool> = shape.tokens.iter().map(|token| token.is_few).collect();
        assert_eq!(few, [false, true, false, false], "v, 2, item, 77");
    }

    #[test]
    fn a_flood_of_shapes_and_hostile_keys_stay_bounded() {
        let mut shapes = Shapes::default();
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..50_000 {
            let key: Vec<u8> = (0..rng.usize(0..80)).map(|_| rng.u8(..)).collect();
            let shape = shapes.learn(&key);
            assert!(shape.tokens.len() <= TOKENS_MAX && shapes.positions() <= POSITIONS_MAX);
            assert!(shape.tokens.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let _name = shape.name(&key);
        }
        for long in [vec![b'a'; 65_536], b"a:".repeat(30_000), vec![0; 65_536]] {
            let shape = shapes.learn(&long);
            assert!(shape.tokens.len() <= TOKENS_MAX);
            assert!(shape.tokens.last().is_some_and(|token| token.end <= long.len()));
        }
    }
}
