//! Snapshot rows of rules. The recent events from which rules are mined are not saved: they would be outdated when they are
//! restored.

use super::{
    RULES, SKELETONS, SkeletonRules, TemplateRules,
    rule::{PIECES, Piece, Rule, TRIALS_MAX},
};
use crate::learn::prefetch::proof::Tally;

/// Snapshot row of a skeleton: hash, template, rules.
pub(in crate::learn) type SkeletonRow = (u64, String, Vec<RuleRow>);
/// Snapshot row of a rule: pieces, support, trials that were right, trials.
pub(in crate::learn) type RuleRow = (Vec<PieceRow>, u16, u16, u16);
/// Snapshot row of a piece: literal text; or the number of a variable plus one, and a step.
pub(in crate::learn) type PieceRow = (Vec<u8>, u8, i8);

impl Piece {
    fn row(&self) -> PieceRow {
        match self {
            Self::Literal(text) => (text.to_vec(), 0, 0),
            Self::Same(at) => (Vec::new(), at + 1, 0),
            Self::Step(at, step) => (Vec::new(), at + 1, *step),
        }
    }

    fn from_row((text, variable, step): PieceRow) -> Self {
        match (variable.checked_sub(1), step) {
            (None, _) => Self::Literal(text.into()),
            (Some(at), 0) => Self::Same(at),
            (Some(at), step) => Self::Step(at, step),
        }
    }
}

impl Rule {
    fn row(&self) -> RuleRow {
        (self.pieces.iter().map(Piece::row).collect(), self.support, self.tally.right, self.tally.trials)
    }

    fn from_row((pieces, support, right, trials): RuleRow) -> Option<Self> {
        let is_valid = pieces.len() <= PIECES && right <= trials && trials <= TRIALS_MAX;
        let mut rule = Self::new(pieces.into_iter().map(Piece::from_row).collect());
        (rule.support, rule.tally) = (support, Tally { right, trials });
        is_valid.then_some(rule)
    }
}

impl TemplateRules {
    /// Returns the rows of up to `count` skeletons with their rules, from place `from` on.
    pub(in crate::learn) fn rows(&self, from: usize, count: usize) -> Vec<SkeletonRow> {
        let row = |known: &SkeletonRules| {
            (known.hash, known.template.clone(), known.rules.iter().map(Rule::row).collect::<Vec<_>>())
        };
        self.skeletons.iter().skip(from).take(count).map(row).collect()
    }

    /// Restores a skeleton; `None` if the row is invalid, or if there is no room.
    pub(in crate::learn) fn restore(&mut self, (hash, template, rules): SkeletonRow) -> Option<()> {
        if self.skeletons.len() >= SKELETONS || rules.len() > RULES || self.by_hash.contains_key(&hash) {
            return None;
        }
        let rules = rules.into_iter().map(Rule::from_row).collect::<Option<Vec<_>>>()?;
        let at = self.add_skeleton(hash, template);
        self.skeletons[at].rules = rules;
        Some(())
    }
}
