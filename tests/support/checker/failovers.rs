//! What goes wrong with primaries that have replicas: Sentinels and Clusters.
//!
//! A failover that was decided on loses what the replica had not got, and until it has settled two servers may think that
//! they are the primary: an upheaval in which nothing is judged. A Cluster's failover by hand and a resharding lose nothing
//! and are judged like quiet times.

use std::thread::sleep;

use tokio::time::Instant;

use super::{
    faults::{Fault, Scene, kill_links_of, millis},
    straight::{SLOTS, slot},
    truth::{Truth, Upheaval},
};
use crate::support::{
    cluster::{RedisCluster, SHARDS},
    redis::RedisServer,
    sentinel::Sentinels,
};

impl Scene for Sentinels {
    const FAULTS: &'static [(&'static str, u32, Fault<Self>)] = &[
        ("primary killed", 2, |group, truth, random| {
            during(truth, Upheaval::Regress, || {
                let primary = group.primary().expect("settled");
                group.servers[primary].kill();
                group.wait_for_another_primary(primary);
                sleep(millis(random, 0..500));
                group.servers[primary].restart();
                group.settle();
            });
        }),
        ("primary stopped", 2, |group, truth, random| {
            during(truth, Upheaval::Regress, || {
                let primary = group.primary().expect("settled");
                group.servers[primary].pause();
                group.wait_for_another_primary(primary);
                sleep(millis(random, 0..500));
                group.servers[primary].resume();
                group.settle();
            });
        }),
        ("SENTINEL FAILOVER", 2, |group, truth, _| {
            during(truth, Upheaval::Regress, || {
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
        ("FLUSHALL", 1, |group, truth, _| {
            let primary = group.primary().expect("settled");
            during(truth, Upheaval::Loss, || group.servers[primary].run("FLUSHALL"));
        }),
        ("CLIENT KILL TYPE normal", 2, |group, truth, _| {
            kill_clients(truth, &group.servers);
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
        ("primary killed", 2, |cluster, truth, random| {
            during(truth, Upheaval::Regress, || {
                let primary = some_primary(cluster, random);
                cluster.kill(primary);
                sleep(millis(random, 0..500));
                cluster.servers[primary].restart();
                cluster.settle();
            });
        }),
        ("primary stopped", 2, |cluster, truth, random| {
            during(truth, Upheaval::Regress, || {
                let primary = some_primary(cluster, random);
                cluster.pause(primary);
                sleep(millis(random, 0..500));
                cluster.servers[primary].resume();
                cluster.settle();
            });
        }),
        ("slots moved", 4, reshard),
        ("slots taken", 2, take_slots),
        ("FLUSHALL of one primary", 1, |cluster, truth, random| {
            let primary = some_primary(cluster, random);
            during(truth, Upheaval::Loss, || cluster.servers[primary].run("FLUSHALL"));
        }),
        ("CLIENT PAUSE of one primary", 1, |cluster, _, random| {
            let (primary, lasts) = (some_primary(cluster, random), millis(random, 50..1500));
            let what = if random.bool() { "ALL" } else { "WRITE" };
            cluster.servers[primary].run(&format!("CLIENT PAUSE {} {what}", lasts.as_millis()));
            sleep(lasts);
        }),
        ("CLIENT KILL TYPE normal", 2, |cluster, truth, _| kill_clients(truth, &cluster.servers)),
        ("CLIENT KILL of the invalidation links", 1, |cluster, _, _| cluster.servers.iter().for_each(kill_links_of)),
    ];

    fn reign(&self) -> u64 {
        self.reign()
    }
}

fn during(truth: &Truth, upheaval: Upheaval, fault: impl FnOnce()) {
    truth.begins(upheaval);
    fault();
    truth.ends(upheaval);
}

/// What was sent to any of them and is not yet done is never done.
fn kill_clients(truth: &Truth, servers: &[RedisServer]) {
    let began = Instant::now();
    servers.iter().for_each(|server| server.run("CLIENT KILL TYPE normal"));
    truth.barrier(began);
}

fn some_primary(cluster: &RedisCluster, random: &mut fastrand::Rng) -> usize {
    let primaries = cluster.primaries();
    assert_eq!(primaries.len(), SHARDS, "settled");
    primaries[random.usize(..SHARDS)]
}

/// Slots from one primary to another; around keys of ours, because most slots hold none.
fn some_slots(cluster: &RedisCluster, truth: &Truth, random: &mut fastrand::Rng) -> (Vec<u16>, usize, usize) {
    const SLOTS_MAX: usize = 16;
    let key = super::load::name(random.usize(..truth.keys()));
    let first = slot(key.as_bytes());
    let from = cluster.owner(first);
    let owned = cluster.slots(from);
    let slots = (first..SLOTS).filter(|slot| owned.contains(slot)).take(random.usize(1..SLOTS_MAX)).collect();
    let others: Vec<usize> = cluster.primaries().into_iter().filter(|other| *other != from).collect();
    (slots, from, others[random.usize(..others.len())])
}

fn reshard(cluster: &mut RedisCluster, truth: &Truth, random: &mut fastrand::Rng) {
    let (slots, from, to) = some_slots(cluster, truth, random);
    cluster.reshard(slots, from, to);
}

/// A primary claims slots by a higher epoch. The former owner deletes its keys and announces nothing.
fn take_slots(cluster: &mut RedisCluster, truth: &Truth, random: &mut fastrand::Rng) {
    let (slots, _, to) = some_slots(cluster, truth, random);
    during(truth, Upheaval::Loss, || cluster.take_slots(&slots, to));
}
