//! A connection with TLS after its handshake, with the interface of a TCP connection.
//!
//! * A write reports bytes as written once the kernel has accepted their ciphertext. Until then the caller keeps them and
//!   repeats the write with the same bytes first, as it does for a slow TCP connection. Buffers and their accounting
//!   therefore work as they do without TLS, and no caller has to flush.
//! * At most [`WRITE_MAX_BYTES`] of ciphertext wait for the kernel. Plaintext is not copied before it is encrypted.
//! * Ciphertext is received into memory of the thread, which the connection returns once it is decrypted. An idle
//!   connection holds no buffer.

use std::{
    cell::Cell,
    io::{self, BufRead, IoSlice, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BufMut;
use tokio::{
    io::{AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::rustls::ServerConnection;

/// Maximum number of bytes that one write to a TLS connection encrypts: two records. Their ciphertext is not charged to
/// the byte budget.
const WRITE_MAX_BYTES: usize = 32 * 1024;
/// Maximum number of bytes of ciphertext that a TLS connection receives at a time: one record of maximum size.
const READ_MAX_BYTES: usize = 17 * 1024;

/// The verified certificate of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Subject alternative names: first URIs as `uri:spiffe://...`, then DNS names as `dns:orders.prod`.
    pub names: Vec<String>,
    /// End of the validity, in seconds since 1970.
    pub not_after: u64,
}

impl PeerCertificate {
    /// Returns the names, and the end of the validity in seconds since 1970.
    #[must_use]
    pub fn certified(&self) -> (&[String], u64) {
        (&self.names, self.not_after)
    }
}

/// A TLS connection.
#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    session: ServerConnection,
    certificate: Option<Arc<PeerCertificate>>,
    /// Number of encrypted bytes that no write has reported as written.
    unreported: usize,
    /// The end of the data was sent.
    is_shut_down: bool,
    received: Received,
}

impl TlsStream {
    /// Takes over a connection whose handshake is complete.
    #[must_use]
    pub fn new(tcp: TcpStream, mut session: ServerConnection, certificate: Option<Arc<PeerCertificate>>) -> Self {
        session.set_buffer_limit(Some(WRITE_MAX_BYTES));
        Self { tcp, session, certificate, unreported: 0, is_shut_down: false, received: Received::default() }
    }

    /// Returns the TCP connection.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Releases the TCP connection. Data that was not read is lost.
    pub(super) fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    pub(super) fn certificate(&self) -> Option<&Arc<PeerCertificate>> {
        self.certificate.as_ref()
    }

    pub(super) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.unreported == 0 {
            self.try_flush()?;
            self.unreported = self.session.writer().write_vectored(slices)?;
        }
        self.try_flush()?;
        // A caller may repeat only the first part of its bytes, and the others later.
        let written = self.unreported.min(slices.iter().map(|slice| slice.len()).sum());
        self.unreported -= written;
        Ok(written)
    }

    /// Sends all waiting ciphertext.
    fn try_flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut Kernel(&self.tcp))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Receives at most the free space of `buffer`. Zero means that the client has closed its side, with or without the
    /// closing message of TLS: every protocol of this server marks the end of its messages itself.
    pub(super) fn try_read_buf(&mut self, buffer: &mut impl BufMut) -> io::Result<usize> {
        loop {
            let mut reader = self.session.reader();
            match reader.fill_buf() {
                Ok(decrypted) => {
                    let count = decrypted.len().min(buffer.chunk_mut().len());
                    buffer.put_slice(&decrypted[..count]);
                    reader.consume(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.try_receive()?;
        }
    }

    /// Receives ciphertext and decrypts complete records.
    fn try_receive(&mut self) -> io::Result<()> {
        self.received.fill(&self.tcp)?;
        self.session.read_tls(&mut self.received)?;
        let processed = self.session.process_new_packets();
        // An alert, or the answer to a change of keys. The next write sends what the kernel does not accept now.
        match self.try_flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(()) | Err(_) => {}
        }
        processed.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    pub(super) fn poll_read_ready(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Data that was received earlier does not make the TCP connection ready.
        if self.received.is_empty() && is_waiting(self.session.reader().fill_buf()) {
            return self.tcp.poll_read_ready(task);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(task)
    }

    pub(super) fn poll_read(&mut self, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.tcp.poll_read_ready(task))?,
                received => return Poll::Ready(received.map(drop)),
            }
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.tcp.poll_write_ready(task))?,
                written => return Poll::Ready(written),
            }
        }
    }

    pub(super) fn poll_flush(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.try_flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.tcp.poll_write_ready(task))?,
                flushed => return Poll::Ready(flushed),
            }
        }
    }

    /// Sends the closing message of TLS and then shuts down the sending side of the TCP connection.
    pub(super) fn poll_shutdown(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            self.is_shut_down = true;
            self.session.send_close_notify();
        }
        ready!(self.poll_flush(task))?;
        Pin::new(&mut self.tcp).poll_shutdown(task)
    }
}

fn is_waiting(decrypted: io::Result<&[u8]>) -> bool {
    decrypted.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Writes to the kernel without waiting.
struct Kernel<'a>(&'a TcpStream);

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

thread_local! {
    /// Spare memory of this thread. One is enough, because a thread polls its connections one after another.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Received ciphertext. rustls reads from it in small pieces; the kernel fills it with one call.
#[derive(Debug, Default)]
struct Received {
    /// [`READ_MAX_BYTES`] bytes, or none while nothing is received.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Received {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Receives bytes unless some are left. Receives none at the end of the data.
    fn fill(&mut self, tcp: &TcpStream) -> io::Result<()> {
        if !self.is_empty() {
            return Ok(());
        }
        self.bytes = SPARE.take();
        self.bytes.resize(READ_MAX_BYTES, 0);
        self.start = 0;
        let received = tcp.try_read(&mut self.bytes);
        self.end = *received.as_ref().unwrap_or(&0);
        self.release_if_empty();
        received.map(drop)
    }

    fn release_if_empty(&mut self) {
        if self.is_empty() {
            SPARE.set(std::mem::take(&mut self.bytes));
            (self.start, self.end) = (0, 0);
        }
    }
}

impl Read for Received {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(self.end - self.start);
        into[..count].copy_from_slice(&self.bytes[self.start..self.start + count]);
        self.start += count;
        self.release_if_empty();
        Ok(count)
    }
}
