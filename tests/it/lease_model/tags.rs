//! One key with one tag: the tag is invalidated, its id expires and is made again around a load.

use super::search::{Step, World};

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The ids are read at the grant; otherwise at the fill.
    pub(super) read_at_grant: bool,
    /// Each id is a new random number; otherwise the ids of a lost record begin at 1 again.
    pub(super) random_ids: bool,
    /// Readers compare the ids of an entry with the current ones.
    pub(super) check_ids: bool,
    /// Negative answers have ids, too.
    pub(super) check_absent: bool,
    /// A client fills with the token that it had when its load began.
    pub(super) one_token: bool,
}

pub(super) const PROTOCOL: Rules =
    Rules { read_at_grant: true, random_ids: true, check_ids: true, check_absent: true, one_token: true };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Token {
    generation: u8,
    id: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Loader {
    Idle,
    Granted(Token),
    Loaded(Token, u8),
    Over,
}

/// What a load stored: the version that it read, and the id of the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    version: u8,
    id: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Record {
    Loading { generation: u8, holder: u8, exclusive: bool },
    Absent(Entry),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Invalidation {
    Idle,
    Begun(u8),
    Done(u8),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    origin: u8,
    settled: u8,
    id: Option<u8>,
    ids: u8,
    key: Option<Entry>,
    record: Option<Record>,
    loaders: [Loader; 3],
    invalidations: [Invalidation; 2],
    expirations_left: u8,
}

impl State {
    pub(super) fn start(expirations: u8) -> Self {
        Self {
            origin: 0,
            settled: 0,
            id: None,
            ids: 0,
            key: None,
            record: None,
            loaders: [Loader::Idle; 3],
            invalidations: [Invalidation::Idle; 2],
            expirations_left: expirations,
        }
    }

    /// Returns the id of the tag, and makes one if there is none.
    fn read_id(&mut self, rules: &Rules) -> u8 {
        if self.id.is_none() {
            self.ids += 1;
            self.id = Some(if rules.random_ids { self.ids } else { 1 });
        }
        self.id.unwrap_or(0)
    }

    fn token(&mut self, generation: u8, rules: &Rules) -> Token {
        Token { generation, id: self.read_id(rules) }
    }

    fn steps_of_loader(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        match self.loaders[at] {
            // All idle loaders are equal, so only the first of them takes the event.
            Loader::Idle if at > 0 && self.loaders[at - 1] == Loader::Idle => {}
            Loader::Idle => {
                let generation = match self.record {
                    Some(Record::Loading { exclusive: true, .. }) => return,
                    Some(Record::Loading { generation, .. }) => generation,
                    Some(Record::Absent(_)) | None => 1 + at as u8,
                };
                next.record = Some(Record::Loading { generation, holder: at as u8, exclusive: true });
                let token = next.token(generation, rules);
                next.loaders[at] = Loader::Granted(token);
                steps.push(Step::new("client {} acquires a lease", at, next));
            }
            Loader::Granted(token) => {
                next.loaders[at] = Loader::Loaded(token, self.origin);
                steps.push(Step::new("client {} loads from the origin", at, next));
            }
            Loader::Loaded(token, version) => {
                self.fill(at, token, version, rules, steps);
                let is_holder =
                    matches!(self.record, Some(Record::Loading { holder, .. }) if usize::from(holder) == at);
                if !rules.one_token && is_holder {
                    let token = next.token(token.generation, rules);
                    next.loaders[at] = Loader::Loaded(token, version);
                    steps.push(Step::new("client {} asks again with its nonce and takes the new token", at, next));
                }
            }
            Loader::Over => {}
        }
    }

    fn fill(&self, at: usize, token: Token, version: u8, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        next.loaders[at] = Loader::Over;
        let fits = matches!(self.record, Some(Record::Loading { generation, .. }) if generation == token.generation);
        if !fits {
            steps.push(Step::new("client {} has lost its lease", at, next));
            return;
        }
        let id = if rules.read_at_grant { token.id } else { next.read_id(rules) };
        let entry = Entry { version, id };
        (next.key, next.record) = (Some(entry), None);
        steps.push(Step::new("client {} fills its value", at, next));
        (next.key, next.record) = (None, Some(Record::Absent(entry)));
        steps.push(Step::new("client {} fills: absent", at, next));
    }

    fn steps_of_invalidation(&self, at: usize, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        let text = match self.invalidations[at] {
            Invalidation::Idle if at > 0 && self.invalidations[at - 1] == Invalidation::Idle => return,
            Invalidation::Idle => {
                next.origin += 1;
                next.invalidations[at] = Invalidation::Begun(next.origin);
                "invalidation {} of the tag begins"
            }
            Invalidation::Begun(version) => {
                next.id = None;
                next.invalidations[at] = Invalidation::Done(version);
                "invalidation {} deletes the id of the tag"
            }
            Invalidation::Done(version) => {
                next.settled = next.settled.max(version);
                next.invalidations[at] = Invalidation::Over;
                "invalidation {} is acknowledged"
            }
            Invalidation::Over => return,
        };
        steps.push(Step::new(text, at, next));
    }

    fn is_valid(&self, entry: Entry, is_checked: bool) -> bool {
        !is_checked || self.id == Some(entry.id)
    }

    /// Version of the value or negative answer that a reader sees.
    fn shown(&self, rules: &Rules) -> Option<u8> {
        if let Some(entry) = self.key {
            return self.is_valid(entry, rules.check_ids).then_some(entry.version);
        }
        match self.record {
            Some(Record::Absent(entry)) => self.is_valid(entry, rules.check_absent).then_some(entry.version),
            Some(Record::Loading { .. }) | None => None,
        }
    }
}

impl World for State {
    type Rules = Rules;

    fn steps(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        (0..self.loaders.len()).for_each(|at| self.steps_of_loader(at, rules, steps));
        (0..self.invalidations.len()).for_each(|at| self.steps_of_invalidation(at, steps));
        let mut next = *self;
        if let Some(Record::Loading { exclusive: exclusive @ true, .. }) = &mut next.record {
            *exclusive = false;
            steps.push(Step::new("the exclusive time of the record ends", 0, next));
        }
        let mut next = *self;
        if self.id.is_some() && self.expirations_left > 0 {
            next.expirations_left -= 1;
            next.id = None;
            steps.push(Step::new("the id of the tag expires", 0, next));
        }
        let mut next = *self;
        if self.id.is_none() {
            next.read_id(rules);
            steps.push(Step::new("a Set of another key makes an id of the tag", 0, next));
        }
    }

    fn violation(&self, rules: &Rules) -> Option<&'static str> {
        self.shown(rules)
            .is_some_and(|version| version < self.settled)
            .then_some("an answer is shown that was loaded before an acknowledged invalidation")
    }

    fn shows_load(&self) -> bool {
        self.settled > 0 && self.key.is_some_and(|entry| self.is_valid(entry, true))
    }
}
