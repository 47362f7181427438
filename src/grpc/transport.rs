//! Wraps the socket of a gRPC connection for hyper: replays the preface, which was already read, and coalesces writes.
//!
//! hyper flushes once for each accepted call, which costs one `writev` per answer. Here `poll_write` appends to a
//! buffer and `poll_flush` does nothing; [`Turns`](super::turns::Turns) writes the buffer once after each poll of the connection. Bytes
//! never remain in the buffer unnoticed: after each poll the buffer is empty, or the task is woken when the socket
//! accepts more.
//!
//! Large payloads are not copied: a write of at least [`DIRECT_MIN_BYTES`] is sent together with the buffered bytes in
//! one `writev`. The buffer holds at most [`BUFFER_MAX_BYTES`]. When it is full, hyper waits as it does for a slow
//! socket. Idle connections hold no buffer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::preface::PREFACE;
use crate::{
    budget::{Account, Held},
    socket::Socket,
};

/// Maximum size of the responses of a connection that wait for the end of a poll.
const BUFFER_MAX_BYTES: usize = 64 * 1024;
/// Writes of at least this size are not copied. A copy of 16 KiB costs about as much as the system call that it saves.
const DIRECT_MIN_BYTES: usize = 16 * 1024;
/// Maximum number of slices of one `writev`: the buffer and the slices of hyper (frame header and payload).
const SLICES_MAX: usize = 8;
/// Deadline for the last bytes of a connection that has ended, for example a GOAWAY.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The end of a connection that belongs to hyper.
pub(super) struct Transport(Arc<Mutex<Shared>>);

/// The end of a connection that belongs to its task.
pub(super) struct Writer(Arc<Mutex<Shared>>);

struct Shared {
    /// The part of the preface that hyper has not read yet.
    preface: &'static [u8],
    /// The socket; `None` after the connection has ended.
    socket: Option<Socket>,
    buffer: Buffer,
    /// The error that broke the socket, if any.
    failure: Option<io::ErrorKind>,
    account: Arc<Account>,
    /// Charges the bytes that the socket did not accept.
    held: Option<Held>,
}

/// Splits a connection whose preface has been read: one end for hyper, one end for the task that polls it.
pub(super) fn split(socket: Socket, account: Arc<Account>) -> (Transport, Writer) {
    let shared = Shared {
        preface: PREFACE,
        socket: Some(socket),
        buffer: Buffer::default(),
        failure: None,
        account,
        held: None,
    };
    let shared = Arc::new(Mutex::new(shared));
    (Transport(Arc::clone(&shared)), Writer(shared))
}

impl Shared {
    /// Writes the buffer. Ready when the buffer is empty.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = self.poll_write_with(context, &[]);
            if written.is_pending() {
                // A client that does not read holds these bytes.
                self.held = Some(self.account.hold_for_client(self.buffer.len() as u64));
            }
            ready!(written)?;
        }
        self.held = None;
        Poll::Ready(Ok(()))
    }

    /// Writes the buffer and then `slices`, as much as the socket accepts at once. Returns the number of bytes of
    /// `slices` that were written; zero if the socket accepted only buffered bytes.
    fn poll_write_with(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failure {
            return Poll::Ready(Err(kind.into()));
        }
        let Some(socket) = &mut self.socket else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let mut all = [IoSlice::new(&[]); SLICES_MAX];
        all[0] = IoSlice::new(self.buffer.bytes());
        let count = slices.len().min(SLICES_MAX - 1);
        all[1..=count].copy_from_slice(&slices[..count]);
        loop {
            // Bypasses tokio's `poll_write`: a task that has used up its cooperative budget must still send its
            // responses.
            match socket.try_write_vectored(&all[..=count]) {
                Ok(0) => return Poll::Ready(Err(self.fail(io::ErrorKind::WriteZero.into()))),
                Ok(written) => return Poll::Ready(Ok(self.buffer.written(written))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = ready!(socket.poll_write_ready(context)) {
                        return Poll::Ready(Err(self.fail(error)));
                    }
                }
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
    }

    /// Records that the socket is broken and clears the buffer. Later calls fail with the same error kind.
    fn fail(&mut self, error: io::Error) -> io::Error {
        self.failure = Some(error.kind());
        self.buffer.clear();
        self.held = None;
        error
    }

    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failure {
            return Poll::Ready(Err(kind.into()));
        }
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if len >= DIRECT_MIN_BYTES {
            // Zero means that only buffered bytes were written. Retry, because hyper treats zero as a closed socket.
            return loop {
                match ready!(self.poll_write_with(context, slices))? {
                    0 => {}
                    written => break Poll::Ready(Ok(written)),
                }
            };
        }
        if self.buffer.len() + len > BUFFER_MAX_BYTES {
            ready!(self.poll_drain(context))?;
        }
        for slice in slices {
            self.buffer.append(slice);
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        if let Some(kind) = shared.failure {
            return Poll::Ready(Err(kind.into()));
        }
        if !shared.preface.is_empty() {
            let (now, later) = shared.preface.split_at(shared.preface.len().min(buffer.remaining()));
            buffer.put_slice(now);
            shared.preface = later;
            return Poll::Ready(Ok(()));
        }
        match &mut shared.socket {
            Some(socket) => Pin::new(socket).poll_read(context, buffer),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The next call writes the remaining slices.
        self.0.lock().poll_write(context, &slices[..slices.len().min(SLICES_MAX - 1)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: [`Turns`](super::turns::Turns) writes after each poll of the connection.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_drain(context))?;
        match &mut shared.socket {
            Some(socket) => Pin::new(socket).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Writer {
    /// Writes the buffer. Pending until the socket has accepted all of it.
    pub(super) fn poll_drain(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(context)
    }

    /// Writes the last bytes of a connection that has ended, and returns its socket if that succeeded.
    pub(super) async fn finish(self) -> Option<Socket> {
        let drained = std::future::poll_fn(|context| self.poll_drain(context));
        let drained = timeout(LAST_WRITE_TIMEOUT, drained).await;
        let socket = self.0.lock().socket.take();
        socket.filter(|_| matches!(drained, Ok(Ok(()))))
    }
}

/// Bytes that wait to be written. The buffer takes its memory from the thread with the first byte and returns the
/// memory after the last byte.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    written: usize,
}

thread_local! {
    /// Spare buffer memory of this thread. One is enough, because a thread polls its connections one after another.
    static SPARE: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        // A slow socket may never accept the last byte: written bytes must not accumulate.
        if self.written > BUFFER_MAX_BYTES {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Removes up to `count` bytes from the front. Returns by how much `count` exceeds the buffered bytes.
    fn written(&mut self, count: usize) -> usize {
        let own = count.min(self.len());
        self.written += own;
        if self.is_empty() {
            self.clear();
        }
        count - own
    }

    fn clear(&mut self) {
        self.written = 0;
        self.bytes.clear();
        if self.bytes.capacity() > 0 {
            SPARE.set(std::mem::take(&mut self.bytes));
        }
    }
}
