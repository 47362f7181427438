//! Teams and their members in SQLite. Each query takes a simulated time, and an outage can be simulated.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// Time to wait for a lock of another process on the database file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Tables, and 100 members in each of two teams.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS team (name TEXT PRIMARY KEY, motto TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS member (id INTEGER PRIMARY KEY, name TEXT NOT NULL, team TEXT NOT NULL);
    INSERT OR IGNORE INTO team VALUES ('red', 'onward'), ('blue', 'upward');
    WITH RECURSIVE number(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < 200)
    INSERT OR IGNORE INTO member SELECT n, 'Member ' || n, CASE WHEN n <= 100 THEN 'red' ELSE 'blue' END FROM number;
";

/// The page of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Name of the member.
    pub name: String,
    /// Name of the team.
    pub team: String,
    /// Motto of the team.
    pub motto: String,
}

/// A query failed.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A simulated outage.
    #[error("the database is down")]
    Down,
    /// SQLite failed.
    #[error("the database failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The task of a query ended early, because the service stops.
    #[error("the query was abandoned")]
    Abandoned,
}

/// A database. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Database(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Mutex<Connection>,
    delay: Duration,
    queries: AtomicU64,
    is_down: AtomicBool,
}

impl Database {
    /// Opens a file, or a database in memory. Creates the tables if they do not exist.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: Option<&Path>, delay: Duration) -> Result<Self, DatabaseError> {
        let connection = file.map_or_else(Connection::open_in_memory, Connection::open)?;
        connection.busy_timeout(LOCK_TIMEOUT)?;
        connection.execute_batch(SCHEMA)?;
        let (queries, is_down) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { connection: Mutex::new(connection), delay, queries, is_down })))
    }

    /// Returns the number of page queries, including failed ones.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.0.queries.load(Relaxed)
    }

    /// Begins or ends a simulated outage.
    pub fn set_down(&self, is_down: bool) {
        self.0.is_down.store(is_down, Relaxed);
    }

    /// Reads the page of a member of a team.
    ///
    /// # Errors
    /// The database fails.
    pub async fn page(&self, team: &str, id: i64) -> Result<Option<Page>, DatabaseError> {
        self.0.queries.fetch_add(1, Relaxed);
        tokio::time::sleep(self.0.delay).await;
        let team = team.to_owned();
        self.run(move |connection| {
            let mut query = connection.prepare_cached(
                "SELECT member.name, team.name, team.motto FROM member JOIN team ON team.name = member.team \
                 WHERE member.id = ?1 AND team.name = ?2",
            )?;
            let page = query.query_row(params![id, team], |row| {
                Ok(Page { name: row.get(0)?, team: row.get(1)?, motto: row.get(2)? })
            });
            page.optional()
        })
        .await
    }

    /// Changes the motto of a team.
    ///
    /// # Errors
    /// The database fails.
    pub async fn change_motto(&self, team: &str, motto: &str) -> Result<(), DatabaseError> {
        let (team, motto) = (team.to_owned(), motto.to_owned());
        let changed = self.run(move |connection| {
            connection.execute("UPDATE team SET motto = ?2 WHERE name = ?1", params![team, motto])
        });
        changed.await.map(|_rows| ())
    }

    /// Changes the name of a member.
    ///
    /// # Errors
    /// The database fails.
    pub async fn rename(&self, id: i64, name: &str) -> Result<(), DatabaseError> {
        let name = name.to_owned();
        let changed = self
            .run(move |connection| connection.execute("UPDATE member SET name = ?2 WHERE id = ?1", params![id, name]));
        changed.await.map(|_rows| ())
    }

    /// Runs a query on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        if self.0.is_down.load(Relaxed) {
            return Err(DatabaseError::Down);
        }
        let inner = Arc::clone(&self.0);
        let result = tokio::task::spawn_blocking(move || query(&inner.connection.lock())).await;
        Ok(result.map_err(|_join| DatabaseError::Abandoned)??)
    }
}
