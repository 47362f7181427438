//! Three Sentinels over a primary and one replica, all of the test's own, on free loopback ports, killed on drop.
//!
//! A failover loses what the replica had not got yet, and a primary that was stopped or cut off believes in itself until the
//! Sentinels tell it otherwise: what is written to it meanwhile is lost. So a checker has to know a failover as an
//! upheaval from its beginning until [`Sentinels::settle`] has returned.
//!
//! The Sentinels look about ten times as often as they do by default (`SENTINEL DEBUG`, since 7.0): a failover takes two
//! seconds, and a former primary is made a replica a second after it is back, not ten.

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

/// What the primary is called.
pub const MASTER: &str = "mymaster";
/// Sentinels; two of them have to agree.
const SENTINELS: usize = 3;
/// Without an answer for this long, a server is down. (Milliseconds)
const DOWN_AFTER: u32 = 500;
/// Half the time between two failovers, and the longest that one may take. (Milliseconds)
const FAILOVER_TIMEOUT: u32 = 2000;
/// What Sentinels do how often, and how long they wait for each other, milliseconds.
const PERIODS: [(&str, u32); 6] = [
    ("info-period", 300),
    ("ping-period", 100),
    ("ask-period", 200),
    ("publish-period", 200),
    ("election-timeout", 2000),
    ("min-link-reconnect-period", 500),
];
/// Time between two orders to fail over.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Longest wait for Sentinels.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

struct Sentinel {
    port: u16,
    child: Child,
    // Holds its configuration, which it writes itself.
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

    /// The port of the primary, as far as it knows.
    fn primary(&self) -> Option<u16> {
        let (_host, port) = self.ask::<(String, u16)>(&["GET-MASTER-ADDR-BY-NAME", MASTER])?;
        Some(port)
    }

    /// Whether it has found the replica and the other Sentinels, and finds nothing wrong.
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

/// Two servers and who watches them.
pub struct Sentinels {
    /// The first was the primary at the beginning.
    pub servers: [RedisServer; 2],
    sentinels: Vec<Sentinel>,
}

impl Sentinels {
    /// Starts all and waits until all know each other.
    pub fn start() -> Self {
        let primary = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port().to_string();
        let replica =
            RedisServer::start_with(&["--repl-diskless-sync-delay", "0", "--replicaof", &format!("127.0.0.1 {port}")]);
        let found = Self { servers: [primary, replica], sentinels: Vec::new() };
        // Sentinels ask for replicas every ten seconds only: they have to find it the first time.
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

    /// The place of the primary in [`Sentinels::servers`], if most Sentinels agree on it.
    pub fn primary(&self) -> Option<usize> {
        let ports: Vec<u16> = self.sentinels.iter().filter_map(Sentinel::primary).collect();
        let votes = |server: &RedisServer| ports.iter().filter(|port| **port == server.port()).count();
        self.servers.iter().position(|server| votes(server) > SENTINELS / 2)
    }

    /// The highest epoch that any Sentinel knows of: each failover has a higher one.
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

    /// Waits until there is one primary, one replica in sync with it, and all Sentinels are content. Both must run.
    pub fn settle(&self) {
        eventually_within(SETTLED_WITHIN, "the Sentinels are content", || {
            let Some(primary) = self.primary() else { return false };
            is_primary(&self.servers[primary])
                && is_in_sync(&self.servers[1 - primary])
                && self.sentinels.iter().all(Sentinel::is_content)
        });
    }

    /// `SENTINEL FAILOVER`: without asking the others. Returns the new primary. It is asked for again while nothing comes
    /// of it: a Sentinel gives up when it does not know enough of the replica at that moment.
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

/// Whether it says that it is a primary.
pub fn is_primary(server: &RedisServer) -> bool {
    field(server, "role").as_deref() == Some("master")
}

/// Whether it is a replica that has what its primary has.
pub fn is_in_sync(server: &RedisServer) -> bool {
    field(server, "master_link_status").as_deref() == Some("up")
        && field(server, "master_sync_in_progress").as_deref() == Some("0")
}
