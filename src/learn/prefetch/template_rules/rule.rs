//! One rule between key templates: how a key is built from the variables of another key's skeleton.

use smallvec::SmallVec;

use super::skeleton::{Variables, rest_of};
use crate::learn::{
    key_template::{KeyTemplate, Token, TokenClass, stable_hash},
    prefetch::proof::Tally,
};

/// Trials before the outcomes of a rule are used, and trials at which its counts are halved.
const TRIALS_MIN: u16 = 8;
pub(super) const TRIALS_MAX: u16 = 200;
/// Trials after which a rule may be bad, and the probability under which it is.
const TRIALS_BAD: u16 = 24;
const BAD: f32 = 0.35;
/// A bad rule is tried for 1 event in this many.
const TRY_EVERY: u8 = 8;
/// Maximum number of parts of a key that a rule builds.
pub(super) const PIECES: usize = 24;
/// Maximum size of a key that is read or predicted by rules between key templates.
pub(super) const KEY_MAX_BYTES: usize = 256;

/// A part of the key that a rule builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// This text.
    Literal(Box<[u8]>),
    /// The variable of this number.
    Same(u8),
    /// The variable of this number, increased or decreased by one.
    Step(u8, i8),
}

/// A rule.
pub(super) struct Rule {
    pub(super) pieces: Vec<Piece>,
    pub(super) hash: u64,
    /// Pairs of events that support the rule.
    pub(super) support: u16,
    pub(super) tally: Tally,
    skipped: u8,
}

impl Rule {
    /// Returns a rule that one pair of events supports.
    pub(super) fn new(pieces: Vec<Piece>) -> Self {
        let hash = hash_of_pieces(&pieces);
        Self { pieces, hash, support: 1, tally: Tally::default(), skipped: 0 }
    }

    /// Returns the probability that the rule is right; 0 while too few outcomes are known.
    pub(super) fn p(&self) -> f32 {
        if self.tally.trials < TRIALS_MIN { 0.0 } else { self.tally.cautious() }
    }

    fn is_bad(&self) -> bool {
        self.tally.trials >= TRIALS_BAD && self.p() < BAD
    }

    /// Returns whether the rule predicts at this event: always, unless the rule is bad.
    pub(super) fn is_tried_now(&mut self) -> bool {
        if !self.is_bad() {
            return true;
        }
        self.skipped = self.skipped.wrapping_add(1);
        self.skipped.is_multiple_of(TRY_EVERY)
    }

    /// Returns the worth of the rule; the rule of least worth is replaced first.
    pub(super) fn worth(&self) -> f32 {
        self.p() * 100.0 + f32::from(self.support.min(16)) - if self.is_bad() { 10.0 } else { 0.0 }
    }

    /// Builds a key from these variables of `key`.
    pub(super) fn make(&self, key: &[u8], variables: &Variables) -> Option<Vec<u8>> {
        let mut made = Vec::with_capacity(key.len() + 16);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => made.extend_from_slice(text),
                Piece::Same(at) => made.extend_from_slice(key.get(variables.get(usize::from(*at))?.clone())?),
                Piece::Step(at, step) => {
                    let text = key.get(variables.get(usize::from(*at))?.clone())?;
                    made.extend_from_slice(stepped(text, *step)?.as_bytes());
                }
            }
        }
        (made.len() <= KEY_MAX_BYTES && made != key).then_some(made)
    }
}

/// Returns a number increased by `step`, with its leading zeros.
fn stepped(text: &[u8], step: i8) -> Option<String> {
    let number: u64 = std::str::from_utf8(text).ok().filter(|text| text.len() < 19)?.parse().ok()?;
    let next = number.checked_add_signed(i64::from(step))?;
    let width = if text.starts_with(b"0") { text.len() } else { 0 };
    Some(format!("{next:0width$}"))
}

/// A rule between key templates, for display.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleView {
    /// The key that the rule builds: `profile:{1}`, where `{1}` is the first variable of the template.
    pub makes: String,
    /// Probability that the rule is right; 0 while too few outcomes are known.
    pub p: f32,
    /// Number of recent trials.
    pub tried: u16,
    /// Recent trials that were right.
    pub right: u16,
    /// Pairs of requests that support the rule.
    pub support: u16,
}

impl Rule {
    /// Returns the rule for display.
    pub(super) fn view(&self) -> RuleView {
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => String::from_utf8_lossy(text).into_owned(),
            Piece::Same(at) => format!("{{{}}}", at + 1),
            Piece::Step(at, step) => format!("{{{}{step:+}}}", at + 1),
        };
        let makes = self.pieces.iter().map(piece).collect();
        let Tally { right, trials } = self.tally;
        RuleView { makes, p: self.p(), tried: trials, right, support: self.support }
    }
}

/// Returns the pieces that build `key` from the variables of `before`; `None` if one of its own variables is not among them.
pub(super) fn bind(key: &[u8], template: &KeyTemplate, before: &[u8], variables: &Variables) -> Option<Vec<Piece>> {
    let texts: SmallVec<[&[u8]; 8]> = variables.iter().map(|range| &before[range.clone()]).collect();
    let (mut pieces, mut literal, mut at, mut bound) = (Vec::new(), Vec::new(), 0, false);
    // The rest as a whole takes precedence over its parts.
    if let Some(rest) = rest_of(key, template)
        && let Some(same) = texts.iter().position(|text| *text == &key[rest.clone()])
    {
        return Some(vec![Piece::Literal(key[..rest.start].into()), Piece::Same(same as u8)]);
    }
    for token in &template.tokens {
        let text = token.of(key);
        let piece = match texts.iter().position(|known| *known == text) {
            Some(same) if token.is_variable || text.len() >= 3 => Some(Piece::Same(same as u8)),
            _ if !token.is_variable => None,
            _ => Some(step_of(text, &texts, token)?).filter(|piece| *piece != Piece::Literal(Box::default())),
        };
        literal.extend_from_slice(&key[at..token.start]);
        at = token.end;
        match piece {
            None => literal.extend_from_slice(text),
            Some(piece) => {
                bound |= matches!(piece, Piece::Same(_)) || variables.len() == 1;
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                }
                pieces.push(piece);
            }
        }
    }
    literal.extend_from_slice(&key[at..]);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    (bound && pieces.len() <= PIECES).then_some(pieces)
}

/// Returns the step from a variable to this number. A number at a position with few values may be literal; an empty
/// literal represents this case. `None` in all other cases.
fn step_of(text: &[u8], texts: &[&[u8]], token: &Token) -> Option<Piece> {
    let is = |known: &[u8], step| stepped(known, step).is_some_and(|next| next.as_bytes() == text);
    if token.class == TokenClass::Digits {
        for step in [1, -1] {
            if let Some(at) = texts.iter().position(|known| is(known, step)) {
                return Some(Piece::Step(at as u8, step));
            }
        }
        if token.is_few {
            return Some(Piece::Literal(Box::default()));
        }
    }
    None
}

fn hash_of_pieces(pieces: &[Piece]) -> u64 {
    pieces.iter().fold(11, |hash, piece| match piece {
        Piece::Literal(text) => stable_hash(hash, text),
        Piece::Same(at) => stable_hash(hash ^ 1, &[*at]),
        Piece::Step(at, step) => stable_hash(hash ^ 2, &[*at, step.unsigned_abs(), u8::from(*step > 0)]),
    })
}
