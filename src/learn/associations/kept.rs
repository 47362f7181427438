//! The graph as it is kept between two lives of a node.
//!
//! Nodes keep their places, because successors are named by them. They are taken in several steps, between which the graph goes
//! on: a successor whose node was recycled meanwhile is then named by a generation that is not there, and no longer
//! answers, as in life.

use super::{ALLOCATION_BYTES, CONTEXT, EDGES, Edge, Graph, KEY_MAX_BYTES, Node, NodeRef, TRIALS_MAX};

/// Key, times seen, clock, generation, successors.
pub(in crate::learn) type KeptNode = (Vec<u8>, u8, u8, u8, Vec<KeptEdge>);
/// Place and generation of the successor; outcomes, trials, lag.
pub(in crate::learn) type KeptEdge = (u32, u8, u8, u8, u8);

impl Edge {
    /// A trial that is under way is taken back: what comes of it will not be seen.
    fn kept(&self) -> KeptEdge {
        let (tried, history) = if self.open { (self.tried - 1, self.history >> 1) } else { (self.tried, self.history) };
        (self.target.at, self.target.generation, history, tried, self.lag)
    }

    fn of((at, generation, history, tried, lag): KeptEdge) -> Option<Self> {
        let is_sound = tried <= TRIALS_MAX && usize::from(lag) <= CONTEXT;
        is_sound.then_some(Self { target: NodeRef { at, generation }, history, tried, lag, open: false })
    }
}

impl Graph {
    /// Up to `count` nodes from place `from` on, in order.
    pub(in crate::learn) fn kept(&self, from: usize, count: usize) -> Vec<KeptNode> {
        let kept = |node: &Node| {
            let edges = node.edges.iter().flatten().map(Edge::kept).collect();
            (node.key.to_vec(), node.seen, node.clock, node.generation, edges)
        };
        self.nodes.iter().skip(from).take(count).map(kept).collect()
    }

    /// Takes the next node back. `None` if it is none; `false` if there is no room.
    pub(in crate::learn) fn take(&mut self, node: KeptNode, hash: u64, form: u8) -> Option<bool> {
        let (key, seen, clock, generation, successors) = node;
        if key.is_empty() || key.len() > KEY_MAX_BYTES || successors.len() > EDGES {
            return None;
        }
        self.key_bytes += key.len() + ALLOCATION_BYTES;
        if !self.has_room() {
            self.key_bytes -= key.len() + ALLOCATION_BYTES;
            return Some(false);
        }
        let mut edges = [None; EDGES];
        for (place, successor) in edges.iter_mut().zip(successors) {
            *place = Some(Edge::of(successor)?);
        }
        let is_known = self.find(hash, &key).is_some();
        self.nodes.push(Node { key: key.into(), hash, generation, clock, seen, form, edges });
        // A key that was recycled and came again between two steps is there twice: the second is nobody's, and goes
        // with the next round of the clock.
        if !is_known {
            let (nodes, at) = (&self.nodes, self.nodes.len() - 1);
            self.index.insert_unique(hash, at as u32, |&at| nodes[at as usize].hash);
        }
        Some(true)
    }
}
