//! Which key follows which: a bounded graph of keys and a few successors each.
//!
//! A successor (edge) remembers what came of its last trials: a trial is opened whenever its key comes and the successor
//! is absent, and is right if the successor comes while the key is among the caller's last [`CONTEXT`] events. Keys leave
//! by a clock: an edge that was right keeps its key for three rounds, any event for one.

mod kept;

use hashbrown::HashTable;

pub(super) use self::kept::KeptNode;
use super::proof::Opinion;

/// Successors of a key.
pub(super) const EDGES: usize = 12;
/// Events of one caller that a key may follow.
pub(super) const CONTEXT: usize = 5;
/// Trials that are counted.
const TRIALS_MAX: u8 = 16;
/// Rounds of the clock after an event, and after an edge was right.
const SEEN: u8 = 1;
const FOLLOWED: u8 = 3;
/// Bytes an allocation takes beyond what was asked for, at most, for keys of usual length.
const ALLOCATION_BYTES: usize = 16;
/// Keys that are remembered are at most this long: longer ones are rare, and no prefix says more.
pub(super) const KEY_MAX_BYTES: usize = 512;

/// Names a node; a recycled one no longer answers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeRef {
    pub(super) at: u32,
    generation: u8,
}

/// A successor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) target: NodeRef,
    /// Outcomes, the last in the lowest bit.
    history: u8,
    tried: u8,
    /// Events from the key to the successor.
    pub(super) lag: u8,
    /// The last trial is still open.
    open: bool,
}

impl Edge {
    /// Trials and outcomes as they stand when its key comes again: an open trial has failed.
    pub(super) fn record(&self) -> (u8, u8) {
        (self.tried, self.history)
    }

    /// What it said before the trial that is under way.
    fn opinion(&self) -> Opinion {
        let (tried, history) = if self.open { (self.tried - 1, self.history >> 1) } else { (self.tried, self.history) };
        match (tried, history & 3) {
            (0, _) => Opinion::Followed,
            (1, 1) => Opinion::Followed,
            (_, 3) => Opinion::Followed2,
            (_, 1) => Opinion::Followed,
            (_, _) => Opinion::Failed,
        }
    }

    /// What is least is replaced first.
    fn worth(&self) -> u8 {
        let right = (self.history & 7).count_ones() as u8;
        let fresh = u8::from(self.tried == 0);
        right * 16 + fresh * 8 + (CONTEXT as u8 - self.lag.min(CONTEXT as u8))
    }
}

/// A key and what followed it.
pub(super) struct Node {
    pub(super) key: Box<[u8]>,
    pub(super) hash: u64,
    generation: u8,
    clock: u8,
    /// Times it was seen, saturating.
    pub(super) seen: u8,
    /// What the key looks like: see `form_of`.
    pub(super) form: u8,
    pub(super) edges: [Option<Edge>; EDGES],
}

/// The graph.
pub(super) struct Graph {
    nodes: Vec<Node>,
    index: HashTable<u32>,
    hand: usize,
    key_bytes: usize,
    memory_bytes: usize,
}

/// Bytes of a node beside its key: the node and its place in the index.
const NODE_BYTES: usize = size_of::<Node>() + 10 + ALLOCATION_BYTES;

impl Graph {
    pub(super) fn new(memory_bytes: usize) -> Self {
        Self { nodes: Vec::new(), index: HashTable::new(), hand: 0, key_bytes: 0, memory_bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.index.allocation_size() + self.key_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Up to `count` keys from place `from` on, and the place to go on from.
    pub(super) fn page(&self, from: usize, count: usize) -> (Vec<Vec<u8>>, Option<usize>) {
        let keys: Vec<Vec<u8>> = self.nodes.iter().skip(from).take(count).map(|node| node.key.to_vec()).collect();
        let next = from.saturating_add(keys.len());
        (keys, (next < self.nodes.len()).then_some(next))
    }

    /// The node, unless it was recycled.
    pub(super) fn get(&self, node: NodeRef) -> Option<&Node> {
        self.nodes.get(node.at as usize).filter(|found| found.generation == node.generation)
    }

    pub(super) fn get_mut(&mut self, node: NodeRef) -> Option<&mut Node> {
        self.nodes.get_mut(node.at as usize).filter(|found| found.generation == node.generation)
    }

    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<NodeRef> {
        let at = *self.index.find(hash, |&at| *self.nodes[at as usize].key == *key)?;
        Some(NodeRef { at, generation: self.nodes[at as usize].generation })
    }

    /// The node of a key that came, made if there is none.
    pub(super) fn meet(&mut self, hash: u64, key: &[u8], form: u8) -> NodeRef {
        if let Some(found) = self.find(hash, key) {
            let node = &mut self.nodes[found.at as usize];
            node.clock = node.clock.max(SEEN);
            // Which of its parts vary shows in time.
            node.form = form;
            node.seen = node.seen.saturating_add(1);
            return found;
        }
        let mut node = Node { key: key.into(), hash, generation: 0, clock: 0, seen: 1, form, edges: [None; EDGES] };
        self.key_bytes += key.len() + ALLOCATION_BYTES;
        let at = if self.has_room() || self.nodes.is_empty() {
            if self.nodes.len() == self.nodes.capacity() {
                self.nodes.reserve_exact(self.nodes.len() / 4 + 64);
            }
            self.nodes.push(node);
            self.nodes.len() - 1
        } else {
            let at = self.recycle();
            node.generation = self.nodes[at].generation.wrapping_add(1);
            self.nodes[at] = node;
            at
        };
        let nodes = &self.nodes;
        self.index.insert_unique(hash, at as u32, |&at| nodes[at as usize].hash);
        NodeRef { at: at as u32, generation: self.nodes[at].generation }
    }

    /// Takes a node out of the index and says which. The clock ends: each round lowers every node it passes.
    fn recycle(&mut self) -> usize {
        loop {
            self.hand = if self.hand + 1 >= self.nodes.len() { 0 } else { self.hand + 1 };
            let node = &mut self.nodes[self.hand];
            if node.clock > 0 {
                node.clock -= 1;
                continue;
            }
            self.key_bytes -= node.key.len() + ALLOCATION_BYTES;
            if let Ok(found) = self.index.find_entry(node.hash, |&at| at as usize == self.hand) {
                found.remove();
            }
            return self.hand;
        }
    }

    /// `target` came `lag` events after `node`. Whether it was a successor already.
    pub(super) fn follow(&mut self, node: NodeRef, target: NodeRef, lag: u8) -> bool {
        if node.at == target.at {
            return false;
        }
        let Some(found) = self.get_mut(node) else { return false };
        if let Some(edge) = found.edges.iter_mut().flatten().find(|edge| edge.target == target) {
            if edge.open {
                edge.history |= 1;
                edge.open = false;
                found.clock = FOLLOWED;
            }
            // It follows as closely as it did lately, but for single exceptions.
            edge.lag = (edge.lag + lag).div_ceil(2);
            return true;
        }
        let weakest = found.edges.iter_mut().min_by_key(|edge| edge.map_or(0, |edge| 1 + edge.worth()));
        if let Some(place) = weakest {
            *place = Some(Edge { target, history: 0, tried: 0, lag, open: false });
        }
        false
    }

    /// Room for one more node; its key is counted already.
    fn has_room(&self) -> bool {
        (self.nodes.len() + 1) * NODE_BYTES + self.key_bytes <= self.memory_bytes
    }

    /// The successors of a node that are still there.
    pub(super) fn successors(&self, node: NodeRef) -> impl Iterator<Item = (usize, &Edge, &Node)> {
        let edges = self.get(node).map_or(&[][..], |node| &node.edges);
        edges.iter().enumerate().filter_map(|(at, edge)| {
            let edge = edge.as_ref()?;
            Some((at, edge, self.get(edge.target)?))
        })
    }

    /// Opens a trial of an edge.
    pub(super) fn open(&mut self, node: NodeRef, edge: usize) {
        if let Some(Some(edge)) = self.get_mut(node).map(|node| &mut node.edges[edge]) {
            edge.history <<= 1;
            edge.tried = (edge.tried + 1).min(TRIALS_MAX);
            edge.open = true;
        }
    }

    /// What a node says of a target.
    pub(super) fn opinion(&self, node: Option<NodeRef>, target: NodeRef) -> Opinion {
        let Some(node) = node.and_then(|node| self.get(node)) else { return Opinion::Unknown };
        match node.edges.iter().flatten().find(|edge| edge.target == target) {
            Some(edge) => edge.opinion(),
            None if node.seen < 2 => Opinion::Unknown,
            None => Opinion::Silent,
        }
    }
}
