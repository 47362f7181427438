//! Scripts and functions that Redis runs for clients.
//!
//! A script uses a connection that nothing else uses while it runs. The number of scripts that this process sends at the
//! same time is bounded, so that slow scripts do not take the connections of other pass-through commands; further scripts
//! wait for their turn until their deadline.
//!
//! Redis runs one script at a time and cannot abort a script that has written. A script that exceeds its deadline
//! therefore may still run; its caller receives `Unknown`, and its connection is closed.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use crate::{
    access::Verbs,
    cache::Cache,
    error::{CacheError, Kind, Result},
    l2::RawConnection,
};

/// Maximum number of requests with scripts that a process sends to Redis at the same time.
const SCRIPTS_MAX: usize = 64;

/// Places for requests with scripts.
#[derive(Debug)]
pub(crate) struct ScriptPlaces(Semaphore);

impl Default for ScriptPlaces {
    fn default() -> Self {
        Self(Semaphore::new(SCRIPTS_MAX))
    }
}

/// The permission to send one request, and its deadline if it runs scripts.
pub(super) struct Turn<'c> {
    script: Option<ScriptTurn<'c>>,
}

struct ScriptTurn<'c> {
    deadline: Instant,
    lasts: Duration,
    _place: SemaphorePermit<'c>,
}

impl Turn<'_> {
    /// Waits for a connection, until the deadline of a script.
    ///
    /// # Errors
    /// As [`Backend::raw_connection`](crate::l2::Backend::raw_connection).
    pub(super) async fn connect(&self, opening: impl Future<Output = Result<RawConnection>>) -> Result<RawConnection> {
        let Some(script) = &self.script else { return opening.await };
        match timeout_at(script.deadline, opening).await {
            // A future that is ready at once is not checked against the deadline.
            Ok(opened) if opened.is_err() || Instant::now() < script.deadline => opened,
            Ok(_) | Err(_) => {
                let message = format!(
                    "no connection to Redis within l2.script_timeout ({:?}); the script was not started",
                    script.lasts
                );
                Err(CacheError::new(Kind::Unavailable, message))
            }
        }
    }

    /// Sends requests and returns their replies.
    ///
    /// # Errors
    /// See [`RawConnection::ask`].
    pub(super) async fn ask(&self, line: &mut RawConnection, requests: &[u8], replies: usize) -> Result<Vec<Bytes>> {
        let Some(script) = &self.script else { return line.ask(requests, replies).await };
        line.ask_until(requests, replies, script.deadline).await.unwrap_or_else(|| {
            let message = format!(
                "the script did not end within l2.script_timeout ({:?}); it may still run, and it may or may not have \
                 written its keys",
                script.lasts
            );
            Err(CacheError::new(Kind::Unknown, message))
        })
    }
}

impl Cache {
    /// Waits until a request may be sent. Requests without scripts do not wait.
    ///
    /// # Errors
    /// `Overloaded` after `l2.script_timeout`: nothing was sent.
    pub(super) async fn script_turn(&self, runs_script: bool) -> Result<Turn<'_>> {
        if !runs_script {
            return Ok(Turn { script: None });
        }
        let lasts = self.core.rules.load().script_timeout;
        let deadline = Instant::now() + lasts;
        match timeout_at(deadline, self.core.script_places.0.acquire()).await {
            Ok(Ok(place)) => Ok(Turn { script: Some(ScriptTurn { deadline, lasts, _place: place }) }),
            Ok(Err(_)) | Err(_) => {
                let message = format!(
                    "{SCRIPTS_MAX} scripts are in progress, which is the maximum, and none ended within \
                     l2.script_timeout ({lasts:?}); the script was not started"
                );
                Err(CacheError::new(Kind::Overloaded, message))
            }
        }
    }

    /// Sends one request about scripts to each primary of Redis. Returns their replies, which may be error replies.
    ///
    /// # Errors
    /// `Denied`; otherwise as [`Cache::pass`]. After `Unknown` some primaries may have executed the request.
    pub async fn pass_to_all(&self, request: &[u8], resp3: bool) -> Result<Vec<Bytes>> {
        self.principal.check_everywhere(Verbs::SCRIPT)?;
        let lines = self.l2.raw_connections(resp3).await?;
        let ask = |mut line: RawConnection| async move { line.ask(request, 1).await };
        let replies = futures_util::future::try_join_all(lines.into_iter().map(ask)).await?;
        Ok(replies.into_iter().flatten().collect())
    }
}
