//! One key in a standalone Redis: writes, loads, takeovers, the end of leases, lost records and failovers.
//!
//! The *origin* has a version, which each invalidation increments when it begins. A load reads the version at some
//! moment after its grant. A stored value remembers the version that its load read, or that a write stored it. Messages
//! are executed at any later moment, so a write, fill or release may run arbitrarily late. A write without an
//! acknowledgement is a write that ended UNKNOWN.
//!
//! Values are told apart by their id, which stands for the fingerprint. The expiration time of a value can pass at any
//! moment, also after the value was replaced.

use super::search::{Step, World};

/// Id of the value at the beginning; loaders and writers have the ids after it.
const INITIAL: u8 = 0;
const OF_LOADERS: u8 = 1;
const OF_WRITERS: u8 = 4;
const OF_DIRECT: u8 = 6;

/// How a fill compares the store epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epoch {
    Ignored,
    /// The token's epoch with the epoch that the data connection read when it was opened.
    OfConnection,
    /// The record's epoch with the epoch of the server, in the script.
    InScript,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Writes delete the record.
    pub(super) delete_record: bool,
    /// They delete it before they write.
    pub(super) delete_first: bool,
    /// A fill requires a record of its generation.
    pub(super) check_generation: bool,
    /// A fill requires the fingerprint of the record.
    pub(super) check_fingerprint: bool,
    /// A takeover with another fingerprint draws a new generation.
    pub(super) redraw: bool,
    /// Generations are random numbers; otherwise each new record begins at 1.
    pub(super) random_generations: bool,
    /// An exclusive record refuses other holders.
    pub(super) exclusive: bool,
    /// Release, failure and close act only if the holder is theirs.
    pub(super) own_release: bool,
    pub(super) own_failure: bool,
    pub(super) own_close: bool,
    /// A fill without an answer is sent again, instead of the removal of what it may have stored.
    pub(super) repeat_fill: bool,
    pub(super) epoch: Epoch,
}

pub(super) const PROTOCOL: Rules = Rules {
    delete_record: true,
    delete_first: true,
    check_generation: true,
    check_fingerprint: true,
    redraw: true,
    random_generations: true,
    exclusive: true,
    own_release: true,
    own_failure: true,
    own_close: true,
    repeat_fill: false,
    epoch: Epoch::InScript,
};

/// Number of operations of each type, and the events that the search includes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    pub(super) loaders: usize,
    pub(super) writers: usize,
    /// A value exists at the beginning.
    pub(super) initial: bool,
    pub(super) direct: u8,
    pub(super) evictions: u8,
    pub(super) flushes: u8,
    pub(super) failovers: u8,
    /// Loaders release, fail and close.
    pub(super) ends: bool,
    /// Replies to acquires and fills are lost.
    pub(super) lost_replies: bool,
    /// Values of fills and writes expire.
    pub(super) expiry: bool,
    /// Loads find that the origin has no value.
    pub(super) absent: bool,
}

pub(super) const NOTHING: Scope = Scope {
    loaders: 0,
    writers: 0,
    initial: false,
    direct: 0,
    evictions: 0,
    flushes: 0,
    failovers: 0,
    ends: false,
    lost_replies: false,
    expiry: false,
    absent: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Value {
    id: u8,
    /// Version that the load read; `None` for a value of a write.
    load: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Record {
    Loading {
        generation: u8,
        holder: u8,
        fingerprint: Option<u8>,
        exclusive: bool,
        epoch: u8,
    },
    /// The version that the failed load read, and whether its backoff is over.
    Failed {
        version: u8,
        is_over: bool,
    },
    Absent {
        version: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Token {
    generation: u8,
    epoch: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// The acquire was executed; its reply was lost.
    Unanswered,
    Granted(Token),
    Loaded(Token, u8),
    /// The fill was sent and may be executed; its caller has stopped waiting.
    Unsure(Token, u8),
    Over,
}

/// A message in flight after the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Tail {
    None,
    Release,
    /// With the version that the load read.
    Failure(u8),
    Close,
    /// Removal of what a fill may have stored.
    Clear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Loader {
    phase: Phase,
    tail: Tail,
    /// The loader has an exclusive grant that nothing has ended.
    exclusive: bool,
    /// Number of generations that it has drawn.
    drawn: u8,
}

/// A write through Terrace: DEL of the record, then the write. The number is the version at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Begun(u8, Op),
    Half(u8, Op),
    Done(u8),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Set,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    origin: u8,
    /// Newest version whose invalidation was acknowledged.
    settled: u8,
    /// The same for a SET directly in Redis, until another write undoes it: then no fingerprint shows it.
    settled_directly: u8,
    key: Option<Value>,
    record: Option<Record>,
    /// Key and record in the replica.
    replica: (Option<Value>, Option<Record>),
    /// Bit set of the values whose expiration time has passed.
    passed: u8,
    server: u8,
    epoch: u8,
    /// Epoch that the open data connection to each server has read.
    read_epochs: [Option<u8>; 2],
    loaders: [Loader; 3],
    writers: [Writer; 2],
    left: Left,
}

/// The remaining events of the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Left {
    direct: u8,
    evictions: u8,
    flushes: u8,
    failovers: u8,
    ends: bool,
    lost_replies: bool,
    expiry: bool,
    absent: bool,
}

impl State {
    pub(super) fn start(scope: Scope) -> Self {
        let loader = |phase| Loader { phase, tail: Tail::None, exclusive: false, drawn: 0 };
        let mut loaders = [loader(Phase::Over); 3];
        loaders[..scope.loaders].fill(loader(Phase::Idle));
        let mut writers = [Writer::Over; 2];
        writers[..scope.writers].fill(Writer::Idle);
        let Scope { direct, evictions, flushes, failovers, ends, lost_replies, expiry, absent, .. } = scope;
        let key = scope.initial.then_some(Value { id: INITIAL, load: None });
        Self {
            origin: 0,
            settled: 0,
            settled_directly: 0,
            key,
            record: None,
            replica: (key, None),
            passed: 0,
            server: 0,
            epoch: 0,
            read_epochs: [Some(0), None],
            loaders,
            writers,
            left: Left { direct, evictions, flushes, failovers, ends, lost_replies, expiry, absent },
        }
    }

    fn has_passed(&self, id: u8) -> bool {
        self.passed & (1 << id) != 0
    }

    /// Compares a fingerprint with the key. Absent after the recorded expiration time counts as unchanged.
    fn is_unchanged(&self, fingerprint: Option<u8>) -> bool {
        match (fingerprint, self.key) {
            (None, None) => true,
            (Some(id), Some(value)) => id == value.id,
            (Some(id), None) => self.has_passed(id),
            (None, Some(_)) => false,
        }
    }

    /// Removes the record for a reason that ends the lease.
    fn end_lease(&mut self) {
        if let Some(Record::Loading { holder, .. }) = self.record.take() {
            self.loaders[usize::from(holder)].exclusive = false;
        }
    }

    /// Returns a new generation, drawn by a loader.
    fn draw(&mut self, at: usize, former: Option<u8>, rules: &Rules) -> u8 {
        if !rules.random_generations {
            return former.unwrap_or(0) + 1;
        }
        let loader = &mut self.loaders[at];
        loader.drawn += 1;
        10 * loader.drawn + at as u8
    }

    /// Executes an acquire; returns the token if it is granted.
    fn acquire(&mut self, at: usize, rules: &Rules) -> Option<Token> {
        let me = at as u8;
        let generation = match self.record {
            None | Some(Record::Absent { .. } | Record::Failed { is_over: true, .. }) => self.draw(at, None, rules),
            Some(Record::Failed { is_over: false, .. }) => return None,
            Some(Record::Loading { generation, holder, exclusive: true, .. }) if holder == me => generation,
            Some(Record::Loading { exclusive: true, .. }) if rules.exclusive => return None,
            Some(Record::Loading { generation, fingerprint, epoch, .. }) => {
                let is_same = self.is_unchanged(fingerprint) && (rules.epoch != Epoch::InScript || epoch == self.epoch);
                if is_same || !rules.redraw { generation } else { self.draw(at, Some(generation), rules) }
            }
        };
        let fingerprint = self.key.map(|value| value.id);
        self.record = Some(Record::Loading { generation, holder: me, fingerprint, exclusive: true, epoch: self.epoch });
        self.loaders[at].exclusive = true;
        let epoch = self.read_epochs[usize::from(self.server)].unwrap_or(self.epoch);
        Some(Token { generation, epoch })
    }

    fn may_fill(&self, token: Token, rules: &Rules) -> bool {
        let Some(Record::Loading { generation, fingerprint, epoch, .. }) = self.record else {
            return !rules.check_generation;
        };
        let epoch_fits = match rules.epoch {
            Epoch::Ignored => true,
            Epoch::OfConnection => self.read_epochs[usize::from(self.server)] == Some(token.epoch),
            Epoch::InScript => epoch == self.epoch,
        };
        (!rules.check_generation || generation == token.generation)
            && (!rules.check_fingerprint || self.is_unchanged(fingerprint))
            && epoch_fits
    }

    fn fill(&mut self, at: usize, token: Token, version: u8, is_absent: bool, rules: &Rules) {
        if !self.may_fill(token, rules) {
            return;
        }
        self.end_lease();
        self.loaders[at].exclusive = false;
        if is_absent {
            self.key = None;
            self.record = Some(Record::Absent { version });
        } else {
            let id = OF_LOADERS + at as u8;
            self.passed &= !(1 << id);
            self.key = Some(Value { id, load: Some(version) });
        }
    }

    fn steps_of_loader(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut add = |text, change: &dyn Fn(&mut Self)| {
            let mut next = *self;
            change(&mut next);
            steps.push(Step::new(text, at, next));
        };
        let loader = self.loaders[at];
        match loader.phase {
            // All idle loaders are equal, so only the first of them takes the event.
            Phase::Idle if at > 0 && self.loaders[at - 1].phase == Phase::Idle => {}
            Phase::Idle | Phase::Unanswered => {
                let mut next = *self;
                if let Some(token) = next.acquire(at, rules) {
                    next.loaders[at].phase = Phase::Granted(token);
                    steps.push(Step::new("client {} acquires a lease", at, next));
                    if self.left.lost_replies && loader.phase == Phase::Idle {
                        next.loaders[at].phase = Phase::Unanswered;
                        next.loaders[at].tail = Tail::Release;
                        steps.push(Step::new("client {} acquires a lease; the reply is lost", at, next));
                    }
                }
            }
            Phase::Granted(token) => {
                add("client {} loads from the origin", &|next| {
                    next.loaders[at].phase = Phase::Loaded(token, next.origin);
                });
            }
            Phase::Loaded(token, version) => {
                for is_absent in [false, true].into_iter().take(1 + usize::from(self.left.absent)) {
                    let text = if is_absent { "client {} fills: absent" } else { "client {} fills its value" };
                    add(text, &|next| {
                        next.loaders[at].phase = Phase::Over;
                        next.fill(at, token, version, is_absent, rules);
                    });
                }
                if self.left.lost_replies && loader.tail == Tail::None {
                    add("client {} sends a fill and stops waiting; the node clears the key", &|next| {
                        next.loaders[at].phase = Phase::Unsure(token, version);
                        next.loaders[at].tail = if rules.repeat_fill { Tail::None } else { Tail::Clear };
                    });
                }
            }
            Phase::Unsure(token, version) => {
                add("the fill of client {} is executed late", &|next| {
                    // A repeated fill is executed twice.
                    let again = rules.repeat_fill && loader.tail == Tail::None;
                    next.loaders[at].phase = if again { loader.phase } else { Phase::Over };
                    next.loaders[at].tail = if again { Tail::Clear } else { loader.tail };
                    next.fill(at, token, version, false, rules);
                });
            }
            Phase::Over => {}
        }
        if self.left.ends && loader.tail == Tail::None {
            self.steps_to_end(at, steps);
        }
        self.steps_of_tail(at, rules, steps);
    }

    /// The client gives up, fails, or loses its connection.
    fn steps_to_end(&self, at: usize, steps: &mut Vec<Step<Self>>) {
        let mut end = |text, phase, tail| {
            let mut next = *self;
            (next.loaders[at].phase, next.loaders[at].tail) = (phase, tail);
            steps.push(Step::new(text, at, next));
        };
        match self.loaders[at].phase {
            phase @ Phase::Granted(_) => {
                end("client {} releases its lease", Phase::Over, Tail::Release);
                end("the connection of client {} closes", phase, Tail::Close);
            }
            Phase::Loaded(_, version) => {
                end("the load of client {} failed", Phase::Over, Tail::Failure(version));
            }
            Phase::Idle | Phase::Unanswered | Phase::Unsure(..) | Phase::Over => {}
        }
    }

    fn steps_of_tail(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        next.loaders[at].tail = Tail::None;
        let is_own = matches!(self.record, Some(Record::Loading { holder, .. }) if usize::from(holder) == at);
        let text = match self.loaders[at].tail {
            Tail::None => return,
            Tail::Release => {
                if is_own {
                    next.end_lease();
                } else if !rules.own_release {
                    next.record = None;
                }
                "the release of client {} is executed"
            }
            Tail::Failure(version) => {
                if is_own {
                    next.end_lease();
                }
                if is_own || !rules.own_failure {
                    next.record = Some(Record::Failed { version, is_over: false });
                }
                "the failure of client {} is noted"
            }
            Tail::Close => {
                if is_own {
                    next.loaders[at].exclusive = false;
                }
                if let Some(Record::Loading { exclusive, .. }) = &mut next.record
                    && (is_own || !rules.own_close)
                {
                    *exclusive = false;
                }
                "the node of client {} ends its exclusive time"
            }
            Tail::Clear => {
                next.end_lease();
                next.key = None;
                "the node of client {} removes what the fill may have stored"
            }
        };
        steps.push(Step::new(text, at, next));
    }

    fn steps_of_writer(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        match self.writers[at] {
            Writer::Idle if at > 0 && self.writers[at - 1] == Writer::Idle => {}
            Writer::Idle => {
                next.origin += 1;
                for (text, op) in [("writer {} begins a Delete", Op::Delete), ("writer {} begins a Set", Op::Set)] {
                    next.writers[at] = Writer::Begun(next.origin, op);
                    steps.push(Step::new(text, at, next));
                }
            }
            Writer::Begun(version, op) => {
                next.writers[at] = Writer::Half(version, op);
                let text = next.execute(at, op, !rules.delete_first, rules);
                steps.push(Step::new(text, at, next));
            }
            Writer::Half(version, op) => {
                next.writers[at] = Writer::Done(version);
                let text = next.execute(at, op, rules.delete_first, rules);
                steps.push(Step::new(text, at, next));
            }
            Writer::Done(version) => {
                next.writers[at] = Writer::Over;
                next.settled = next.settled.max(version);
                steps.push(Step::new("the write of writer {} is acknowledged", at, next));
            }
            Writer::Over => {}
        }
    }

    /// Executes one command of a write: the write itself, or DEL of the record.
    fn execute(&mut self, at: usize, op: Op, is_write: bool, rules: &Rules) -> &'static str {
        if !is_write {
            if rules.delete_record {
                self.end_lease();
            }
            return "DEL of the record by writer {} is executed";
        }
        self.settled_directly = 0;
        self.key = match op {
            Op::Delete => None,
            Op::Set => Some(Value { id: OF_WRITERS + at as u8, load: None }),
        };
        "the write of writer {} is executed"
    }

    fn steps_of_redis(&self, steps: &mut Vec<Step<Self>>) {
        let mut add = |text, change: &dyn Fn(&mut Self)| {
            let mut next = *self;
            change(&mut next);
            steps.push(Step::new(text, 0, next));
        };
        match self.record {
            Some(Record::Loading { exclusive: true, .. }) => add("the exclusive time of the record ends", &|next| {
                if let Some(Record::Loading { exclusive, holder, .. }) = &mut next.record {
                    *exclusive = false;
                    next.loaders[usize::from(*holder)].exclusive = false;
                }
            }),
            Some(Record::Failed { is_over: false, version }) => add("the backoff ends", &|next| {
                next.record = Some(Record::Failed { version, is_over: true });
            }),
            Some(_) | None => {}
        }
        if self.record.is_some() && self.left.evictions > 0 {
            add("the record is evicted", &|next| {
                next.left.evictions -= 1;
                next.end_lease();
            });
        }
        if self.left.direct > 0 {
            add("another client sets the key in Redis", &|next| {
                next.left.direct -= 1;
                next.origin += 1;
                next.settled_directly = next.origin;
                next.key = Some(Value { id: OF_DIRECT, load: None });
            });
        }
        if self.left.flushes > 0 {
            add("FLUSHDB", &|next| {
                next.left.flushes -= 1;
                next.origin += 1;
                next.settled = next.origin;
                next.end_lease();
                next.key = None;
            });
        }
        self.steps_of_time(steps);
        self.steps_of_replication(steps);
    }

    fn steps_of_time(&self, steps: &mut Vec<Step<Self>>) {
        let fingerprint = match self.record {
            Some(Record::Loading { fingerprint, .. }) => fingerprint,
            Some(_) | None => None,
        };
        let current = self.key.map(|value| value.id);
        for id in [fingerprint, current.filter(|id| fingerprint != Some(*id))].into_iter().flatten() {
            let expires = id == INITIAL || self.left.expiry && id != OF_DIRECT;
            if expires && !self.has_passed(id) {
                let mut next = *self;
                next.passed |= 1 << id;
                next.key = next.key.filter(|value| value.id != id);
                steps.push(Step::new("the expiration time of value {} passes", usize::from(id), next));
            }
        }
    }

    fn steps_of_replication(&self, steps: &mut Vec<Step<Self>>) {
        if self.left.failovers == 0 {
            return;
        }
        let mut next = *self;
        next.replica = (self.key, self.record);
        if next != *self {
            steps.push(Step::new("the replica catches up", 0, next));
        }
        let mut next = *self;
        next.left.failovers -= 1;
        next.server = 1 - self.server;
        next.epoch += 1;
        next.loaders.iter_mut().for_each(|loader| loader.exclusive = false);
        (next.key, next.record) = self.replica;
        // What Redis itself lost is no fault of Terrace: values that executed writes have replaced.
        let executed = |writer: &Writer| if let Writer::Done(version) = writer { *version } else { 0 };
        let lost = self.writers.iter().map(executed).fold(self.settled, u8::max);
        if let Some(value) = &mut next.key
            && value.load.is_some_and(|version| version < lost)
        {
            value.load = None;
        }
        if next.negative().is_some_and(|version| version < lost) {
            next.record = None;
        }
        // The former primary executes the rest of no write.
        let is_half = |writer: &&mut Writer| matches!(writer, Writer::Half(..));
        next.writers.iter_mut().filter(is_half).for_each(|writer| *writer = Writer::Over);
        next.replica = (next.key, next.record);
        next.read_epochs[usize::from(next.server)].get_or_insert(next.epoch);
        steps.push(Step::new("failover: the replica becomes the primary", 0, next));
    }

    /// Version of a failure or negative answer that a reader would see.
    fn negative(&self) -> Option<u8> {
        match self.record {
            Some(Record::Failed { version, .. } | Record::Absent { version }) if self.key.is_none() => Some(version),
            Some(_) | None => None,
        }
    }
}

impl World for State {
    type Rules = Rules;

    fn steps(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        (0..self.loaders.len()).for_each(|at| self.steps_of_loader(at, rules, steps));
        (0..self.writers.len()).for_each(|at| self.steps_of_writer(at, rules, steps));
        self.steps_of_redis(steps);
    }

    fn violation(&self, _rules: &Rules) -> Option<&'static str> {
        let settled = self.settled.max(self.settled_directly);
        if self.key.and_then(|value| value.load).is_some_and(|version| version < settled) {
            return Some("a value is stored that was loaded before an acknowledged invalidation");
        }
        if self.negative().is_some_and(|version| version < self.settled) {
            return Some("a failure or negative answer from before an acknowledged invalidation is shown");
        }
        let exclusive = self.loaders.iter().filter(|loader| loader.exclusive).count();
        (exclusive > 1).then_some("two clients have an exclusive grant")
    }

    fn shows_load(&self) -> bool {
        self.settled > 0 && self.key.and_then(|value| value.load).is_some()
    }
}
