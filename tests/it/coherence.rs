//! The contract under faults: no read on any node is older than Δ, whatever happens to Redis and to the links.
//!
//! `TERRACE_CHECK_SECONDS` sets how long faults are injected (10 to 20 here, 60 in CI, 600 for the long run), `TERRACE_CHECK_SEED`
//! repeats a schedule. What is asserted does not depend on speed; what was reached is printed.

use std::{thread::sleep, time::Duration};

use redis::{Commands, Connection, Value};
use terrace::{l2::codec, proto::GetStatsResponse};
use tokio::time::Instant;

use crate::{
    nodes::{open, stats},
    support::{
        checker::{
            BOUND, Checker, Plan, Tally,
            faults::{Scene, Schedule, Stage},
            load,
            straight::{Straight, Way},
        },
        eventually,
        proxy::FaultProxy,
        redis::RedisServer,
        setting_from_environment,
        terrace::{Terrace, config},
    },
};

/// Keys under test.
const KEYS: usize = 512;

/// How long to check: so many seconds, unless the environment says otherwise.
pub(crate) fn seconds(default: u64) -> Duration {
    let in_ci = setting_from_environment("CI", String::new()) == "true";
    Duration::from_secs(setting_from_environment("TERRACE_CHECK_SECONDS", if in_ci { 60 } else { default }))
}

/// The seed of this run, told so that it can be repeated.
fn seed() -> u64 {
    let seed = setting_from_environment("TERRACE_CHECK_SEED", fastrand::u64(..));
    println!("TERRACE_CHECK_SEED={seed}");
    seed
}

/// The usual load on these nodes, with a seed of this run.
pub(crate) fn plan(nodes: &[Terrace], straight: Straight, straight_bound: Duration) -> Plan {
    let nodes = nodes.iter().map(|node| (node.resp().to_owned(), node.grpc().to_owned())).collect();
    let stale_for = Duration::ZERO;
    Plan { nodes, straight, straight_bound, stale_for, keys: KEYS, writers: 1, readers: 2, seed: seed() }
}

/// Injects faults into `scene` under load on `nodes`. In the end all nodes show what Redis has, L1 answers again, and no read
/// was too old.
pub(crate) fn check<S: Scene>(mut scene: S, nodes: &[Terrace], plan: Plan, lasts: Duration) {
    nodes.iter().for_each(|node| eventually("L1 opens", || open(node)));
    let (straight, mut schedule) = (plan.straight.clone(), Schedule::new(plan.seed));
    let checker = Checker::start(plan);
    let begun = Instant::now();
    schedule.run(&mut scene, &checker.truth, begun + lasts);
    let spent = begun.elapsed();
    checker.stop_writing();
    for node in nodes {
        eventually("L1 is open again without a manual step", || open(node));
    }
    assert_none_refuted(&checker.tally, &schedule);
    all_show_what_redis_has(nodes, straight);
    // With all links in order, old copies would still be old.
    sleep(2 * BOUND);
    conclude(nodes, checker, &schedule, spent);
}

/// Once nobody writes any more, there is one truth.
fn all_show_what_redis_has(nodes: &[Terrace], straight: Straight) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut way = Way::new(straight);
    let connect = |node: &Terrace| {
        let client = redis::Client::open(format!("redis://{}", node.resp())).expect("an address");
        client.get_connection().expect("it accepts")
    };
    let mut through: Vec<Connection> = nodes.iter().map(connect).collect();
    for key in (0..KEYS).map(load::name) {
        let mut get = redis::cmd("GET");
        get.arg(&key);
        eventually("all nodes show what Redis has", || {
            let Ok(truth) = runtime.block_on(way.ask(key.as_bytes(), &get)) else { return false };
            through.iter_mut().all(|node| node.get::<_, Value>(&key).is_ok_and(|value| shows(&value, &truth)))
        });
    }
}

/// Whether a node that has heard all shows `value` where Redis has `truth`. An entry with tags is shown or, if they are gone,
/// not there.
fn shows(value: &Value, truth: &Value) -> bool {
    let Value::BulkString(bytes) = truth else { return value == truth };
    let (head, payload) = codec::split(bytes);
    *value == Value::BulkString(payload.to_vec()) || !head.is_empty() && *value == Value::Nil
}

fn conclude(nodes: &[Terrace], checker: Checker, schedule: &Schedule, spent: Duration) {
    let tally = checker.stop();
    let stats: Vec<GetStatsResponse> = nodes.iter().map(stats).collect();
    let hits: u64 = stats.iter().map(|stats| stats.reads.expect("set").hit_l1).sum();
    println!("{} reads in {spent:?}, {hits} from L1, {} writes; {tally}", tally.reads(), tally.writes());
    for (node, stats) in stats.iter().enumerate() {
        println!("node {node}: {:?} {:?}", stats.coherence.as_ref().expect("set"), stats.l1.expect("set"));
    }
    println!("injected: {:?}", schedule.injected());
    assert_none_refuted(&tally, schedule);
    assert!(hits > 0 && tally.writes() > 0, "nothing was tested");
}

/// What was refuted by the way `straight` speaks against the checker, not against the nodes.
fn assert_none_refuted(tally: &Tally, schedule: &Schedule) {
    let told = tally.told().join("\n");
    if tally.violations() > 0 && schedule.unplanned() > 0 {
        println!("inconclusive: {} failovers that nobody asked for may be the reason of\n{told}", schedule.unplanned());
        return;
    }
    assert_eq!(tally.violations(), 0, "the contract was broken:\n{told}\nwhat happened:\n{}", schedule.diary());
}

#[test]
fn no_read_is_older_than_the_bound_whatever_fails() {
    let redis = RedisServer::start();
    let proxies: Vec<FaultProxy> = (0..2).map(|_| FaultProxy::start(redis.port())).collect();
    let start = |proxy: &FaultProxy| {
        let mut config = config();
        config.l2.url = proxy.url();
        Terrace::start(config)
    };
    let nodes: Vec<Terrace> = proxies.iter().map(start).collect();
    let plan = plan(&nodes, Straight::One(redis.url()), Duration::ZERO);
    check(Stage { redis, proxies }, &nodes, plan, seconds(20));
}
