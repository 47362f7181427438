//! Snapshots of the learned prefetch state, which a node restores after a restart: associations, rules, key templates, the
//! cells of proof, and the settled part of the budget. State that is in flight is not saved: fetches, open trials, callers,
//! recent events.
//!
//! A snapshot is a sequence of blocks. The first byte of a block is its kind, its rows follow as bincode. Blocks are small
//! and are made one by one under the learner's lock, which is held for a fraction of a millisecond at a time. The learner
//! continues between blocks, because blocks need not be of the same moment (see `associations::snapshot_rows`). [`FORM`]
//! holds the version of the format: it changes with any of the row types, and a test compares their bytes.

use super::{
    key_class::{class_of, key_hash},
    key_template::PositionRow,
    prefetch::{BudgetRow, CellRow, Learner, NodeRow, Proof, SkeletonRow},
};
use crate::persist::file::{BLOCK_MAX_BYTES, Form};

/// Name and version of the file format.
pub const FORM: Form = Form { name: "terrace-learned ", version: "v02\n" };
/// Nodes, and skeletons, in one block: each takes about 0.1 ms.
const NODES: usize = 256;
const SKELETONS: usize = 16;

/// The kind of rows in a block: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockKind {
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

/// Progress of a snapshot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    has_cells: bool,
    has_positions: bool,
    has_words: bool,
    has_budget: bool,
    skeleton: usize,
    node: usize,
}

impl Learner {
    /// Returns the next block of a snapshot; `None` after the last.
    #[must_use]
    pub fn next_block(&self, cursor: &mut Cursor) -> Option<Vec<u8>> {
        if !std::mem::replace(&mut cursor.has_cells, true) {
            return encoded(BlockKind::Cells, &self.proof.rows());
        }
        if !std::mem::replace(&mut cursor.has_positions, true) {
            return encoded(BlockKind::Positions, &self.rules.templates().position_rows());
        }
        if !std::mem::replace(&mut cursor.has_words, true) {
            return encoded(BlockKind::Words, &self.rules.templates().word_rows());
        }
        if !std::mem::replace(&mut cursor.has_budget, true) {
            return encoded(BlockKind::Budget, &self.budget.row());
        }
        let skeletons = self.rules.rows(cursor.skeleton, SKELETONS);
        if !skeletons.is_empty() {
            cursor.skeleton += skeletons.len();
            return encoded(BlockKind::Rules, &skeletons);
        }
        let nodes = self.graph.rows(cursor.node, NODES);
        cursor.node += nodes.len();
        if nodes.is_empty() { None } else { encoded(BlockKind::Nodes, &nodes) }
    }

    /// Restores one block into a new learner. Nodes that find no room are left out.
    ///
    /// # Errors
    /// Describes the fault of the block. Discard the learner after an error.
    pub fn restore_block(&mut self, block: &[u8]) -> Result<(), String> {
        let (&kind, bytes) = block.split_first().ok_or("the block is empty")?;
        let restored = match kind {
            kind if kind == BlockKind::Cells as u8 => self.restore_cells(bytes),
            kind if kind == BlockKind::Positions as u8 => self.restore_positions(bytes),
            kind if kind == BlockKind::Rules as u8 => self.restore_rules(bytes),
            kind if kind == BlockKind::Nodes as u8 => self.restore_nodes(bytes),
            kind if kind == BlockKind::Words as u8 => self.restore_words(bytes),
            kind if kind == BlockKind::Budget as u8 => self.restore_budget(bytes),
            _ => None,
        };
        restored.ok_or_else(|| "the block has invalid rows".to_owned())
    }

    fn restore_cells(&mut self, bytes: &[u8]) -> Option<()> {
        self.proof = Proof::from_rows(&decoded::<Vec<CellRow>>(bytes)?)?;
        Some(())
    }

    fn restore_positions(&mut self, bytes: &[u8]) -> Option<()> {
        self.rules.templates_mut().restore_positions(decoded::<Vec<PositionRow>>(bytes)?);
        Some(())
    }

    fn restore_words(&mut self, bytes: &[u8]) -> Option<()> {
        self.rules.templates_mut().restore_words(&decoded::<Vec<u16>>(bytes)?)
    }

    fn restore_budget(&mut self, bytes: &[u8]) -> Option<()> {
        self.budget.restore(decoded::<BudgetRow>(bytes)?)
    }

    fn restore_rules(&mut self, bytes: &[u8]) -> Option<()> {
        decoded::<Vec<SkeletonRow>>(bytes)?.into_iter().try_for_each(|skeleton| self.rules.restore(skeleton))
    }

    fn restore_nodes(&mut self, bytes: &[u8]) -> Option<()> {
        for node in decoded::<Vec<NodeRow>>(bytes)? {
            let template = self.rules.templates().look(&node.0);
            let (hash, class) = (key_hash(&node.0), class_of(&node.0, &template));
            self.graph.restore(node, hash, class)?;
        }
        Some(())
    }
}

fn encoded<T: bincode::Encode>(kind: BlockKind, value: &T) -> Option<Vec<u8>> {
    let mut block = vec![kind as u8];
    // Writing to a Vec cannot fail.
    bincode::encode_into_std_write(value, &mut block, format()).ok()?;
    Some(block)
}

/// Decodes all bytes as one value. A length that the bytes cannot hold is rejected before memory is allocated for it.
fn decoded<T: bincode::Decode<()>>(bytes: &[u8]) -> Option<T> {
    let (value, used) = bincode::decode_from_slice(bytes, format()).ok()?;
    (used == bytes.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::{
        prefetch::{L1View, PrefetchSettings, Presence, Trigger},
        recorder::Caller,
    };

    /// Returns a learner that has read users, each with a profile, and a chain of other keys.
    fn taught(users: std::ops::Range<u32>) -> Learner {
        let mut learner = Learner::new(PrefetchSettings::default());
        let l1 = L1View { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
        for user in users {
            for key in [format!("user:{user}"), format!("profile:{user}"), format!("page/{}", user % 50)] {
                let mut fetched = Vec::new();
                learner.learn(key.as_bytes(), Caller(1), Trigger::Miss, &l1, &mut fetched);
                fetched.iter().for_each(|key| learner.unused(key));
            }
        }
        learner
    }

    fn blocks(learner: &Learner) -> Vec<Vec<u8>> {
        let mut cursor = Cursor::default();
        std::iter::from_fn(|| learner.next_block(&mut cursor)).collect()
    }

    fn restored(blocks: &[Vec<u8>]) -> Result<Learner, String> {
        let mut learner = Learner::new(PrefetchSettings::default());
        blocks.iter().try_for_each(|block| learner.restore_block(block)).map(|()| learner)
    }

    #[test]
    fn learned_state_is_restored() {
        let learner = taught(0..1_000);
        let blocks = blocks(&learner);
        let back = restored(&blocks).expect("it is whole");
        assert_eq!((back.keys(), back.rules()), (learner.keys(), learner.rules()));
        assert!(!learner.rules().is_empty());
        let bytes: usize = blocks.iter().map(Vec::len).sum();
        assert!(bytes < learner.bytes(), "{bytes} bytes of {}", learner.bytes());
        let l1 = L1View { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
        for key in ["user:17", "user:99999", "page/7"] {
            let key = key.as_bytes();
            let likely = |learner: &Learner| -> Vec<_> {
                learner.predict(key, &l1).into_iter().map(|it| (it.key, it.p)).collect()
            };
            assert_eq!(likely(&back), likely(&learner));
        }
        assert!(back.predict(b"user:99999", &l1).iter().any(|it| it.key == b"profile:99999" && it.p > 0.5));
    }

    #[test]
    fn the_learner_may_continue_between_two_blocks() {
        let mut learner = Learner::new(PrefetchSettings { memory_bytes: 1 << 20, ..PrefetchSettings::default() });
        let l1 = L1View { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
        let (mut cursor, mut blocks, mut number) = (Cursor::default(), Vec::new(), 0);
        let mut go_on = |learner: &mut Learner, count: u32| {
            for _ in 0..count {
                number += 1;
                let key = format!("k:{}", number % 40_000);
                learner.learn(key.as_bytes(), Caller(1), Trigger::Miss, &l1, &mut Vec::new());
            }
        };
        go_on(&mut learner, 20_000);
        while let Some(block) = learner.next_block(&mut cursor) {
            blocks.push(block);
            go_on(&mut learner, 200);
        }
        let mut back = Learner::new(PrefetchSettings { memory_bytes: 1 << 20, ..PrefetchSettings::default() });
        blocks.iter().try_for_each(|block| back.restore_block(block)).expect("it is whole");
        assert!(back.keys() > 1_000, "{}", back.keys());
        go_on(&mut back, 30_000);
        assert!(back.bytes() <= 16 << 20, "{}", back.bytes());
    }

    #[test]
    fn invalid_blocks_are_rejected_and_never_panic() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let good = blocks(&taught(0..100));
        assert_eq!(restored(&[Vec::new()]).err(), Some("the block is empty".to_owned()));
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
            // A block that is accepted gives a working learner, whatever it contains.
            if let Ok(mut learner) = restored(&bad) {
                let l1 = L1View { presence: &|_| Presence::Absent, room: 10_000, displaced: 0 };
                for user in 0..10 {
                    for key in [format!("user:{user}"), format!("profile:{user}")] {
                        learner.learn(key.as_bytes(), Caller(1), Trigger::Miss, &l1, &mut Vec::new());
                        let _predictions = learner.predict(key.as_bytes(), &l1);
                    }
                }
            }
        }
    }

    /// Fails when the bytes change: [`FORM`] then needs a new version.
    #[test]
    fn the_format_matches_its_version() {
        assert_eq!(FORM.version, "v02\n");
        let cells: Vec<CellRow> = vec![(3, 1, 2)];
        assert_eq!(encoded(BlockKind::Cells, &cells).unwrap(), [0, 1, 3, 1, 2]);
        let positions: Vec<PositionRow> = vec![(9, [1, 2, 3, 4], 5)];
        assert_eq!(encoded(BlockKind::Positions, &positions).unwrap(), [1, 1, 9, 1, 2, 3, 4, 5]);
        assert_eq!(encoded(BlockKind::Words, &vec![1_u16, 2]).unwrap(), [4, 2, 1, 2]);
        let budget: BudgetRow = (0.5, 2.0, 1.0);
        assert_eq!(encoded(BlockKind::Budget, &budget).unwrap(), [5, 0, 0, 0, 63, 0, 0, 0, 64, 0, 0, 128, 63]);
        let pieces = vec![(b"b".to_vec(), 0, 0), (Vec::new(), 1, -1)];
        let skeletons: Vec<SkeletonRow> = vec![(7, "a{d}".to_owned(), vec![(pieces, 2, 3, 4)])];
        let expected = [2, 1, 7, 4, b'a', b'{', b'd', b'}', 1, 2, 1, b'b', 0, 0, 0, 1, 255, 2, 3, 4];
        assert_eq!(encoded(BlockKind::Rules, &skeletons).unwrap(), expected);
        let nodes: Vec<NodeRow> = vec![(b"k".to_vec(), 2, 1, 0, vec![(300, 0, 5, 3, 1)])];
        assert_eq!(encoded(BlockKind::Nodes, &nodes).unwrap(), [3, 1, 1, b'k', 2, 1, 0, 1, 251, 44, 1, 0, 5, 3, 1]);
    }
}
