//! One worker's connections to one primary, behind the breaker that all workers share.

use std::{sync::Arc, time::Duration};

use ::redis::Cmd;
use tokio::time::{Instant, sleep};

use super::{
    backoff::Backoff,
    bans::Log,
    connect::Dialer,
    lane::{Access, Commands, Lane, LaneSettings, Replies},
    topology::{Primary, Topology},
};
use crate::{
    error::{CacheError, Kind, Result},
    l2::{State, Tunables},
};

/// A probe that is refused or not answered is repeated after a wait that doubles up to this, cut by up to half at random.
const PROBE_EVERY_MAX: Duration = Duration::from_millis(500);

/// What a group needs to know.
#[derive(Debug, Clone)]
pub(super) struct GroupSettings {
    pub(super) dialer: Arc<Dialer>,
    pub(super) connections: usize,
    pub(super) queue_limit: usize,
    /// Calls that fail in a row before the breaker opens.
    pub(super) failures_max: usize,
}

/// The connections.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) primary: Arc<Primary>,
    lanes: Arc<[Lane]>,
    failures_max: usize,
    tunables: Arc<Tunables>,
}

impl Group {
    /// Starts connecting, on the current runtime.
    pub(super) fn start(
        primary: &Arc<Primary>,
        settings: &GroupSettings,
        topology: &Arc<Topology>,
        log: &Arc<Log>,
        tunables: &Arc<Tunables>,
    ) -> Self {
        let lane = || {
            Lane::start(LaneSettings {
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
            lanes: (0..settings.connections.max(1)).map(|_| lane()).collect(),
            failures_max: settings.failures_max.max(1),
            tunables: Arc::clone(tunables),
        }
    }

    /// Sends `commands` and waits for as many replies until `deadline`.
    pub(super) async fn ask(&self, commands: Commands, access: Access, deadline: Instant) -> Result<Replies> {
        let breaker = &self.primary.breaker;
        if breaker.is_open() {
            return Err(away());
        }
        let mut lane = Lane::choose(&self.lanes);
        if !lane.is_up() {
            lane.first_contact(deadline).await;
            lane = Lane::choose(&self.lanes);
        }
        let result = lane.ask(commands, access, deadline).await;
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

    /// Sends a PING now and then until one is answered, which closes the breaker.
    fn probe(&self) {
        tracing::warn!(redis = %self.primary.endpoint, "Redis does not answer: calls are refused until it does");
        let (primary, lanes) = (Arc::clone(&self.primary), Arc::clone(&self.lanes));
        let tunables = Arc::clone(&self.tunables);
        tokio::spawn(async move {
            // Closed also if this worker goes away: another one opens it anew.
            let _closed = CloseOnDrop(Arc::clone(&primary));
            let mut backoff = Backoff::up_to(PROBE_EVERY_MAX);
            loop {
                let mut ping = Cmd::new();
                ping.arg("PING");
                let deadline = Instant::now() + tunables.deadlines().read;
                if Lane::choose(&lanes).ask(vec![ping], Access::Read, deadline).await.is_ok() {
                    break;
                }
                sleep(backoff.step()).await;
            }
            lanes.iter().for_each(Lane::begin_gently);
            tracing::info!(redis = %primary.endpoint, "Redis answers again");
        });
    }

    pub(super) fn state(&self) -> State {
        if self.primary.breaker.is_open() {
            return State::Down(away().message().to_owned());
        }
        let states = || self.lanes.iter().map(Lane::state);
        let is_down = |state: &State| matches!(state, State::Down(_));
        if states().any(|state| state == State::Up) {
            return State::Up;
        }
        states().find(is_down).unwrap_or(State::Connecting)
    }

    pub(super) fn reached(&self) -> bool {
        self.lanes.iter().any(Lane::reached)
    }
}

struct CloseOnDrop(Arc<Primary>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.breaker.close();
    }
}

/// Whether a call was sent and not answered in time.
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
        | Kind::Unsupported
        | Kind::Internal => false,
    }
}

fn away() -> CacheError {
    let message = "Redis does not answer; the circuit breaker is open until it does";
    CacheError::new(Kind::Unavailable, message).retry_after(PROBE_EVERY_MAX)
}
