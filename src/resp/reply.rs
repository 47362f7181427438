//! Writes replies to one output buffer, in RESP2 or RESP3, and maps errors to their texts.

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::{CacheError, Kind};

/// Maximum size of the unread replies of a client. The connection is closed above this value.
pub(super) const OUTPUT_HARD_MAX_BYTES: usize = 64 << 20;

/// Reason why a command was rejected or failed. The texts are those of Redis 7.0 where Redis has the same error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An unknown or misplaced option.
    Syntax,
    /// An argument is not a 64-bit integer.
    NotAnInteger,
    /// An argument is not a float.
    NotAFloat,
    /// The result of an addition is not finite.
    NotFinite,
    /// An invalid TTL for this command.
    InvalidExpire(&'static str),
    /// A wrong number of arguments for this command (`client|id` for a subcommand).
    Arity(&'static str),
    /// An error of the cache or of a tier.
    Cache(CacheError),
    /// An error with a text used in one place only, including its code: `ERR ...`.
    Text(Cow<'static, str>),
}

/// Result of a command: the reply is written, or the command is rejected.
pub(super) type Done = Result<(), Refusal>;

impl From<CacheError> for Refusal {
    fn from(error: CacheError) -> Self {
        Self::Cache(error)
    }
}

impl Refusal {
    /// Returns an error with this text.
    pub(super) fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(text.into())
    }

    /// Returns code and text, without the leading `-`.
    pub(super) fn message(&self) -> Cow<'_, str> {
        match self {
            Self::Syntax => "ERR syntax error".into(),
            Self::NotAnInteger => "ERR value is not an integer or out of range".into(),
            Self::NotAFloat => "ERR value is not a valid float".into(),
            Self::NotFinite => "ERR increment would produce NaN or Infinity".into(),
            Self::InvalidExpire(command) => format!("ERR invalid expire time in '{command}' command").into(),
            Self::Arity(command) => format!("ERR wrong number of arguments for '{command}' command").into(),
            Self::Cache(error) => error_text(error),
            Self::Text(text) => Cow::Borrowed(text),
        }
    }
}

/// Error of Redis for a key without permission.
pub(super) const DENIED_KEY: &str = "NOPERM this user has no permissions to access one of the keys used as arguments";

/// Returns the reply text of an error of the cache: error code and message.
#[must_use]
pub fn error_text(error: &CacheError) -> Cow<'_, str> {
    let code = match error.kind() {
        Kind::WrongType => return "WRONGTYPE Operation against a key holding the wrong kind of value".into(),
        Kind::OutOfMemory => return "OOM command not allowed when used memory > 'maxmemory'.".into(),
        Kind::Denied => return DENIED_KEY.into(),
        Kind::Unavailable => "UNAVAILABLE",
        Kind::DeadlineExceeded => "TIMEOUT",
        Kind::Unknown => "UNKNOWN",
        Kind::Overloaded => "TRYAGAIN",
        Kind::InvalidArgument
        | Kind::ReservedPrefix
        | Kind::TooLarge
        | Kind::NotANumber
        | Kind::Overflow
        | Kind::NoAccess
        | Kind::Unsupported
        | Kind::Internal => "ERR",
    };
    format!("{code} {}", error.message()).into()
}

/// The output buffer of a connection.
#[derive(Debug, Default)]
pub(super) struct Reply {
    out: Vec<u8>,
    /// Number of bytes of `out` that the socket has accepted.
    sent: usize,
    resp3: bool,
    /// Start of the last error, until it is counted.
    error_at: Option<usize>,
}

impl Reply {
    /// Returns `true` if the client uses RESP3.
    pub(super) fn resp3(&self) -> bool {
        self.resp3
    }

    /// Sets the protocol of the following replies.
    pub(super) fn set_resp3(&mut self, resp3: bool) {
        self.resp3 = resp3;
    }

    /// Returns the bytes that the socket has not accepted yet.
    #[inline]
    pub(super) fn pending(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// Removes bytes that the socket has accepted.
    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Returns the written bytes.
    pub(super) fn into_bytes(self) -> Bytes {
        self.out.into()
    }

    /// Returns the position of the next reply, for [`Reply::rewind`]. No byte may be sent in between.
    pub(super) fn mark(&self) -> usize {
        self.out.len()
    }

    /// Discards everything written since `mark`.
    pub(super) fn rewind(&mut self, mark: usize) {
        self.out.truncate(mark);
    }

    /// Returns the memory of the buffer in bytes.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.out.capacity()
    }

    /// Returns the buffer if it is empty.
    pub(super) fn take_idle_buffer(&mut self) -> Option<Vec<u8>> {
        (self.out.is_empty() && self.out.capacity() > 0).then(|| std::mem::take(&mut self.out))
    }

    /// Takes a buffer unless there is one.
    #[inline]
    pub(super) fn lend_buffer(&mut self, lend: impl FnOnce() -> Vec<u8>) {
        if self.out.capacity() == 0 {
            self.out = lend();
        }
    }

    /// Writes `+text`.
    pub(super) fn simple(&mut self, text: &'static str) {
        self.line(b'+', text.as_bytes());
    }

    /// Writes `+text` for a text built at run time that contains no client input.
    pub(super) fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// Writes `+OK`.
    pub(super) fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// Writes `-text`. CR and LF are replaced by spaces.
    pub(super) fn error(&mut self, text: &str) {
        self.error_at = Some(self.out.len());
        self.out.push(b'-');
        let text = text.trim_end_matches(['\r', '\n']);
        self.out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// Returns the code of the error written since the last call, if any.
    #[inline]
    pub(super) fn take_error(&mut self) -> Option<&str> {
        let at = self.error_at.take()?;
        let text = self.out.get(at + 1..)?;
        let end = text.iter().position(|byte| matches!(byte, b' ' | b'\r'))?;
        std::str::from_utf8(&text[..end]).ok()
    }

    /// Writes `:number`.
    pub(super) fn integer(&mut self, number: i64) {
        self.line(b':', itoa::Buffer::new().format(number).as_bytes());
    }

    /// Writes `:count`.
    pub(super) fn count(&mut self, count: u64) {
        self.line(b':', itoa::Buffer::new().format(count).as_bytes());
    }

    /// Writes a bulk string.
    #[inline]
    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 32);
        self.header(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Writes a floating-point number.
    pub(super) fn double(&mut self, number: f64) {
        let text = number.to_string();
        if self.resp3 { self.line(b',', text.as_bytes()) } else { self.bulk(text.as_bytes()) }
    }

    /// Writes a bulk string or nil.
    pub(super) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Writes a text for users: a verbatim string in RESP3.
    pub(super) fn verbatim(&mut self, text: &str) {
        if !self.resp3 {
            return self.bulk(text.as_bytes());
        }
        self.header(b'=', text.len() + 4);
        self.out.extend_from_slice(b"txt:");
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// Writes nil.
    pub(super) fn null(&mut self) {
        self.out.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Writes the header of an array with `len` elements.
    pub(super) fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// Writes nil instead of an array.
    pub(super) fn null_array(&mut self) {
        self.out.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// Writes the header of a push message with `len` elements.
    pub(super) fn push(&mut self, len: usize) {
        self.header(if self.resp3 { b'>' } else { b'*' }, len);
    }

    /// Writes a complete reply from elsewhere, in the client's protocol.
    pub(super) fn whole(&mut self, frame: &[u8]) {
        if frame.first() == Some(&b'-') {
            self.error_at = Some(self.out.len());
        }
        self.out.extend_from_slice(frame);
    }

    /// Writes the header of a map with `len` pairs.
    pub(super) fn map(&mut self, len: usize) {
        if self.resp3 { self.header(b'%', len) } else { self.header(b'*', len * 2) }
    }

    /// Writes the header of a set with `len` elements.
    pub(super) fn set(&mut self, len: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, len);
    }

    #[inline]
    fn header(&mut self, kind: u8, number: usize) {
        self.line(kind, itoa::Buffer::new().format(number).as_bytes());
    }

    #[inline]
    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(resp3: bool, write: impl FnOnce(&mut Reply)) -> Vec<u8> {
        let mut reply = Reply::default();
        reply.set_resp3(resp3);
        write(&mut reply);
        reply.pending().to_vec()
    }

    #[test]
    fn each_type_in_both_protocols() {
        assert_eq!(bytes(false, Reply::null), b"$-1\r\n");
        assert_eq!(bytes(true, Reply::null), b"_\r\n");
        assert_eq!(bytes(false, |r| r.map(2)), b"*4\r\n");
        assert_eq!(bytes(true, |r| r.map(2)), b"%2\r\n");
        assert_eq!(bytes(false, |r| r.set(2)), b"*2\r\n");
        assert_eq!(bytes(true, |r| r.set(2)), b"~2\r\n");
        assert_eq!(bytes(false, |r| r.verbatim("a")), b"$1\r\na\r\n");
        assert_eq!(bytes(true, |r| r.verbatim("a")), b"=5\r\ntxt:a\r\n");
        assert_eq!(bytes(false, |r| r.bulk(b"")), b"$0\r\n\r\n");
        assert_eq!(bytes(false, |r| r.integer(i64::MIN)), b":-9223372036854775808\r\n");
    }

    #[test]
    fn an_error_never_reflects_line_ends() {
        assert_eq!(bytes(false, |r| r.error("ERR a\r\n+OK\r\n")), b"-ERR a  +OK\r\n");
    }

    #[test]
    fn the_code_of_an_error_is_counted_once() {
        let mut reply = Reply::default();
        reply.error("WRONGTYPE Operation");
        assert_eq!(reply.take_error(), Some("WRONGTYPE"));
        assert_eq!(reply.take_error(), None);
    }

    #[test]
    fn what_was_sent_is_forgotten() {
        let mut reply = Reply::default();
        reply.bulk(&[b'x'; 100]);
        let all = reply.pending().to_vec();
        reply.advance(60);
        assert_eq!(reply.pending(), &all[60..]);
        reply.ok();
        reply.advance(reply.pending().len());
        assert!(reply.pending().is_empty());
    }
}
