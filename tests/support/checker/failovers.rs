//! Faults of primaries that have replicas: Sentinels and Clusters.
//!
//! A failover that the servers decide on loses the writes that the replica had not received, and until it has settled
//! two servers may act as primary. This is an upheaval, during which nothing is judged. A manual failover of a Cluster
//! and a resharding lose nothing and are judged like quiet times.

use std::thread::sleep;

use tokio::time::Instant;

use super::{
    direct::{SLOTS, slot},
    faults::{Fault, Scene, kill_links_of, millis},
    history::{History, Upheaval},
};
use crate::support::{
    cluster::{RedisCluster, SHARDS},
    redis::RedisServer,
    sentinel::Sentinels,
};

impl Scene for Sentinels {
    const FAULTS: &'static [(&'static str, u32, Fault<Self>)] = &[
        ("primary killed", 2, |group, history, random| {
            during(history, Upheaval::Regress, || {
                let primary = group.primary().expect("settled");
                group.servers[primary].kill();
                group.wait_for_another_primary(primary);
                sleep(millis(random, 0..500));
                group.servers[primary].restart();
                group.settle();
            });
        }),
        ("primary stopped", 2, |group, history, random| {
            during(history, Upheaval::Regress, || {
                let primary = group.primary().expect("settled");
                group.servers[primary].pause();
                group.wait_for_another_primary(primary);
                sleep(millis(random, 0..500));
                group.servers[primary].resume();
                group.settle();
            });
        }),
        ("SENTINEL FAILOVER", 2, |group, history, _| {
            during(history, Upheaval::Regress, || {
                group.failover();
                group.settle();
            });
        }),
        ("replica killed", 1, |group, _, random| {
            let replica = 1 - group.primary().expect("settled");
            group.servers[replica].kill();
            sleep(millis(random, 0..500));
            group.servers[replica].restart();
            group.settle();
        }),
        ("FLUSHALL", 1, |group, history, _| {
            let primary = group.primary().expect("settled");
            during(history, Upheaval::Loss, || group.servers[primary].run("FLUSHALL"));
        }),
        ("CLIENT KILL TYPE normal", 2, |group, history, _| {
            kill_clients(history, &group.servers);
            // Sentinels are clients as well.
            group.settle();
        }),
        ("CLIENT KILL of the invalidation links", 1, |group, _, _| group.servers.iter().for_each(kill_links_of)),
    ];

    fn reign(&self) -> u64 {
        self.reign()
    }
}

impl Scene for RedisCluster {
    const FAULTS: &'static [(&'static str, u32, Fault<Self>)] = &[
        ("CLUSTER FAILOVER", 3, |cluster, _, random| {
            let primary = some_primary(cluster, random);
            cluster.failover(primary);
        }),
        ("primary killed", 2, |cluster, history, random| {
            during(history, Upheaval::Regress, || {
                let primary = some_primary(cluster, random);
                cluster.kill(primary);
                sleep(millis(random, 0..500));
                cluster.servers[primary].restart();
                cluster.settle();
            });
        }),
        ("primary stopped", 2, |cluster, history, random| {
            during(history, Upheaval::Regress, || {
                let primary = some_primary(cluster, random);
                cluster.pause(primary);
                sleep(millis(random, 0..500));
                cluster.servers[primary].resume();
                cluster.settle();
            });
        }),
        ("slots moved", 4, reshard),
        ("slots taken", 2, take_slots),
        ("FLUSHALL of one primary", 1, |cluster, history, random| {
            let primary = some_primary(cluster, random);
            during(history, Upheaval::Loss, || cluster.servers[primary].run("FLUSHALL"));
        }),
        ("CLIENT PAUSE of one primary", 1, |cluster, _, random| {
            let (primary, lasts) = (some_primary(cluster, random), millis(random, 50..1500));
            let what = if random.bool() { "ALL" } else { "WRITE" };
            cluster.servers[primary].run(&format!("CLIENT PAUSE {} {what}", lasts.as_millis()));
            sleep(lasts);
        }),
        ("CLIENT KILL TYPE normal", 2, |cluster, history, _| kill_clients(history, &cluster.servers)),
        ("CLIENT KILL of the invalidation links", 1, |cluster, _, _| cluster.servers.iter().for_each(kill_links_of)),
    ];

    fn reign(&self) -> u64 {
        self.reign()
    }
}

fn during(history: &History, upheaval: Upheaval, fault: impl FnOnce()) {
    history.begins(upheaval);
    fault();
    history.ends(upheaval);
}

/// Kills all clients of the servers: a command that was sent and not yet executed is never executed.
fn kill_clients(history: &History, servers: &[RedisServer]) {
    let began = Instant::now();
    servers.iter().for_each(|server| server.run("CLIENT KILL TYPE normal"));
    history.barrier(began);
}

fn some_primary(cluster: &RedisCluster, random: &mut fastrand::Rng) -> usize {
    let primaries = cluster.primaries();
    assert_eq!(primaries.len(), SHARDS, "settled");
    primaries[random.usize(..SHARDS)]
}

/// Chooses slots to move from one primary to another. They surround a key under test, because most slots hold none.
fn some_slots(cluster: &RedisCluster, history: &History, random: &mut fastrand::Rng) -> (Vec<u16>, usize, usize) {
    const SLOTS_MAX: usize = 16;
    let key = super::load::name(random.usize(..history.keys()));
    let first = slot(key.as_bytes());
    let from = cluster.owner(first);
    let owned = cluster.slots(from);
    let slots = (first..SLOTS).filter(|slot| owned.contains(slot)).take(random.usize(1..SLOTS_MAX)).collect();
    let others: Vec<usize> = cluster.primaries().into_iter().filter(|other| *other != from).collect();
    (slots, from, others[random.usize(..others.len())])
}

fn reshard(cluster: &mut RedisCluster, history: &History, random: &mut fastrand::Rng) {
    let (slots, from, to) = some_slots(cluster, history, random);
    cluster.reshard(slots, from, to);
}

/// Lets a primary claim slots with a higher epoch. The former owner deletes its keys without invalidations.
fn take_slots(cluster: &mut RedisCluster, history: &History, random: &mut fastrand::Rng) {
    let (slots, _, to) = some_slots(cluster, history, random);
    during(history, Upheaval::Loss, || cluster.take_slots(&slots, to));
}
