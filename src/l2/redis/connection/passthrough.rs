//! Raw connections for pass-through commands: Redis's reply goes to the client byte for byte, in the client's protocol.
//!
//! They are separate from the data connections, whose pipelines carry the commands of many callers, so a slow or blocking
//! command delays no other caller. A connection without outstanding replies returns to its pool; a connection that was
//! abandoned earlier is closed. Their number is bounded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use super::connect::{self, Dialer, RawStream};
use crate::{
    error::{CacheError, Kind, Result},
    l2::redis::{topology::map::Topology, url::Endpoint},
};

/// Maximum number of pass-through connections of a worker.
const CONNECTIONS_MAX: usize = 256;
/// Maximum number of idle pass-through connections of a worker.
const KEPT_MAX: usize = 16;
/// Deadline of a pass-through command that does not block.
const DEADLINE: Duration = Duration::from_secs(5);
/// Maximum size of the reply to a pass-through command.
const REPLY_MAX_BYTES: usize = 64 << 20;
/// Free buffer space in bytes for each read.
const READ_BYTES: usize = 16 * 1024;

/// The raw connections of one worker.
#[derive(Debug)]
pub(crate) struct RawPool {
    dialer: Arc<Dialer>,
    topology: Arc<Topology>,
    open: AtomicUsize,
    kept: Mutex<Vec<Kept>>,
}

/// An idle connection.
#[derive(Debug)]
struct Kept {
    endpoint: Endpoint,
    resp3: bool,
    stream: RawStream,
}

impl RawPool {
    pub(crate) fn new(dialer: Arc<Dialer>, topology: Arc<Topology>) -> Arc<Self> {
        Arc::new(Self { dialer, topology, open: AtomicUsize::new(0), kept: Mutex::default() })
    }

    /// Returns an idle connection, or opens one that is authenticated and has selected its database.
    pub(crate) async fn connection(self: &Arc<Self>, endpoint: &Endpoint, resp3: bool) -> Result<RawConnection> {
        let line = |stream: Option<RawStream>, clean| RawConnection {
            pool: Arc::clone(self),
            endpoint: endpoint.clone(),
            resp3,
            stream,
            clean,
            received: BytesMut::new(),
        };
        if let Some(stream) = self.kept(endpoint, resp3) {
            return Ok(line(Some(stream), true));
        }
        // The connection is counted before it is opened; its drop ends the count.
        if self.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            self.open.fetch_sub(1, Ordering::Relaxed);
            let message = format!(
                "{CONNECTIONS_MAX} pass-through connections to Redis are in use, which is the maximum per worker"
            );
            return Err(CacheError::new(Kind::Overloaded, message));
        }
        let mut line = line(None, false);
        line.stream = Some(connect::raw(endpoint, &self.dialer, resp3).await?);
        line.clean = true;
        Ok(line)
    }

    /// Returns an idle connection that is still open: it has received neither bytes nor an end of stream.
    fn kept(&self, endpoint: &Endpoint, resp3: bool) -> Option<RawStream> {
        loop {
            let mut kept = self.kept.lock();
            let at = kept.iter().rposition(|kept| kept.resp3 == resp3 && kept.endpoint == *endpoint)?;
            let mut stream = kept.swap_remove(at).stream;
            drop(kept);
            if stream.read(&mut [0]).now_or_never().is_none() {
                return Some(stream);
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A raw connection that a caller has borrowed; dropping it returns it to its pool.
pub struct RawConnection {
    pool: Arc<RawPool>,
    endpoint: Endpoint,
    resp3: bool,
    /// The stream; `None` only while the value is dropped.
    stream: Option<RawStream>,
    /// True if all requests have been answered and the state of the connection is unchanged, so that another caller may
    /// use it.
    clean: bool,
    received: BytesMut,
}

impl std::fmt::Debug for RawConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawConnection").field("resp3", &self.resp3).field("clean", &self.clean).finish_non_exhaustive()
    }
}

impl Drop for RawConnection {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take().filter(|_| self.clean && self.received.is_empty()) {
            let mut kept = self.pool.kept.lock();
            if kept.len() < KEPT_MAX {
                return kept.push(Kept { endpoint: self.endpoint.clone(), resp3: self.resp3, stream });
            }
        }
        self.pool.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RawConnection {
    /// Maximum number of pass-through connections of a worker.
    pub const PER_WORKER_MAX: u64 = CONNECTIONS_MAX as u64;

    /// Sends requests and returns this number of replies, byte for byte.
    ///
    /// # Errors
    /// `Unknown` if the connection was lost or Redis did not answer in time: the command may have been executed.
    /// `TooLarge` for a reply over the limit.
    pub async fn ask(&mut self, requests: &[u8], replies: usize) -> Result<Vec<Bytes>> {
        match timeout(DEADLINE, self.converse(requests, replies)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(unknown(&format!("Redis did not answer within {DEADLINE:?}"))),
        }
    }

    /// Like [`RawConnection::ask`], until `deadline`; `None` after it.
    ///
    /// # Errors
    /// See [`RawConnection::ask`].
    pub async fn ask_until(
        &mut self,
        requests: &[u8],
        replies: usize,
        deadline: Instant,
    ) -> Option<Result<Vec<Bytes>>> {
        timeout_at(deadline, self.converse(requests, replies)).await.ok()
    }

    /// Handles a redirection of Redis: closes the connection and waits for a topology refresh.
    pub async fn look_elsewhere(self) {
        let topology = Arc::clone(&self.pool.topology);
        drop(self);
        // If the refresh fails, the next attempt returns the reason.
        let _looked = topology.refreshed(DEADLINE).await;
    }

    /// Marks the connection as changed (it watches keys): it is closed after use, unless the next request restores its
    /// state.
    pub fn taint(&mut self) {
        self.clean = false;
    }

    /// Like [`RawConnection::ask`], for one request without a deadline.
    ///
    /// # Errors
    /// See [`RawConnection::ask`].
    pub async fn ask_blocking(&mut self, request: &[u8]) -> Result<Vec<Bytes>> {
        self.converse(request, 1).await
    }

    async fn converse(&mut self, requests: &[u8], replies: usize) -> Result<Vec<Bytes>> {
        // If the caller drops this future early, the connection cannot be used again.
        self.clean = false;
        self.send(requests).await?;
        let mut received = Vec::with_capacity(replies);
        while received.len() < replies {
            received.push(self.next().await?);
        }
        self.clean = true;
        let moved =
            |reply: &Bytes| [&b"-MOVED "[..], b"-ASK ", b"-READONLY "].iter().any(|sign| reply.starts_with(sign));
        if received.iter().any(moved) {
            self.pool.topology.ask();
        }
        Ok(received)
    }

    /// Sends requests whose replies [`RawConnection::next`] returns. The connection is not used again after this.
    ///
    /// # Errors
    /// See [`RawConnection::ask`].
    pub async fn send(&mut self, requests: &[u8]) -> Result<()> {
        self.clean = false;
        let Some(stream) = &mut self.stream else { return Err(unknown("the connection is closed")) };
        stream.write_all(requests).await.map_err(|_| unknown("the connection to Redis was lost"))
    }

    /// Returns the next reply or push message, byte for byte. Cancel-safe: dropping the future loses no data.
    ///
    /// # Errors
    /// See [`RawConnection::ask`].
    pub async fn next(&mut self) -> Result<Bytes> {
        let mut measure = Measure::default();
        loop {
            if let Some(length) = measure.whole(&self.received) {
                return Ok(self.received.split_to(length).freeze());
            }
            if self.received.len() > REPLY_MAX_BYTES {
                let message = format!("the reply of Redis exceeds {REPLY_MAX_BYTES} bytes; request less data");
                return Err(CacheError::new(Kind::TooLarge, message));
            }
            let Some(stream) = &mut self.stream else { return Err(unknown("the connection is closed")) };
            self.received.reserve(READ_BYTES);
            match stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return Err(unknown("the connection to Redis was lost")),
                Ok(_) => {}
            }
        }
    }
}

fn unknown(why: &str) -> CacheError {
    CacheError::new(Kind::Unknown, format!("{why}; the command may or may not have been executed"))
}

/// Measures a reply incrementally: visits each element once, however the bytes arrive.
#[derive(Debug)]
struct Measure {
    at: usize,
    /// Number of elements that have not been received yet.
    missing: usize,
}

impl Default for Measure {
    fn default() -> Self {
        Self { at: 0, missing: 1 }
    }
}

impl Measure {
    /// Returns the length of the reply once it is complete.
    fn whole(&mut self, bytes: &[u8]) -> Option<usize> {
        while self.missing > 0 {
            let line = bytes.get(self.at..)?;
            let end = memchr::memchr(b'\n', line)? + 1;
            let (kind, digits) = (line[0], line.get(1..end.saturating_sub(2)).unwrap_or_default());
            let number = || std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
            let (body, children) = match kind {
                b'$' | b'=' | b'!' => (number().map_or(0, |length| length + 2), 0),
                b'*' | b'~' | b'>' => (0, number().unwrap_or(0)),
                b'%' => (0, number().unwrap_or(0).saturating_mul(2)),
                // Attributes precede the element they belong to.
                b'|' => (0, number().unwrap_or(0).saturating_mul(2).saturating_add(1)),
                _ => (0, 0),
            };
            if line.len() < end + body {
                return None;
            }
            self.at += end + body;
            self.missing = (self.missing - 1).saturating_add(children);
        }
        Some(self.at)
    }
}

/// Returns the elements of an array, set, map (as pairs) or push, byte for byte; `None` for other types.
#[must_use]
pub fn elements(frame: &Bytes) -> Option<Vec<Bytes>> {
    let each = each_element(frame)?;
    let count = each.left;
    let all: Vec<Bytes> = each.collect();
    (all.len() == count).then_some(all)
}

/// Like [`elements`], one at a time: a reply may have millions of elements.
#[must_use]
pub fn each_element(frame: &Bytes) -> Option<Elements> {
    let end = memchr::memchr(b'\n', frame)? + 1;
    let number: usize = std::str::from_utf8(frame.get(1..end - 2)?).ok()?.parse().ok()?;
    let count = match frame[0] {
        b'*' | b'~' | b'>' => number,
        b'%' => number * 2,
        _ => return None,
    };
    Some(Elements { rest: frame.slice(end..), left: count })
}

/// The elements of a reply, byte for byte.
#[derive(Debug)]
pub struct Elements {
    rest: Bytes,
    left: usize,
}

impl Iterator for Elements {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.left = self.left.checked_sub(1)?;
        let length = Measure::default().whole(&self.rest)?;
        Some(self.rest.split_to(length))
    }
}

/// Returns the bytes of a bulk or verbatim string, or the text of a simple string or integer; `None` for nil and other
/// types.
#[must_use]
pub fn text(frame: &Bytes) -> Option<Bytes> {
    let end = memchr::memchr(b'\n', frame)? + 1;
    match frame[0] {
        b'$' if frame.get(1) != Some(&b'-') => Some(frame.slice(end..frame.len() - 2)),
        b'=' => Some(frame.slice(end + 4..frame.len() - 2)),
        b'+' | b':' => Some(frame.slice(1..end - 2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLIES: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n:2\r\n+x\r\n",
        b"%1\r\n+a\r\n*1\r\n$1\r\nb\r\n",
        b"~2\r\n+a\r\n+b\r\n",
        b"|1\r\n+ttl\r\n:3\r\n$1\r\na\r\n",
        b"=7\r\ntxt:abc\r\n",
        b",1.5\r\n",
        b"_\r\n",
        b"#t\r\n",
        b"(123456789\r\n",
        b">2\r\n+a\r\n+b\r\n",
    ];

    #[test]
    fn each_reply_is_measured_in_every_split() {
        for reply in REPLIES {
            let mut measure = Measure::default();
            for end in 0..reply.len() {
                assert_eq!(measure.whole(&reply[..end]), None, "{} of {}", end, reply.escape_ascii());
            }
            let mut more = reply.to_vec();
            more.extend(b"+next\r\n");
            assert_eq!(measure.whole(&more), Some(reply.len()));
            assert_eq!(Measure::default().whole(&more), Some(reply.len()));
        }
    }

    #[test]
    fn elements_are_taken_apart() {
        let of = |frame: &'static [u8]| elements(&Bytes::from_static(frame)).map(|found| found.len());
        assert_eq!(of(b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n:2\r\n+x\r\n"), Some(3));
        assert_eq!(of(b"%1\r\n+a\r\n*1\r\n$1\r\nb\r\n"), Some(2));
        assert_eq!(of(b"*-1\r\n"), None);
        assert_eq!(of(b"+OK\r\n"), None);
        assert_eq!(text(&Bytes::from_static(b"$2\r\nab\r\n")).as_deref(), Some(&b"ab"[..]));
        assert_eq!(text(&Bytes::from_static(b"=6\r\ntxt:ab\r\n")).as_deref(), Some(&b"ab"[..]));
        assert_eq!(text(&Bytes::from_static(b"$-1\r\n")), None);
    }
}
