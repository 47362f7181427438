//! The search for a run of single-byte elements in a text: first element by element, then 64 elements at a time.

/// What one byte of the text is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// This byte.
    Byte(u8),
    /// Every byte.
    Any,
    /// The bytes of the set with this index.
    Set(u16),
}

/// A set of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ByteSet([u64; 4]);

impl ByteSet {
    /// The set of all bytes.
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    /// Returns the set of one byte.
    pub(super) fn of(byte: u8) -> Self {
        let mut set = Self::default();
        set.insert(byte);
        set
    }

    /// Returns whether the set contains all bytes of `other`.
    pub(crate) fn contains_all(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(own, other)| other & !own == 0)
    }

    /// Returns the lowest byte.
    pub(super) fn first(&self) -> Option<u8> {
        let at = self.0.iter().position(|word| *word != 0)?;
        Some((at as u32 * 64 + self.0[at].trailing_zeros()) as u8)
    }

    pub(super) fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    pub(super) fn complement(&self) -> Self {
        Self(self.0.map(|word| !word))
    }

    pub(super) fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    pub(super) fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|byte| self.contains(*byte))
    }
}

impl Element {
    fn accepts(self, sets: &[ByteSet], byte: u8) -> bool {
        match self {
            Self::Byte(own) => own == byte,
            Self::Any => true,
            Self::Set(at) => sets[usize::from(at)].contains(byte),
        }
    }
}

/// Number of comparisons per element before a search builds its table. Filling the table takes about as long, so that
/// the search takes at most twice the time of the better way.
const PLAIN_STEPS: usize = 64;

/// Returns whether the text begins with bytes that match the elements.
pub(super) fn fits(elements: &[Element], sets: &[ByteSet], text: &[u8]) -> bool {
    elements.len() <= text.len() && elements.iter().zip(text).all(|(element, byte)| element.accepts(sets, *byte))
}

/// Returns the first position at which the text has bytes that match the elements.
pub(super) fn find(elements: &[Element], sets: &[ByteSet], text: &[u8]) -> Option<usize> {
    let last = text.len().checked_sub(elements.len())?;
    let mut steps = 0;
    for start in 0..=last {
        let pairs = elements.iter().zip(&text[start..]);
        let fitting = pairs.take_while(|(element, byte)| element.accepts(sets, **byte)).count();
        if fitting == elements.len() {
            return Some(start);
        }
        steps += fitting + 1;
        if steps > PLAIN_STEPS * elements.len() {
            let found = Table::new(elements, sets).find(&text[start + 1..]);
            return found.map(|at| start + 1 + at);
        }
    }
    None
}

/// For each byte, the elements that match it, one bit each (the algorithm Shift-And). A table is built for one search and
/// not stored with the pattern: it takes up to 32 KiB, and a client may subscribe to thousands of patterns.
struct Table {
    rows: Vec<u64>,
    /// Number of words in a row.
    words: usize,
    elements: usize,
}

impl Table {
    fn new(elements: &[Element], sets: &[ByteSet]) -> Self {
        let words = elements.len().div_ceil(64);
        let mut rows = vec![0; words * 256];
        let mut any = vec![0; words];
        for (at, element) in elements.iter().enumerate() {
            let (word, bit) = (at / 64, 1 << (at % 64));
            match element {
                Element::Byte(byte) => rows[usize::from(*byte) * words + word] |= bit,
                Element::Any => any[word] |= bit,
                Element::Set(set) => {
                    sets[usize::from(*set)].bytes().for_each(|byte| rows[usize::from(byte) * words + word] |= bit);
                }
            }
        }
        for row in rows.chunks_exact_mut(words) {
            row.iter_mut().zip(&any).for_each(|(word, any)| *word |= any);
        }
        Self { rows, words, elements: elements.len() }
    }

    fn find(&self, text: &[u8]) -> Option<usize> {
        let end = if self.words == 1 { self.end_of_short(text) } else { self.end_of_long(text) };
        end.map(|end| end - self.elements)
    }

    /// Returns the end of the first match of at most 64 elements.
    fn end_of_short(&self, text: &[u8]) -> Option<usize> {
        let mut state = 0_u64;
        let found = 1 << (self.elements - 1);
        text.iter()
            .position(|byte| {
                state = (state << 1 | 1) & self.rows[usize::from(*byte)];
                state & found != 0
            })
            .map(|at| at + 1)
    }

    /// Returns the end of the first match of more elements. Bit `n` of the state says that the last `n + 1` bytes match
    /// the first `n + 1` elements.
    fn end_of_long(&self, text: &[u8]) -> Option<usize> {
        let mut state = vec![0_u64; self.words];
        let (last, found) = (self.words - 1, 1 << ((self.elements - 1) % 64));
        text.iter()
            .position(|byte| {
                let row = &self.rows[usize::from(*byte) * self.words..][..self.words];
                let mut carry = 1;
                for (word, mask) in state.iter_mut().zip(row) {
                    let next = *word >> 63;
                    *word = (*word << 1 | carry) & mask;
                    carry = next;
                }
                state[last] & found != 0
            })
            .map(|at| at + 1)
    }
}
