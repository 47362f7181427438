//! Rules as they are kept between two lives of a node. The events they may be mined from are not: they are old by then.

use super::{PIECES, Piece, Place, RULES, Rule, SKELETONS, TRIALS_MAX, Tally, Templates, hash_of_pieces};

/// Skeleton, template, rules.
pub(in crate::learn) type KeptPlace = (u64, String, Vec<KeptRule>);
/// Pieces, support, trials that were right, trials.
pub(in crate::learn) type KeptRule = (Vec<KeptPiece>, u16, u16, u16);
/// Literal text; or a variable by its number plus one, and a step.
pub(in crate::learn) type KeptPiece = (Vec<u8>, u8, i8);

impl Piece {
    fn kept(&self) -> KeptPiece {
        match self {
            Self::Literal(text) => (text.to_vec(), 0, 0),
            Self::Same(at) => (Vec::new(), at + 1, 0),
            Self::Step(at, step) => (Vec::new(), at + 1, *step),
        }
    }

    fn of((text, variable, step): KeptPiece) -> Self {
        match (variable.checked_sub(1), step) {
            (None, _) => Self::Literal(text.into()),
            (Some(at), 0) => Self::Same(at),
            (Some(at), step) => Self::Step(at, step),
        }
    }
}

impl Rule {
    fn kept(&self) -> KeptRule {
        (self.pieces.iter().map(Piece::kept).collect(), self.support, self.tally.right, self.tally.trials)
    }

    fn of((pieces, support, right, trials): KeptRule) -> Option<Self> {
        let is_sound = pieces.len() <= PIECES && right <= trials && trials <= TRIALS_MAX;
        let pieces: Vec<Piece> = pieces.into_iter().map(Piece::of).collect();
        let hash = hash_of_pieces(&pieces);
        is_sound.then_some(Self { pieces, hash, support, tally: Tally { right, trials }, skipped: 0 })
    }
}

impl Templates {
    /// Up to `count` skeletons with their rules, from place `from` on.
    pub(in crate::learn) fn kept(&self, from: usize, count: usize) -> Vec<KeptPlace> {
        let kept =
            |place: &Place| (place.hash, place.name.clone(), place.rules.iter().map(Rule::kept).collect::<Vec<_>>());
        self.places.iter().skip(from).take(count).map(kept).collect()
    }

    /// Takes a skeleton back; `None` if it is none, or one too many.
    pub(in crate::learn) fn take(&mut self, (hash, name, rules): KeptPlace) -> Option<()> {
        if self.places.len() >= SKELETONS || rules.len() > RULES || self.by_hash.contains_key(&hash) {
            return None;
        }
        let rules = rules.into_iter().map(Rule::of).collect::<Option<Vec<_>>>()?;
        let at = self.make_place(hash, name);
        self.places[at].rules = rules;
        Some(())
    }
}
