//! Tests of `tests/support`: the other tests rely on the clusters, the proxy and the checker.

mod cluster;
mod markdown;
mod proxy;
mod sentinel;
mod slots;
