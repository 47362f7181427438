//! [`ConnectionGroup`]: one worker's connections to one primary, behind the circuit breaker that all workers share.

use std::{sync::Arc, time::Duration};

use ::redis::{Cmd, Value as Reply};
use tokio::time::{Instant, sleep};

use super::pipelined_connection::{Access, PipelineSettings, PipelinedConnection};
use crate::{
    error::{CacheError, Kind, Result},
    l2::{
        State, Tunables,
        redis::{
            bans::state::BanLog,
            command::{
                batch::{Commands, Replies},
                errors, ops,
            },
            connection::{backoff::Backoff, connect::Dialer},
            topology::map::{Primary, Topology},
        },
    },
};

/// Maximum interval between probes of a Redis primary with an open circuit breaker.
const PROBE_EVERY_MAX: Duration = Duration::from_millis(500);

/// Settings of a connection group.
#[derive(Debug, Clone)]
pub(crate) struct GroupSettings {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) connections: usize,
    pub(crate) queue_limit: usize,
    /// Number of consecutive failed calls that opens the circuit breaker.
    pub(crate) failures_max: usize,
}

/// Connections of one worker to one primary.
#[derive(Debug)]
pub(crate) struct ConnectionGroup {
    pub(crate) primary: Arc<Primary>,
    connections: Arc<[PipelinedConnection]>,
    failures_max: usize,
    tunables: Arc<Tunables>,
}

impl ConnectionGroup {
    /// Starts the connections on the current runtime.
    pub(crate) fn start(
        primary: &Arc<Primary>,
        settings: &GroupSettings,
        topology: &Arc<Topology>,
        log: &Arc<BanLog>,
        tunables: &Arc<Tunables>,
    ) -> Self {
        let connection = || {
            PipelinedConnection::start(PipelineSettings {
                endpoint: primary.endpoint.clone(),
                dialer: Arc::clone(&settings.dialer),
                topology: Arc::clone(topology),
                queue_limit: settings.queue_limit.max(1),
                source: primary.source,
                log: Arc::clone(log),
            })
        };
        Self {
            primary: Arc::clone(primary),
            connections: (0..settings.connections.max(1)).map(|_| connection()).collect(),
            failures_max: settings.failures_max.max(1),
            tunables: Arc::clone(tunables),
        }
    }

    /// Sends `commands` and waits for their replies until `deadline`.
    pub(crate) async fn ask(&self, commands: Commands, access: Access, deadline: Instant) -> Result<Replies> {
        let breaker = &self.primary.breaker;
        if breaker.is_open() {
            return Err(away());
        }
        let mut connection = PipelinedConnection::choose(&self.connections);
        if !connection.is_up() {
            connection.first_contact(deadline).await;
            connection = PipelinedConnection::choose(&self.connections);
        }
        let result = connection.ask(commands, access, deadline).await;
        match &result {
            Ok(_) => breaker.succeeded(),
            Err(error) if is_late(error) => {
                if breaker.failed(self.failures_max) {
                    self.probe();
                }
            }
            Err(_) => {}
        }
        result
    }

    /// Sends one command and returns its reply; an error reply is an error.
    pub(crate) async fn ask_one(&self, command: Cmd, access: Access, deadline: Instant) -> Result<Reply> {
        let mut replies = self.ask(vec![command], access, deadline).await?;
        replies.pop().map_or_else(|| Err(errors::unexpected("a command")), ops::checked)
    }

    /// Sends PING periodically until one is answered, then closes the breaker.
    fn probe(&self) {
        tracing::warn!(
            redis = %self.primary.endpoint,
            "Redis does not answer; circuit breaker opened and calls fail until Redis answers"
        );
        let (primary, connections) = (Arc::clone(&self.primary), Arc::clone(&self.connections));
        let tunables = Arc::clone(&self.tunables);
        tokio::spawn(async move {
            // The breaker also closes if this worker ends; another worker then opens it again.
            let _closed = CloseOnDrop(Arc::clone(&primary));
            let mut backoff = Backoff::up_to(PROBE_EVERY_MAX);
            loop {
                let mut ping = Cmd::new();
                ping.arg("PING");
                let deadline = Instant::now() + tunables.deadlines().read;
                if PipelinedConnection::choose(&connections).ask(vec![ping], Access::Read, deadline).await.is_ok() {
                    break;
                }
                sleep(backoff.step()).await;
            }
            connections.iter().for_each(PipelinedConnection::begin_gently);
            tracing::info!(redis = %primary.endpoint, "Redis answers again; circuit breaker closed");
        });
    }

    pub(crate) fn state(&self) -> State {
        if self.primary.breaker.is_open() {
            return State::Down(away().message().to_owned());
        }
        let states = || self.connections.iter().map(PipelinedConnection::state);
        let is_down = |state: &State| matches!(state, State::Down(_));
        if states().any(|state| state == State::Up) {
            return State::Up;
        }
        states().find(is_down).unwrap_or(State::Connecting)
    }

    pub(crate) fn reached(&self) -> bool {
        self.connections.iter().any(PipelinedConnection::reached)
    }
}

struct CloseOnDrop(Arc<Primary>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.breaker.close();
    }
}

/// Returns true for a call that was sent and not answered in time.
fn is_late(error: &CacheError) -> bool {
    match error.kind() {
        Kind::DeadlineExceeded | Kind::Unknown => true,
        Kind::InvalidArgument
        | Kind::ReservedPrefix
        | Kind::TooLarge
        | Kind::Overloaded
        | Kind::OutOfMemory
        | Kind::Unavailable
        | Kind::WrongType
        | Kind::NotANumber
        | Kind::Overflow
        | Kind::NoAccess
        | Kind::Denied
        | Kind::Unsupported
        | Kind::Internal => false,
    }
}

fn away() -> CacheError {
    let message = "Redis does not answer; the circuit breaker is open";
    CacheError::new(Kind::Unavailable, message).retry_after(PROBE_EVERY_MAX)
}
