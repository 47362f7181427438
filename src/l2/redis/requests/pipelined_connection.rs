//! [`PipelinedConnection`]: one data connection with a bounded queue. A task opens the connection, keeps it open, and sends
//! all commands that are queued when it wakes up as one explicit pipeline.
//!
//! No delay is added to build larger pipelines: all calls that arrive before the task runs are sent together. The task
//! polls the connection's driver itself, so a call and its reply pass through one task, not three.
//!
//! Guarantees for callers:
//! * Without a connection, a call fails immediately; only the first connection attempt after the start is awaited. A
//!   call also fails immediately if the queue is full.
//! * A call ends by its deadline, enforced by the caller's own timer. A call that is still queued at that time is never
//!   sent.
//! * A write fails with `Unavailable` only if it was never handed to the connection, otherwise with `Unknown`.
//! * A connection is closed if a pipeline remains unanswered past its last deadline plus [`STALL_GRACE`].

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, Pipeline, aio::MultiplexedConnection};
use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Sleep, sleep, timeout_at},
};

use super::send_state::{SendState, Withdraw};
use crate::{
    error::{CacheError, Kind, Result},
    l2::{
        Source, State,
        redis::{
            bans::{
                records::{greatest, greatest_question},
                state::BanLog,
            },
            command::batch::{Commands, Replies},
            connection::{
                backoff::Backoff,
                connect::{self, Dialer, Driver, Opened},
            },
            topology::map::Topology,
            url::Endpoint,
        },
    },
};

/// Maximum number of unanswered pipelines on a connection. More pipelines would queue in Redis, where a request cannot be
/// withdrawn.
const IN_FLIGHT_MAX: usize = 16;
/// Maximum number of calls in one pipeline. All calls of a pipeline wait for its last reply.
const PIPELINE_CALLS_MAX: usize = 256;
/// Maximum size of the requests queued on a connection. Further calls are rejected as overloaded.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Maximum number of commands in a pipeline that further calls may join.
const JOIN_MAX: usize = 128;
/// Time after its last deadline for which a pipeline may remain unanswered before the connection is closed. A slow
/// command of another client must not cause a reconnection, and a half-open connection must not cost more than a
/// second.
const STALL_GRACE: Duration = Duration::from_secs(1);

/// Interval between checks for the end of the first connection attempt.
const CONNECTING_LOOK_EVERY: Duration = Duration::from_millis(1);
/// Retry delay after a connection was lost or fell behind: about two connection attempts.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Access mode of a call, which determines the meaning of a lost reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

struct Call {
    commands: Commands,
    bytes: usize,
    deadline: Instant,
    /// Send state of a write; `None` for reads.
    send_state: Option<Arc<SendState>>,
    /// Dropped without a message if the connection was lost with the call in flight.
    reply: oneshot::Sender<Result<Replies>>,
}

impl Call {
    /// Returns true if the caller still waits and the task may send the call.
    fn claim(&self) -> bool {
        match &self.send_state {
            Some(state) => state.send(),
            None => !self.reply.is_closed(),
        }
    }
}

/// Result of the last contact with Redis.
#[derive(Debug, Clone)]
enum Contact {
    Connecting,
    Up,
    Down(CacheError),
}

/// State shared by callers and the task.
#[derive(Debug)]
struct ConnectionState {
    up: AtomicBool,
    /// True if Redis has answered at least once since the start.
    reached: AtomicBool,
    contact: Mutex<Contact>,
    /// Number of commands in the queue.
    queued: AtomicUsize,
    queued_bytes: AtomicUsize,
    /// Number of commands sent and not yet answered.
    in_flight: AtomicUsize,
    /// Maximum number of unanswered pipelines at present: one after a reconnection, doubled with each answered
    /// pipeline.
    window: AtomicUsize,
    queue_limit: usize,
}

impl ConnectionState {
    fn set(&self, contact: Contact) {
        let up = matches!(contact, Contact::Up);
        self.reached.fetch_or(up, Ordering::Relaxed);
        *self.contact.lock() = contact;
        self.up.store(up, Ordering::Release);
    }

    /// Returns the reason why nothing can be sent.
    fn down(&self) -> CacheError {
        match &*self.contact.lock() {
            Contact::Down(error) => error.clone(),
            Contact::Connecting | Contact::Up => {
                CacheError::new(Kind::Unavailable, "Redis is not connected yet").retry_after(STALL_GRACE)
            }
        }
    }

    fn dequeued(&self, call: &Call) {
        self.queued.fetch_sub(call.commands.len(), Ordering::Relaxed);
        self.queued_bytes.fetch_sub(call.bytes, Ordering::Relaxed);
    }
}

/// The callers' end of one data connection. Dropping it ends the task and the connection.
#[derive(Debug)]
pub(crate) struct PipelinedConnection {
    queue: mpsc::UnboundedSender<Call>,
    shared: Arc<ConnectionState>,
}

/// Settings of a pipelined connection.
#[derive(Debug, Clone)]
pub(crate) struct PipelineSettings {
    pub(crate) endpoint: Endpoint,
    pub(crate) dialer: Arc<Dialer>,
    /// Receives refresh requests when the connection is lost, because the primary may have changed.
    pub(crate) topology: Arc<Topology>,
    /// Maximum number of queued commands; a single larger call is accepted if the queue is empty.
    pub(crate) queue_limit: usize,
    pub(crate) source: Source,
    /// Receives the greatest ban number with each pipeline that writes.
    pub(crate) log: Arc<BanLog>,
}

impl PipelinedConnection {
    /// Starts the task on the current runtime.
    pub(crate) fn start(settings: PipelineSettings) -> Self {
        // The channel is unbounded; `submit` limits the queue by commands and bytes, which a limit by calls could not.
        let (queue, calls) = mpsc::unbounded_channel();
        let shared = Arc::new(ConnectionState {
            up: AtomicBool::new(false),
            reached: AtomicBool::new(false),
            contact: Mutex::new(Contact::Connecting),
            queued: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            window: AtomicUsize::new(1),
            queue_limit: settings.queue_limit,
        });
        tokio::spawn(ConnectionTask { settings, shared: Arc::clone(&shared), calls }.run());
        Self { queue, shared }
    }

    pub(crate) fn state(&self) -> State {
        match &*self.shared.contact.lock() {
            Contact::Connecting => State::Connecting,
            Contact::Up => State::Up,
            Contact::Down(error) => State::Down(error.message().to_owned()),
        }
    }

    pub(crate) fn reached(&self) -> bool {
        self.shared.reached.load(Ordering::Relaxed)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Acquire)
    }

    /// Resets the window after an outage, so that waiting callers return gradually instead of all at once.
    pub(crate) fn begin_gently(&self) {
        self.shared.window.store(1, Ordering::Relaxed);
    }

    /// Returns the load; a lower load means an earlier answer. A connection that is collecting its next pipeline has
    /// the lowest load, because joining the pipeline costs no system call.
    fn load(&self) -> usize {
        let queued = self.shared.queued.load(Ordering::Relaxed);
        if (1..JOIN_MAX).contains(&queued) {
            return 0;
        }
        1 + queued + self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the connected connection with the lowest load, or any connection if none is connected.
    pub(crate) fn choose(connections: &[Self]) -> &Self {
        let best = connections.iter().filter(|each| each.is_up()).min_by_key(|each| each.load());
        best.unwrap_or(&connections[0])
    }

    /// Waits for the end of the first connection attempt, at most until `deadline`, so that a call right after the
    /// start does not fail.
    pub(crate) async fn first_contact(&self, deadline: Instant) {
        while matches!(*self.shared.contact.lock(), Contact::Connecting) && Instant::now() < deadline {
            sleep(CONNECTING_LOOK_EVERY).await;
        }
    }

    /// Sends `commands` and waits for their replies until `deadline`.
    pub(crate) async fn ask(&self, commands: Commands, access: Access, deadline: Instant) -> Result<Replies> {
        let (reply, answer) = oneshot::channel();
        let send_state = (access == Access::Write).then(Arc::default);
        let withdraw = Withdraw(send_state.clone());
        let bytes = commands.iter().map(weight).sum();
        self.submit(Call { commands, bytes, deadline, send_state, reply })?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) if withdraw.was_sent() => Err(unknown("the connection to Redis was lost")),
            Ok(Err(_)) => Err(lost()),
            Err(_) if withdraw.was_sent() => Err(unknown("Redis did not answer within the write deadline")),
            Err(_) if access == Access::Write => Err(withdrawn()),
            Err(_) => Err(CacheError::new(Kind::DeadlineExceeded, "Redis did not answer within the read deadline")),
        }
    }

    fn submit(&self, call: Call) -> Result<()> {
        if !self.is_up() {
            return Err(self.shared.down());
        }
        let shared = &self.shared;
        let queued = shared.queued.load(Ordering::Relaxed);
        let queued_bytes = shared.queued_bytes.load(Ordering::Relaxed);
        let full = queued + call.commands.len() > shared.queue_limit || queued_bytes + call.bytes > QUEUED_BYTES_MAX;
        if full && queued > 0 {
            return Err(CacheError::new(Kind::Overloaded, "the queue of this Redis connection is full"));
        }
        shared.queued.fetch_add(call.commands.len(), Ordering::Relaxed);
        shared.queued_bytes.fetch_add(call.bytes, Ordering::Relaxed);
        self.queue.send(call).map_err(|_| lost())
    }
}

/// Returns the size of the arguments in bytes.
fn weight(command: &Cmd) -> usize {
    let of = |arg: ::redis::Arg<&[u8]>| if let ::redis::Arg::Simple(bytes) = arg { bytes.len() } else { 0 };
    command.args_iter().map(of).sum()
}

fn lost() -> CacheError {
    CacheError::new(Kind::Unavailable, "the connection to Redis was lost").retry_after(RETRY_AFTER)
}

fn withdrawn() -> CacheError {
    let message = "Redis is slow; the write was withdrawn before it was sent";
    CacheError::new(Kind::Unavailable, message).retry_after(RETRY_AFTER)
}

fn unknown(why: &str) -> CacheError {
    CacheError::new(Kind::Unknown, format!("{why}; the write may or may not have happened"))
}

/// The task that owns one pipelined connection.
struct ConnectionTask {
    settings: PipelineSettings,
    shared: Arc<ConnectionState>,
    calls: mpsc::UnboundedReceiver<Call>,
}

/// All callers have been dropped: the task ends.
struct Abandoned;

impl ConnectionTask {
    async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let Ok(opened) = self.open().await else { return };
            let error = match opened {
                Ok(opened) => {
                    backoff.reset();
                    self.shared.window.store(1, Ordering::Relaxed);
                    self.shared.set(Contact::Up);
                    match OpenConnection::new(opened, &self.shared, &self.settings).serve(&mut self.calls).await {
                        Ok(error) => error,
                        Err(Abandoned) => return,
                    }
                }
                Err(error) => error,
            };
            let wait = backoff.step();
            tracing::debug!(%error, ?wait, redis = %self.settings.endpoint, "no data connection to Redis; retrying");
            self.settings.topology.ask();
            self.shared.set(Contact::Down(with_retry(error, wait)));
            if self.refuse_during(sleep(wait)).await.is_err() {
                return;
            }
        }
    }

    async fn open(&mut self) -> Result<Result<Opened>, Abandoned> {
        let PipelineSettings { endpoint, dialer, .. } = self.settings.clone();
        self.refuse_during(async move { connect::data(&endpoint, &dialer).await }).await
    }

    /// Waits for `event`; rejects calls that arrive meanwhile (they were queued while the connection was being lost).
    async fn refuse_during<T>(&mut self, event: impl Future<Output = T>) -> Result<T, Abandoned> {
        tokio::pin!(event);
        loop {
            tokio::select! {
                result = &mut event => return Ok(result),
                call = self.calls.recv() => {
                    let call = call.ok_or(Abandoned)?;
                    self.shared.dequeued(&call);
                    // Fails only if the caller no longer waits.
                    let _gone = call.reply.send(Err(self.shared.down()));
                }
            }
        }
    }
}

/// Adds a retry delay to an error that can disappear without an operator's action.
fn with_retry(error: CacheError, wait: Duration) -> CacheError {
    if error.is_retryable() { error.retry_after(wait) } else { error }
}

/// A pipeline in flight; the output is its number of commands.
type Flight = BoxFuture<'static, usize>;

/// An open connection and its pipelines in flight.
struct OpenConnection<'a> {
    shared: &'a ConnectionState,
    settings: &'a PipelineSettings,
    connection: MultiplexedConnection,
    driver: Driver,
    flights: FuturesUnordered<Flight>,
    /// Answer deadlines of the pipelines in flight, oldest first, because one connection answers in order.
    answer_by: VecDeque<Instant>,
    batch: Vec<Call>,
}

impl<'a> OpenConnection<'a> {
    fn new(opened: Opened, shared: &'a ConnectionState, settings: &'a PipelineSettings) -> Self {
        let Opened { connection, driver } = opened;
        Self {
            shared,
            settings,
            connection,
            driver,
            flights: FuturesUnordered::new(),
            answer_by: VecDeque::with_capacity(IN_FLIGHT_MAX),
            batch: Vec::with_capacity(PIPELINE_CALLS_MAX),
        }
    }

    /// Serves calls until the connection is lost, which returns the reason, or until all callers have been dropped.
    async fn serve(mut self, calls: &mut mpsc::UnboundedReceiver<Call>) -> Result<CacheError, Abandoned> {
        let watch = sleep(STALL_GRACE);
        tokio::pin!(watch);
        let end = loop {
            tokio::select! {
                biased;
                () = &mut self.driver => break Ok(lost()),
                Some(commands) = self.flights.next() => self.landed(commands),
                taken = calls.recv_many(&mut self.batch, PIPELINE_CALLS_MAX),
                    if self.flights.len() < self.shared.window.load(Ordering::Relaxed) => {
                    if taken == 0 {
                        break Err(Abandoned);
                    }
                    self.launch(&mut watch);
                }
                () = &mut watch, if !self.answer_by.is_empty() => {
                    if self.is_stalled(&mut watch) {
                        break Ok(CacheError::new(Kind::Unavailable, "Redis does not answer on an open connection"));
                    }
                }
            }
        };
        self.settle().await;
        end
    }

    /// Ends all pipelines after the connection was lost or closed. Dropping the driver completes them: with their
    /// replies, if these have arrived.
    async fn settle(self) {
        let Self { shared, driver, mut flights, .. } = self;
        drop(driver);
        while let Some(commands) = flights.next().await {
            shared.in_flight.fetch_sub(commands, Ordering::Relaxed);
        }
    }

    fn landed(&mut self, commands: usize) {
        let window = &self.shared.window;
        window.store((window.load(Ordering::Relaxed) * 2).min(IN_FLIGHT_MAX), Ordering::Relaxed);
        self.answer_by.pop_front();
        self.shared.in_flight.fetch_sub(commands, Ordering::Relaxed);
    }

    /// Sends the batch as one pipeline, without the calls that no caller waits for.
    fn launch(&mut self, watch: &mut std::pin::Pin<&mut Sleep>) {
        let mut pipeline = Pipeline::with_capacity(self.batch.len() * 2);
        let mut waiting = Vec::with_capacity(self.batch.len());
        let (mut last, mut writes) = (None, false);
        for call in self.batch.drain(..) {
            self.shared.dequeued(&call);
            if !call.claim() {
                continue;
            }
            last = last.max(Some(call.deadline));
            writes |= call.send_state.is_some();
            waiting.push((call.commands.len(), call.reply));
            for command in call.commands {
                pipeline.add_command(command);
            }
        }
        let Some(last) = last else { return };
        if writes {
            let map = self.settings.topology.map();
            pipeline.add_command(greatest_question(map.stamp(self.settings.source)));
        }
        let log = writes.then(|| Arc::clone(&self.settings.log));
        let answer_by = last + STALL_GRACE;
        if self.answer_by.is_empty() {
            watch.as_mut().reset(answer_by);
        }
        self.answer_by.push_back(answer_by);
        self.shared.in_flight.fetch_add(pipeline.len(), Ordering::Relaxed);
        self.flights.push(Box::pin(fly(self.connection.clone(), pipeline, waiting, log)));
    }

    /// Returns true if the oldest pipeline in flight is overdue; otherwise resets the timer to its answer deadline.
    fn is_stalled(&self, watch: &mut std::pin::Pin<&mut Sleep>) -> bool {
        match self.answer_by.front() {
            Some(&answer_by) if answer_by <= watch.deadline() => true,
            Some(&answer_by) => {
                watch.as_mut().reset(answer_by);
                false
            }
            None => false,
        }
    }
}

/// Sends one pipeline and passes the replies to the calls. If the connection is lost, the reply channels are dropped,
/// which the callers detect. With a log, the last reply is the greatest ban number, which is recorded before any call
/// receives its replies.
async fn fly(
    mut connection: MultiplexedConnection,
    pipeline: Pipeline,
    waiting: Vec<(usize, oneshot::Sender<Result<Replies>>)>,
    log: Option<Arc<BanLog>>,
) -> usize {
    let commands = pipeline.len();
    let replies = connection.send_packed_commands(&pipeline, 0, commands).await;
    drop(pipeline);
    if let Ok(mut replies) = replies
        && replies.len() == commands
    {
        if let Some(log) = log
            && let Some(reply) = replies.pop()
        {
            log.saw(greatest(&reply));
        }
        let mut replies = replies.into_iter();
        for (count, reply) in waiting {
            // Fails only if the caller no longer waits.
            let _gone = reply.send(Ok(replies.by_ref().take(count).collect()));
        }
    }
    commands
}
