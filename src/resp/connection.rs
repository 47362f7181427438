//! One RESP connection: receives bytes, runs all complete requests, sends their replies with one write, and repeats.
//!
//! * The clock is read once after each read from the socket. Timers are used only before AUTH, while a large request is
//!   incomplete, and while the byte budget has no room for the connection.
//! * A GET that L1 answers is parsed, looked up and answered without waiting and without an allocation.
//! * Consecutive GETs that miss L1 are combined into one L2 read.
//! * An idle connection holds no buffers.
//! * Requests of a client that does not read its replies run until [`OUTPUT_PAUSE_BYTES`], as in Redis, because some
//!   clients send all requests before they read. Above the limit, Terrace stops reading from the client. The byte budget
//!   ends a connection whose client does not read at all.
//! * While the byte budget has no room for the connection, no further request is received, and no command is run whose
//!   reply may be large.

mod batch;

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::Instant,
};

use super::{
    Edge,
    buffers::{self, BUFFER_BYTES},
    frame::{Limits, Requests},
    reply::{OUTPUT_HARD_MAX_BYTES, Reply},
    session::Session,
    stop::Stop,
};
use crate::{
    access::Principal,
    budget::Held,
    clock::Tick,
    model::KEY_MAX_BYTES,
    socket::{Ends, Socket, TLS_FIRST_BYTE},
};

/// Size of unread replies above which no further command of the client runs.
const OUTPUT_PAUSE_BYTES: usize = 16 << 20;
/// Size of unread replies from which the byte budget is asked before each command.
const OUTPUT_FREE_BYTES: usize = 64 * 1024;
/// Room that the byte budget must have before a command runs whose reply may be large.
const REPLY_ROOM_BYTES: u64 = 64 * 1024;
/// Size from which a message or an L1 value is asked for room or sent from its shared memory.
const LARGE_BYTES: usize = 16 * 1024;
/// Interval at which a connection asks for room while the byte budget has none for it.
const ROOM_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum time that a request of at least [`UNCOUNTED_BYTES`] waits for its next bytes.
const PARTIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time to send the last replies of a connection that closes.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for authentication, if a password is set.
const AUTH_TIME: Duration = Duration::from_secs(5);
/// Maximum number of reads from a connection after the drain started.
const LAST_READS_MAX: usize = 64;
/// Time that a drained connection stays open for the client to read the last replies.
const LINGER: Duration = Duration::from_millis(250);
/// Memory of a connection up to this size is not charged to the byte budget, because the connection limit bounds it.
const UNCOUNTED_BYTES: usize = 64 * 1024;

const PROTECTED: &str = "DENIED Terrace is running in protected mode because no password is set. In this mode connections \
                         are only accepted from the loopback interface. Set resp.password_file, or set \
                         resp.protected_mode = false if the network is trusted.";

/// Serves one connection until it ends. After `stop` becomes true, the connection answers the received requests and
/// closes.
pub async fn serve(stream: Socket, edge: Arc<Edge>, stop: watch::Receiver<bool>) {
    let Ok(ends) = stream.ends() else { return };
    let mut connection = Connection::new(stream, Arc::new(edge.for_connection()), stop, &ends);
    let ended = connection.run(ends.is_here).await;
    if ended.is_ok() && connection.stop.is_wanted() {
        connection.stream.linger(LINGER).await;
    }
    tracing::debug!(peer = ends.peer, ?ended, "RESP connection ended");
}

struct Connection {
    stream: Socket,
    edge: Arc<Edge>,
    requests: Requests,
    reply: Reply,
    session: Session,
    stop: Stop,
    limits: Limits,
    /// Time when the current bytes were received.
    now: Tick,
    /// Number of GETs answered from L1 that have not been counted yet.
    hits: u64,
    /// Complete requests wait until the client has read more replies.
    paused: bool,
    /// The byte budget has no room for the next reply.
    starved: bool,
    /// The byte budget has no room for further requests.
    over: bool,
    /// A message from another connection that is being sent from its shared memory, before any reply.
    sending: Option<Bytes>,
    auth_deadline: Option<Instant>,
    /// Number of bytes received so far.
    received: u64,
    /// Value of `received` when a large request began to wait for its next bytes, and its deadline.
    partial: Option<(u64, Instant)>,
    /// Charges requests, transaction, watched keys and subscriptions.
    held_input: Held,
    /// Charges replies that the client has not read.
    held_output: Held,
}

/// Result of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitEnd {
    /// More bytes can be parsed, or more replies can be sent.
    Progress,
    /// The client has closed its side of the connection.
    Ended,
    /// The server is stopping.
    Stop,
}

impl Connection {
    fn new(stream: Socket, edge: Arc<Edge>, stop: watch::Receiver<bool>, ends: &Ends) -> Self {
        let now = edge.cache.now();
        let account = edge.cache.account();
        let (held_input, held_output) = (account.hold_for_client(0), account.hold_unread(0));
        let mut session = Session::new(&edge.shared, ends.peer.clone(), ends.local.clone(), Arc::clone(account), now);
        session.is_local = ends.is_here;
        session.is_private = ends.is_private();
        session.certificate.clone_from(&ends.certificate);
        session.set_identity(session.identity_of_connection(&edge.access));
        let auth_deadline = (!session.is_authenticated()).then(|| Instant::now() + AUTH_TIME);
        let mut connection = Self {
            stream,
            edge,
            requests: Requests::default(),
            reply: Reply::default(),
            session,
            stop: Stop::new(stop),
            limits: Limits { bulk_max: KEY_MAX_BYTES, before_auth: true },
            now,
            hits: 0,
            paused: false,
            starved: false,
            over: false,
            sending: None,
            auth_deadline,
            received: 0,
            partial: None,
            held_input,
            held_output,
        };
        connection.use_permissions();
        connection
    }

    /// Uses the current permissions of the client, after a change of the users and after a login. Closes the connection of a
    /// client that has lost its access.
    fn use_permissions(&mut self) {
        if let Some(identity) = &self.session.identity
            && !self.edge.access.is_current(identity)
        {
            let now = self.edge.access.current(identity);
            self.session.closing |= now.is_none();
            self.session.set_identity(now);
        }
        let principal =
            self.session.identity.as_ref().map_or_else(Principal::none, |identity| Arc::clone(identity.principal()));
        if !Arc::ptr_eq(&principal, self.edge.cache.principal()) {
            if !principal.is_same(self.edge.cache.principal()) {
                self.session.give_up_for(&principal);
            }
            self.edge = Arc::new(self.edge.with_cache(self.edge.cache.for_principal(principal)));
        }
    }

    async fn run(&mut self, is_here: bool) -> io::Result<()> {
        if is_refused(&self.edge, is_here) {
            self.reply.error(PROTECTED);
            return self.flush_and_close().await;
        }
        loop {
            let event = self.wait().await?;
            if event == WaitEnd::Progress {
                self.run_requests().await;
                self.send()?;
            }
            if self.session.closing {
                return self.flush_and_close().await;
            }
            if event != WaitEnd::Progress || self.stop.is_wanted() {
                Box::pin(self.answer_what_was_received()).await?;
                return self.flush_and_close().await;
            }
        }
    }

    /// Waits until there is work, and sends pending replies meanwhile.
    async fn wait(&mut self) -> io::Result<WaitEnd> {
        self.release_idle_buffers();
        self.count_in_flight();
        loop {
            self.over = !self.edge.cache.account().may_hold(0);
            let deadline = self.deadline();
            let look = (self.over || self.starved).then(|| Instant::now() + ROOM_INTERVAL);
            let Some(until) = deadline.into_iter().chain(look).min() else {
                return poll_fn(|task| self.poll(task)).await;
            };
            match tokio::time::timeout_at(until, poll_fn(|task| self.poll(task))).await {
                Ok(event) => return event,
                Err(_elapsed) if Some(until) == deadline => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no AUTH, or no rest of a request, in time"));
                }
                Err(_elapsed) => {
                    self.edge.cache.account().press();
                    if std::mem::take(&mut self.starved) {
                        return Ok(WaitEnd::Progress);
                    }
                }
            }
        }
    }

    /// Returns the deadline that closes the connection, if any.
    fn deadline(&mut self) -> Option<Instant> {
        if self.session.is_authenticated() {
            self.auth_deadline = None;
        }
        if self.paused || self.requests.held_bytes() < UNCOUNTED_BYTES {
            self.partial = None;
        } else if self.partial.is_none_or(|(received, _)| received != self.received) {
            self.partial = Some((self.received, Instant::now() + PARTIAL_TIMEOUT));
        }
        self.auth_deadline.into_iter().chain(self.partial.map(|(_, deadline)| deadline)).min()
    }

    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<io::Result<WaitEnd>> {
        let mailbox = &self.session.client.mailbox;
        mailbox.register(task);
        if mailbox.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        loop {
            self.take_messages();
            if !self.has_output() {
                break;
            }
            self.poll_send(task)?;
            if self.has_output() {
                break;
            }
        }
        if self.held_output.bytes() > 0 {
            self.release_idle_buffers();
            self.count_in_flight();
        }
        if self.starved || self.reply.pending().len() > OUTPUT_PAUSE_BYTES {
            return self.stop.poll(task).map(|()| Ok(WaitEnd::Stop));
        }
        if self.paused && (!self.over || self.reply.pending().len() <= OUTPUT_FREE_BYTES) {
            return Poll::Ready(Ok(WaitEnd::Progress));
        }
        if self.over {
            return self.stop.poll(task).map(|()| Ok(WaitEnd::Stop));
        }
        match self.poll_receive(task) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(WaitEnd::Ended)),
            Poll::Ready(received) => Poll::Ready(received.map(|_| WaitEnd::Progress)),
            Poll::Pending => self.stop.poll(task).map(|()| Ok(WaitEnd::Stop)),
        }
    }

    /// Moves messages of other connections to the output. They stay in the mailbox, where connections share them, while
    /// the client does not read.
    #[inline]
    fn take_messages(&mut self) {
        while self.sending.is_none() && self.reply.pending().len() <= OUTPUT_FREE_BYTES {
            let is_free = self.reply.pending().is_empty();
            let taken = self.session.client.mailbox.take(|bytes| is_free || bytes < LARGE_BYTES);
            let Some(message) = taken else { return };
            if message.len() >= LARGE_BYTES {
                self.edge.cache.account().pin(message.len() as u64);
                self.sending = Some(message);
            } else {
                self.reply.lend_buffer(buffers::lend);
                self.reply.whole(&message);
            }
        }
    }

    #[inline]
    fn has_output(&self) -> bool {
        self.sending.is_some() || !self.reply.pending().is_empty()
    }

    /// Sends as much as the socket accepts, and registers a wakeup for the remaining bytes.
    fn poll_send(&mut self, task: &mut TaskContext<'_>) -> io::Result<()> {
        while self.has_output() {
            let next = self.sending.as_deref().unwrap_or_else(|| self.reply.pending());
            match pin!(&mut self.stream).poll_write(task, next) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => self.count_sent(sent),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_receive(&mut self, task: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        // Take a buffer only when bytes are available.
        ready!(self.stream.poll_read_ready(task))?;
        let buffer = self.requests.buffer();
        if buffer.capacity() == 0 {
            *buffer = buffers::lend();
        } else if buffer.capacity() - buffer.len() < BUFFER_BYTES / 4 {
            buffer.reserve(BUFFER_BYTES);
        }
        let Poll::Ready(received) = pin!(self.stream.read_buf(buffer)).poll(task) else {
            // Spurious readiness, as of a new socket: release the unused buffer.
            self.release_idle_buffers();
            return Poll::Pending;
        };
        let received = received?;
        if self.received == 0 && buffer.first() == Some(&TLS_FIRST_BYTE) {
            self.refuse_tls();
        }
        self.begin_batch(received);
        Poll::Ready(Ok(received))
    }

    /// Closes the connection of a client that speaks TLS on a port without TLS. OpenSSL reports the reply as "wrong version
    /// number".
    #[cold]
    fn refuse_tls(&mut self) {
        self.stream.warn_of_tls_client("resp");
        self.reply.error("ERR this port has no TLS");
        self.session.closing = true;
    }

    /// Starts a batch of received bytes: reads the clock and the reloadable settings once for all requests of the
    /// batch.
    fn begin_batch(&mut self, received: usize) {
        self.now = self.edge.cache.now();
        self.session.client.used_at.store(self.now.0, Relaxed);
        self.session.counters.received_bytes.fetch_add(received as u64, Relaxed);
        self.received += received as u64;
        self.edge.cache.account().moved();
        self.count_in_flight();
        let value_max = usize::try_from(self.edge.settings.load().value_max).unwrap_or(usize::MAX);
        self.limits = Limits { bulk_max: value_max.max(KEY_MAX_BYTES), before_auth: !self.session.is_authenticated() };
    }

    /// Sends without waiting. [`Connection::wait`] sends the bytes that the socket does not accept.
    fn send(&mut self) -> io::Result<()> {
        if self.reply.pending().is_empty() {
            return Ok(());
        }
        // A message that is being sent comes first.
        if self.sending.is_none() {
            match self.stream.try_write(self.reply.pending()) {
                Ok(sent) => self.count_sent(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.reply.pending().len() > OUTPUT_HARD_MAX_BYTES {
            return Err(io::Error::other("unread replies exceed the hard limit"));
        }
        self.count_in_flight();
        Ok(())
    }

    #[inline]
    fn count_sent(&mut self, sent: usize) {
        self.session.counters.sent_bytes.fetch_add(sent as u64, Relaxed);
        self.edge.cache.account().moved();
        match &mut self.sending {
            None => self.reply.advance(sent),
            Some(message) => {
                message.advance(sent);
                self.edge.cache.account().unpin(sent as u64);
                if message.is_empty() {
                    self.sending = None;
                }
            }
        }
    }

    /// Returns whether the next command may run: the client reads its replies, or the byte budget has room.
    #[inline]
    pub(super) fn may_reply(&mut self) -> bool {
        let pending = self.reply.pending().len();
        if pending <= OUTPUT_FREE_BYTES {
            return true;
        }
        self.count_in_flight();
        pending <= OUTPUT_PAUSE_BYTES && self.edge.cache.account().may_hold(0)
    }

    /// Updates the charges of this connection. Small buffers are not charged.
    #[inline]
    fn count_in_flight(&mut self) {
        let input = self.requests.capacity_bytes() + self.session.held_bytes();
        let output = self.reply.capacity_bytes();
        let (input, output) = if input + output > UNCOUNTED_BYTES { (input as u64, output as u64) } else { (0, 0) };
        if input != self.held_input.bytes() || output != self.held_output.bytes() {
            self.held_input.set(input);
            self.held_output.set(output);
            self.session.client.input_bytes.store(self.requests.capacity_bytes(), Relaxed);
            self.session.client.output_bytes.store(self.reply.capacity_bytes(), Relaxed);
        }
    }

    fn release_idle_buffers(&mut self) {
        if let Some(buffer) = self.requests.take_idle_buffer() {
            buffers::give_back(buffer);
        }
        if let Some(buffer) = self.reply.take_idle_buffer() {
            buffers::give_back(buffer);
        }
    }

    /// Answers the requests that have arrived, before the connection closes.
    async fn answer_what_was_received(&mut self) -> io::Result<()> {
        let mut reads = 0;
        loop {
            self.run_requests().await;
            self.flush().await?;
            if self.session.closing || reads == LAST_READS_MAX {
                return Ok(());
            }
            if self.paused {
                // The budget has no room: the client has received the replies so far.
                if std::mem::take(&mut self.starved) {
                    tokio::time::sleep(ROOM_INTERVAL).await;
                }
                continue;
            }
            reads += 1;
            let buffer = self.requests.buffer();
            buffer.reserve(BUFFER_BYTES);
            match self.stream.try_read_buf(buffer) {
                Ok(0) => return Ok(()),
                Ok(received) => self.begin_batch(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends replies until few remain. Ends early if the connection is closed or the server stops.
    async fn send_most(&mut self) -> io::Result<()> {
        poll_fn(|task| {
            self.session.client.mailbox.register(task);
            if self.session.client.mailbox.is_closed() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            self.poll_send(task)?;
            if self.reply.pending().len() <= OUTPUT_FREE_BYTES {
                return Poll::Ready(Ok(()));
            }
            self.stop.poll(task).map(Ok)
        })
        .await
    }

    /// Sends all pending replies while the client reads.
    async fn flush(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + LAST_WRITE_TIMEOUT;
        while self.has_output() {
            let sending = poll_fn(|task| {
                self.poll_send(task)?;
                if self.has_output() { Poll::Pending } else { Poll::Ready(io::Result::Ok(())) }
            });
            tokio::time::timeout_at(deadline, sending).await.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
        }
        Ok(())
    }

    async fn flush_and_close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }
}

/// Returns `true` if protected mode rejects the client: while nothing decides about access, only local clients are accepted.
fn is_refused(edge: &Edge, is_here: bool) -> bool {
    let access = &edge.access;
    let is_decided = access.has_password() || access.has_users() || access.decides_about_guests();
    edge.settings.load().protected_mode && !is_decided && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the size in bytes of the result of a function with three arguments.
    fn size_of_returned<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of_returned(serve);
        assert!(size <= 3 << 10, "{size} bytes, {} of them the connection", size_of::<Connection>());
    }
}
