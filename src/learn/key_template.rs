//! Key templates: the key `user:17:profile` has the template `user:{d}:profile`.
//!
//! A key is split at every byte that is neither letter nor digit, and digits at the end of a word are a token of their own
//! (`page12` is `page{d}`). A UUID is one token. Numbers, hexadecimal numbers, UUIDs and mixtures are always variables. A word
//! becomes a variable when its position has shown many different words, so that names of tenants or users are found
//! without configuration. Frequent words stay literal, so that `user:17` does not become `{w}:{d}` because other keys begin
//! with arbitrary words. A position is identified by the text before it, with variables marked, and by the separator after
//! it: values after `user:` do not affect the position after `order:`.
//!
//! Bounded: [`TOKENS_MAX`] tokens of the first [`SPLIT_BYTES`] of a key, [`POSITIONS_MAX`] positions of 48 bytes. Keys
//! without any structure have few templates, because their words soon become variables.

use hashbrown::{HashMap, hash_map::Entry};
use smallvec::SmallVec;

/// Maximum number of tokens of a key in a key template. The remainder of the key is one more token.
pub const TOKENS_MAX: usize = 16;
/// Bytes of a key that are split; the rest is one token.
const SPLIT_BYTES: usize = 256;
/// Maximum number of token positions whose values are counted (about 200 KB).
pub const POSITIONS_MAX: usize = 4_096;
/// Different words (bits of a bitmap of 256) that make the words of a position variable: 34 words set 32 bits.
const WORDS_MANY: u32 = 32;
/// Different words that make the first token of a key variable, which usually names the type of the object: 120 words.
const FIRST_WORDS_MANY: u32 = 96;
/// A word is frequent if it is at least 1 in this many words of its position: with that few words, none would be variable.
const FREQUENT_PART: u32 = 34;
const FIRST_FREQUENT_PART: u32 = 120;
/// Minimum count of a frequent word: below it, its part is not significant.
const FREQUENT_MIN: u32 = 16;
/// Counters in each of two rows: 64 KB. They are halved when [`COUNTED_MAX`] words were counted; a count is then too high by
/// 4 on average.
const COUNTS: usize = 16_384;
const COUNTED_MAX: u32 = 65_536;
/// Different numbers below which a position is assumed to hold a type or a version, not an id.
const NUMBERS_FEW: u32 = 32;

/// The class of a token, from its characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenClass {
    /// Digits.
    Digits,
    /// Hexadecimal digits: at least 8 with a decimal digit among them, or at least 12.
    Hex,
    /// 8-4-4-4-12 hexadecimal digits.
    Uuid,
    /// Letters and digits mixed, or bytes that are not text.
    Mixed,
    /// Letters.
    Word,
}

impl TokenClass {
    /// Returns the mark of a variable of this class in a template.
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
    /// Start in the key, in bytes.
    pub start: usize,
    /// End in the key, in bytes.
    pub end: usize,
    /// Class of its characters.
    pub class: TokenClass,
    /// The token is a variable.
    pub is_variable: bool,
    /// The token is a number at a position with few different numbers: it may be a type or a version.
    pub is_few: bool,
}

impl Token {
    /// Returns the bytes of the token in its key.
    #[must_use]
    pub fn of<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        key.get(self.start..self.end).unwrap_or_default()
    }
}

/// The template of one key: its tokens in order. The text between two tokens separates them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    /// The tokens.
    pub tokens: SmallVec<[Token; TOKENS_MAX]>,
    /// Hash of the template: equal for all keys that differ only in variables.
    pub hash: u64,
}

impl KeyTemplate {
    /// Returns the template as text: `user:{d}:profile`. `key` is the key that the template was made of.
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

/// Learns which positions of keys hold variables.
#[derive(Debug, Default)]
pub struct KeyTemplates {
    positions: HashMap<u64, PositionValues, foldhash::fast::FixedState>,
    words: WordCounts,
}

/// Snapshot row: a position, a bit for each of 256 values, and the number of values that were counted.
pub type PositionRow = (u64, [u64; 4], u32);

/// The values that a position has shown, as a bitmap of 256 hashes, and the number of values that were counted.
#[derive(Debug, Clone, Copy, Default)]
struct PositionValues {
    shown: [u64; 4],
    total: u32,
}

impl PositionValues {
    fn note(&mut self, hash: u64) {
        let bit = hash >> 56;
        self.shown[(bit / 64) as usize] |= 1 << (bit % 64);
        self.total = self.total.saturating_add(1);
    }

    fn count(&self) -> u32 {
        self.shown.iter().map(|word| word.count_ones()).sum()
    }
}

/// Counts of words by position: a count-min sketch that is halved periodically.
#[derive(Debug)]
struct WordCounts {
    rows: [Box<[u16]>; 2],
    counted: u32,
}

impl Default for WordCounts {
    fn default() -> Self {
        Self { rows: [0; 2].map(|_| vec![0; COUNTS].into()), counted: 0 }
    }
}

impl WordCounts {
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

/// Statistics of a value at its position.
#[derive(Debug, Clone, Copy, Default)]
struct ValueStats {
    /// Number of different values of the position.
    values: u32,
    /// The value is at least 1 in this many values of the position.
    one_in: u32,
}

impl KeyTemplates {
    /// Returns the template of a key, and learns from the key.
    pub fn learn(&mut self, key: &[u8]) -> KeyTemplate {
        template_of(key, |position, value, class| self.note(position, value, class))
    }

    /// Returns the template of a key; learns nothing.
    #[must_use]
    pub fn look(&self, key: &[u8]) -> KeyTemplate {
        template_of(key, |position, value, class| self.stats(position, value, class))
    }

    /// Counts a value at its position.
    fn note(&mut self, position: u64, value: u64, class: TokenClass) -> ValueStats {
        if self.positions.len() >= POSITIONS_MAX && !self.positions.contains_key(&position) {
            self.make_room();
        }
        match self.positions.entry(position) {
            Entry::Occupied(mut there) => there.get_mut().note(value),
            Entry::Vacant(free) => free.insert(PositionValues::default()).note(value),
        }
        if class == TokenClass::Word {
            self.words.note(position, value);
            if self.words.counted >= COUNTED_MAX {
                self.words.halve();
                self.positions.values_mut().for_each(|values| values.total /= 2);
            }
        }
        self.stats(position, value, class)
    }

    fn stats(&self, position: u64, value: u64, class: TokenClass) -> ValueStats {
        let Some(values) = self.positions.get(&position) else { return ValueStats { values: 0, one_in: u32::MAX } };
        let count = if class == TokenClass::Word { self.words.count(position, value) } else { 0 };
        let one_in = if count < FREQUENT_MIN { u32::MAX } else { values.total / count };
        ValueStats { values: values.count(), one_in }
    }

    /// Removes the positions with a single value. Removes all positions if that is not enough.
    fn make_room(&mut self) {
        self.positions.retain(|_, values| values.count() > 1);
        if self.positions.len() > POSITIONS_MAX / 2 {
            self.positions.clear();
        }
    }

    /// Returns the snapshot rows of the positions.
    #[must_use]
    pub fn position_rows(&self) -> Vec<PositionRow> {
        self.positions.iter().map(|(&position, values)| (position, values.shown, values.total)).collect()
    }

    /// Restores positions from snapshot rows, at most [`POSITIONS_MAX`].
    pub fn restore_positions(&mut self, positions: Vec<PositionRow>) {
        let positions = positions.into_iter().take(POSITIONS_MAX);
        self.positions =
            positions.map(|(position, shown, total)| (position, PositionValues { shown, total })).collect();
    }

    /// Returns the word counts for a snapshot.
    #[must_use]
    pub fn word_rows(&self) -> Vec<u16> {
        self.words.rows.iter().flat_map(|row| row.iter().copied()).collect()
    }

    /// Restores word counts; `None` if their number is wrong.
    pub fn restore_words(&mut self, counts: &[u16]) -> Option<()> {
        if counts.len() != 2 * COUNTS {
            return None;
        }
        for (row, kept) in self.words.rows.iter_mut().zip(counts.chunks(COUNTS)) {
            row.copy_from_slice(kept);
        }
        Some(())
    }

    /// Returns the number of positions.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.positions.len()
    }
}

/// Splits a key; `stats` returns the statistics of a value at a position.
fn template_of(key: &[u8], mut stats: impl FnMut(u64, u64, TokenClass) -> ValueStats) -> KeyTemplate {
    let mut tokens = split(key);
    let (mut hash, mut at) = (stable_hash(0, b""), 0);
    for (number, token) in tokens.iter_mut().enumerate() {
        hash = stable_hash(hash, &key[at..token.start]);
        let text = &key[token.start..token.end];
        match token.class {
            TokenClass::Word => {
                let (many, part) = match number {
                    0 => (FIRST_WORDS_MANY, FIRST_FREQUENT_PART),
                    _ => (WORDS_MANY, FREQUENT_PART),
                };
                let position = stable_hash(hash, &key[token.end..key.len().min(token.end + 1)]);
                let ValueStats { values, one_in } = stats(position, stable_hash(1, text), token.class);
                token.is_variable = values >= many && one_in > part;
            }
            TokenClass::Digits => {
                token.is_few = stats(hash ^ 1, stable_hash(1, text), token.class).values < NUMBERS_FEW;
            }
            TokenClass::Hex | TokenClass::Uuid | TokenClass::Mixed => {}
        }
        hash =
            if token.is_variable { stable_hash(hash, token.class.mark().as_bytes()) } else { stable_hash(hash, text) };
        at = token.end;
    }
    KeyTemplate { hash: stable_hash(hash, &key[at..]), tokens }
}

/// Returns the tokens of a key; words are not variables yet.
fn split(key: &[u8]) -> SmallVec<[Token; TOKENS_MAX]> {
    let mut tokens = SmallVec::new();
    let mut at = 0;
    while at < key.len() {
        if is_separator(key[at]) {
            at += 1;
            continue;
        }
        // A run is up to two tokens.
        if tokens.len() >= TOKENS_MAX - 2 || at >= SPLIT_BYTES {
            tokens.push(variable(at, key.len(), TokenClass::Mixed));
            break;
        }
        if is_uuid(key, at) {
            tokens.push(variable(at, at + UUID_BYTES, TokenClass::Uuid));
            at += UUID_BYTES;
            continue;
        }
        let end = key[at..].iter().position(|&byte| is_separator(byte)).map_or(key.len(), |length| at + length);
        push_run(&mut tokens, key, at, end);
        at = end;
    }
    tokens
}

/// Adds a run without separators: one token, or a word and the digits at its end.
fn push_run(tokens: &mut SmallVec<[Token; TOKENS_MAX]>, key: &[u8], start: usize, end: usize) {
    let class = token_class(&key[start..end]);
    if class != TokenClass::Mixed {
        return tokens.push(Token { is_variable: class != TokenClass::Word, ..variable(start, end, class) });
    }
    let digits = key[start..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > 0 && token_class(&key[start..end - digits]) == TokenClass::Word {
        tokens.push(Token { is_variable: false, ..variable(start, end - digits, TokenClass::Word) });
        return tokens.push(variable(end - digits, end, TokenClass::Digits));
    }
    tokens.push(variable(start, end, class));
}

fn variable(start: usize, end: usize, class: TokenClass) -> Token {
    Token { start, end, class, is_variable: true, is_few: false }
}

fn is_separator(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric() && !byte.is_ascii_control()
}

fn token_class(run: &[u8]) -> TokenClass {
    let (mut digits, mut hexes, mut letters) = (0, 0, 0);
    for byte in run {
        digits += usize::from(byte.is_ascii_digit());
        hexes += usize::from(byte.is_ascii_hexdigit());
        // Letters of other scripts take several bytes, none of them ASCII.
        letters += usize::from(byte.is_ascii_alphabetic() || !byte.is_ascii());
    }
    match run.len() {
        length if digits == length => TokenClass::Digits,
        length if hexes == length && (length >= 12 || length >= 8 && digits > 0) => TokenClass::Hex,
        length if letters == length => TokenClass::Word,
        _ => TokenClass::Mixed,
    }
}

const UUID_BYTES: usize = 36;

/// Returns whether a UUID starts at `at` and a separator or the end of the key follows it.
fn is_uuid(key: &[u8], at: usize) -> bool {
    let Some(text) = key.get(at..at + UUID_BYTES) else { return false };
    let dashes = [8, 13, 18, 23];
    key.get(at + UUID_BYTES).is_none_or(|&byte| is_separator(byte))
        && text.iter().enumerate().all(|(place, byte)| match dashes.contains(&place) {
            true => *byte == b'-',
            false => byte.is_ascii_hexdigit(),
        })
}

/// Returns the FNV-1a hash of `text`, continued from `hash` and mixed. It is the same after a restart. Keys that are built to
/// collide get their templates counted as one.
pub(crate) fn stable_hash(hash: u64, text: &[u8]) -> u64 {
    let start = hash ^ 0xCBF2_9CE4_8422_2325;
    let hash = text.iter().fold(start, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    (hash ^ hash >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> String {
        KeyTemplates::default().look(key.as_bytes()).name(key.as_bytes())
    }

    #[test]
    fn variables_are_found_without_learning() {
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
    fn a_word_is_a_variable_at_a_position_with_many_words() {
        let mut templates = KeyTemplates::default();
        let word = |number: usize| -> String {
            (0..4).map(|place| char::from(b'a' + (number / 7_usize.pow(place) % 26) as u8)).collect()
        };
        for number in 0..200 {
            templates.learn(format!("session:{}:cart", word(number)).as_bytes());
        }
        for (key, expected) in [("session:quentin:cart", "session:{w}:cart"), ("other:quentin", "other:quentin")] {
            assert_eq!(templates.look(key.as_bytes()).name(key.as_bytes()), expected);
        }
        let [left, right] = ["session:ab:cart", "session:cd:cart"].map(|key| templates.look(key.as_bytes()).hash);
        assert_eq!(left, right, "one template, one hash");
        assert_ne!(left, templates.look(b"session:ab:list").hash);
    }

    #[test]
    fn a_frequent_word_stays_literal_among_many_others() {
        let mut templates = KeyTemplates::default();
        let mut rng = fastrand::Rng::with_seed(6);
        let mut word = || -> String { (0..9).map(|_| rng.lowercase()).collect() };
        let prefixes = ["user", "profile", "order", "price"];
        for number in 0..4_000 {
            templates.learn(format!("{}:{number}", prefixes[number % 4]).as_bytes());
            templates.learn(format!("{}:{number}", word()).as_bytes());
            templates.learn(word().as_bytes());
        }
        for (key, expected) in
            [("user:77", "user:{d}"), ("price:1", "price:{d}"), ("seldom:5", "{w}:{d}"), ("orderly", "{w}")]
        {
            assert_eq!(templates.look(key.as_bytes()).name(key.as_bytes()), expected);
        }
    }

    #[test]
    fn few_numbers_may_be_a_type() {
        let mut templates = KeyTemplates::default();
        for id in 0..500 {
            templates.learn(format!("v{}/item:{id}", id % 3).as_bytes());
        }
        let template = templates.look(b"v2/item:77");
        let few: Vec<bool> = template.tokens.iter().map(|token| token.is_few).collect();
        assert_eq!(few, [false, true, false, false], "v, 2, item, 77");
    }

    #[test]
    fn a_flood_of_templates_and_hostile_keys_stay_bounded() {
        let mut templates = KeyTemplates::default();
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..50_000 {
            let key: Vec<u8> = (0..rng.usize(0..80)).map(|_| rng.u8(..)).collect();
            let template = templates.learn(&key);
            assert!(template.tokens.len() <= TOKENS_MAX && templates.positions() <= POSITIONS_MAX);
            assert!(template.tokens.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let _name = template.name(&key);
        }
        for long in [vec![b'a'; 65_536], b"a:".repeat(30_000), vec![0; 65_536]] {
            let template = templates.learn(&long);
            assert!(template.tokens.len() <= TOKENS_MAX);
            assert!(template.tokens.last().is_some_and(|token| token.end <= long.len()));
        }
    }
}
