//! Estimates how often predictions come true, from the outcomes of predictions in the same state.
//!
//! An association that was seen once has proven nothing. But many associations are *in the same state* (number of trials,
//! outcomes of the last three trials, opinions of the keys before), and their outcomes are pooled in cells. An association
//! may therefore be used at its first repeat if similar associations have been right. Cells are kept for each pair of key
//! classes (a user's rights always follow, a user's settings only sometimes) and for all pairs together; the cell of the pair
//! is used as soon as it has enough trials. Counts are halved when they are full. There is no other aging: a pair that stops
//! being right is off within about a hundred trials, and recovers as fast.

/// States that depend on the association alone: up to three trials and their outcomes, 1 + 2 + 4 + 8, rounded up; and as many
/// for predictions without outcomes of their own ([`ProofState::shared`]).
pub(super) const OWN: usize = OWN_TRIED + OWN_SHARED;
const OWN_TRIED: usize = 16;
const OWN_SHARED: usize = 16;
/// Opinions that a key before may have of the same target.
pub(super) const OPINIONS: usize = 5;
/// Cells of one pair.
const CELLS: usize = OWN * OPINIONS * OPINIONS;
/// Pairs of key classes that are distinguished.
const PAIRS: usize = 256;
/// Trials that the cell of a pair, the cell of all pairs, and the state alone need before they are used.
const PAIR_TRIALS: u32 = 16;
const ALL_TRIALS: u32 = 8;
const OWN_TRIALS: u32 = 8;
/// Trials at which counts are halved.
const PAIR_MAX: u16 = 256;
const ALL_MAX: u16 = 1_024;

/// The state of a prediction: the pair of key classes, and the number of the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProofState {
    pub(super) pair: u8,
    pub(super) cell: u16,
}

/// The opinion that a key that came before has of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion {
    /// There is no such key, or it was seen only once.
    Unknown,
    /// The target is not a successor of the key.
    Silent,
    /// The target did not follow the key last time.
    Failed,
    /// The target followed the key last time.
    Followed,
    /// The target followed the key the last two times.
    Followed2,
}

impl ProofState {
    /// Returns the state after `tried` trials with their outcomes in `history`, the last in the lowest bit.
    pub(super) fn new(pair: u8, tried: u8, history: u8, before: [Opinion; 2]) -> Self {
        let bits = tried.min(3);
        let own = (1 << bits) - 1 + usize::from(history & ((1 << bits) - 1));
        let cell = (own * OPINIONS + before[0] as usize) * OPINIONS + before[1] as usize;
        Self { pair, cell: cell as u16 }
    }

    /// Returns the state of a prediction without trials of its own (from the shared window): up to `2^far` events ahead, of
    /// a key that is common or not.
    pub(super) fn shared(pair: u8, far: u32, is_common: bool) -> Self {
        let own = OWN_TRIED + (far as usize).min(OWN_SHARED / 2 - 1) * 2 + usize::from(is_common);
        Self { pair, cell: (own * OPINIONS * OPINIONS) as u16 }
    }

    fn own(self) -> usize {
        usize::from(self.cell) / (OPINIONS * OPINIONS)
    }
}

/// Trials, and how many of them were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) right: u16,
    pub(super) trials: u16,
}

impl Tally {
    pub(super) fn note(&mut self, right: bool, max: u16) {
        if self.trials >= max {
            self.right /= 2;
            self.trials /= 2;
        }
        self.right += u16::from(right);
        self.trials += 1;
    }

    /// Returns a cautious estimate of the probability: the lower end of Wilson's interval at one standard deviation.
    pub(super) fn cautious(self) -> f32 {
        let n = f32::from(self.trials.max(1));
        let mean = f32::from(self.right) / n;
        let spread = (mean * (1.0 - mean) / n + 0.25 / (n * n)).sqrt();
        ((mean + 0.5 / n - spread) / (1.0 + 1.0 / n)).max(0.0)
    }
}

/// Snapshot row of a cell: number, trials that were right, trials.
pub(in crate::learn) type CellRow = (u32, u16, u16);

/// All cells: for each pair, for all pairs together, and for the state alone.
pub(in crate::learn) struct Proof {
    pairs: Vec<Tally>,
    all: Vec<Tally>,
    own: Vec<Tally>,
}

impl Default for Proof {
    fn default() -> Self {
        Self {
            pairs: vec![Tally::default(); PAIRS * CELLS],
            all: vec![Tally::default(); CELLS],
            own: vec![Tally::default(); OWN],
        }
    }
}

impl Proof {
    fn pair_cell(state: ProofState) -> usize {
        usize::from(state.pair) * CELLS + usize::from(state.cell)
    }

    /// Adds the outcome of a prediction in this state.
    pub(super) fn note(&mut self, state: ProofState, right: bool) {
        self.pairs[Self::pair_cell(state)].note(right, PAIR_MAX);
        self.all[usize::from(state.cell)].note(right, ALL_MAX);
        self.own[state.own()].note(right, ALL_MAX);
    }

    /// Returns the probability that a prediction in this state is right; 0 while too few outcomes are known.
    pub(super) fn probability(&self, state: ProofState) -> f32 {
        let tallies = [
            (self.pairs[Self::pair_cell(state)], PAIR_TRIALS),
            (self.all[usize::from(state.cell)], ALL_TRIALS),
            (self.own[state.own()], OWN_TRIALS),
        ];
        let decisive = tallies.iter().find(|(tally, least)| u32::from(tally.trials) >= *least);
        decisive.map_or(0.0, |(tally, _)| tally.cautious())
    }

    fn tallies(&mut self) -> impl Iterator<Item = (&mut Tally, u16)> {
        let parts = [(&mut self.pairs, PAIR_MAX), (&mut self.all, ALL_MAX), (&mut self.own, ALL_MAX)];
        parts.into_iter().flat_map(|(tallies, max)| tallies.iter_mut().map(move |tally| (tally, max)))
    }

    /// Returns the snapshot rows of all cells that have trials.
    pub(in crate::learn) fn rows(&self) -> Vec<CellRow> {
        let all = [&self.pairs, &self.all, &self.own].into_iter().flatten();
        let tried = all.enumerate().filter(|(_, tally)| tally.trials > 0);
        tried.map(|(at, tally)| (at as u32, tally.right, tally.trials)).collect()
    }

    /// Restores the cells from snapshot rows; `None` if a row is invalid.
    pub(in crate::learn) fn from_rows(rows: &[CellRow]) -> Option<Self> {
        let mut proof = Self::default();
        let mut cells = proof.tallies().enumerate();
        for &(number, right, trials) in rows {
            // Rows are in order: the cells between two rows have no trials.
            let (_, (tally, max)) = cells.find(|(at, _)| *at == number as usize)?;
            if right > trials || trials > max {
                return None;
            }
            *tally = Tally { right, trials };
        }
        drop(cells);
        Some(proof)
    }

    pub(super) const BYTES: usize = (PAIRS + 1) * CELLS * size_of::<Tally>();
}
