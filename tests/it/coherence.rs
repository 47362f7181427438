//! The coherence contract under faults: no read on any node is older than Δ, whatever fails in Redis or on the
//! connections.
//!
//! `TERRACE_CHECK_SECONDS` sets how long faults are injected (10 to 20 s by default, 60 s in CI, 600 s for the long
//! run). `TERRACE_CHECK_SEED` repeats a schedule. No assertion depends on speed; the test prints the load that it
//! reached.

use std::time::Duration;

use crate::support::{
    checker::{
        Plan,
        direct::Direct,
        faults::Stage,
        run::{SCRIPT_TIMEOUT, check, plan, seconds},
    },
    proxy::FaultProxy,
    redis::RedisServer,
    terrace::{Terrace, config_over},
};

#[test]
fn no_read_is_older_than_the_bound_whatever_fails() {
    let redis = RedisServer::start();
    let proxies: Vec<FaultProxy> = (0..2).map(|_| FaultProxy::start(redis.port())).collect();
    let nodes: Vec<Terrace> = proxies.iter().map(|proxy| Terrace::start(config_over(proxy.url()))).collect();
    let plan = plan(&nodes, Direct::One(redis.url()), Duration::ZERO);
    check(Stage { redis, proxies }, &nodes, plan, seconds(20));
}

#[test]
fn no_read_is_older_than_the_bound_while_scripts_write() {
    let redis = RedisServer::start();
    let proxies: Vec<FaultProxy> = (0..2).map(|_| FaultProxy::start(redis.port())).collect();
    let start = |proxy: &FaultProxy| {
        let mut config = config_over(proxy.url());
        config.l2.script_timeout = SCRIPT_TIMEOUT;
        Terrace::start(config)
    };
    let nodes: Vec<Terrace> = proxies.iter().map(start).collect();
    let plan = Plan { scripts: true, writers: 2, ..plan(&nodes, Direct::One(redis.url()), Duration::ZERO) };
    check(Stage { redis, proxies }, &nodes, plan, seconds(20));
}
