//! [`PipelinedConnection`]: one data connection with a bounded queue. A task opens the connection, keeps it open, and sends
//! all commands that are queued when it wakes up as one explicit pipeline.
//!
//! No delay is added for the sake of bigger pipelines: what arrives while the task waits for its turn goes together.
//! The task polls the connection's driver itself, so a call and its reply cross one task, not three.
//!
//! What a caller may rely on:
//! * A call is refused at once while there is no connection, but for the first one, which is waited for; and when the queue is
//!   full.
//! * It ends by its deadline, by the caller's own timer. What was still queued then is never sent.
//! * A write ends as `Unavailable` only if it was never handed to the connection, else as `Unknown`.
//! * A connection on which a pipeline stays unanswered past the last deadline in it (and [`STALL_GRACE`]) is given up.

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
/// Past its last deadline a pipeline may stay unanswered for this long before the connection is given up: a slow
/// command of somebody else must not cost a reconnection, a half-open link must not cost more than a second.
const STALL_GRACE: Duration = Duration::from_secs(1);

/// Time between two looks whether the first attempt to connect has ended.
const CONNECTING_LOOK_EVERY: Duration = Duration::from_millis(1);
/// When a caller may try again after a connection was lost or fell behind: about two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Whether a call changes anything; it decides what a lost reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

struct Call {
    commands: Commands,
    bytes: usize,
    deadline: Instant,
    /// Of a write.
    send_state: Option<Arc<SendState>>,
    /// Dropped without a word when the connection was lost with the call in flight.
    reply: oneshot::Sender<Result<Replies>>,
}

impl Call {
    /// Whether somebody still waits, and the call is now ours to send.
    fn claim(&self) -> bool {
        match &self.send_state {
            Some(state) => state.send(),
            None => !self.reply.is_closed(),
        }
    }
}

/// What the task last learned about its connection.
#[derive(Debug, Clone)]
enum Contact {
    Connecting,
    Up,
    Down(CacheError),
}

/// What callers and the task share.
#[derive(Debug)]
struct ConnectionState {
    up: AtomicBool,
    /// Redis has answered once since start.
    reached: AtomicBool,
    contact: Mutex<Contact>,
    /// Commands in the queue.
    queued: AtomicUsize,
    queued_bytes: AtomicUsize,
    /// Commands sent and not yet answered.
    in_flight: AtomicUsize,
    /// Pipelines that may be unanswered now: one after a break, and twice as many with each that is answered.
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

    /// Why nothing can be sent.
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
    /// Is asked to look when the connection is lost: the primary may be another one.
    pub(crate) topology: Arc<Topology>,
    /// Commands that may be queued; one call with more is accepted when nothing else is.
    pub(crate) queue_limit: usize,
    pub(crate) source: Source,
    /// Hears of the greatest number of bans with each pipeline that writes.
    pub(crate) log: Arc<BanLog>,
}

impl PipelinedConnection {
    /// Starts the task on the current runtime.
    pub(crate) fn start(settings: PipelineSettings) -> Self {
        // Unbounded as a channel; `submit` bounds it in commands and bytes, which a count of calls would not.
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

    /// After a break: those who waited come in by and by, not all at once.
    pub(crate) fn begin_gently(&self) {
        self.shared.window.store(1, Ordering::Relaxed);
    }

    /// The lower, the sooner a call would be answered here. A connection whose next pipeline is being collected comes first:
    /// joining it costs no system call.
    fn load(&self) -> usize {
        let queued = self.shared.queued.load(Ordering::Relaxed);
        if (1..JOIN_MAX).contains(&queued) {
            return 0;
        }
        1 + queued + self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// The best of `connections` that are connected, else any.
    pub(crate) fn choose(connections: &[Self]) -> &Self {
        let best = connections.iter().filter(|each| each.is_up()).min_by_key(|each| each.load());
        best.unwrap_or(&connections[0])
    }

    /// Waits until the first attempt to connect has ended, until `deadline` at most: a call that comes right after the start
    /// need not fail.
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
            return Err(CacheError::new(Kind::Overloaded, "too many operations wait for Redis on this connection"));
        }
        shared.queued.fetch_add(call.commands.len(), Ordering::Relaxed);
        shared.queued_bytes.fetch_add(call.bytes, Ordering::Relaxed);
        self.queue.send(call).map_err(|_| lost())
    }
}

/// Bytes of the arguments.
fn weight(command: &Cmd) -> usize {
    let of = |arg: ::redis::Arg<&[u8]>| if let ::redis::Arg::Simple(bytes) = arg { bytes.len() } else { 0 };
    command.args_iter().map(of).sum()
}

fn lost() -> CacheError {
    CacheError::new(Kind::Unavailable, "the connection to Redis was lost").retry_after(RETRY_AFTER)
}

fn withdrawn() -> CacheError {
    let message = "Redis is behind; the write was withdrawn before it was sent";
    CacheError::new(Kind::Unavailable, message).retry_after(RETRY_AFTER)
}

fn unknown(why: &str) -> CacheError {
    CacheError::new(Kind::Unknown, format!("{why}; the write may or may not have happened"))
}

/// The connection's end of one pipelined connection.
struct ConnectionTask {
    settings: PipelineSettings,
    shared: Arc<ConnectionState>,
    calls: mpsc::UnboundedReceiver<Call>,
}

/// The callers are gone: the task ends.
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
            tracing::debug!(%error, ?wait, redis = %self.settings.endpoint, "no data connection to Redis");
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

    /// Waits for `event`; what is called meanwhile is refused at once (it slipped in as the connection went).
    async fn refuse_during<T>(&mut self, event: impl Future<Output = T>) -> Result<T, Abandoned> {
        tokio::pin!(event);
        loop {
            tokio::select! {
                result = &mut event => return Ok(result),
                call = self.calls.recv() => {
                    let call = call.ok_or(Abandoned)?;
                    self.shared.dequeued(&call);
                    // The caller may have gone: nobody is left to tell.
                    let _gone = call.reply.send(Err(self.shared.down()));
                }
            }
        }
    }
}

/// A connection that is down is worth another call after the next attempt, unless people must act first.
fn with_retry(error: CacheError, wait: Duration) -> CacheError {
    if error.is_retryable() { error.retry_after(wait) } else { error }
}

/// What a pipeline in flight ends with: its number of commands.
type Flight = BoxFuture<'static, usize>;

/// One open connection at work.
struct OpenConnection<'a> {
    shared: &'a ConnectionState,
    settings: &'a PipelineSettings,
    connection: MultiplexedConnection,
    driver: Driver,
    flights: FuturesUnordered<Flight>,
    /// When the flights must have been answered, oldest first: one connection answers in order.
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

    /// Serves calls until the connection is lost (and why) or the callers are gone.
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

    /// The connection is gone or given up. With its driver every flight ends: as answered if its replies had come.
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

    /// Sends the batch as one pipeline, without the calls that nobody waits for any more.
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

    /// The watch rang: is the oldest flight overdue? If not, it rings again when that would be.
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

/// Sends one pipeline and hands each call its replies; on a lost connection the calls are dropped, and know. With a log the
/// last reply is for that, before anybody has his.
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
            log.met(greatest(&reply));
        }
        let mut replies = replies.into_iter();
        for (count, reply) in waiting {
            // The caller may have gone: its replies are of no use to anybody else.
            let _gone = reply.send(Ok(replies.by_ref().take(count).collect()));
        }
    }
    commands
}
