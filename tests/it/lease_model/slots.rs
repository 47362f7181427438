//! A slot of a Redis Cluster that moves between two primaries: its key and its record move one after the other.
//!
//! While the slot moves, its owner redirects (ASK) commands whose keys are all missing, and rejects (TRYAGAIN) commands
//! of which it has some keys. A write follows ASK; an acquire and a fill do not.

use super::search::{Step, World};

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The fill compares the primary's own id with the id in the record.
    pub(super) check_epoch: bool,
    /// A takeover of a record from another primary draws a new generation.
    pub(super) redraw: bool,
    /// A DEL of the record that was redirected is sent again before the write is acknowledged.
    pub(super) follow_delete: bool,
    /// Acquires and fills do not follow ASK.
    pub(super) never_ask: bool,
    /// A redirected DEL prevents that the unit is sent again; otherwise any redirection repeats the whole unit.
    pub(super) own_reply: bool,
    /// No move of the slot begins or ends between a DEL that was redirected and the second DEL of the same write.
    pub(super) slow_moves: bool,
}

pub(super) const PROTOCOL: Rules =
    Rules { check_epoch: true, redraw: true, follow_delete: true, never_ask: true, own_reply: true, slow_moves: true };

const INITIAL: u8 = 0;
const OF_LOADERS: u8 = 1;
const OF_WRITERS: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Value {
    id: u8,
    load: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Record {
    generation: u8,
    exclusive: bool,
    fingerprint: Option<u8>,
    epoch: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Loader {
    Idle,
    Granted(u8),
    Loaded(u8, u8),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Set,
    Delete,
}

/// A write: the version at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    /// The unit is in flight to this primary; `asks` if it follows ASK.
    Begun {
        version: u8,
        op: Op,
        to: u8,
        asks: bool,
    },
    /// The DEL was executed, or `redirected`.
    Half {
        version: u8,
        op: Op,
        to: u8,
        asks: bool,
        redirected: bool,
    },
    /// The write was executed; a DEL that was redirected must be sent again.
    Executed {
        version: u8,
        redirected: bool,
    },
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    origin: u8,
    settled: u8,
    owner: u8,
    /// The slot is being moved to the other primary.
    moves: bool,
    /// Key and record of each primary.
    keys: [Option<Value>; 2],
    records: [Option<Record>; 2],
    /// Bit set of the values whose expiration time has passed.
    passed: u8,
    loaders: [Loader; 3],
    writers: [Writer; 1],
    increments: u8,
    moves_left: u8,
}

impl State {
    pub(super) fn start(loaders: usize, moves: u8, has_value: bool) -> Self {
        let mut all = [Loader::Over; 3];
        all[..loaders].fill(Loader::Idle);
        Self {
            origin: 0,
            settled: 0,
            owner: 0,
            moves: false,
            keys: [has_value.then_some(Value { id: INITIAL, load: None }), None],
            records: [None; 2],
            passed: 0,
            loaders: all,
            writers: [Writer::Idle],
            increments: 0,
            moves_left: moves,
        }
    }

    /// Returns the primary that executes a script with key and record, if one does.
    fn of_script(&self, rules: &Rules) -> Option<usize> {
        let (owner, other) = (usize::from(self.owner), usize::from(1 - self.owner));
        if !self.moves {
            return Some(owner);
        }
        let has_all = |at: usize| self.keys[at].is_some() && self.records[at].is_some();
        let has_none = self.keys[owner].is_none() && self.records[owner].is_none();
        if has_all(owner) {
            return Some(owner);
        }
        (has_none && !rules.never_ask && has_all(other)).then_some(other)
    }

    fn is_unchanged(&self, at: usize, fingerprint: Option<u8>) -> bool {
        match (fingerprint, self.keys[at]) {
            (None, None) => true,
            (Some(id), Some(value)) => id == value.id,
            (Some(id), None) => self.passed & (1 << id) != 0,
            (None, Some(_)) => false,
        }
    }

    fn steps_of_loader(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        match self.loaders[at] {
            Loader::Idle if at > 0 && self.loaders[at - 1] == Loader::Idle => {}
            Loader::Idle => {
                let Some(primary) = self.of_script(rules) else { return };
                let epoch = primary as u8;
                let generation = match self.records[primary] {
                    None => 1 + at as u8,
                    Some(Record { exclusive: true, .. }) => return,
                    Some(record) => {
                        let is_same =
                            self.is_unchanged(primary, record.fingerprint) && (record.epoch == epoch || !rules.redraw);
                        if is_same { record.generation } else { 1 + at as u8 }
                    }
                };
                let fingerprint = self.keys[primary].map(|value| value.id);
                next.records[primary] = Some(Record { generation, exclusive: true, fingerprint, epoch });
                next.loaders[at] = Loader::Granted(generation);
                steps.push(Step::new("client {} acquires a lease", at, next));
            }
            Loader::Granted(generation) => {
                next.loaders[at] = Loader::Loaded(generation, self.origin);
                steps.push(Step::new("client {} loads from the origin", at, next));
            }
            Loader::Loaded(generation, version) => {
                next.loaders[at] = Loader::Over;
                if let Some(primary) = self.of_script(rules)
                    && let Some(record) = self.records[primary]
                    && record.generation == generation
                    && self.is_unchanged(primary, record.fingerprint)
                    && (usize::from(record.epoch) == primary || !rules.check_epoch)
                {
                    next.keys[primary] = Some(Value { id: OF_LOADERS + at as u8, load: Some(version) });
                    next.records[primary] = None;
                    steps.push(Step::new("client {} fills its value", at, next));
                } else {
                    steps.push(Step::new("client {} cannot fill", at, next));
                }
            }
            Loader::Over => {}
        }
    }

    /// Returns whether a primary executes a command about one key, which it has or not; `None` for a redirection.
    fn executes(&self, to: u8, asks: bool, has_key: bool) -> bool {
        match to == self.owner {
            true => !self.moves || has_key,
            false => self.moves && asks,
        }
    }

    /// Returns where a unit is sent after a redirection: first to the owner, and after its ASK to the other primary.
    fn redirected(&self, to: u8) -> (u8, bool) {
        if to == self.owner && self.moves { (1 - self.owner, true) } else { (self.owner, false) }
    }

    fn steps_of_writer(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        let writer = &mut next.writers[at];
        match self.writers[at] {
            Writer::Idle => {
                next.origin += 1;
                for (text, op) in [("a Delete begins", Op::Delete), ("a Set begins", Op::Set)] {
                    next.writers[at] = Writer::Begun { version: next.origin, op, to: self.owner, asks: false };
                    steps.push(Step::new(text, at, next));
                }
            }
            Writer::Begun { version, op, to, asks } => {
                let executes = self.executes(to, asks, self.records[usize::from(to)].is_some());
                *writer = Writer::Half { version, op, to, asks, redirected: !executes };
                if executes {
                    next.records[usize::from(to)] = None;
                }
                let text = if executes { "DEL of the record is executed" } else { "DEL of the record is redirected" };
                steps.push(Step::new(text, at, next));
            }
            Writer::Half { version, op, to, asks, redirected } => {
                let executes = self.executes(to, asks, self.keys[usize::from(to)].is_some());
                if executes {
                    next.keys[usize::from(to)] =
                        (op == Op::Set).then_some(Value { id: OF_WRITERS + at as u8, load: None });
                    next.increments = (next.increments + 1).min(2);
                }
                let again = !executes || redirected && !rules.own_reply;
                let (other, asks) = self.redirected(to);
                next.writers[at] = match again {
                    true => Writer::Begun { version, op, to: other, asks },
                    false => Writer::Executed { version, redirected },
                };
                let text = if executes { "the write is executed" } else { "the write is redirected" };
                steps.push(Step::new(text, at, next));
            }
            Writer::Executed { version, redirected: true } if rules.follow_delete => {
                *writer = Writer::Executed { version, redirected: false };
                next.records = [None; 2];
                steps.push(Step::new("DEL of the record is sent again and follows the redirection", at, next));
            }
            Writer::Executed { version, .. } => {
                next.settled = version;
                next.writers[at] = Writer::Over;
                steps.push(Step::new("the write is acknowledged", at, next));
            }
            Writer::Over => {}
        }
    }

    fn steps_of_slot(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let (from, to) = (usize::from(self.owner), usize::from(1 - self.owner));
        let mut add = |text, change: &dyn Fn(&mut Self)| {
            let mut next = *self;
            change(&mut next);
            steps.push(Step::new(text, to, next));
        };
        let is_writing = matches!(self.writers[0], Writer::Half { .. } | Writer::Executed { redirected: true, .. });
        // A unit that follows ASK does not wait until the slot moves again: Redis itself would lose the write.
        let is_asking = matches!(self.writers[0], Writer::Begun { asks: true, .. } | Writer::Half { asks: true, .. });
        let may_change = !is_writing || !rules.slow_moves;
        if !self.moves {
            if self.moves_left > 0 && may_change && !is_asking {
                add("the slot begins to move to primary {}", &|next| {
                    next.moves_left -= 1;
                    next.moves = true;
                });
            }
            return;
        }
        if self.keys[from].is_some() && self.keys[to].is_none() {
            add("the key moves to primary {}", &|next| next.keys.swap(from, to));
        }
        if self.records[from].is_some() {
            // MIGRATE fails if the target has the key.
            if self.records[to].is_none() {
                add("the record moves to primary {}", &|next| next.records.swap(from, to));
            }
        } else if self.keys[from].is_none() && may_change {
            add("the slot is at primary {}", &|next| (next.owner, next.moves) = (to as u8, false));
        }
        // A move that is canceled: what was moved comes back.
        let is_free = self.records[from].is_none() && self.keys[from].is_none();
        if !is_asking && may_change && (self.records[to].is_none() || self.records[from].is_none()) {
            add("the move to primary {} is canceled", &|next| {
                next.moves = false;
                if is_free || next.keys[from].is_none() {
                    next.keys[from] = next.keys[to];
                }
                if next.records[from].is_none() {
                    next.records[from] = next.records[to];
                }
                (next.keys[to], next.records[to]) = (None, None);
            });
        }
    }

    fn steps_of_time(&self, steps: &mut Vec<Step<Self>>) {
        let values = self.keys.iter().flatten().map(|value| value.id);
        let fingerprints = self.records.iter().flatten().filter_map(|record| record.fingerprint);
        let may_pass = values.chain(fingerprints).fold(0_u8, |set, id| set | 1 << id) & !self.passed;
        for id in (0..8_u8).filter(|id| may_pass & (1 << id) != 0) {
            let mut next = *self;
            next.passed |= 1 << id;
            next.keys = self.keys.map(|key| key.filter(|value| value.id != id));
            steps.push(Step::new("the expiration time of value {} passes", usize::from(id), next));
        }
        for at in 0..2 {
            let mut next = *self;
            if let Some(Record { exclusive: exclusive @ true, .. }) = &mut next.records[at] {
                *exclusive = false;
                steps.push(Step::new("the exclusive time of the record ends", at, next));
            }
        }
    }
}

impl World for State {
    type Rules = Rules;

    fn steps(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        (0..self.loaders.len()).for_each(|at| self.steps_of_loader(at, rules, steps));
        (0..self.writers.len()).for_each(|at| self.steps_of_writer(at, rules, steps));
        self.steps_of_slot(rules, steps);
        self.steps_of_time(steps);
    }

    fn violation(&self, _rules: &Rules) -> Option<&'static str> {
        if self.increments > 1 {
            return Some("a write is executed twice");
        }
        let loads = self.keys.iter().flatten().filter_map(|value| value.load);
        loads
            .into_iter()
            .any(|version| version < self.settled)
            .then_some("a value is stored that was loaded before an acknowledged invalidation")
    }

    fn shows_load(&self) -> bool {
        self.settled > 0 && self.keys.iter().flatten().any(|value| value.load.is_some())
    }
}
