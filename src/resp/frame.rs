//! Requests out of bytes: RESP arrays and inline lines, parsed in place.
//!
//! Synchronous, tested with values. A request is a list of spans into the query buffer, nothing is copied (an inline
//! line is unquoted into a scratch buffer). The parser remembers how far it came, so a request that arrives in many
//! pieces is looked at once. Memory follows what has arrived, never a declared length; a request over a limit is
//! skipped as it arrives and ends as [`Next::Refused`], because a bad command must not end its connection. Only what
//! Redis calls a protocol error ends it.

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

/// What a connection may send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a bulk string.
    pub bulk_max: usize,
    /// The client still has to authenticate: much tighter limits.
    pub before_auth: bool,
}

/// Why a request was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// A bulk string of this many bytes.
    Bulk(u64),
    /// The request as a whole, over [`REQUEST_MAX_BYTES`].
    Request,
}

/// What the parser found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A request is complete: [`Requests::args`] has it until [`Requests::consume`].
    Command,
    /// A request was skipped because it was too long.
    Refused(TooLong),
    /// More bytes are needed.
    More,
}

/// A protocol error in Redis's words: the connection must end after it.
pub type Fault = Cow<'static, str>;

/// One argument's place in its buffer. A request has at most [`REQUEST_MAX_BYTES`], which fits.
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

/// The arguments of a request, its name first.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// How many, the name included.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// Whether there is not even a name.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `at`.
    #[inline]
    #[must_use]
    pub fn get(self, at: usize) -> Option<&'a [u8]> {
        self.spans.get(at).map(|span| &self.bytes[span.start as usize..span.end as usize])
    }

    /// The argument at `at`, which the arity of the command guarantees.
    #[inline]
    #[must_use]
    pub fn at(self, at: usize) -> &'a [u8] {
        let span = self.spans[at];
        &self.bytes[span.start as usize..span.end as usize]
    }

    /// From the argument at `first` on.
    #[must_use]
    pub fn from(self, first: usize) -> Self {
        Self { bytes: self.bytes, spans: self.spans.get(first..).unwrap_or_default() }
    }

    /// All, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator {
        self.spans.iter().map(move |span| &self.bytes[span.start as usize..span.end as usize])
    }
}

/// A request that was copied out of its buffer.
#[derive(Debug, Clone)]
pub struct Owned {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Owned {
    /// Of these arguments, the name first; together at most [`REQUEST_MAX_BYTES`].
    pub fn new<'a>(args: impl Iterator<Item = &'a [u8]>) -> Self {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for arg in args {
            let start = bytes.len();
            bytes.extend_from_slice(arg);
            spans.push(Span::new(start, bytes.len()));
        }
        Self { bytes, spans }
    }

    /// The arguments.
    #[must_use]
    pub fn args(&self) -> Args<'_> {
        Args { bytes: &self.bytes, spans: &self.spans }
    }

    /// Bytes of memory, about.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }
}

/// A request as a client library sends it, added to `out`.
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

/// The requests in a query buffer.
#[derive(Debug, Default)]
pub struct Requests {
    buffer: Vec<u8>,
    /// Where the request under way begins.
    begin: usize,
    /// How far into it the parser came.
    at: usize,
    /// Elements that are still to come.
    missing: usize,
    /// The element under way: bytes of it that are still to come with its CRLF, once its header was read.
    bulk: Option<usize>,
    /// Why the request is skipped.
    refused: Option<TooLong>,
    /// Bytes to drop before anything else is looked at.
    skip: usize,
    spans: Vec<Span>,
    scratch: Vec<u8>,
    inline: bool,
    /// What was found and not consumed yet.
    found: Option<Next>,
}

impl Requests {
    /// Where received bytes are added.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Bytes held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.len() - self.begin
    }

    /// Bytes of memory.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next request, or that one was refused; the same again until it is consumed.
    ///
    /// # Errors
    /// A protocol error. The rest of the buffer means nothing then.
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
            // Else bytes are to be skipped.
        }
    }

    /// The complete request.
    #[inline]
    #[must_use]
    pub fn args(&self) -> Args<'_> {
        let bytes = if self.inline { &self.scratch[..] } else { &self.buffer[self.begin..] };
        Args { bytes, spans: &self.spans }
    }

    /// Done with the complete or refused request.
    #[inline]
    pub fn consume(&mut self) {
        self.begin += self.at;
        self.at = 0;
        self.found = None;
        if self.spans.capacity() > SPANS_KEPT_MAX {
            self.spans = Vec::new();
        }
    }

    /// Gives the buffer away if it holds nothing.
    pub fn take_idle_buffer(&mut self) -> Option<Vec<u8>> {
        (self.buffer.is_empty() && self.buffer.capacity() > 0).then(|| std::mem::take(&mut self.buffer))
    }

    /// Moves what is left to the front, so that the buffer grows with one request and not with all of them.
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

    /// Drops bytes of a refused request; says whether all of them came.
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

    /// Reads elements until the request is complete (`Command`, `Refused`), bytes are missing (`More`) or are to be
    /// skipped (`None`).
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

    /// The length of the next element; `None` when its header is not there yet, or when it is to be skipped.
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

    /// Skips an element of a request that is or becomes refused. Nothing of such a request is kept.
    #[cold]
    fn refuse(&mut self, length: usize, limits: Limits) {
        let why = if length > limits.bulk_max { TooLong::Bulk(length as u64) } else { TooLong::Request };
        self.refused.get_or_insert(why);
        self.spans.clear();
        self.missing -= 1;
        self.skip = length + 2;
        if self.missing == 0 {
            // The last element's bytes are skipped as an element of their own, so that the end is seen after them.
            self.missing = 1;
            self.skip -= 2;
            self.bulk = Some(0);
        }
    }

    /// The number of a header line that begins at `from` and where the next line begins; the number is `None` if it
    /// is none, the whole `None` if the line is not complete.
    #[inline]
    fn number(&self, from: usize, too_long: &'static str) -> Result<Option<(Option<i64>, usize)>, Fault> {
        let line = &self.buffer[from..];
        // Nearly every line: one to four digits, CR, and something after it.
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

    /// A request as people type it.
    #[cold]
    fn inline(&mut self, limits: Limits) -> Result<Begun, Fault> {
        let line = &self.buffer[self.begin..];
        let longest = if limits.before_auth { BULK_BEFORE_AUTH_MAX.unsigned_abs() as usize } else { LINE_MAX_BYTES };
        // What was looked at before has no end of line.
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

/// How a request began.
enum Begun {
    /// An inline request, complete.
    Complete,
    /// An empty request; nothing is answered.
    Nothing,
    /// An array whose elements follow.
    Elements,
    /// Bytes are missing.
    Starved,
}

/// CR, LF and what else a terminal would obey are never reflected.
fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { ' ' }
}

#[cold]
fn number_of_line(line: &[u8], from: usize, too_long: &'static str) -> Result<Option<(Option<i64>, usize)>, Fault> {
    match memchr::memchr(b'\r', &line[..line.len().min(LINE_MAX_BYTES + 1)]) {
        None if line.len() > LINE_MAX_BYTES => Err(too_long.into()),
        None => Ok(None),
        // The LF has not come yet.
        Some(end) if end + 1 >= line.len() => Ok(None),
        Some(end) => Ok(Some((parse_integer(&line[..end]), from + end + 2))),
    }
}

#[cfg(test)]
mod tests;
