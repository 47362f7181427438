//! Traffic whose patterns stop being true: the cost of prefetch when it has no benefit.

use fastrand::Rng;
use terrace::cli::trace::Request;

use super::workload;

/// Number of objects, and of requests in a phase.
const THINGS: u64 = 60_000;
const PHASE: usize = 20_000;
const VALUE_BYTES: u64 = 1_000;

fn request(at: usize, key: Vec<u8>) -> Request {
    Request { at_ms: at as u64, key, size: VALUE_BYTES, ttl_ms: None, caller: None }
}

/// Random keys without any structure.
pub(crate) fn chance(requests: usize, seed: u64) -> Vec<Request> {
    let mut rng = Rng::with_seed(seed);
    (0..requests).map(|at| request(at, workload::key(rng.u64(..THINGS) as usize).to_vec())).collect()
}

/// Pairs of keys that are read together in one phase; in the next phase, only the left key is read. The phases
/// alternate. `name` makes the left and right key of an object.
pub(crate) fn pairs(requests: usize, seed: u64, name: impl Fn(u64) -> [Vec<u8>; 2]) -> Vec<Request> {
    let mut rng = Rng::with_seed(seed);
    let mut all = Vec::with_capacity(requests + 1);
    while all.len() < requests {
        let is_together = (all.len() / PHASE).is_multiple_of(2);
        let [left, right] = name(rng.u64(..THINGS));
        all.push(request(all.len(), left));
        if is_together {
            all.push(request(all.len(), right));
        }
    }
    all
}

/// Keys whose names show that they belong together.
pub(crate) fn alike(thing: u64) -> [Vec<u8>; 2] {
    ["left", "right"].map(|side| format!("{side}:{}", thing * 7_919).into_bytes())
}

/// Keys whose names do not show it.
pub(crate) fn unlike(thing: u64) -> [Vec<u8>; 2] {
    [0, 1].map(|side| workload::key((thing * 2 + side) as usize).to_vec())
}
