//! Parses requests from bytes: RESP arrays and inline lines, in place.
//!
//! Synchronous and independent of sockets. A request is a list of positions in the query buffer; nothing is copied,
//! except that an inline line is unquoted into a scratch buffer. The parser keeps its position, so each byte of a
//! request that arrives in many pieces is parsed once. Memory use follows the received bytes, never a declared length.
//! A request above a limit is skipped as it arrives and ends as [`Next::Refused`], because one oversized request must
//! not close the connection. Only protocol errors of Redis close it.

mod words;

use std::{borrow::Cow, ops::Index};

use crate::cache::op::parse_integer;

/// Maximum size of an inline request or of a header line (PROTO_INLINE_MAX_SIZE of Redis).
pub const LINE_MAX_BYTES: usize = 64 * 1024;
/// Maximum number of elements in a request.
pub const ELEMENTS_MAX: i64 = 64 * 1024;
/// Maximum size of a request.
pub const REQUEST_MAX_BYTES: usize = 64 << 20;
/// Maximum declared length of a bulk string. A larger length is a protocol error.
const BULK_LENGTH_MAX: i64 = 512 << 20;
/// Maximum number of elements in a request before authentication.
const ELEMENTS_BEFORE_AUTH_MAX: i64 = 10;
/// Maximum size of a bulk string before authentication.
const BULK_BEFORE_AUTH_MAX: i64 = 16 * 1024;
/// Maximum number of parsed argument positions kept for the next request.
const SPANS_KEPT_MAX: usize = 1024;

/// Current limits of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of a bulk string in bytes.
    pub bulk_max: usize,
    /// The client has not authenticated yet; tighter limits apply.
    pub before_auth: bool,
}

/// Reason why a request was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// A bulk string of this size in bytes exceeds the limit.
    Bulk(u64),
    /// The request as a whole exceeds [`REQUEST_MAX_BYTES`].
    Request,
}

/// Result of parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A request is complete. [`Requests::args`] returns it until [`Requests::consume`].
    Command,
    /// A request was skipped because it was too long.
    Refused(TooLong),
    /// More bytes are needed.
    More,
}

/// A protocol error with the text of Redis. The connection has to close after it.
pub type Fault = Cow<'static, str>;

/// Position of one argument in its buffer. A request has at most [`REQUEST_MAX_BYTES`], so `u32` is sufficient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    #[inline]
    fn new(start: usize, end: usize) -> Self {
        // Both are at most REQUEST_MAX_BYTES + LINE_MAX_BYTES.
        #[expect(clippy::cast_possible_truncation, reason = "bounded by REQUEST_MAX_BYTES")]
        Self { start: start as u32, end: end as u32 }
    }
}

/// The arguments of a request, starting with the command name.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Returns the number of arguments, including the name.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// Returns `true` if there is no argument, not even a name.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }

    /// Returns the argument at `at`, if any.
    #[inline]
    #[must_use]
    pub fn get(self, at: usize) -> Option<&'a [u8]> {
        self.spans.get(at).map(|span| &self.bytes[span.start as usize..span.end as usize])
    }

    /// Returns the argument at `at`. The arity of the command guarantees that it exists.
    #[inline]
    #[must_use]
    pub fn at(self, at: usize) -> &'a [u8] {
        let span = self.spans[at];
        &self.bytes[span.start as usize..span.end as usize]
    }

    /// Returns the arguments starting at `first`.
    #[must_use]
    pub fn from(self, first: usize) -> Self {
        Self { bytes: self.bytes, spans: self.spans.get(first..).unwrap_or_default() }
    }

    /// Iterates over the arguments.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator {
        self.spans.iter().map(move |span| &self.bytes[span.start as usize..span.end as usize])
    }
}

/// A request copied out of its buffer.
#[derive(Debug, Clone)]
pub struct Owned {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Owned {
    /// Copies these arguments, starting with the name. Their total size is at most [`REQUEST_MAX_BYTES`].
    pub fn new<'a>(args: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for arg in args {
            let start = bytes.len();
            bytes.extend_from_slice(arg);
            spans.push(Span::new(start, bytes.len()));
        }
        Self { bytes, spans }
    }

    /// Returns the arguments.
    #[must_use]
    pub fn args(&self) -> Args<'_> {
        Args { bytes: &self.bytes, spans: &self.spans }
    }

    /// Returns the approximate memory use in bytes.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }
}

/// Appends a request to `out` in the format of a client library.
pub fn write_request<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    let header = |out: &mut Vec<u8>, kind: u8, number: usize| {
        out.push(kind);
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    header(out, b'*', args.len());
    for arg in args {
        header(out, b'$', arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];
    fn index(&self, at: usize) -> &[u8] {
        self.at(at)
    }
}

/// A query buffer and the parser of its requests.
#[derive(Debug, Default)]
pub struct Requests {
    buffer: Vec<u8>,
    /// Start of the current request.
    begin: usize,
    /// Position of the parser, relative to `begin`.
    at: usize,
    /// Number of elements that have not been parsed yet.
    missing: usize,
    /// Length of the current element without its CRLF, once its header was parsed.
    bulk: Option<usize>,
    /// Reason why the current request is skipped.
    refused: Option<TooLong>,
    /// Number of bytes to drop before parsing continues.
    skip: usize,
    spans: Vec<Span>,
    scratch: Vec<u8>,
    inline: bool,
    /// Result that has not been consumed yet.
    found: Option<Next>,
}

impl Requests {
    /// Returns the buffer to which received bytes are appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Returns the number of unparsed and unconsumed bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.len() - self.begin
    }

    /// Returns the memory of the buffer in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Returns the next request or refusal. Returns the same result until it is consumed.
    ///
    /// # Errors
    /// A protocol error. The remaining bytes must not be parsed.
    #[inline]
    pub fn next(&mut self, limits: Limits) -> Result<Next, Fault> {
        if let Some(found) = self.found {
            return Ok(found);
        }
        loop {
            if self.skip > 0 && !self.drop_skipped() {
                return Ok(self.starved());
            }
            if self.missing == 0 {
                match self.begin_request(limits)? {
                    Begun::Complete => return Ok(Next::Command),
                    Begun::Nothing => continue,
                    Begun::Elements => {}
                    Begun::Starved => return Ok(self.starved()),
                }
            }
            if let Some(next) = self.elements(limits)? {
                return Ok(next);
            }
            // Otherwise bytes have to be skipped first.
        }
    }

    /// Returns the arguments of the complete request.
    #[inline]
    #[must_use]
    pub fn args(&self) -> Args<'_> {
        let bytes = if self.inline { &self.scratch[..] } else { &self.buffer[self.begin..] };
        Args { bytes, spans: &self.spans }
    }

    /// Removes the complete or refused request.
    #[inline]
    pub fn consume(&mut self) {
        self.begin += self.at;
        self.at = 0;
        self.found = None;
        if self.spans.capacity() > SPANS_KEPT_MAX {
            self.spans = Vec::new();
        }
    }

    /// Returns the buffer if it is empty.
    pub fn take_idle_buffer(&mut self) -> Option<Vec<u8>> {
        (self.buffer.is_empty() && self.buffer.capacity() > 0).then(|| std::mem::take(&mut self.buffer))
    }

    /// Moves the remaining bytes to the front, so that the buffer size depends on one request and not on all of them.
    #[cold]
    fn compact(&mut self) {
        self.buffer.drain(..self.begin);
        self.begin = 0;
    }

    #[inline]
    fn starved(&mut self) -> Next {
        if self.begin == self.buffer.len() {
            self.buffer.clear();
            self.begin = 0;
        } else if self.begin > 0 {
            self.compact();
        }
        Next::More
    }

    /// Drops received bytes of a refused request. Returns `true` if none are outstanding.
    #[cold]
    fn drop_skipped(&mut self) -> bool {
        let from = self.begin + self.at;
        let dropped = self.skip.min(self.buffer.len() - from);
        self.skip -= dropped;
        self.begin = from + dropped;
        self.at = 0;
        self.skip == 0
    }

    #[inline]
    fn begin_request(&mut self, limits: Limits) -> Result<Begun, Fault> {
        let Some(&first) = self.buffer.get(self.begin) else { return Ok(Begun::Starved) };
        if first != b'*' {
            return self.inline(limits);
        }
        let Some((count, next)) = self.number(self.begin + 1, "too big mbulk count string")? else {
            return Ok(Begun::Starved);
        };
        let count = match count {
            Some(count) if count <= ELEMENTS_MAX => count,
            Some(_) | None => return Err("invalid multibulk length".into()),
        };
        if limits.before_auth && count > ELEMENTS_BEFORE_AUTH_MAX {
            return Err("unauthenticated multibulk length".into());
        }
        if count <= 0 {
            self.begin = next;
            return Ok(Begun::Nothing);
        }
        self.at = next - self.begin;
        self.missing = usize::try_from(count).unwrap_or(0);
        self.inline = false;
        self.spans.clear();
        Ok(Begun::Elements)
    }

    /// Parses elements. Returns `Command` or `Refused` if the request is complete, `More` if bytes are missing, and
    /// `None` if bytes have to be skipped first.
    #[inline]
    fn elements(&mut self, limits: Limits) -> Result<Option<Next>, Fault> {
        while self.missing > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => match self.element_header(limits)? {
                    Some(length) => length,
                    None if self.skip > 0 || self.bulk.is_some() => return Ok(None),
                    None => return Ok(Some(self.starved())),
                },
            };
            let start = self.at;
            let end = start + length;
            if self.buffer.len() < self.begin + end + 2 {
                self.bulk = Some(length);
                return Ok(Some(self.starved()));
            }
            self.bulk = None;
            self.at = end + 2;
            self.missing -= 1;
            self.spans.push(Span::new(start, end));
        }
        if let Some(why) = self.refused.take() {
            self.found = Some(Next::Refused(why));
            return Ok(self.found);
        }
        self.found = Some(Next::Command);
        Ok(self.found)
    }

    /// Returns the length of the next element; `None` if its header is incomplete or the element is skipped.
    #[inline]
    fn element_header(&mut self, limits: Limits) -> Result<Option<usize>, Fault> {
        let from = self.begin + self.at;
        let Some(&first) = self.buffer.get(from) else { return Ok(None) };
        let Some((length, next)) = self.number(from + 1, "too big bulk count string")? else { return Ok(None) };
        if first != b'$' {
            return Err(format!("expected '$', got '{}'", printable(first)).into());
        }
        let length = match length {
            Some(length) if (0..=BULK_LENGTH_MAX).contains(&length) => length,
            Some(_) | None => return Err("invalid bulk length".into()),
        };
        if limits.before_auth && length > BULK_BEFORE_AUTH_MAX {
            return Err("unauthenticated bulk length".into());
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.at = next - self.begin;
        if self.refused.is_some() || length > limits.bulk_max || self.at + length > REQUEST_MAX_BYTES {
            self.refuse(length, limits);
            return Ok(None);
        }
        Ok(Some(length))
    }

    /// Skips an element of a refused request. No element of such a request is kept.
    #[cold]
    fn refuse(&mut self, length: usize, limits: Limits) {
        let why = if length > limits.bulk_max { TooLong::Bulk(length as u64) } else { TooLong::Request };
        self.refused.get_or_insert(why);
        self.spans.clear();
        self.missing -= 1;
        self.skip = length + 2;
        if self.missing == 0 {
            // Skip the bytes of the last element as an element of its own, so that the end of the request is found
            // after them.
            self.missing = 1;
            self.skip -= 2;
            self.bulk = Some(0);
        }
    }

    /// Parses the number of the header line at `from`. Returns the number (`None` if invalid) and the start of the next
    /// line; returns `None` if the line is incomplete.
    #[inline]
    fn number(&self, from: usize, too_long: &'static str) -> Result<Option<(Option<i64>, usize)>, Fault> {
        let line = &self.buffer[from..];
        // Fast path for nearly all lines: one to four digits, CR, and at least one more byte.
        let mut number = 0i64;
        for (at, &byte) in line.iter().take(5).enumerate() {
            if byte.is_ascii_digit() {
                number = number * 10 + i64::from(byte - b'0');
            } else if byte == b'\r' && at > 0 && (line[0] != b'0' || at == 1) && line.len() > at + 1 {
                return Ok(Some((Some(number), from + at + 2)));
            } else {
                break;
            }
        }
        number_of_line(line, from, too_long)
    }

    /// Parses an inline request, as typed by a user.
    #[cold]
    fn inline(&mut self, limits: Limits) -> Result<Begun, Fault> {
        let line = &self.buffer[self.begin..];
        let longest = if limits.before_auth { BULK_BEFORE_AUTH_MAX.unsigned_abs() as usize } else { LINE_MAX_BYTES };
        // The bytes before `at` contain no line end.
        let found = memchr::memchr(b'\n', &line[self.at.min(line.len())..]).map(|end| self.at + end);
        let end = match found {
            Some(end) if end <= longest => end,
            None if line.len() <= longest => {
                self.at = line.len();
                return Ok(Begun::Starved);
            }
            Some(_) | None => return Err("too big inline request".into()),
        };
        let text = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        self.scratch.clear();
        self.spans.clear();
        if !words::split_line(text, &mut self.scratch, &mut self.spans) {
            return Err("unbalanced quotes in request".into());
        }
        if limits.before_auth && self.spans.len() > ELEMENTS_BEFORE_AUTH_MAX.unsigned_abs() as usize {
            return Err("unauthenticated multibulk length".into());
        }
        self.at = end + 1;
        if self.spans.is_empty() {
            self.consume();
            return Ok(Begun::Nothing);
        }
        self.inline = true;
        self.found = Some(Next::Command);
        Ok(Begun::Complete)
    }
}

/// Result of parsing the start of a request.
enum Begun {
    /// An inline request, complete.
    Complete,
    /// An empty request, which has no reply.
    Nothing,
    /// An array whose elements follow.
    Elements,
    /// Bytes are missing.
    Starved,
}

/// Replaces control characters, so that an error never echoes CR, LF or terminal escapes.
fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { ' ' }
}

#[cold]
fn number_of_line(line: &[u8], from: usize, too_long: &'static str) -> Result<Option<(Option<i64>, usize)>, Fault> {
    match memchr::memchr(b'\r', &line[..line.len().min(LINE_MAX_BYTES + 1)]) {
        None if line.len() > LINE_MAX_BYTES => Err(too_long.into()),
        None => Ok(None),
        // The LF has not arrived yet.
        Some(end) if end + 1 >= line.len() => Ok(None),
        Some(end) => Ok(Some((parse_integer(&line[..end]), from + end + 2))),
    }
}

#[cfg(test)]
mod tests;
