//! Two processes of the service with one database file and one cache.

use std::{
    fmt,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::http::{Answer, request};

/// A way to read pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Get, query, set.
    Aside,
    GetOrLoad,
}

impl Method {
    pub(crate) const ALL: [Self; 2] = [Self::Aside, Self::GetOrLoad];

    fn prefix(self) -> &'static str {
        match self {
            Self::Aside => "/aside",
            Self::GetOrLoad => "",
        }
    }

    /// Returns the key of the page of a member of the red team.
    pub(crate) fn key(self, id: usize) -> String {
        match self {
            Self::Aside => format!("aside:team:red:member:{id}"),
            Self::GetOrLoad => format!("team:red:member:{id}"),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aside => "cache-aside",
            Self::GetOrLoad => "get or load",
        })
    }
}

/// Settings of the processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) ttl: Duration,
    pub(crate) stale: Duration,
    pub(crate) query_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let hour = Duration::from_secs(3_600);
        Self { ttl: hour, stale: hour, query_delay: Duration::from_millis(100) }
    }
}

/// A process, killed on drop.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(cache: &str, database: &Path, settings: Settings, arguments: &[&str]) -> Self {
        let ms = |duration: Duration| format!("{}ms", duration.as_millis());
        let mut child = Command::new(env!("CARGO_BIN_EXE_terrace-example-service"))
            .args(["--listen", "127.0.0.1:0", "--cache", cache, "--ttl", &ms(settings.ttl)])
            .args(["--stale", &ms(settings.stale), "--query-delay", &ms(settings.query_delay), "--database"])
            .arg(database)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the service starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("UTF-8");
        let address = line.trim().strip_prefix("listening on http://").expect("the address").to_owned();
        Self { child, address }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A process that has ended needs no signal.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Two processes.
pub(crate) struct Services {
    processes: [Service; 2],
    _folder: TempDir,
}

impl Services {
    /// Starts the processes and waits until both use the cache.
    pub(crate) async fn start(cache: &str, settings: Settings, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("database");
        let start = || Service::start(cache, &file, settings, arguments);
        let services = Self { processes: [start(), start()], _folder: folder };
        for at in 0..2 {
            while services.stats(at).await["cache"]["loads"].is_null() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        services
    }

    pub(crate) async fn get(&self, process: usize, path: &str) -> Answer {
        request(&self.processes[process].address, "GET", path, "").await
    }

    pub(crate) async fn put(&self, process: usize, path: &str, body: &str) -> Answer {
        request(&self.processes[process].address, "PUT", path, body).await
    }

    /// Begins (`down`) or ends (`up`) an outage of the database.
    pub(crate) async fn set_database(&self, state: &str) {
        for process in &self.processes {
            let answer = request(&process.address, "POST", &format!("/database/{state}"), "").await;
            assert_eq!(answer.status, 204);
        }
    }

    pub(crate) async fn stats(&self, process: usize) -> Value {
        serde_json::from_str(&self.get(process, "/stats").await.body).expect("JSON")
    }

    /// Returns the number of database queries of both processes.
    pub(crate) async fn queries(&self) -> u64 {
        let mut sum = 0;
        for process in 0..2 {
            sum += self.stats(process).await["database_queries"].as_u64().expect("a number");
        }
        sum
    }

    /// Reads pages of members of the red team, all at a time, alternately from both processes.
    pub(crate) async fn read(&self, method: Method, ids: &[usize]) -> Vec<Answer> {
        let mut reads = JoinSet::new();
        for (at, id) in ids.iter().enumerate() {
            let address = self.processes[at % 2].address.clone();
            let path = format!("{}/teams/red/members/{id}", method.prefix());
            reads.spawn(async move { request(&address, "GET", &path, "").await });
        }
        reads.join_all().await
    }
}
