//! What was learned as bytes, to be kept between two lives of a node: associations, rules, the values that positions of keys
//! have shown, the cells of proof, and where the budget has settled. What is in flight is not: fetches, open trials, callers,
//! recent events.
//!
//! A snapshot is a row of blocks: a byte that says what is in it, then that by bincode. Each is made under the learner's lock
//! and small, so that the lock is held for a fraction of a millisecond at a time, while the learner goes on between them; nothing
//! has to be the same moment's (see `associations::kept`). [`FORM`] names the version of all this: it changes with any of
//! the types, and a test knows what they look like.

use super::{
    Learner,
    associations::KeptNode,
    form_of, hash_of,
    proof::{KeptCell, Proof},
    shape::KeptPosition,
    templates::KeptPlace,
};
use crate::kept::{BLOCK_MAX_BYTES, Form};

/// The form of the file.
pub const FORM: Form = Form { name: "terrace-learned ", version: "v02\n" };
/// Nodes, and skeletons, of one block: about a tenth of a millisecond.
const NODES: usize = 256;
const PLACES: usize = 16;

/// What a block holds, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Cells = 0,
    Positions = 1,
    Rules = 2,
    Nodes = 3,
    Words = 4,
    Budget = 5,
}

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BLOCK_MAX_BYTES>()
}

/// How far a snapshot has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    has_cells: bool,
    has_positions: bool,
    has_words: bool,
    has_budget: bool,
    place: usize,
    node: usize,
}

impl Learner {
    /// The next block; `None` after the last.
    #[must_use]
    pub fn keep(&self, cursor: &mut Cursor) -> Option<Vec<u8>> {
        if !std::mem::replace(&mut cursor.has_cells, true) {
            return encoded(Part::Cells, &self.proof.kept());
        }
        if !std::mem::replace(&mut cursor.has_positions, true) {
            return encoded(Part::Positions, &self.templates.shapes().kept());
        }
        if !std::mem::replace(&mut cursor.has_words, true) {
            return encoded(Part::Words, &self.templates.shapes().kept_words());
        }
        if !std::mem::replace(&mut cursor.has_budget, true) {
            return encoded(Part::Budget, &self.budget.kept());
        }
        let places = self.templates.kept(cursor.place, PLACES);
        if !places.is_empty() {
            cursor.place += places.len();
            return encoded(Part::Rules, &places);
        }
        let nodes = self.graph.kept(cursor.node, NODES);
        cursor.node += nodes.len();
        if nodes.is_empty() { None } else { encoded(Part::Nodes, &nodes) }
    }

    /// Takes back one block of a learner that was; this one is new. What finds no room is left out.
    ///
    /// # Errors
    /// What is wrong with the block: then this learner is of no use.
    pub fn take(&mut self, block: &[u8]) -> Result<(), String> {
        let (&part, bytes) = block.split_first().ok_or("an empty block")?;
        let taken = match part {
            part if part == Part::Cells as u8 => self.take_cells(bytes),
            part if part == Part::Positions as u8 => self.take_positions(bytes),
            part if part == Part::Rules as u8 => self.take_rules(bytes),
            part if part == Part::Nodes as u8 => self.take_nodes(bytes),
            part if part == Part::Words as u8 => self.take_words(bytes),
            part if part == Part::Budget as u8 => decoded(bytes).and_then(|kept| self.budget.take(kept)),
            _ => None,
        };
        taken.ok_or_else(|| "a block is not what was learned".to_owned())
    }

    fn take_cells(&mut self, bytes: &[u8]) -> Option<()> {
        self.proof = Proof::of_kept(&decoded::<Vec<KeptCell>>(bytes)?)?;
        Some(())
    }

    fn take_positions(&mut self, bytes: &[u8]) -> Option<()> {
        self.templates.shapes_mut().take(decoded::<Vec<KeptPosition>>(bytes)?);
        Some(())
    }

    fn take_words(&mut self, bytes: &[u8]) -> Option<()> {
        self.templates.shapes_mut().take_words(&decoded::<Vec<u16>>(bytes)?)
    }

    fn take_rules(&mut self, bytes: &[u8]) -> Option<()> {
        decoded::<Vec<KeptPlace>>(bytes)?.into_iter().try_for_each(|place| self.templates.take(place))
    }

    fn take_nodes(&mut self, bytes: &[u8]) -> Option<()> {
        for node in decoded::<Vec<KeptNode>>(bytes)? {
            let (hash, form) = (hash_of(&node.0), form_of(&node.0, &self.templates.shapes().look(&node.0)));
            self.graph.take(node, hash, form)?;
        }
        Some(())
    }
}

fn encoded<T: bincode::Encode>(part: Part, value: &T) -> Option<Vec<u8>> {
    let mut block = vec![part as u8];
    // Writing to a Vec cannot fail.
    bincode::encode_into_std_write(value, &mut block, format()).ok()?;
    Some(block)
}

/// All of the bytes as one value; a length that they cannot hold is refused before memory is taken for it.
fn decoded<T: bincode::Decode<()>>(bytes: &[u8]) -> Option<T> {
    let (value, used) = bincode::decode_from_slice(bytes, format()).ok()?;
    (used == bytes.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::{Caller, Moment, Presence, Settings, World};

    /// One that has read users, each with a profile, and a chain of other keys.
    fn taught(users: std::ops::Range<u32>) -> Learner {
        let mut learner = Learner::new(Settings::default());
        let world = World { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
        for user in users {
            for key in [format!("user:{user}"), format!("profile:{user}"), format!("page/{}", user % 50)] {
                let mut fetched = Vec::new();
                learner.learn(key.as_bytes(), Caller(1), Moment::Missed, &world, &mut fetched);
                fetched.iter().for_each(|key| learner.unused(key));
            }
        }
        learner
    }

    fn blocks(learner: &Learner) -> Vec<Vec<u8>> {
        let mut cursor = Cursor::default();
        std::iter::from_fn(|| learner.keep(&mut cursor)).collect()
    }

    fn restored(blocks: &[Vec<u8>]) -> Result<Learner, String> {
        let mut learner = Learner::new(Settings::default());
        blocks.iter().try_for_each(|block| learner.take(block)).map(|()| learner)
    }

    #[test]
    fn what_was_learned_comes_back() {
        let learner = taught(0..1_000);
        let blocks = blocks(&learner);
        let back = restored(&blocks).expect("it is whole");
        assert_eq!((back.keys(), back.rules()), (learner.keys(), learner.rules()));
        assert!(!learner.rules().is_empty());
        let bytes: usize = blocks.iter().map(Vec::len).sum();
        assert!(bytes < learner.bytes(), "{bytes} bytes of {}", learner.bytes());
        let world = World { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
        for key in ["user:17", "user:99999", "page/7"] {
            let key = key.as_bytes();
            let likely = |learner: &Learner| -> Vec<_> {
                learner.predict(key, &world).into_iter().map(|it| (it.key, it.p)).collect()
            };
            assert_eq!(likely(&back), likely(&learner));
        }
        assert!(back.predict(b"user:99999", &world).iter().any(|it| it.key == b"profile:99999" && it.p > 0.5));
    }

    #[test]
    fn the_learner_may_go_on_between_two_blocks() {
        let mut learner = Learner::new(Settings { memory_bytes: 1 << 20, ..Settings::default() });
        let world = World { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
        let (mut cursor, mut blocks, mut number) = (Cursor::default(), Vec::new(), 0);
        let mut go_on = |learner: &mut Learner, count: u32| {
            for _ in 0..count {
                number += 1;
                let key = format!("k:{}", number % 40_000);
                learner.learn(key.as_bytes(), Caller(1), Moment::Missed, &world, &mut Vec::new());
            }
        };
        go_on(&mut learner, 20_000);
        while let Some(block) = learner.keep(&mut cursor) {
            blocks.push(block);
            go_on(&mut learner, 200);
        }
        let mut back = Learner::new(Settings { memory_bytes: 1 << 20, ..Settings::default() });
        blocks.iter().try_for_each(|block| back.take(block)).expect("it is whole");
        assert!(back.keys() > 1_000, "{}", back.keys());
        go_on(&mut back, 30_000);
        assert!(back.bytes() <= 16 << 20, "{}", back.bytes());
    }

    #[test]
    fn blocks_that_are_none_are_refused_and_never_panic() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let good = blocks(&taught(0..100));
        assert_eq!(restored(&[Vec::new()]).err(), Some("an empty block".to_owned()));
        for _ in 0..200 {
            let mut bad = good.clone();
            let at = rng.usize(..bad.len());
            let block = &mut bad[at];
            match rng.u8(..3) {
                0 => block.truncate(rng.usize(..block.len())),
                1 => (0..rng.usize(1..20)).for_each(|_| {
                    let at = rng.usize(..block.len());
                    block[at] = rng.u8(..);
                }),
                _ => *block = (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect(),
            }
            // What passes for a learner is one, whatever it has learned.
            if let Ok(mut learner) = restored(&bad) {
                let world = World { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
                for user in 0..10 {
                    for key in [format!("user:{user}"), format!("profile:{user}")] {
                        learner.learn(key.as_bytes(), Caller(1), Moment::Missed, &world, &mut Vec::new());
                        let _predictions = learner.predict(key.as_bytes(), &world);
                    }
                }
            }
        }
    }

    /// Fails when the bytes change: then [`FORM`] needs another version.
    #[test]
    fn the_form_is_that_of_its_version() {
        assert_eq!(FORM.version, "v02\n");
        let cells: Vec<KeptCell> = vec![(3, 1, 2)];
        assert_eq!(encoded(Part::Cells, &cells).unwrap(), [0, 1, 3, 1, 2]);
        let positions: Vec<KeptPosition> = vec![(9, [1, 2, 3, 4], 5)];
        assert_eq!(encoded(Part::Positions, &positions).unwrap(), [1, 1, 9, 1, 2, 3, 4, 5]);
        assert_eq!(encoded(Part::Words, &vec![1_u16, 2]).unwrap(), [4, 2, 1, 2]);
        let budget: crate::learn::budget::KeptBudget = (0.5, 2.0, 1.0);
        assert_eq!(encoded(Part::Budget, &budget).unwrap(), [5, 0, 0, 0, 63, 0, 0, 0, 64, 0, 0, 128, 63]);
        let pieces = vec![(b"b".to_vec(), 0, 0), (Vec::new(), 1, -1)];
        let places: Vec<KeptPlace> = vec![(7, "a{d}".to_owned(), vec![(pieces, 2, 3, 4)])];
        let expected = [2, 1, 7, 4, b'a', b'{', b'd', b'}', 1, 2, 1, b'b', 0, 0, 0, 1, 255, 2, 3, 4];
        assert_eq!(encoded(Part::Rules, &places).unwrap(), expected);
        let nodes: Vec<KeptNode> = vec![(b"k".to_vec(), 2, 1, 0, vec![(300, 0, 5, 3, 1)])];
        assert_eq!(encoded(Part::Nodes, &nodes).unwrap(), [3, 1, 1, b'k', 2, 1, 0, 1, 251, 44, 1, 0, 5, 3, 1]);
    }
}
