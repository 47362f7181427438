//! One RESP connection: receives bytes, runs all complete requests, sends their replies with one write, and repeats.
//!
//! * The clock is read once after each read from the socket. Timers are used only before AUTH, and while a client that
//!   does not read its replies holds more than [`OUTPUT_SOFT_MAX_BYTES`].
//! * A GET that L1 answers is parsed, looked up and answered without waiting and without an allocation.
//! * Consecutive GETs that miss L1 are combined into one L2 read.
//! * An idle connection holds no buffers.
//! * Requests of a client that does not read its replies run until the soft limit, as in Redis, because some clients
//!   send all requests before they read. Above the limit, Terrace stops reading from the client, and closes the
//!   connection after a timeout.

mod batch;

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::Instant,
};

use super::{
    Edge, RespSettings,
    buffers::{self, BUFFER_BYTES},
    frame::{Limits, Requests},
    reply::{OUTPUT_HARD_MAX_BYTES, Reply},
    session::Session,
    stop::Stop,
};
use crate::{
    clock::Tick,
    model::KEY_MAX_BYTES,
    node::Held,
    socket::{Ends, Socket},
};

/// Size of unread replies above which no further command of the client runs.
const OUTPUT_SOFT_MAX_BYTES: usize = 16 << 20;
/// Maximum time above `OUTPUT_SOFT_MAX_BYTES` before the connection is closed.
const OUTPUT_SOFT_TIME: Duration = Duration::from_secs(10);
/// Output per client in bytes above which requests are paused while the port is over its limit.
const OUTPUT_OVERLOADED_BYTES: usize = 64 * 1024;
/// Deadline for authentication, if a password is set.
const AUTH_TIME: Duration = Duration::from_secs(5);
/// Maximum number of reads from a connection after the drain started.
const LAST_READS_MAX: usize = 64;
/// Time that a drained connection stays open for the client to read the last replies.
const LINGER: Duration = Duration::from_millis(250);
/// Buffers up to this size do not count as in-flight bytes, because the connection limit bounds them.
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
    /// Size of pending output above which no further request runs.
    output_pause_bytes: usize,
    /// Time when the current bytes were received.
    now: Tick,
    /// Number of GETs answered from L1 that have not been counted yet.
    hits: u64,
    /// Complete requests wait until the client has read more replies.
    paused: bool,
    /// Time since which the output has been over the soft limit.
    output_over_since: Option<Instant>,
    auth_deadline: Option<Instant>,
    /// Share of this connection in the in-flight bytes of all ports.
    in_flight: Option<Held>,
    counted_bytes: u64,
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
        let mut session = Session::new(&edge.shared, ends.peer.clone(), ends.local.clone(), now);
        session.authenticated = edge.settings.load().password.is_none();
        session.is_local = ends.is_here;
        let auth_deadline = (!session.authenticated).then(|| Instant::now() + AUTH_TIME);
        Self {
            stream,
            edge,
            requests: Requests::default(),
            reply: Reply::default(),
            session,
            stop: Stop::new(stop),
            limits: Limits { bulk_max: KEY_MAX_BYTES, before_auth: true },
            output_pause_bytes: OUTPUT_SOFT_MAX_BYTES,
            now,
            hits: 0,
            paused: false,
            output_over_since: None,
            auth_deadline,
            in_flight: None,
            counted_bytes: 0,
        }
    }

    async fn run(&mut self, is_here: bool) -> io::Result<()> {
        if is_refused(&self.edge.settings.load(), is_here) {
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
        match self.deadline() {
            None => poll_fn(|task| self.poll(task)).await,
            Some(deadline) => match tokio::time::timeout_at(deadline, poll_fn(|task| self.poll(task))).await {
                Ok(event) => event,
                Err(_elapsed) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "no AUTH in time, or replies were not read"))
                }
            },
        }
    }

    /// Returns the deadline that closes the connection, if any.
    fn deadline(&mut self) -> Option<Instant> {
        if self.session.authenticated {
            self.auth_deadline = None;
        }
        if self.reply.pending().len() <= OUTPUT_SOFT_MAX_BYTES {
            self.output_over_since = None;
            return self.auth_deadline;
        }
        let since = *self.output_over_since.get_or_insert_with(Instant::now);
        Some(since + OUTPUT_SOFT_TIME)
    }

    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<io::Result<WaitEnd>> {
        let mailbox = &self.session.client.mailbox;
        mailbox.register(task);
        if mailbox.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // Messages for a client that does not read stay in the mailbox until it overflows.
        if self.reply.pending().len() <= self.output_pause_bytes
            && let Some(messages) = mailbox.take()
        {
            self.reply.lend_buffer(buffers::lend);
            self.reply.whole(&messages);
        }
        if !self.reply.pending().is_empty() {
            self.poll_send(task)?;
            if self.reply.pending().len() > self.output_pause_bytes {
                return self.stop.poll(task).map(|()| Ok(WaitEnd::Stop));
            }
        }
        if self.paused {
            return Poll::Ready(Ok(WaitEnd::Progress));
        }
        match self.poll_receive(task) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(WaitEnd::Ended)),
            Poll::Ready(received) => Poll::Ready(received.map(|_| WaitEnd::Progress)),
            Poll::Pending => self.stop.poll(task).map(|()| Ok(WaitEnd::Stop)),
        }
    }

    /// Sends as much as the socket accepts, and registers a wakeup for the remaining bytes.
    fn poll_send(&mut self, task: &mut TaskContext<'_>) -> io::Result<()> {
        while !self.reply.pending().is_empty() {
            match pin!(&mut self.stream).poll_write(task, self.reply.pending()) {
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
        self.begin_batch(received);
        Poll::Ready(Ok(received))
    }

    /// Starts a batch of received bytes: reads the clock and the reloadable settings once for all requests of the
    /// batch.
    fn begin_batch(&mut self, received: usize) {
        self.now = self.edge.cache.now();
        self.session.client.used_at.store(self.now.0, Relaxed);
        self.session.counters.received_bytes.fetch_add(received as u64, Relaxed);
        self.count_in_flight();
        let settings = self.edge.settings.load();
        let overloaded = self.edge.node.in_flight.bytes() > settings.in_flight_max;
        let value_max = usize::try_from(settings.value_max).unwrap_or(usize::MAX);
        self.limits = Limits {
            bulk_max: if overloaded { KEY_MAX_BYTES } else { value_max.max(KEY_MAX_BYTES) },
            before_auth: !self.session.authenticated,
        };
        self.output_pause_bytes = if overloaded { OUTPUT_OVERLOADED_BYTES } else { OUTPUT_SOFT_MAX_BYTES };
    }

    /// Sends without waiting. [`Connection::wait`] sends the bytes that the socket does not accept.
    fn send(&mut self) -> io::Result<()> {
        if self.reply.pending().is_empty() {
            return Ok(());
        }
        match self.stream.try_write(self.reply.pending()) {
            Ok(sent) => self.count_sent(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
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
        self.reply.advance(sent);
    }

    /// Updates the server's sum of in-flight bytes. Small buffers do not count.
    #[inline]
    fn count_in_flight(&mut self) {
        let bytes = self.requests.capacity_bytes() + self.reply.capacity_bytes();
        let bytes = if bytes > UNCOUNTED_BYTES { bytes as u64 } else { 0 };
        if bytes != self.counted_bytes {
            self.counted_bytes = bytes;
            // The bytes are counted without a limit: they are bounded by pausing clients, not by failing requests.
            self.in_flight = (bytes > 0).then(|| self.edge.node.in_flight.admit(bytes, u64::MAX)).flatten();
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

    /// Sends all pending replies while the client reads.
    async fn flush(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + OUTPUT_SOFT_TIME;
        while !self.reply.pending().is_empty() {
            let sending = poll_fn(|task| {
                self.poll_send(task)?;
                if self.reply.pending().is_empty() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
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

/// Returns `true` if protected mode rejects the client: without a password, only local clients are accepted.
fn is_refused(settings: &RespSettings, is_here: bool) -> bool {
    settings.protected_mode && settings.password.is_none() && !is_here
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    /// Returns the size in bytes of the result of a function with three arguments.
    fn size_of_returned<A, B, C, R>(_: fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of_returned(serve);
        assert!(size <= 3 << 10, "{size} bytes, {} of them the connection", size_of::<Connection>());
    }

    #[test]
    fn protected_mode_serves_this_machine_only() {
        let settings = RespSettings {
            password: None,
            protected_mode: true,
            serve_stale: false,
            flush: true,
            clients_max: 1,
            value_max: 1,
            in_flight_max: 1,
        };
        assert!(!is_refused(&settings, true));
        assert!(is_refused(&settings, false));
        let with_password = RespSettings { password: Some(Secret::new(b"x".to_vec())), ..settings.clone() };
        assert!(!is_refused(&with_password, false));
        assert!(!is_refused(&RespSettings { protected_mode: false, ..settings }, false));
    }
}
