//! One key that all bans match: a ban is opened, swept and retired around an acquire and a fill.
//!
//! A node may not have heard of a ban yet (at most for Δ). What such a node shows is limited by the coherence contract,
//! so a value counts as shown if a node that knows all bans would show it. Commands of a pipeline are separate events.

use super::search::{Step, World};

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The fill script compares the greatest ban number with the number that the node knows (not in a cluster).
    pub(super) compare_in_script: bool,
    /// The node refuses a fill if a ban was opened since the grant.
    pub(super) compare_at_node: bool,
    /// A ban that was retired before the node heard of it counts as matching.
    pub(super) unknown_matches: bool,
    /// The script that newly notes a key deletes its record.
    pub(super) clearing_deletes_record: bool,
    /// The sweep of a cluster removes records.
    pub(super) sweep_records: bool,
    /// It removes them before the keys.
    pub(super) records_first: bool,
    /// Negative answers have the ban number of their token.
    pub(super) absent_has_number: bool,
}

pub(super) const STANDALONE: Rules = Rules {
    compare_in_script: true,
    compare_at_node: true,
    unknown_matches: true,
    clearing_deletes_record: true,
    sweep_records: false,
    records_first: true,
    absent_has_number: true,
};

pub(super) const CLUSTER: Rules = Rules { compare_in_script: false, sweep_records: true, ..STANDALONE };

/// Maximum number of bans.
const BANS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ban {
    /// Beyond the scope.
    Never,
    Idle,
    /// Its version.
    Begun(u8),
    Opened(u8),
    /// The first part of the sweep is done.
    HalfSwept,
    Swept,
    Retired,
}

/// The bans that a node knows: the greatest number, and the open ones as a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Known {
    number: u8,
    open: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Token {
    generation: u8,
    number: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Loader {
    Idle,
    /// The key was cleared; the acquire is in flight.
    Cleared(u8),
    Granted(Token),
    Loaded(Token, u8),
    /// The fill is in flight, with the number that the node knew.
    Sent(Token, u8, u8),
    Over,
}

/// A Set: DEL of the record, clearing, write, and the clearing of bans that were unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Begun(u8, Known),
    Deleted(u8, Known),
    Cleared(u8, u8),
    Written(u8, u8),
    Done(u8),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Record {
    Loading { generation: u8, exclusive: bool },
    Absent { version: u8, number: u8 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    origin: u8,
    settled: u8,
    /// The version that the stored load read; `Some(None)` for a value of a write.
    key: Option<Option<u8>>,
    record: Option<Record>,
    bans: [Ban; BANS],
    /// Bit set of the bans since which the key was written.
    notes: u8,
    nodes: [Known; 2],
    loaders: [Loader; 3],
    writers: [Writer; 1],
    absent: bool,
}

/// Number of operations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    pub(super) loaders: usize,
    pub(super) writers: usize,
    pub(super) bans: usize,
    /// Loads find that the origin has no value.
    pub(super) absent: bool,
}

impl State {
    pub(super) fn start(scope: Scope) -> Self {
        let mut loaders = [Loader::Over; 3];
        loaders[..scope.loaders].fill(Loader::Idle);
        let mut writers = [Writer::Over; 1];
        writers[..scope.writers].fill(Writer::Idle);
        let mut bans = [Ban::Never; BANS];
        bans[..scope.bans].fill(Ban::Idle);
        Self {
            origin: 0,
            settled: 0,
            key: None,
            record: None,
            bans,
            notes: 0,
            nodes: [Known { number: 0, open: 0 }; 2],
            loaders,
            writers,
            absent: scope.absent,
        }
    }

    /// Returns the state of the ban log.
    fn log(&self) -> Known {
        let mut log = Known { number: 0, open: 0 };
        for (at, ban) in self.bans.iter().enumerate() {
            match ban {
                Ban::Never | Ban::Idle | Ban::Begun(_) => break,
                Ban::Opened(_) | Ban::HalfSwept | Ban::Swept => log.open |= 1 << at,
                Ban::Retired => {}
            }
            log.number = at as u8 + 1;
        }
        log
    }

    /// Executes the script that notes the key with the open bans of a node. Returns true if the value was removed.
    fn clear(&mut self, open: u8, rules: &Rules) -> bool {
        let is_new = open & !self.notes != 0;
        self.notes |= open;
        if is_new {
            self.key = None;
            if rules.clearing_deletes_record {
                self.record = None;
            }
        }
        is_new
    }

    fn steps_of_loader(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let (mut next, node) = (*self, self.nodes[at % 2]);
        match self.loaders[at] {
            // Idle loaders of a node are equal.
            Loader::Idle if at > 1 && self.loaders[at - 2] == Loader::Idle => {}
            Loader::Idle => {
                next.clear(node.open, rules);
                next.loaders[at] = Loader::Cleared(node.number);
                steps.push(Step::new("the node of client {} clears the key, as far as it knows bans", at, next));
            }
            Loader::Cleared(number) => {
                let generation = match self.record {
                    Some(Record::Loading { exclusive: true, .. }) => return,
                    Some(Record::Loading { generation, .. }) => generation,
                    Some(Record::Absent { .. }) | None => 1 + at as u8,
                };
                next.record = Some(Record::Loading { generation, exclusive: true });
                next.loaders[at] = Loader::Granted(Token { generation, number });
                steps.push(Step::new("client {} acquires a lease", at, next));
            }
            Loader::Granted(token) => {
                next.loaders[at] = Loader::Loaded(token, self.origin);
                steps.push(Step::new("client {} loads from the origin", at, next));
            }
            Loader::Loaded(token, version) => {
                next.loaders[at] = Loader::Sent(token, version, node.number);
                let since_grant = (token.number..node.number).map(|ban| 1_u8 << ban);
                let mut matching = since_grant.filter(|ban| rules.unknown_matches || node.open & ban != 0);
                if rules.compare_at_node && matching.next().is_some() {
                    next.loaders[at] = Loader::Over;
                    steps.push(Step::new("the node of client {} refuses the fill because of a ban", at, next));
                    return;
                }
                steps.push(Step::new("client {} sends its fill", at, next));
            }
            Loader::Sent(token, version, number) => self.fill(at, token, version, number, rules, steps),
            Loader::Over => {}
        }
    }

    fn fill(&self, at: usize, token: Token, version: u8, number: u8, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        if rules.compare_in_script && self.log().number > number {
            next.nodes[at % 2] = self.log();
            next.loaders[at] = Loader::Loaded(token, version);
            steps.push(Step::new("the fill of client {} finds a newer ban; its node reads the log", at, next));
            return;
        }
        next.loaders[at] = Loader::Over;
        let fits = matches!(self.record, Some(Record::Loading { generation, .. }) if generation == token.generation);
        if !fits {
            steps.push(Step::new("client {} has lost its lease", at, next));
            return;
        }
        (next.key, next.record) = (Some(Some(version)), None);
        steps.push(Step::new("client {} fills its value", at, next));
        if self.absent {
            (next.key, next.record) = (None, Some(Record::Absent { version, number: token.number }));
            steps.push(Step::new("client {} fills: absent", at, next));
        }
    }

    fn steps_of_writer(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let (mut next, node) = (*self, 1 - at % 2);
        let text = match self.writers[at] {
            Writer::Idle => {
                next.origin += 1;
                next.writers[at] = Writer::Begun(next.origin, self.nodes[node]);
                "writer {} begins a Set"
            }
            Writer::Begun(version, known) => {
                next.record = None;
                next.writers[at] = Writer::Deleted(version, known);
                "DEL of the record by writer {} is executed"
            }
            Writer::Deleted(version, known) => {
                next.clear(known.open, rules);
                next.writers[at] = Writer::Cleared(version, known.number);
                "writer {} clears the key, as far as its node knows bans"
            }
            Writer::Cleared(version, number) => {
                next.key = Some(None);
                next.writers[at] =
                    if self.log().number > number { Writer::Written(version, number) } else { Writer::Done(version) };
                "the write of writer {} is executed"
            }
            Writer::Written(version, number) => {
                // A ban was opened during the write: the key is cleared, and the write is repeated if it was removed.
                let log = self.log();
                next.nodes[node] = log;
                let is_gone = next.clear(log.open & !((1 << number) - 1), rules);
                next.writers[at] = if is_gone { Writer::Cleared(version, log.number) } else { Writer::Done(version) };
                "the node of writer {} reads the log and clears the key"
            }
            Writer::Done(version) => {
                next.settled = next.settled.max(version);
                next.writers[at] = Writer::Over;
                "the write of writer {} is acknowledged"
            }
            Writer::Over => return,
        };
        steps.push(Step::new(text, at, next));
    }

    fn steps_of_ban(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        let text = match self.bans[at] {
            Ban::Idle if at > 0 && matches!(self.bans[at - 1], Ban::Idle | Ban::Begun(_)) => return,
            Ban::Idle => {
                next.origin += 1;
                next.bans[at] = Ban::Begun(next.origin);
                "ban {} begins"
            }
            Ban::Begun(version) => {
                next.bans[at] = Ban::Opened(version);
                next.nodes[1] = next.log();
                "ban {} is opened in the log"
            }
            Ban::Opened(version) if self.settled < version => {
                next.settled = version;
                "ban {} is acknowledged"
            }
            Ban::Opened(_) => {
                next.bans[at] = Ban::HalfSwept;
                next.sweep(at, rules.records_first, rules);
                "the first part of the sweep of ban {} is done"
            }
            Ban::HalfSwept => {
                next.bans[at] = Ban::Swept;
                next.sweep(at, !rules.records_first, rules);
                "the second part of the sweep of ban {} is done"
            }
            // A ban stays open for 2 Δ, so each node has heard of it.
            Ban::Swept if self.nodes.iter().all(|node| usize::from(node.number) > at) => {
                next.bans[at] = Ban::Retired;
                "ban {} is retired"
            }
            Ban::Never | Ban::Swept | Ban::Retired => return,
        };
        steps.push(Step::new(text, at, next));
    }

    fn sweep(&mut self, ban: usize, is_of_records: bool, rules: &Rules) {
        if is_of_records {
            if rules.sweep_records {
                self.record = None;
            }
        } else if self.notes & (1 << ban) == 0 {
            self.key = None;
        }
    }

    /// Version of the value or negative answer that a node shows which knows all bans.
    fn shown(&self, rules: &Rules) -> Option<u8> {
        let log = self.log();
        if let Some(load) = self.key {
            return load.filter(|_| log.open & !self.notes == 0);
        }
        match self.record {
            Some(Record::Absent { version, number }) => {
                (log.number <= number || !rules.absent_has_number).then_some(version)
            }
            Some(Record::Loading { .. }) | None => None,
        }
    }
}

impl World for State {
    type Rules = Rules;

    fn steps(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        (0..self.loaders.len()).for_each(|at| self.steps_of_loader(at, rules, steps));
        (0..self.writers.len()).for_each(|at| self.steps_of_writer(at, rules, steps));
        (0..BANS).for_each(|at| self.steps_of_ban(at, rules, steps));
        for at in 0..self.nodes.len() {
            let mut next = *self;
            next.nodes[at] = self.log();
            if next != *self {
                steps.push(Step::new("node {} reads the ban log", at, next));
            }
        }
        let mut next = *self;
        if let Some(Record::Loading { exclusive: exclusive @ true, .. }) = &mut next.record {
            *exclusive = false;
            steps.push(Step::new("the exclusive time of the record ends", 0, next));
        }
    }

    fn violation(&self, rules: &Rules) -> Option<&'static str> {
        self.shown(rules)
            .is_some_and(|version| version < self.settled)
            .then_some("an answer is shown that was loaded before an acknowledged invalidation")
    }

    fn shows_load(&self) -> bool {
        self.settled > 0 && matches!(self.key, Some(Some(_))) && self.log().open & !self.notes == 0
    }
}
