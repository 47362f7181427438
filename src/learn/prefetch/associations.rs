//! Associations between keys: a bounded graph of keys with a few successors each.
//!
//! A successor (edge) remembers the outcomes of its last trials. A trial is opened when the key is read while the successor
//! is absent; it is right if the successor is read while the key is among the caller's last [`CONTEXT`] events. Keys are
//! evicted by the clock algorithm: an edge that was right keeps its key for three rounds, any event for one.

mod snapshot_rows;

use hashbrown::HashTable;

pub(in crate::learn) use self::snapshot_rows::NodeRow;
use super::proof::Opinion;

/// Maximum number of successors of a key.
pub(super) const EDGES: usize = 12;
/// Events of one caller that a key may follow.
pub(super) const CONTEXT: usize = 5;
/// Trials are counted up to this number.
const TRIALS_MAX: u8 = 16;
/// Rounds of the clock after an event, and after an edge was right.
const SEEN: u8 = 1;
const FOLLOWED: u8 = 3;
/// Maximum overhead of an allocation in bytes, for keys of usual length.
const ALLOCATION_BYTES: usize = 16;
/// Maximum size of a key with learned associations.
pub(super) const KEY_MAX_BYTES: usize = 512;

/// Reference to a node; it becomes invalid when the node is recycled.
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
    /// Returns the number of trials and their outcomes; an open trial counts as failed.
    pub(super) fn record(&self) -> (u8, u8) {
        (self.tried, self.history)
    }

    /// Returns the number of trials and their outcomes, without a trial that is still open.
    fn closed_record(&self) -> (u8, u8) {
        if self.open { (self.tried - 1, self.history >> 1) } else { (self.tried, self.history) }
    }

    /// Returns the opinion from the trials that are closed.
    fn opinion(&self) -> Opinion {
        let (tried, history) = self.closed_record();
        match (tried, history & 3) {
            (0, _) => Opinion::Followed,
            (1, 1) => Opinion::Followed,
            (_, 3) => Opinion::Followed2,
            (_, 1) => Opinion::Followed,
            (_, _) => Opinion::Failed,
        }
    }

    /// Returns the worth of the edge; the edge of least worth is replaced first.
    fn worth(&self) -> u8 {
        let right = (self.history & 7).count_ones() as u8;
        let fresh = u8::from(self.tried == 0);
        right * 16 + fresh * 8 + (CONTEXT as u8 - self.lag.min(CONTEXT as u8))
    }
}

/// A key and its successors.
pub(super) struct Node {
    pub(super) key: Box<[u8]>,
    pub(super) hash: u64,
    generation: u8,
    clock: u8,
    /// Number of times the key was seen, saturating.
    pub(super) seen: u8,
    /// Class of the key: see `key_class::class_of`.
    pub(super) class: u8,
    pub(super) edges: [Option<Edge>; EDGES],
}

/// The graph.
pub(in crate::learn) struct AssociationGraph {
    nodes: Vec<Node>,
    index: HashTable<u32>,
    hand: usize,
    key_bytes: usize,
    memory_bytes: usize,
}

/// Bytes of a node in addition to its key: the node and its index entry.
const NODE_BYTES: usize = size_of::<Node>() + 10 + ALLOCATION_BYTES;

impl AssociationGraph {
    pub(super) fn new(memory_bytes: usize) -> Self {
        Self { nodes: Vec::new(), index: HashTable::new(), hand: 0, key_bytes: 0, memory_bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.index.allocation_size() + self.key_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns up to `count` keys from place `from` on, and the place of the next page.
    pub(super) fn page(&self, from: usize, count: usize) -> (Vec<Vec<u8>>, Option<usize>) {
        let keys: Vec<Vec<u8>> = self.nodes.iter().skip(from).take(count).map(|node| node.key.to_vec()).collect();
        let next = from.saturating_add(keys.len());
        (keys, (next < self.nodes.len()).then_some(next))
    }

    /// Returns the node; `None` if it was recycled.
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

    /// Returns the node of a key that was read; creates it if there is none.
    pub(super) fn observe(&mut self, hash: u64, key: &[u8], class: u8) -> NodeRef {
        if let Some(found) = self.find(hash, key) {
            let node = &mut self.nodes[found.at as usize];
            node.clock = node.clock.max(SEEN);
            // The class changes as the template learns which tokens vary.
            node.class = class;
            node.seen = node.seen.saturating_add(1);
            return found;
        }
        let mut node = Node { key: key.into(), hash, generation: 0, clock: 0, seen: 1, class, edges: [None; EDGES] };
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

    /// Removes a node from the index and returns its place. The loop ends: each round lowers every clock that it passes.
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

    /// Notes that `target` came `lag` events after `node`. Returns whether it was a successor already.
    pub(super) fn note_succession(&mut self, node: NodeRef, target: NodeRef, lag: u8) -> bool {
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
            // A recent average: one exception changes the lag only in part.
            edge.lag = (edge.lag + lag).div_ceil(2);
            return true;
        }
        let weakest = found.edges.iter_mut().min_by_key(|edge| edge.map_or(0, |edge| 1 + edge.worth()));
        if let Some(place) = weakest {
            *place = Some(Edge { target, history: 0, tried: 0, lag, open: false });
        }
        false
    }

    /// Returns whether there is room for one more node, whose key is counted already.
    fn has_room(&self) -> bool {
        (self.nodes.len() + 1) * NODE_BYTES + self.key_bytes <= self.memory_bytes
    }

    /// Returns the successors of a node that were not recycled.
    pub(super) fn successors(&self, node: NodeRef) -> impl Iterator<Item = (usize, &Edge, &Node)> {
        let edges = self.get(node).map_or(&[][..], |node| &node.edges);
        edges.iter().enumerate().filter_map(|(at, edge)| {
            let edge = edge.as_ref()?;
            Some((at, edge, self.get(edge.target)?))
        })
    }

    /// Opens a trial of an edge.
    pub(super) fn open_trial(&mut self, node: NodeRef, edge: usize) {
        if let Some(Some(edge)) = self.get_mut(node).map(|node| &mut node.edges[edge]) {
            edge.history <<= 1;
            edge.tried = (edge.tried + 1).min(TRIALS_MAX);
            edge.open = true;
        }
    }

    /// Returns the opinion that a node has of a target.
    pub(super) fn opinion(&self, node: Option<NodeRef>, target: NodeRef) -> Opinion {
        let Some(node) = node.and_then(|node| self.get(node)) else { return Opinion::Unknown };
        match node.edges.iter().flatten().find(|edge| edge.target == target) {
            Some(edge) => edge.opinion(),
            None if node.seen < 2 => Opinion::Unknown,
            None => Opinion::Silent,
        }
    }
}
