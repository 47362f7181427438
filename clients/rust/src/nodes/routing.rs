//! Selection of the node of a key: rendezvous hashing.
//!
//! Each node has a score for each key, and the node with the highest score serves the key. All clients with the same list
//! of nodes therefore use the same node for a key, so that the L1 tiers of N nodes hold N times as many keys. If a node
//! leaves, only its keys move, and they spread over all other nodes.
//!
//! Source: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
//! Networking 6(1), 1998.

use xxhash_rust::xxh3::xxh3_64;

/// Weyl constant of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hash of a key or of a node's name. It is the same in all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteHash(u64);

impl RouteHash {
    /// Returns the hash of a key, or of the name of a node.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_64(bytes))
    }

    /// Returns one of `count` buckets.
    pub(crate) fn bucket(self, count: usize) -> usize {
        // The upper bits of the product: smaller than `count`.
        ((u128::from(self.0) * count as u128) >> 64) as usize
    }

    /// Returns the score of a node for a key.
    #[must_use]
    pub fn score(self, node: Self) -> u64 {
        // The finalizer of SplitMix64 mixes all bits, so that the scores of a key for two nodes are independent.
        let mut mixed = (self.0 ^ node.0.rotate_left(32)).wrapping_add(GOLDEN);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Returns the index of the node that serves a key; `None` without nodes.
#[must_use]
pub fn owner(key: RouteHash, nodes: &[RouteHash]) -> Option<usize> {
    (0..nodes.len()).max_by_key(|index| key.score(nodes[*index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<RouteHash> {
        (0..count).map(|node| RouteHash::of(format!("cache-{node}:7400").as_bytes())).collect()
    }

    fn owners(keys: usize, nodes: &[RouteHash]) -> Vec<usize> {
        (0..keys).filter_map(|key| owner(RouteHash::of(format!("key:{key}").as_bytes()), nodes)).collect()
    }

    #[test]
    fn keys_spread_evenly() {
        for count in [2, 3, 8] {
            let owners = owners(40_000, &nodes(count));
            for node in 0..count {
                let share = owners.iter().filter(|owner| **owner == node).count();
                let expected = 40_000 / count;
                assert!(share.abs_diff(expected) < expected / 20, "node {node} of {count} has {share} keys");
            }
        }
    }

    #[test]
    fn only_the_keys_of_a_lost_node_move_and_they_spread() {
        let all = nodes(4);
        let (before, after) = (owners(10_000, &all), owners(10_000, &all[..3]));
        let mut moved = [0_usize; 3];
        for (before, after) in before.iter().zip(&after) {
            if *before == 3 {
                moved[*after] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        for share in moved {
            assert!((700..970).contains(&share), "{moved:?}");
        }
    }

    #[test]
    fn the_route_of_a_key_is_the_same_in_all_versions() {
        // All clients of a fleet must agree, therefore these values may never change.
        let nodes = nodes(3);
        let routes: Vec<_> = ["", "user:1", "user:2", "\u{e9}"]
            .iter()
            .map(|key| RouteHash::of(key.as_bytes()).score(nodes[0]))
            .collect();
        assert_eq!(
            routes,
            [13_843_716_731_351_272_688, 696_655_167_518_744_485, 5_146_716_489_344_474_793, 4_752_162_892_555_503_512]
        );
    }
}
