//! A Redis Cluster of three primaries with one replica each, on free loopback ports, killed on drop.
//!
//! A manual failover (`CLUSTER FAILOVER`) loses nothing: the primary blocks its clients until the replica has all
//! writes. A failover that the cluster decides on may lose the last acknowledged writes. A former primary that resumes
//! accepts reads and writes until it learns of its demotion, at most for the node timeout.

use std::{collections::BTreeSet, time::Duration};

use redis::Value;
use tokio::time::Instant;

use super::{
    checker::direct::SLOTS,
    eventually_within,
    redis::{RedisServer, free_port},
    sentinel::{is_in_sync, is_primary},
};

/// Number of primaries; each has one replica.
pub const SHARDS: usize = 3;
/// Time without an answer after which a node regards another as down, milliseconds.
const NODE_TIMEOUT: &str = "1000";
/// Time after which a claim of slots is repeated that the cluster has not accepted.
const CLAIM_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the cluster to agree.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// Maximum number of keys that one MIGRATE moves.
const MIGRATED_AT_ONCE: usize = 100;
/// Time limit of one MIGRATE, milliseconds.
const MIGRATE_WITHIN: &str = "5000";

/// A running cluster.
pub struct RedisCluster {
    /// The first three were the primaries at the beginning, server n + 3 was the replica of server n.
    pub servers: Vec<RedisServer>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Starts the servers, forms a cluster, and waits until it is healthy.
    pub fn start() -> Self {
        let servers: Vec<RedisServer> = (0..2 * SHARDS).map(|_| RedisServer::start_by(&arguments)).collect();
        let ids = servers.iter().map(|server| server.ask(&[b"CLUSTER", b"MYID"])).collect();
        let cluster = Self { servers, ids };
        cluster.introduce();
        cluster.share_out();
        cluster.settle();
        cluster
    }

    fn introduce(&self) {
        for (epoch, server) in self.servers.iter().enumerate() {
            server.run(&format!("CLUSTER SET-CONFIG-EPOCH {}", epoch + 1));
        }
        // Every server meets every other one, because gossip alone takes seconds.
        for (at, server) in self.servers.iter().enumerate() {
            for other in &self.servers[at + 1..] {
                server.run(&format!("CLUSTER MEET 127.0.0.1 {} {}", other.port(), bus_port(other)));
            }
        }
        eventually_within(SETTLED_WITHIN, "all nodes know each other", || {
            self.servers.iter().all(|server| {
                let nodes: String = server.ask(&[b"CLUSTER", b"NODES"]);
                self.ids.iter().all(|id| nodes.contains(id)) && !nodes.contains("handshake")
            })
        });
    }

    fn share_out(&self) {
        let shards = SHARDS as u16;
        for shard in 0..shards {
            let (first, last) =
                (SLOTS / shards * shard, if shard == shards - 1 { SLOTS } else { SLOTS / shards * (shard + 1) });
            self.servers[usize::from(shard)].run(&format!("CLUSTER ADDSLOTSRANGE {first} {}", last - 1));
        }
        for shard in 0..SHARDS {
            self.servers[SHARDS + shard].run(&format!("CLUSTER REPLICATE {}", self.ids[shard]));
        }
    }

    /// `redis+cluster://h:p,h:p,h:p` of the first three servers.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.servers[..SHARDS].iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// `redis://h:p` of each server.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    /// Waits until every server runs and reports a healthy cluster, each shard has one primary, and all replicas are in
    /// sync.
    pub fn settle(&self) {
        eventually_within(SETTLED_WITHIN, "the cluster is in order", || {
            let primaries = self.primaries().len();
            primaries == SHARDS
                && self
                    .servers
                    .iter()
                    .all(|server| finds_all_well(server) && (is_primary(server) || is_in_sync(server)))
        });
    }

    /// Indexes of the servers that report to be primaries.
    pub fn primaries(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|at| is_primary(&self.servers[*at])).collect()
    }

    /// The highest epoch that any server knows; each failover raises it.
    pub fn reign(&self) -> u64 {
        let epoch = |server: &RedisServer| {
            let info: String = server.try_ask_within(Duration::from_secs(1), &[b"CLUSTER", b"INFO"]).ok()?;
            info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:")?.trim().parse().ok())
        };
        self.servers.iter().filter_map(epoch).max().unwrap_or(0)
    }

    /// The replica of a primary, according to `witness`.
    pub fn replica_of(&self, primary: usize) -> usize {
        let follows = |line: &&str| line.contains("slave") && line.split(' ').nth(3) == Some(&self.ids[primary]);
        let mut replica = None;
        // A former primary may not have announced yet that it is a replica.
        eventually_within(SETTLED_WITHIN, "the primary has a replica", || {
            let nodes: String = self.servers[primary].ask(&[b"CLUSTER", b"NODES"]);
            let line = nodes.lines().find(follows);
            replica = line.and_then(|line| self.ids.iter().position(|id| line.starts_with(id)));
            replica.is_some()
        });
        replica.expect("found")
    }

    /// The primary of a slot.
    pub fn owner(&self, slot: u16) -> usize {
        let owns = |at: &usize| self.slots(*at).contains(&slot);
        self.primaries().into_iter().find(owns).expect("each slot has a primary")
    }

    /// The slots of a server, according to that server.
    pub fn slots(&self, server: usize) -> BTreeSet<u16> {
        let nodes: String = self.servers[server].ask(&[b"CLUSTER", b"NODES"]);
        let own = nodes.lines().find(|line| line.contains("myself")).expect("it knows itself");
        let number = |text: &str| text.parse::<u16>().expect("a slot");
        // Slots that are being moved are in brackets.
        let ranges = own.split(' ').skip(8).filter(|range| !range.starts_with('['));
        let range = |range: &str| match range.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(range)..=number(range),
        };
        ranges.flat_map(range).collect()
    }

    /// Sends `CLUSTER FAILOVER` to the replica of `primary`, which loses no write. Returns the new primary.
    pub fn failover(&self, primary: usize) -> usize {
        let replica = self.replica_of(primary);
        // The failover is refused or abandoned when the primary does not answer in time, so it is requested again.
        eventually_within(SETTLED_WITHIN, "the replica is promoted", || {
            if !is_primary(&self.servers[replica]) {
                let _refused = self.servers[replica].try_ask::<Value>(&[b"CLUSTER", b"FAILOVER"]);
                std::thread::sleep(Duration::from_millis(100));
            }
            is_primary(&self.servers[replica])
        });
        self.settle();
        replica
    }

    /// Kills `primary` and waits for its replica to take over. Writes may be lost. The caller restarts it and settles.
    pub fn kill(&mut self, primary: usize) -> usize {
        let replica = self.replica_of(primary);
        self.servers[primary].kill();
        self.wait_for(replica, primary);
        replica
    }

    /// Stops `primary` and waits for its replica to take over. Writes may be lost. The caller resumes it and settles.
    pub fn pause(&self, primary: usize) -> usize {
        let replica = self.replica_of(primary);
        self.servers[primary].pause();
        self.wait_for(replica, primary);
        replica
    }

    fn wait_for(&self, replica: usize, gone: usize) {
        let others = self.servers.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, server)| server);
        eventually_within(SETTLED_WITHIN, "the replica takes over", || {
            is_primary(&self.servers[replica]) && others.clone().all(finds_all_well)
        });
    }

    /// Moves slots with their keys between primaries, as redis-cli does, while clients continue.
    pub fn reshard(&self, slots: impl IntoIterator<Item = u16>, from: usize, to: usize) {
        for slot in slots {
            self.begin_move(slot, from, to);
            self.move_all_keys(slot, from, to);
            self.end_move(slot, from, to);
        }
        self.settle();
    }

    /// Begins to move a slot: from now on, `from` redirects requests for missing keys to `to`.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        self.servers[to].run(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.ids[from]));
        self.servers[from].run(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.ids[to]));
    }

    /// Ends the move of a slot without keys.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        // The new owner comes first; otherwise the slot would have no owner for a moment.
        self.servers[to].run(&format!("CLUSTER SETSLOT {slot} NODE {}", self.ids[to]));
        self.servers[from].run(&format!("CLUSTER SETSLOT {slot} NODE {}", self.ids[to]));
    }

    /// Returns keys of a slot that a server has.
    pub fn keys_in_slot(&self, slot: u16, server: usize) -> Vec<Vec<u8>> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("GETKEYSINSLOT").arg(slot).arg(MIGRATED_AT_ONCE);
        command.query(&mut self.servers[server].connect()).expect("it tells its keys")
    }

    /// Moves keys from one server to another.
    pub fn move_keys(&self, keys: &[Vec<u8>], from: usize, to: usize) {
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(self.servers[to].port()).arg("").arg(0).arg(MIGRATE_WITHIN);
        // A key that has expired meanwhile is no error (NOKEY).
        migrate.arg("KEYS").arg(keys).query::<Value>(&mut self.servers[from].connect()).expect("the keys are moved");
    }

    /// Lets `to` claim slots of others with a higher epoch, without their keys. Returns when all servers accept the claim.
    pub fn take_slots(&self, slots: &[u16], to: usize) {
        let mut claimed_at: Option<Instant> = None;
        eventually_within(SETTLED_WITHIN, "the slots are where they were taken to", || {
            // A concurrent failover may have a higher epoch; then the claim is repeated.
            if claimed_at.is_none_or(|at| at.elapsed() > CLAIM_AGAIN_AFTER) {
                claimed_at = Some(Instant::now());
                for slot in slots {
                    self.servers[to].run(&format!("CLUSTER SETSLOT {slot} NODE {}", self.ids[to]));
                }
                self.servers[to].run("CLUSTER BUMPEPOCH");
            }
            let others = self.primaries().into_iter().filter(|other| *other != to);
            others.map(|other| self.slots(other)).all(|owned| slots.iter().all(|slot| !owned.contains(slot)))
        });
        self.settle();
    }

    fn move_all_keys(&self, slot: u16, from: usize, to: usize) {
        loop {
            let keys = self.keys_in_slot(slot, from);
            if keys.is_empty() {
                return;
            }
            self.move_keys(&keys, from, to);
        }
    }
}

/// Returns a port for the cluster bus, because the default, the client port plus 10,000, may be out of range.
fn arguments() -> Vec<String> {
    let words = format!(
        "--cluster-enabled yes --cluster-port {} --cluster-node-timeout {NODE_TIMEOUT} --cluster-replica-validity-factor 0 \
         --cluster-allow-replica-migration no --repl-diskless-sync-delay 0 --repl-ping-replica-period 1",
        free_port()
    );
    words.split_whitespace().map(str::to_owned).collect()
}

fn bus_port(server: &RedisServer) -> u16 {
    let (_name, port): (String, u16) = server.ask(&[b"CONFIG", b"GET", b"cluster-port"]);
    port
}

fn finds_all_well(server: &RedisServer) -> bool {
    let info = server.try_ask_within::<String>(Duration::from_secs(1), &[b"CLUSTER", b"INFO"]);
    info.is_ok_and(|info| info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384"))
}
