//! A fleet of nodes: each request reaches one node, and the results are sums over all nodes.

use clap::ValueEnum;
use terrace_client::nodes::routing::{RouteHash, owner};

use super::{
    SEED,
    engine::{Figures, Plan, Run},
};

/// Selection of the node of a request, as the client library does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Routing {
    /// Send each key to one node, selected by rendezvous hashing.
    Key,
    /// Send each request to a random node, with a fixed seed.
    Any,
}

impl Routing {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Any => "any",
        }
    }
}

/// Nodes of equal size.
pub(super) struct Fleet {
    plan: Plan,
    routing: Routing,
    nodes: Vec<Run>,
    names: Vec<RouteHash>,
    // Turns instead of random nodes would give every second request of two alternating keys to the same node.
    random: fastrand::Rng,
}

impl Fleet {
    /// Creates `nodes` nodes with empty L1s and this plan each.
    pub(super) fn new(plan: Plan, nodes: u32, routing: Routing) -> Self {
        let names = (1..=nodes).map(|number| RouteHash::of(format!("node-{number}").as_bytes())).collect();
        let node = |number| Run::new(Plan { seed: plan.seed + number, ..plan });
        let nodes = (0..u64::from(nodes)).map(node).collect();
        Self { plan, routing, nodes, names, random: fastrand::Rng::with_seed(SEED) }
    }

    /// Returns the node of the next request.
    pub(super) fn node(&mut self, key: &[u8]) -> Option<&mut Run> {
        let number = match self.routing {
            Routing::Key => owner(RouteHash::of(key), &self.names).unwrap_or_default(),
            Routing::Any => self.random.usize(..self.nodes.len()),
        };
        self.nodes.get_mut(number)
    }

    /// Returns the settings of each node.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn nodes(&self) -> u64 {
        self.nodes.len() as u64
    }

    pub(super) fn routing(&self) -> Routing {
        self.routing
    }

    /// Returns the sums over all nodes. The staged entries are those of the first node.
    pub(super) fn figures(&self) -> Figures {
        let mut all = self.nodes.iter().map(Run::figures);
        let first = all.next().unwrap_or_default();
        all.fold(first, |mut sum, node| {
            sum.requests += node.requests;
            sum.misses += node.misses;
            sum.l2_reads += node.l2_reads;
            sum.counts.add(&node.counts);
            sum.learned_bytes += node.learned_bytes;
            sum
        })
    }

    /// Returns the number of requests of the node that has most.
    pub(super) fn busiest(&self) -> u64 {
        self.nodes.iter().map(|node| node.figures().requests).max().unwrap_or_default()
    }

    /// Returns `true` if stale hits and held bytes are recorded.
    pub(super) fn has_ledger(&self) -> bool {
        self.nodes.iter().any(|node| node.ledger().is_kept())
    }

    pub(super) fn stale(&self) -> u64 {
        self.nodes.iter().map(|node| node.ledger().stale()).sum()
    }

    pub(super) fn byte_seconds(&self) -> f64 {
        self.nodes.iter().map(|node| node.ledger().byte_seconds()).sum()
    }
}
