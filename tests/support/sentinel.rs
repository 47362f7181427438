//! Three Sentinels, a primary and one replica, on free loopback ports, killed on drop.
//!
//! A failover loses the writes that the replica had not received. A primary that was stopped or cut off acts as primary
//! until the Sentinels demote it, and writes to it meanwhile are lost. So a checker has to treat a failover as an
//! upheaval from its beginning until [`Sentinels::settle`] has returned.
//!
//! The Sentinels check about ten times as often as they do by default (`SENTINEL DEBUG`, since 7.0): a failover takes
//! two seconds, and a former primary becomes a replica one second after its return, not ten.

use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{Client, FromRedisValue};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    eventually_within,
    redis::{RedisServer, free_port},
};

/// Name of the primary.
pub const MASTER: &str = "mymaster";
/// Number of Sentinels; two of them have to agree.
const SENTINELS: usize = 3;
/// Time without an answer after which a server is down, milliseconds.
const DOWN_AFTER: u32 = 500;
/// Half the time between two failovers, and the time limit of one, milliseconds.
const FAILOVER_TIMEOUT: u32 = 2000;
/// Periods and timeouts of the Sentinels, milliseconds.
const PERIODS: [(&str, u32); 6] = [
    ("info-period", 300),
    ("ping-period", 100),
    ("ask-period", 200),
    ("publish-period", 200),
    ("election-timeout", 2000),
    ("min-link-reconnect-period", 500),
];
/// Time between two requests to fail over.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Longest wait for Sentinels.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

struct Sentinel {
    port: u16,
    child: Child,
    // The directory of its configuration, which it rewrites itself.
    _dir: TempDir,
}

impl Sentinel {
    fn start(primary: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds {MASTER} {DOWN_AFTER}\n\
             sentinel failover-timeout {MASTER} {FAILOVER_TIMEOUT}\n",
            dir.path().display()
        );
        std::fs::write(&file, text).expect("a file can be written");
        let mut command = Command::new("redis-server");
        command.arg(file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
        let sentinel = Self { port, child: command.spawn().expect("redis-server is installed"), _dir: dir };
        for (period, millis) in PERIODS {
            eventually_within(SETTLED_WITHIN, "a Sentinel answers", || {
                sentinel.ask::<()>(&["DEBUG", period, &millis.to_string()]).is_some()
            });
        }
        sentinel
    }

    fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("an address");
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let mut command = redis::cmd("SENTINEL");
        command.arg(words).query(&mut connection).ok()
    }

    /// The port of the primary, according to this Sentinel.
    fn primary(&self) -> Option<u16> {
        let (_host, port) = self.ask::<(String, u16)>(&["GET-MASTER-ADDR-BY-NAME", MASTER])?;
        Some(port)
    }

    /// Returns whether it knows the replica and the other Sentinels, and reports no fault.
    fn is_content(&self) -> bool {
        let Some(fields) = self.ask::<HashMap<String, String>>(&["MASTER", MASTER]) else {
            return false;
        };
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        field("num-slaves") == "1" && field("num-other-sentinels") == "2" && field("flags") == "master"
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Two servers and their Sentinels.
pub struct Sentinels {
    /// The first was the primary at the beginning.
    pub servers: [RedisServer; 2],
    sentinels: Vec<Sentinel>,
}

impl Sentinels {
    /// Starts all processes and waits until all know each other.
    pub fn start() -> Self {
        let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port().to_string();
        let replica =
            RedisServer::start_with(&["--repl-diskless-sync-delay", "0", "--replicaof", &format!("127.0.0.1 {port}")]);
        let found = Self { servers: [primary, replica], sentinels: Vec::new() };
        // Sentinels look for replicas only every ten seconds, so the replica has to be connected before they start.
        eventually_within(SETTLED_WITHIN, "the replica is in sync", || is_in_sync(&found.servers[1]));
        let sentinels = (0..SENTINELS).map(|_| Sentinel::start(found.servers[0].port())).collect();
        let started = Self { sentinels, ..found };
        started.settle();
        started
    }

    /// `redis+sentinel://127.0.0.1:p1,127.0.0.1:p2,127.0.0.1:p3/mymaster`.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{MASTER}", hosts.join(","))
    }

    /// `redis://127.0.0.1:p` of each Sentinel.
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("redis://127.0.0.1:{}", sentinel.port)).collect()
    }

    /// Index of the primary in [`Sentinels::servers`], if most Sentinels agree on it.
    pub fn primary(&self) -> Option<usize> {
        let ports: Vec<u16> = self.sentinels.iter().filter_map(Sentinel::primary).collect();
        let votes = |server: &RedisServer| ports.iter().filter(|port| **port == server.port()).count();
        self.servers.iter().position(|server| votes(server) > SENTINELS / 2)
    }

    /// The highest epoch that any Sentinel knows; each failover raises it.
    pub fn reign(&self) -> u64 {
        let epoch = |sentinel: &Sentinel| {
            let fields: HashMap<String, String> = sentinel.ask(&["MASTER", MASTER])?;
            fields.get("config-epoch")?.parse().ok()
        };
        self.sentinels.iter().filter_map(epoch).max().unwrap_or(0)
    }

    /// Waits until the Sentinels have made another server than `former` the primary, and it takes writes.
    pub fn wait_for_another_primary(&self, former: usize) -> usize {
        let other = 1 - former;
        eventually_within(SETTLED_WITHIN, "the Sentinels choose another primary by themselves", || {
            self.primary() == Some(other) && is_primary(&self.servers[other])
        });
        other
    }

    /// Waits until there is one primary and one replica in sync with it, and all Sentinels report no fault. Both must run.
    pub fn settle(&self) {
        eventually_within(SETTLED_WITHIN, "the Sentinels are content", || {
            let Some(primary) = self.primary() else { return false };
            is_primary(&self.servers[primary])
                && is_in_sync(&self.servers[1 - primary])
                && self.sentinels.iter().all(Sentinel::is_content)
        });
    }

    /// Sends `SENTINEL FAILOVER`, which needs no agreement. Returns the new primary. The request is repeated until it
    /// succeeds: a Sentinel abandons it when it does not know enough about the replica at that moment.
    pub fn failover(&self) -> usize {
        let former = self.primary().expect("settled");
        let mut asked_at: Option<Instant> = None;
        eventually_within(SETTLED_WITHIN, "a Sentinel's failover comes about", || {
            if asked_at.is_none_or(|asked_at| asked_at.elapsed() > ASK_AGAIN) {
                let _in_progress = self.sentinels[0].ask::<String>(&["FAILOVER", MASTER]);
                asked_at = Some(Instant::now());
            }
            self.primary() == Some(1 - former) && is_primary(&self.servers[1 - former])
        });
        1 - former
    }
}

fn field(server: &RedisServer, name: &str) -> Option<String> {
    let info: String = server.try_ask_within(Duration::from_secs(1), &[b"INFO", b"replication"]).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// Returns whether the server reports to be a primary.
pub fn is_primary(server: &RedisServer) -> bool {
    field(server, "role").as_deref() == Some("master")
}

/// Returns whether the server is a replica in sync with its primary.
pub fn is_in_sync(server: &RedisServer) -> bool {
    field(server, "master_link_status").as_deref() == Some("up")
        && field(server, "master_sync_in_progress").as_deref() == Some("0")
}
