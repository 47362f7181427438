//! Runs a plan of the checker under faults, and checks the result.

use std::{sync::atomic::Ordering::Relaxed, thread::sleep, time::Duration};

use redis::{Commands, Connection, Value};
use terrace::{l2::codec, proto::GetStatsResponse};
use tokio::time::Instant;

use super::{
    BOUND, Checker, Plan, Tally,
    direct::{Direct, DirectClient},
    faults::{Scene, Schedule},
    load,
};
use crate::support::{
    eventually,
    node::{is_open, stats, wait_until_open},
    resp::connection,
    setting_from_environment,
    terrace::Terrace,
};

/// Deadline of scripts, shorter than the wait of the checker for an answer: a script that the checker has given up is not
/// sent later.
pub const SCRIPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Number of keys under test.
const KEYS: usize = 512;

/// Returns the duration of a run: `default` seconds, unless the environment sets another.
pub fn seconds(default: u64) -> Duration {
    let in_ci = setting_from_environment("CI", String::new()) == "true";
    Duration::from_secs(setting_from_environment("TERRACE_CHECK_SECONDS", if in_ci { 60 } else { default }))
}

/// Returns the seed of this run and prints it, so that the run can be repeated.
fn seed() -> u64 {
    let seed = setting_from_environment("TERRACE_CHECK_SEED", fastrand::u64(..));
    println!("TERRACE_CHECK_SEED={seed}");
    seed
}

/// The usual load on these nodes, with the seed of this run.
pub fn plan(nodes: &[Terrace], direct: Direct, direct_bound: Duration) -> Plan {
    let nodes = nodes.iter().map(|node| (node.resp().to_owned(), node.grpc().to_owned())).collect();
    let stale_for = Duration::ZERO;
    Plan { nodes, direct, direct_bound, stale_for, scripts: false, keys: KEYS, writers: 1, readers: 2, seed: seed() }
}

/// Injects faults into `scene` under load on `nodes`, then asserts that L1 is open again, that all nodes return the values
/// of Redis, and that no read broke the contract.
pub fn check<S: Scene>(mut scene: S, nodes: &[Terrace], plan: Plan, lasts: Duration) {
    nodes.iter().for_each(wait_until_open);
    let scripts = plan.scripts;
    let (direct, mut schedule) = (plan.direct.clone(), Schedule::new(plan.seed));
    let checker = Checker::start(plan);
    let begun = Instant::now();
    schedule.run(&mut scene, &checker.history, begun + lasts);
    let spent = begun.elapsed();
    checker.stop_writing();
    for node in nodes {
        eventually("L1 is open again without a manual step", || is_open(node));
    }
    assert_none_refuted(&checker.tally, &schedule);
    all_show_what_redis_has(nodes, direct);
    // With all links healed, an outdated copy would still be outdated.
    sleep(2 * BOUND);
    if scripts {
        let written = checker.tally.scripts.each_ref().map(|count| count.load(Relaxed));
        assert!(written.iter().all(|count| *count > 0), "scripts were not tested: {written:?}");
    }
    conclude(nodes, checker, &schedule, spent);
}

/// Waits until all nodes return the values of Redis, once all writers have stopped.
fn all_show_what_redis_has(nodes: &[Terrace], direct: Direct) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut direct = DirectClient::new(direct);
    let mut through: Vec<Connection> = nodes.iter().map(|node| connection(node.resp())).collect();
    for key in (0..KEYS).map(load::name) {
        let mut get = redis::cmd("GET");
        get.arg(&key);
        eventually("all nodes show what Redis has", || {
            let Ok(stored) = runtime.block_on(direct.ask(key.as_bytes(), &get)) else { return false };
            through.iter_mut().all(|node| node.get::<_, Value>(&key).is_ok_and(|value| shows(&value, &stored)))
        });
    }
}

/// Returns whether a node that has received all invalidations may return `value` when Redis has `stored`. An entry with tags
/// is returned or, if its tags were invalidated, missing.
fn shows(value: &Value, stored: &Value) -> bool {
    let Value::BulkString(bytes) = stored else { return value == stored };
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

/// Asserts that no read was refuted. A refuted read of the path `direct` is a fault of the checker, not of the nodes.
fn assert_none_refuted(tally: &Tally, schedule: &Schedule) {
    let told = tally.told().join("\n");
    if tally.violations() > 0 && schedule.unplanned() > 0 {
        println!("inconclusive: {} failovers that nobody asked for may be the reason of\n{told}", schedule.unplanned());
        return;
    }
    assert_eq!(tally.violations(), 0, "the contract was broken:\n{told}\nwhat happened:\n{}", schedule.diary());
}
