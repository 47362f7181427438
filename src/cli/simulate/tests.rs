//! Tests of the simulator with known results.

use std::io::Write;

use clap::Parser;
use terrace_client::nodes::routing::{RouteHash, owner};

use super::*;

#[path = "../../../benches/support/adversary.rs"]
mod adversary;
#[path = "../../../benches/support/served.rs"]
mod served;
#[path = "../../../benches/support/services.rs"]
mod services;
#[path = "../../../benches/support/workload.rs"]
mod workload;

use services::{Follow, Services};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn played(trace: &str, flags: &str) -> Vec<Played> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(trace.as_bytes()).expect("written");
    let words = ["simulate", file.path().to_str().expect("a path")].into_iter().chain(flags.split(' '));
    simulate(&Command::parse_from(words).args).expect("a good trace")
}

fn misses(trace: &str, flags: &str) -> Vec<u64> {
    played(trace, flags).iter().map(|played| played.fleet.figures().misses).collect()
}

#[test]
fn lru_over_a_loop_misses_every_time_until_it_fits() {
    let trace: String = (0..40).map(|n| format!("{n},k{},1\n", n % 4)).collect();
    assert_eq!(misses(&trace, "--entries 3,4,50%,100% --l1-policy lru"), [40, 4, 40, 4]);
}

#[test]
fn capacities_are_those_of_all_keys_when_the_trace_is_a_sample() {
    let lines: String = (0..40).map(|n| format!("{n},k{},1\n", n % 4)).collect();
    let sampled = format!("{}\n{lines}", crate::cli::trace::header(8));
    assert_eq!(misses(&sampled, "--entries 24,32,50%,100% --l1-policy lru"), [40, 4, 40, 4]);
    assert_eq!(misses(&sampled, "--entries 3,4 --l1-policy lru --sample 1/1"), [40, 4], "the flag wins");
    assert_eq!(misses(&lines, "--entries 24,32 --l1-policy lru --sample 1/8"), [40, 4]);
    let shown = to_json(&played(&sampled, "--entries 24")[0], "t");
    assert_eq!((&shown["entries"], &shown["one_in"]), (&json!(24), &json!(8)), "{shown}");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"time,key,size,sample=1/0\n0,a,1\n").expect("written");
    let fault = Trace::open(file.path()).expect("a file").find_map(std::result::Result::err).expect("a fault");
    assert!(fault.to_string().ends_with(":1: invalid sample in the header; expected sample=1/N with N of at least 1"));
}

#[test]
fn a_capacity_is_required_and_both_options_are_named() {
    let args = Command::parse_from(["simulate", "trace"]).args;
    let failure = run(args).expect_err("no capacity");
    assert_eq!(failure.code, crate::cli::EXIT_USAGE);
    assert!(["--l1-size", "--entries"].iter().all(|option| failure.to_string().contains(option)), "{failure}");
    assert_eq!(Command::parse_from(["simulate", "trace", "--entries", "1"]).args.ttl_min, 300_000, "as learn.ttl_min");
}

#[test]
fn a_first_line_may_name_the_fields() {
    assert_eq!(misses("timestamp_seconds,key,size,ttl\n0,a,1\n1,a,1\n", "--entries 1"), [1]);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(b"time,key,size\n0,a,1\n1,a,x\n").expect("written");
    let failed = Trace::open(file.path()).expect("a file").find_map(std::result::Result::err).expect("a fault");
    assert!(failed.to_string().contains(":3: "), "lines count from the header: {failed}");
    let headers = Trace::open(file.path()).expect("a file");
    assert_eq!(headers.filter(std::result::Result::is_ok).count(), 1);
}

#[test]
fn the_drawing_names_units_and_modes() {
    let trace: String = (0..40).map(|n| format!("{n},k{},1\n", n % 4)).collect();
    let bytes = plot::draw("t", &played(&trace, "--l1-size 64KiB,1MiB --prefetch off,auto"));
    for part in
        ["L1 capacity in bytes", "miss ratio (share of requests)", ">64KiB<", ">1MiB<", "learned, bytes, prefetch auto"]
    {
        assert!(bytes.contains(part), "{part} in {bytes}");
    }
    assert!(plot::draw("t", &played(&trace, "--entries 1,10")).contains("L1 capacity in entries"));
}

/// Requests keys `k0` to `k3` in turn, 40 requests for each.
fn turns() -> String {
    (0..160).map(|n| format!("{n},k{},1\n", n % 4)).collect()
}

#[test]
fn a_fleet_routed_by_key_holds_each_key_once() {
    let nodes = ["node-1", "node-2"].map(|name| RouteHash::of(name.as_bytes()));
    let owners = ["k0", "k1", "k2", "k3"].map(|key| owner(RouteHash::of(key.as_bytes()), &nodes));
    assert_eq!(owners, [0, 1, 1, 1].map(Some));
    let by_key = |entries: u64| {
        let flags = format!("--entries {entries} --nodes 2 --l1-policy lru");
        let shown = to_json(&played(&turns(), &flags)[0], "t");
        assert_eq!(shown["busiest_share"], json!(0.75), "{shown}");
        shown
    };
    // Three entries a node: each key is loaded once.
    let shown = by_key(6);
    assert_eq!(
        shown,
        json!({ "trace": "t", "policy": "lru", "entries": 6, "requests": 160, "misses": 4, "miss_ratio": 0.025,
            "prefetch": "off", "issued": 0, "used": 0, "late": 0, "wasted": 0, "precision": 0.0, "learned_bytes": 0,
            "l2_reads": 4, "nodes": 2, "routing": "key", "hit_rate": 0.975, "busiest_share": 0.75 })
    );
    // Two entries a node: a loop over three keys misses every time, and k0 misses once.
    assert_eq!(by_key(4)["misses"], json!(121));
    // Five entries are two for each node, as four are.
    let shown = by_key(5);
    assert_eq!((&shown["entries"], &shown["misses"]), (&json!(4), &json!(121)));
}

#[test]
fn a_fleet_with_random_nodes_holds_each_key_on_each_node() {
    let flags = "--entries 8 --nodes 2 --routing any,key --l1-policy lru";
    assert_eq!(misses(&turns(), flags), [8, 4], "four entries a node");
    let shown = to_json(&played(&turns(), flags)[0], "t");
    assert_eq!((&shown["routing"], &shown["hit_rate"]), (&json!("any"), &json!(0.95)));
    let busiest = shown["busiest_share"].as_f64().expect("a share");
    assert!((0.5..0.6).contains(&busiest), "{busiest}");
}

#[test]
fn a_fleet_of_one_node_is_a_node() {
    for flags in
        ["--entries 3,4,50% --l1-policy lru,learned", "--l1-size 64KiB --ttl recorded", "--entries 100% --ttl tune"]
    {
        let [plain, one] = ["", " --nodes 1 --routing any,key"].map(|more| {
            let all = played(&groups(300), &format!("{flags}{more}"));
            all.iter().map(|played| to_json(played, "t")).collect::<Vec<_>>()
        });
        assert_eq!(plain, one);
        assert_eq!(plain[0].get("nodes"), None);
    }
}

#[test]
fn a_fleet_divides_samples_percentages_and_bytes() {
    let sampled = format!("{}\n{}", crate::cli::trace::header(8), turns());
    assert_eq!(misses(&sampled, "--entries 48,32,100%,200 --nodes 2 --l1-policy lru"), [4, 121, 121, 4]);
    let shown = to_json(&played(&sampled, "--entries 48 --nodes 2")[0], "t");
    assert_eq!(shown["entries"], json!(48), "the capacity of all nodes for all keys");
    let large: String = (0..100).map(|n| format!("{n},k{},600\n", n % 10)).collect();
    assert_eq!(misses(&large, "--l1-size 64KiB"), [10]);
    assert_eq!(misses(&large, "--l1-size 8KiB --nodes 8"), [100], "a value is larger than an eighth of a node");
}

#[test]
fn a_fleet_adds_up_the_figures_of_its_nodes() {
    let ttls = "0,k0,10,5\n0,k1,10,5\n4,k0,10,5\n4,k1,10,5\n9,k0,10,5\n9,k1,10,5\n";
    let one = to_json(&played(ttls, "--entries 4 --ttl 20")[0], "t");
    let two = to_json(&played(ttls, "--entries 4 --ttl 20 --nodes 2")[0], "t");
    for field in ["requests", "misses", "l2_reads", "stale_ratio", "byte_seconds"] {
        assert_eq!(one[field], two[field], "{field}");
    }
    assert_eq!((&two["stale_ratio"], &two["byte_seconds"]), (&json!(1.0 / 3.0), &json!(180.0)));
    let failed = run(Command::parse_from("simulate t --entries 1 --nodes 2 --ttl tune".split(' ')).args);
    assert!(failed.expect_err("refused").to_string().contains("--ttl tune and --nodes cannot be combined"));
    let drawn = plot::draw("t", &played(ttls, "--entries 1,4 --nodes 2 --routing key,any"));
    assert!(drawn.contains("learned, entries, routing key") && drawn.contains("learned, entries, routing any"));
}

#[test]
fn entries_expire_as_told() {
    let trace = "0,a,1,5\n4,a,1,5\n5,a,1,5\n9,a,1\n10,a,1\n99,a,1\n";
    assert_eq!(misses(trace, "--entries 1"), [1]);
    assert_eq!(misses(trace, "--entries 1 --ttl recorded"), [3], "at 0, 5 and 10, where none is given");
    assert_eq!(misses(trace, "--entries 1 --ttl 1.5"), [4]);
}

#[test]
fn bytes_count_by_weight_and_what_is_too_large_is_never_kept() {
    let trace: String =
        (0..100).map(|n| format!("{n},k{},{}\n", n % 10, if n % 10 == 0 { 2000 } else { 10 })).collect();
    assert_eq!(misses(&trace, "--l1-size 8KiB,1MiB"), [9 + 10, 10]);
}

#[test]
fn json_lines_have_the_fields_that_were_promised() {
    let runs = played("0,a,1\n1,a,1\n", "--entries 2 --l1-size 1MiB --l1-policy lru");
    assert_eq!(
        to_json(&runs[0], "t"),
        json!({ "trace": "t", "policy": "lru", "entries": 2, "requests": 2, "misses": 1, "miss_ratio": 0.5,
            "prefetch": "off", "issued": 0, "used": 0, "late": 0, "wasted": 0, "precision": 0.0, "learned_bytes": 0,
            "l2_reads": 1 })
    );
    assert_eq!(to_json(&runs[1], "t")["bytes"], json!(1 << 20));
}

#[test]
fn tuned_ttls_are_for_keys_that_come_back() {
    let mut rng = fastrand::Rng::with_seed(9);
    // 40 keys of one template are read about every 30 s, twice in a row. The same number of reads is of keys that are
    // read only once.
    let request = |at: u64| match (at % 4, rng.u64(..40)) {
        (0, _) => format!("{}.5,user:{},100,60\n", at / 4, 1_000 + at),
        (2, _) => format!("{}.5,user:{},100,60\n", at / 4, 5_000 + at),
        (_, number) => format!("{}.5,user:{number},100,60\n{}.5,user:{number},100,60\n", at / 4, at / 4),
    };
    let trace: String = (0..8_000).map(request).collect();
    let tuned = to_json(&played(&trace, "--entries 100% --ttl tune --ttl-min 5")[0], "t");
    let of = |fixed: &serde_json::Value, field: &str| fixed[field].as_f64().expect("a number");
    assert!(of(&tuned, "bytes_over_fixed") < 0.8, "{tuned}");
    assert_eq!(tuned["beaten_by_fixed"], json!(false));
    // The reported fixed TTL has the reported results.
    let ttl_s = of(&tuned["fixed"], "ttl_s");
    let same = to_json(&played(&trace, &format!("--entries 100% --ttl {ttl_s}"))[0], "t");
    assert!((of(&same, "miss_ratio") - of(&tuned, "miss_ratio")).abs() < 0.02, "{tuned} {same}");
    let byte_seconds = of(&tuned["fixed"], "byte_seconds");
    assert!((of(&same, "byte_seconds") / byte_seconds - 1.0).abs() < 0.1, "{tuned} {same}");
    assert_eq!(same["fixed"], serde_json::Value::Null, "only tuned runs are compared");
}

#[test]
fn bad_flags_say_what_is_right() {
    for flags in
        ["--entries 0", "--entries 101%", "--entries x", "--l1-size 0", "--entries 1 --ttl -1", "--entries 1 --nodes 0"]
    {
        let words = ["simulate", "t"].into_iter().chain(flags.split_terminator(' '));
        assert!(Command::try_parse_from(words).is_err(), "{flags}");
    }
}

#[test]
fn the_plot_has_a_point_for_each_run() {
    let drawing = plot::draw("a<b", &played("0,a,1\n1,b,1\n", "--entries 1,2 --l1-size 1MiB,2MiB"));
    assert_eq!(drawing.matches("<circle").count(), 4);
    assert!(drawing.contains("a&lt;b") && drawing.ends_with("</svg>\n"));
}

/// Groups of keys that are always read together, in random order. L1 cannot hold all of them.
fn groups(rounds: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(5);
    let group = move || (0..5).zip(std::iter::repeat(rng.u64(..400))).collect::<Vec<_>>();
    let all: Vec<(u64, u64)> = std::iter::repeat_with(group).take(rounds as usize).flatten().collect();
    all.iter().enumerate().map(|(at, (part, number))| format!("{at},g:{number}:{part},1\n")).collect()
}

#[test]
fn what_follows_is_prefetched_and_counted() {
    let runs = played(&groups(8_000), "--entries 200 --prefetch off,shadow,auto");
    let [off, shadow, auto] = [0, 1, 2].map(|run| to_json(&runs[run], "t"));
    assert_eq!((&off["misses"], &off["l2_reads"]), (&shadow["misses"], &shadow["l2_reads"]), "a shadow does nothing");
    assert_eq!(shadow["issued"], json!(0));
    let number = |field: &str| auto[field].as_u64().expect("a number");
    assert!(number("misses") * 3 < off["misses"].as_u64().expect("a number"), "{auto}");
    assert!(number("l2_reads") * 100 < off["l2_reads"].as_u64().expect("a number") * 105, "{auto}");
    assert_eq!(number("l2_reads"), number("misses") + number("issued"), "no prefetch is late at a delay of 1");
    let ended = number("used") + number("late") + number("wasted");
    assert!(ended <= number("issued") && number("issued") - ended <= 20, "except staged entries: {auto}");
    assert!(auto["precision"].as_f64() > Some(0.9), "{auto}");
}

#[test]
fn late_fetches_are_misses_and_stop() {
    let trace = groups(8_000);
    let [soon, late] = [1, 50].map(|delay| {
        let flags = format!("--entries 200 --prefetch auto --prefetch-delay {delay}");
        to_json(&played(&trace, &flags)[0], "t")
    });
    assert!(late["misses"].as_u64() > soon["misses"].as_u64(), "{late}");
    assert!(
        late["late"].as_u64() < Some(late["issued"].as_u64().expect("a number") / 20),
        "most prefetches are piggybacked: {late}"
    );
}

fn prefetching(room: Room) -> Plan {
    let learn = PrefetchSettings::default();
    Plan { room, policy: PolicyKind::Learned, shards: None, seed: SEED, prefetch: Mode::Auto, delay: 1, learn }
}

/// The workload of the prefetch issue, reduced for a test; benches/prefetch runs it in full.
#[test]
fn what_belongs_to_things_never_seen_is_there_when_it_is_asked_for() {
    for (sessions, with_callers, follow, least) in
        [(60, false, Follow::Mixed, 0.95), (1_000, true, Follow::Often, 0.93)]
    {
        let services = Services { sessions, with_callers, follow, requests: 50_000, seed: 3 };
        let served = served::serve(services, prefetching(Room::Entries(10_000)));
        assert!(served.often.ratio() >= least, "{services:?}: {served:?}");
        let best = served.best(served.more_reads());
        assert!(follow == Follow::Often || served.sometimes.ratio() > best / 2.0, "{services:?}, {best}: {served:?}");
        assert!(served.more_reads() <= 0.05, "{services:?}: {served:?}");
        assert!(served.with.misses * 100 < served.without.misses * 75, "{services:?}: {served:?}");
        let soon = |since: Option<usize>| since.is_some_and(|requests| requests <= 15_000);
        assert!(soon(served.new_on), "the change of the schema, {services:?}: {served:?}");
        // With 1,000 sessions, this number of requests is too small to test every old rule; benches/prefetch does.
        assert!(sessions > 60 || soon(served.old_off), "the change of the schema, {services:?}: {served:?}");
    }
}

#[test]
fn an_adversary_costs_little() {
    const L1_BYTES: u64 = 4 << 20;
    for (name, requests) in [
        ("chance", adversary::chance(50_000, 4)),
        ("alike", adversary::pairs(60_000, 4, adversary::alike)),
        ("unlike", adversary::pairs(60_000, 4, adversary::unlike)),
    ] {
        let withstood = served::withstand(&requests, prefetching(Room::Bytes(L1_BYTES)));
        assert!(withstood.more_reads <= 0.02 && withstood.misses_over <= 1.002, "{name}: {withstood:?}");
        assert!(withstood.staged_bytes <= L1_BYTES / 10, "{name}: {withstood:?}");
    }
}
