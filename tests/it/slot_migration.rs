//! Writes during the migration of a slot of a Redis Cluster, while a pattern ban is open: Redis can redirect the command
//! that notes a key and the write after it independently, and each acknowledged write must be executed once.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
};

use redis::{Commands, Connection, RedisResult};

use crate::support::{
    checker::direct::slot, cluster::RedisCluster, eventually, node::node, resp::connection, terrace::Terrace,
};

/// All keys of this test are in one slot.
const PATTERN: &str = "count:{1}*";
const COUNTERS: usize = 4;
/// Number of times that the slot moves while clients write.
const MOVES: usize = 3;
/// Number of requests, answered or rejected, between two steps of a move.
const BETWEEN_STEPS: usize = 40;

fn counter(number: usize) -> String {
    format!("count:{{1}}{number}")
}

/// Opens a ban that stays open: another client has the right to sweep.
fn open_lasting_ban(cluster: &RedisCluster, client: &mut Connection) {
    let right = b"__terrace:sweep:1";
    cluster.servers[cluster.owner(slot(right))].ask::<()>(&[b"SET", right, b"nobody", b"EX", b"3600"]);
    let number: u64 = redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg(PATTERN).query(client).unwrap();
    assert_eq!(number, 1, "the ban whose sweep is held");
}

/// The slot of the counters, its primary and another primary.
fn places(cluster: &RedisCluster) -> (u16, usize, usize) {
    let moving = slot(counter(0).as_bytes());
    let from = cluster.owner(moving);
    let to = cluster.primaries().into_iter().find(|at| *at != from).unwrap();
    (moving, from, to)
}

/// A client that writes one counter with INCR, and two others with MSET, which is a transaction.
struct Writer {
    client: Connection,
    incremented: i64,
    set: i64,
}

impl Writer {
    /// Writes all counters; returns whether INCR and MSET were acknowledged. An acknowledged INCR returns the number of
    /// acknowledged INCRs.
    fn write(&mut self) -> [bool; 2] {
        let incremented: RedisResult<i64> = self.client.incr(counter(0), 1);
        if let Ok(value) = incremented {
            self.incremented += 1;
            assert_eq!(value, self.incremented);
        }
        let next = self.set + 1;
        let set: RedisResult<()> = self.client.mset(&[(counter(1), next), (counter(2), next)]);
        self.set += i64::from(set.is_ok());
        [incremented.is_ok(), set.is_ok()]
    }

    /// The counters, if exactly the acknowledged writes were executed.
    fn acknowledged(&self) -> Vec<i64> {
        vec![self.incremented, self.set, self.set]
    }
}

#[test]
fn a_write_is_executed_once_wherever_its_note_is() {
    let cluster = RedisCluster::start();
    let node = node(&cluster.url());
    let mut writer = Writer { client: connection(node.resp()), incremented: 0, set: 0 };
    let (moving, from, to) = places(&cluster);
    for number in 0..3 {
        writer.client.set::<_, _, ()>(counter(number), 100).unwrap();
    }
    open_lasting_ban(&cluster, &mut writer.client);
    assert_eq!(writer.write(), [true; 2], "the slot does not move");
    cluster.begin_move(moving, from, to);
    assert_eq!(writer.write(), [true; 2], "the old primary has all keys");
    let (notes, counters): (Vec<_>, Vec<_>) =
        cluster.keys_in_slot(moving, from).into_iter().partition(|key| key.starts_with(b"__terrace:fresh:1:"));
    assert_eq!((notes.len(), counters.len()), (1, 3));
    cluster.move_keys(&notes, from, to);
    assert_eq!(writer.write(), [false; 2], "the note is on the other primary");
    let stored = |server: usize| -> Vec<i64> {
        (0..3).map(|number| cluster.servers[server].ask(&[b"GET", counter(number).as_bytes()])).collect()
    };
    assert_eq!(stored(from), writer.acknowledged());
    cluster.move_keys(&counters, from, to);
    assert_eq!(writer.write(), [true; 2], "the new primary has all keys");
    cluster.end_move(moving, from, to);
    cluster.settle();
    eventually("the node knows the new primary", || writer.write() == [true; 2]);
    assert_eq!(stored(to), writer.acknowledged());
}

/// Acknowledged increments, and increments without a known outcome, by counter.
#[derive(Debug, Default)]
struct Counts {
    acknowledged: BTreeMap<usize, i64>,
    unknown: BTreeMap<usize, i64>,
}

/// Increments the counters until `stop`.
fn increment_until(stop: &AtomicBool, address: &str, requests: &AtomicUsize) -> Counts {
    let (mut client, mut counts) = (connection(address), Counts::default());
    while !stop.load(Relaxed) {
        for number in 0..COUNTERS {
            requests.fetch_add(1, Relaxed);
            match client.incr::<_, _, i64>(counter(number), 1) {
                Ok(_) => *counts.acknowledged.entry(number).or_default() += 1,
                Err(error) if error.code() == Some("UNKNOWN") => {
                    *counts.unknown.entry(number).or_default() += 1;
                }
                Err(_) => {}
            }
        }
    }
    counts
}

/// Moves a slot key by key, the notes first, and waits after each step.
fn move_stepwise(cluster: &RedisCluster, moving: u16, from: usize, to: usize, wait: impl Fn()) {
    cluster.begin_move(moving, from, to);
    wait();
    let mut keys = cluster.keys_in_slot(moving, from);
    keys.sort_by_key(|key| !key.starts_with(b"__terrace:fresh:"));
    for key in keys {
        cluster.move_keys(&[key], from, to);
        wait();
    }
    cluster.end_move(moving, from, to);
    cluster.settle();
}

#[test]
fn increments_count_once_while_their_slot_moves() {
    let cluster = RedisCluster::start();
    let nodes = [node(&cluster.url()), node(&cluster.url())];
    let mut client = connection(nodes[0].resp());
    let (moving, mut from, mut to) = places(&cluster);
    for number in 0..COUNTERS {
        client.set::<_, _, ()>(counter(number), 100).unwrap();
    }
    open_lasting_ban(&cluster, &mut client);
    // The first write of a node that has not heard of the ban may have an unknown outcome.
    let hears = |node: &Terrace| connection(node.resp()).incr::<_, _, i64>("count:{1}first", 1).is_ok();
    eventually("both nodes know the ban", || nodes.iter().all(hears));
    let (stop, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let counts: Vec<Counts> = thread::scope(|scope| {
        let writers: Vec<_> = [0, 1, 0, 1]
            .map(|at: usize| {
                let (stop, requests, address) = (&stop, &requests, nodes[at].resp());
                scope.spawn(move || increment_until(stop, address, requests))
            })
            .into();
        let wait = || {
            let before = requests.load(Relaxed);
            eventually("clients write", || requests.load(Relaxed) >= before + BETWEEN_STEPS);
        };
        for _ in 0..MOVES {
            wait();
            move_stepwise(&cluster, moving, from, to, wait);
            (from, to) = (to, from);
        }
        wait();
        stop.store(true, Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let sum = |of: &dyn Fn(&Counts) -> Option<i64>| counts.iter().filter_map(of).sum::<i64>();
    for number in 0..COUNTERS {
        let acknowledged = sum(&|counts| counts.acknowledged.get(&number).copied());
        let unknown = sum(&|counts| counts.unknown.get(&number).copied());
        let stored: i64 = cluster.servers[from].ask(&[b"GET", counter(number).as_bytes()]);
        println!("counter {number}: {stored} stored, {acknowledged} acknowledged, {unknown} unknown");
        assert!(acknowledged > 0);
        assert!((acknowledged..=acknowledged + unknown).contains(&stored));
    }
}
