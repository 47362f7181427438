//! The marker: nodes omit the DEL of the record while nobody uses leases. One key, which is absent at the beginning, so
//! that no fingerprint detects a Delete.
//!
//! A node *hears* of a change of the marker over its invalidation link. While the link works, it hears within Δ, so the
//! marker becomes Δ old only after each such node has heard of it.

use super::search::{Step, World};

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// A cluster: the script cannot read the marker.
    pub(super) cluster: bool,
    /// The fill script compares the marker with the token (not in a cluster).
    pub(super) check_marker: bool,
    /// Each marker has other random bytes.
    pub(super) random_marker: bool,
    /// Tokens are empty until the marker is Δ old.
    pub(super) wait: bool,
    /// A node without a working link deletes the record.
    pub(super) lost_link_deletes: bool,
    /// A node deletes the record after its start.
    pub(super) start_deletes: bool,
    /// A node omits the DEL only if the marker was absent for 3 s.
    pub(super) absent_long: bool,
    /// In a cluster: the fill has a time limit of 1 s after the node has seen the marker of the token.
    pub(super) time_limit: bool,
    /// The marker holds the id of its server, and a failover makes it unusable.
    pub(super) marker_has_epoch: bool,
}

pub(super) const STANDALONE: Rules = Rules {
    cluster: false,
    check_marker: true,
    random_marker: true,
    wait: true,
    lost_link_deletes: true,
    start_deletes: true,
    absent_long: true,
    time_limit: false,
    marker_has_epoch: true,
};

pub(super) const CLUSTER: Rules = Rules { cluster: true, check_marker: false, time_limit: true, ..STANDALONE };

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Marker {
    bytes: u8,
    /// It is Δ old.
    is_old: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    omits: bool,
    link: bool,
    sees: Option<Marker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Token {
    generation: u8,
    marker: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Loader {
    Idle,
    Granted(Token),
    Loaded(Token, u8),
    /// The fill is in flight.
    Sent(Token, u8),
    Over,
}

/// A Delete: its version, and whether it deletes the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    Begun(u8, bool),
    Half(u8),
    Done(u8),
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Record {
    generation: u8,
    holder: u8,
    exclusive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    origin: u8,
    settled: u8,
    key: Option<u8>,
    record: Option<Record>,
    marker: Option<Marker>,
    markers: u8,
    /// The marker has been absent for 3 s.
    absent_long: bool,
    nodes: [Node; 2],
    loaders: [Loader; 3],
    writers: [Writer; 2],
    /// The evicted marker, which a replica still has.
    evicted: Option<Marker>,
    evictions_left: u8,
    losses_left: u8,
    starts_left: u8,
    failovers_left: u8,
}

/// Number of operations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    pub(super) loaders: usize,
    pub(super) writers: usize,
    pub(super) evictions: u8,
    pub(super) losses: u8,
    pub(super) starts: u8,
    /// Failovers of the server of the marker to a replica that has not heard of its eviction.
    pub(super) failovers: u8,
}

impl State {
    pub(super) fn start(scope: Scope) -> Self {
        let mut loaders = [Loader::Over; 3];
        loaders[..scope.loaders].fill(Loader::Idle);
        let mut writers = [Writer::Over; 2];
        writers[..scope.writers].fill(Writer::Idle);
        Self {
            origin: 0,
            settled: 0,
            key: None,
            record: None,
            marker: None,
            markers: 0,
            absent_long: true,
            nodes: [Node { omits: true, link: true, sees: None }; 2],
            loaders,
            writers,
            evicted: None,
            evictions_left: scope.evictions,
            losses_left: scope.losses,
            starts_left: scope.starts,
            failovers_left: scope.failovers,
        }
    }

    /// Returns the marker for which the node gives tokens.
    fn usable_marker(&self, node: usize, rules: &Rules) -> Option<u8> {
        let seen = self.nodes[node].sees.filter(|_| self.nodes[node].link)?;
        (seen.is_old || !rules.wait).then_some(seen.bytes)
    }

    fn steps_of_loader(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let (mut next, node) = (*self, at % 2);
        match self.loaders[at] {
            // Idle loaders of a node are equal.
            Loader::Idle if at > 1 && self.loaders[at - 2] == Loader::Idle => {}
            Loader::Idle => {
                let Some(marker) = self.usable_marker(node, rules) else { return };
                let generation = match self.record {
                    Some(Record { exclusive: true, .. }) => return,
                    Some(Record { generation, .. }) => generation,
                    None => 1 + at as u8,
                };
                next.record = Some(Record { generation, holder: at as u8, exclusive: true });
                next.loaders[at] = Loader::Granted(Token { generation, marker });
                steps.push(Step::new("client {} acquires a lease", at, next));
            }
            Loader::Granted(token) => {
                next.loaders[at] = Loader::Loaded(token, self.origin);
                steps.push(Step::new("client {} loads from the origin", at, next));
            }
            Loader::Loaded(token, version) => {
                // In a cluster, only the node can compare the marker.
                let fits = !rules.cluster || self.usable_marker(node, rules) == Some(token.marker);
                next.loaders[at] = if fits { Loader::Sent(token, version) } else { Loader::Over };
                steps.push(Step::new("client {} sends its fill", at, next));
            }
            Loader::Sent(token, version) => {
                next.loaders[at] = Loader::Over;
                let has_marker = self.marker.is_some_and(|marker| marker.bytes == token.marker);
                let has_record = self.record.is_some_and(|record| record.generation == token.generation);
                if has_record && (has_marker || !rules.check_marker) {
                    (next.key, next.record) = (Some(version), None);
                }
                steps.push(Step::new("the fill of client {} is executed", at, next));
            }
            Loader::Over => {}
        }
    }

    fn steps_of_writer(&self, at: usize, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        let text = match self.writers[at] {
            Writer::Idle => {
                next.origin += 1;
                let deletes = !self.nodes[at % 2].omits;
                next.writers[at] = Writer::Begun(next.origin, deletes);
                if deletes { "writer {} begins a Delete with DEL" } else { "writer {} begins a Delete without DEL" }
            }
            Writer::Begun(version, deletes) => {
                next.writers[at] = Writer::Half(version);
                if deletes {
                    next.record = None;
                }
                "the first command of writer {} is executed"
            }
            Writer::Half(version) => {
                next.writers[at] = Writer::Done(version);
                next.key = None;
                "the Delete of writer {} is executed"
            }
            Writer::Done(version) => {
                next.writers[at] = Writer::Over;
                next.settled = next.settled.max(version);
                "the Delete of writer {} is acknowledged"
            }
            Writer::Over => return,
        };
        steps.push(Step::new(text, at, next));
    }

    fn steps_of_node(&self, at: usize, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut add = |text, change: &dyn Fn(&mut Self)| {
            let mut next = *self;
            change(&mut next);
            steps.push(Step::new(text, at, next));
        };
        let node = self.nodes[at];
        if node.link && (node.sees != self.marker || node.omits && self.marker.is_some()) {
            add("node {} hears of the marker", &|next| {
                next.nodes[at].sees = next.marker;
                next.nodes[at].omits &= next.marker.is_none();
            });
        }
        let may_omit = node.link && !node.omits && node.sees.is_none() && self.marker.is_none();
        if may_omit && (self.absent_long || !rules.absent_long) {
            add("node {} begins to omit the DEL", &|next| next.nodes[at].omits = true);
        }
        if node.link && self.losses_left > 0 {
            add("node {} loses its link", &|next| {
                next.losses_left -= 1;
                (next.nodes[at].link, next.nodes[at].sees) = (false, None);
                next.nodes[at].omits &= !rules.lost_link_deletes;
            });
        }
        if !node.link {
            add("node {} has a new link", &|next| next.nodes[at].link = true);
        }
        if self.starts_left > 0 {
            add("node {} starts again", &|next| {
                next.starts_left -= 1;
                next.nodes[at] = Node { omits: !rules.start_deletes, link: false, sees: None };
            });
        }
    }

    fn steps_of_redis(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        let mut next = *self;
        if let Some(Record { exclusive: exclusive @ true, .. }) = &mut next.record {
            *exclusive = false;
            steps.push(Step::new("the exclusive time of the record ends", 0, next));
        }
        let mut next = *self;
        match self.marker {
            None => {
                next.markers += 1;
                let bytes = if rules.random_marker { next.markers } else { 1 };
                (next.marker, next.absent_long) = (Some(Marker { bytes, is_old: false }), false);
                steps.push(Step::new("a node makes the marker", 0, next));
            }
            // Δ is over: each node with a working link has heard.
            Some(Marker { bytes, is_old: false }) if !self.nodes.iter().any(|node| node.link && node.omits) => {
                next.marker = Some(Marker { bytes, is_old: true });
                steps.push(Step::new("the marker is old enough", 0, next));
            }
            Some(_) => {}
        }
        let mut next = *self;
        if self.marker.is_some() && self.evictions_left > 0 {
            next.evictions_left -= 1;
            (next.marker, next.evicted) = (None, self.marker);
            steps.push(Step::new("the marker is evicted", 0, next));
        }
        let mut next = *self;
        if self.marker.is_none() && self.evicted.is_some() && self.failovers_left > 0 {
            next.failovers_left -= 1;
            next.marker = self.evicted.filter(|_| !rules.marker_has_epoch);
            next.absent_long &= next.marker.is_none();
            if !rules.cluster {
                // The record is on the same server, and its epoch is that of the former primary. All links are lost.
                next.record = None;
                next.nodes = [Node { omits: false, link: false, sees: None }; 2];
            }
            steps.push(Step::new("failover: the new primary has the evicted marker", 0, next));
        }
        let mut next = *self;
        if self.marker.is_none() && !self.absent_long {
            next.absent_long = true;
            for node in next.nodes.iter_mut().filter(|node| node.link) {
                node.sees = None;
            }
            if rules.time_limit {
                let is_sent = |loader: &&mut Loader| matches!(loader, Loader::Sent(..));
                next.loaders.iter_mut().filter(is_sent).for_each(|loader| *loader = Loader::Over);
            }
            steps.push(Step::new("the marker has been absent for 3 s; older fills have exceeded their limit", 0, next));
        }
    }
}

impl World for State {
    type Rules = Rules;

    fn steps(&self, rules: &Rules, steps: &mut Vec<Step<Self>>) {
        (0..self.loaders.len()).for_each(|at| self.steps_of_loader(at, rules, steps));
        (0..self.writers.len()).for_each(|at| self.steps_of_writer(at, steps));
        (0..self.nodes.len()).for_each(|at| self.steps_of_node(at, rules, steps));
        self.steps_of_redis(rules, steps);
    }

    fn violation(&self, _rules: &Rules) -> Option<&'static str> {
        self.key
            .is_some_and(|version| version < self.settled)
            .then_some("a value is stored that was loaded before an acknowledged invalidation")
    }

    fn shows_load(&self) -> bool {
        self.settled > 0 && self.key.is_some()
    }
}
