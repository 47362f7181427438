//! Snapshot rows of the association graph.
//!
//! Nodes keep their places, because edges refer to successors by place. Rows are read in several steps while the graph
//! changes: an edge to a node that was recycled between two steps then has a generation that does not exist, and is invalid
//! as in the graph itself.

use super::{ALLOCATION_BYTES, AssociationGraph, CONTEXT, EDGES, Edge, KEY_MAX_BYTES, Node, NodeRef, TRIALS_MAX};

/// Snapshot row of a node: key, times seen, clock, generation, edges.
pub(in crate::learn) type NodeRow = (Vec<u8>, u8, u8, u8, Vec<EdgeRow>);
/// Snapshot row of an edge: place and generation of the successor; outcomes, trials, lag.
pub(in crate::learn) type EdgeRow = (u32, u8, u8, u8, u8);

impl Edge {
    /// Returns the row without an open trial, whose outcome will not be seen.
    fn row(&self) -> EdgeRow {
        let (tried, history) = self.closed_record();
        (self.target.at, self.target.generation, history, tried, self.lag)
    }

    fn from_row((at, generation, history, tried, lag): EdgeRow) -> Option<Self> {
        let is_valid = tried <= TRIALS_MAX && usize::from(lag) <= CONTEXT;
        is_valid.then_some(Self { target: NodeRef { at, generation }, history, tried, lag, open: false })
    }
}

impl AssociationGraph {
    /// Returns the rows of up to `count` nodes from place `from` on, in order.
    pub(in crate::learn) fn rows(&self, from: usize, count: usize) -> Vec<NodeRow> {
        let row = |node: &Node| {
            let edges = node.edges.iter().flatten().map(Edge::row).collect();
            (node.key.to_vec(), node.seen, node.clock, node.generation, edges)
        };
        self.nodes.iter().skip(from).take(count).map(row).collect()
    }

    /// Restores the next node. Returns `None` if the row is invalid and `false` if there is no room.
    pub(in crate::learn) fn restore(&mut self, row: NodeRow, hash: u64, class: u8) -> Option<bool> {
        let (key, seen, clock, generation, successors) = row;
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
            *place = Some(Edge::from_row(successor)?);
        }
        let is_known = self.find(hash, &key).is_some();
        self.nodes.push(Node { key: key.into(), hash, generation, clock, seen, class, edges });
        // A key that was recycled and read again between two steps has two rows. The second node is not indexed, and the
        // clock evicts it.
        if !is_known {
            let (nodes, at) = (&self.nodes, self.nodes.len() - 1);
            self.index.insert_unique(hash, at as u32, |&at| nodes[at as usize].hash);
        }
        Some(true)
    }
}
