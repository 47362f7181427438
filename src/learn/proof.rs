//! What predictions in one state have been worth: the proof that is asked before anything is fetched.
//!
//! A rule that was seen once has proven nothing. But rules *in the same state* (how often they were tried, what came of the
//! last three trials, what the keys before say) are alike, and of these there are many: their outcomes are pooled in
//! cells. So a rule may act at its first repeat, if rules like it have been right. Cells are kept for each pair of
//! templates (that of the key and that of its successor: a user's rights always follow, a user's settings now and then) and for
//! all; the pair's says more as soon as it has enough trials. Counts are halved when they are full: that is all the ageing
//! there is, and why a pair that stops being right is off within some hundred trials, and back on as soon.

/// Own states of a rule: up to three trials and their outcomes, 1 + 2 + 4 + 8, rounded up; and as many for what has no
/// outcomes of its own ([`State::apart`]).
pub(super) const OWN: usize = OWN_TRIED + OWN_APART;
const OWN_TRIED: usize = 16;
const OWN_APART: usize = 16;
/// What a key before says of the same target.
pub(super) const OPINIONS: usize = 5;
/// Cells.
const CELLS: usize = OWN * OPINIONS * OPINIONS;
/// Pairs of templates that are told apart.
const PAIRS: usize = 256;
/// Trials that make a pair's cell speak, a cell of all, and a state by its own outcomes alone.
const PAIR_TRIALS: u32 = 16;
const ALL_TRIALS: u32 = 8;
const OWN_TRIALS: u32 = 8;
/// Where counts are halved.
const PAIR_MAX: u16 = 256;
const ALL_MAX: u16 = 1_024;

/// The state of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) pair: u8,
    pub(super) cell: u16,
}

/// What a key that came before says of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion {
    /// There is none, or it was seen once only.
    Unknown,
    /// It knows nothing of the target.
    Silent,
    /// The target did not follow it last time.
    Failed,
    /// It did.
    Followed,
    /// It did the last two times.
    Followed2,
}

impl State {
    /// `tried` trials with their outcomes in `history`, the last in the lowest bit.
    pub(super) fn new(pair: u8, tried: u8, history: u8, before: [Opinion; 2]) -> Self {
        let bits = tried.min(3);
        let own = (1 << bits) - 1 + usize::from(history & ((1 << bits) - 1));
        let cell = (own * OPINIONS + before[0] as usize) * OPINIONS + before[1] as usize;
        Self { pair, cell: cell as u16 }
    }

    /// Of a prediction without trials of its own: up to `2^far` events off, of a key that is common or is not.
    pub(super) fn apart(pair: u8, far: u32, is_common: bool) -> Self {
        let own = OWN_TRIED + (far as usize).min(OWN_APART / 2 - 1) * 2 + usize::from(is_common);
        Self { pair, cell: (own * OPINIONS * OPINIONS) as u16 }
    }

    fn own(self) -> usize {
        usize::from(self.cell) / (OPINIONS * OPINIONS)
    }
}

/// Trials and how many were right.
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

    /// A cautious estimate of the probability: the lower end of Wilson's interval, one standard deviation.
    pub(super) fn cautious(self) -> f32 {
        let n = f32::from(self.trials.max(1));
        let mean = f32::from(self.right) / n;
        let spread = (mean * (1.0 - mean) / n + 0.25 / (n * n)).sqrt();
        ((mean + 0.5 / n - spread) / (1.0 + 1.0 / n)).max(0.0)
    }
}

/// Number of a cell, trials that were right, trials.
pub(super) type KeptCell = (u32, u16, u16);

/// All cells.
pub(super) struct Proof {
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
    fn pair_cell(state: State) -> usize {
        usize::from(state.pair) * CELLS + usize::from(state.cell)
    }

    /// A prediction in this state was right, or wrong.
    pub(super) fn note(&mut self, state: State, right: bool) {
        self.pairs[Self::pair_cell(state)].note(right, PAIR_MAX);
        self.all[usize::from(state.cell)].note(right, ALL_MAX);
        self.own[state.own()].note(right, ALL_MAX);
    }

    /// How likely a prediction in this state is right; 0 while nobody knows.
    pub(super) fn of(&self, state: State) -> f32 {
        let tallies = [
            (self.pairs[Self::pair_cell(state)], PAIR_TRIALS),
            (self.all[usize::from(state.cell)], ALL_TRIALS),
            (self.own[state.own()], OWN_TRIALS),
        ];
        let speaking = tallies.iter().find(|(tally, least)| u32::from(tally.trials) >= *least);
        speaking.map_or(0.0, |(tally, _)| tally.cautious())
    }

    fn tallies(&mut self) -> impl Iterator<Item = (&mut Tally, u16)> {
        let parts = [(&mut self.pairs, PAIR_MAX), (&mut self.all, ALL_MAX), (&mut self.own, ALL_MAX)];
        parts.into_iter().flat_map(|(tallies, max)| tallies.iter_mut().map(move |tally| (tally, max)))
    }

    /// The cells that have had trials, as they are kept between two lives of a node.
    pub(super) fn kept(&self) -> Vec<KeptCell> {
        let all = [&self.pairs, &self.all, &self.own].into_iter().flatten();
        let tried = all.enumerate().filter(|(_, tally)| tally.trials > 0);
        tried.map(|(at, tally)| (at as u32, tally.right, tally.trials)).collect()
    }

    /// Takes them back; `None` if they are no such cells.
    pub(super) fn of_kept(kept: &[KeptCell]) -> Option<Self> {
        let mut proof = Self::default();
        let mut cells = proof.tallies().enumerate();
        for &(number, right, trials) in kept {
            // In order: the cells that lie between have had no trials.
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
