//! Reads request traces: lines `timestamp_seconds,key,size[,ttl[,caller]]`, one read request per line. The first line may
//! name the fields; a field `sample=1/N` in it says that the trace contains all reads of one key in N.
//!
//! A trace is plain text or zstd; its content determines the format. Keys are bytes without commas. TTLs are in
//! seconds; 0 or an empty field means none. A malformed or truncated trace is an error with file and line.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use crate::model::KEY_MAX_BYTES;

/// Maximum size of a line in a trace file.
const LINE_MAX_BYTES: usize = KEY_MAX_BYTES + 4_096;
/// First bytes of every zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Latest accepted timestamp and longest accepted TTL in seconds: 100 years.
const SECONDS_MAX: f64 = 100.0 * 365.25 * 86_400.0;

/// Name of the field in the header that contains the share of the keys.
const SAMPLE_FIELD: &[u8] = b"sample=1/";

/// Returns the header of a trace that contains all reads of one key in `one_in`.
pub(super) fn header(one_in: u32) -> String {
    format!("timestamp_seconds,key,size,ttl,caller,sample=1/{one_in}")
}

/// One read request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Time in ms since the zero of the trace.
    pub at_ms: u64,
    /// Key; may be longer than Terrace accepts.
    pub key: Vec<u8>,
    /// Size of the value in bytes.
    pub size: u64,
    /// Recorded TTL in ms; `None` if the trace has none.
    pub ttl_ms: Option<u64>,
    /// Caller of the request, if the trace names one.
    pub caller: Option<Vec<u8>>,
}

/// A fault in a trace, with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceError {
    path: PathBuf,
    line: Option<u64>,
    message: String,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for TraceError {}

/// Iterator over the requests of a trace.
pub struct Trace {
    path: PathBuf,
    lines: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
    failed: bool,
    one_in: u32,
}

impl Trace {
    /// Opens a trace.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let unreadable =
            |error: io::Error| TraceError { path: path.to_owned(), line: None, message: error.to_string() };
        let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
        let is_zstd = file.fill_buf().map_err(unreadable)?.starts_with(&ZSTD_MAGIC);
        let lines: Box<dyn BufRead + Send> = if is_zstd {
            Box::new(BufReader::new(zstd::Decoder::with_buffer(file).map_err(unreadable)?))
        } else {
            Box::new(file)
        };
        Ok(Self { path: path.to_owned(), lines, line: 0, buffer: Vec::new(), failed: false, one_in: 1 })
    }

    /// Returns N if the header says that the trace contains one key in N; else 1. The header is read together with the first
    /// request.
    #[must_use]
    pub fn one_in(&self) -> u32 {
        self.one_in
    }

    /// Returns the name of the trace in results: the file name up to the first dot.
    #[must_use]
    pub fn name(path: &Path) -> String {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        file.split('.').next().unwrap_or_default().to_owned()
    }

    fn read(&mut self) -> Result<Option<Request>, String> {
        self.buffer.clear();
        let mut bounded = io::Read::take(&mut self.lines, LINE_MAX_BYTES as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return "truncated file: the compressed data is incomplete".to_owned();
            }
            format!("cannot read the file: {error}")
        })?;
        if read == 0 {
            return Ok(None);
        }
        if read > LINE_MAX_BYTES {
            return Err(format!("line too long; at most {LINE_MAX_BYTES} bytes are accepted"));
        }
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.line == 1 && is_header(line) {
            self.one_in = one_in(line)?;
            self.line += 1;
            return self.read();
        }
        parse(line).map(Some)
    }
}

/// Returns true for a line that names the fields: neither its time nor its size is a number.
fn is_header(line: &[u8]) -> bool {
    let mut fields = line.split(|byte| *byte == b',');
    let is_word = |field: Option<&[u8]>| {
        field.is_some_and(|field| {
            field.trim_ascii().first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        })
    };
    is_word(fields.next()) && is_word(fields.nth(1))
}

/// Returns N if a header has the field `sample=1/N`; else 1.
fn one_in(header: &[u8]) -> Result<u32, String> {
    let field = header.split(|byte| *byte == b',').find_map(|field| field.trim_ascii().strip_prefix(SAMPLE_FIELD));
    let Some(number) = field else { return Ok(1) };
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()).filter(|&number| number > 0);
    number.ok_or_else(|| "invalid sample in the header; expected sample=1/N with N of at least 1".to_owned())
}

impl Iterator for Trace {
    type Item = Result<Request, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        self.line += 1;
        let read = self.read().transpose()?;
        Some(read.map_err(|message| {
            self.failed = true;
            TraceError { path: self.path.clone(), line: Some(self.line), message }
        }))
    }
}

/// Parses one line without its line end.
fn parse(line: &[u8]) -> Result<Request, String> {
    let mut fields = line.split(|&byte| byte == b',');
    let mut field = || fields.next();
    let (Some(at), Some(key), Some(size)) = (field(), field(), field()) else {
        return Err("too few fields; expected timestamp_seconds,key,size[,ttl[,caller]]".to_owned());
    };
    let (ttl, caller) = (field(), field());
    if field().is_some() {
        return Err(
            "too many fields; expected timestamp_seconds,key,size[,ttl[,caller]], and no comma in the key".to_owned()
        );
    }
    if key.is_empty() {
        return Err("empty key".to_owned());
    }
    Ok(Request {
        at_ms: milliseconds("timestamp", at)?,
        key: key.to_vec(),
        size: number("size", size)?,
        ttl_ms: ttl.filter(|ttl| !ttl.is_empty()).map(|ttl| milliseconds("ttl", ttl)).transpose()?.filter(|&ms| ms > 0),
        caller: caller.filter(|caller| !caller.is_empty()).map(<[u8]>::to_vec),
    })
}

fn number(name: &str, field: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(field).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong(name, field, "a whole number of bytes"))
}

fn milliseconds(name: &str, field: &[u8]) -> Result<u64, String> {
    let seconds = std::str::from_utf8(field).ok().and_then(|text| text.parse::<f64>().ok());
    match seconds {
        Some(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok((seconds * 1_000.0).round() as u64),
        Some(_) | None => Err(wrong(name, field, "a number of seconds from 0 to 100 years")),
    }
}

fn wrong(name: &str, field: &[u8], right: &str) -> String {
    let shown = &field[..field.len().min(32)];
    format!("invalid {name} {:?}; expected {right}", String::from_utf8_lossy(shown))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(content).expect("written");
        file
    }

    fn read(content: &[u8]) -> Result<Vec<Request>, String> {
        let file = file(content);
        let shown = file.path().display().to_string();
        let all = Trace::open(file.path()).and_then(Iterator::collect);
        all.map_err(|error: TraceError| error.to_string().replace(&shown, "FILE"))
    }

    #[test]
    fn fields_are_read_and_absent_ones_stay_absent() {
        let requests = read(b"0.5,a,10\r\n1,\xff\x00b,0,0\n2,c,3,1.5,\n3,d,4,,me").expect("well formed");
        let of = |at_ms, key: &[u8], size, ttl_ms, caller: Option<&[u8]>| Request {
            at_ms,
            key: key.to_vec(),
            size,
            ttl_ms,
            caller: caller.map(<[u8]>::to_vec),
        };
        let wanted = [
            of(500, b"a", 10, None, None),
            of(1_000, b"\xff\x00b", 0, None, None),
            of(2_000, b"c", 3, Some(1_500), None),
            of(3_000, b"d", 4, None, Some(b"me")),
        ];
        assert_eq!(requests, wanted);
    }

    #[test]
    fn faults_name_file_and_line() {
        for (content, fault) in [
            (&b"0,a,1\n0,b"[..], "FILE:2: too few fields; expected timestamp_seconds,key,size[,ttl[,caller]]"),
            (b"0,a,1\n\n", "FILE:2: too few fields; expected timestamp_seconds,key,size[,ttl[,caller]]"),
            (b"x,a,1\n", "FILE:1: invalid timestamp \"x\"; expected a number of seconds from 0 to 100 years"),
            (b"-1,a,1\n", "FILE:1: invalid timestamp \"-1\"; expected a number of seconds from 0 to 100 years"),
            (b"NaN,a,1\n", "FILE:1: invalid timestamp \"NaN\"; expected a number of seconds from 0 to 100 years"),
            (b"0,a,1.5\n", "FILE:1: invalid size \"1.5\"; expected a whole number of bytes"),
            (b"0,,1\n", "FILE:1: empty key"),
            (
                b"0,a,1,2,c,d\n",
                "FILE:1: too many fields; expected timestamp_seconds,key,size[,ttl[,caller]], and no comma in the key",
            ),
        ] {
            assert_eq!(read(content), Err(fault.to_owned()));
        }
        assert!(read(&vec![b'a'; LINE_MAX_BYTES * 2]).is_err_and(|fault| fault.contains("line too long")));
    }

    #[test]
    fn zstd_is_told_by_content_and_its_truncation_is_seen() {
        let plain: String = (0..5_000).map(|n| format!("{n},key:{},{}\n", n * 7_919 % 997, n % 512)).collect();
        let packed = zstd::encode_all(plain.as_bytes(), 3).expect("packed");
        assert_eq!(read(&packed), read(plain.as_bytes()));
        let cut = read(&packed[..packed.len() / 2]).expect_err("cut short");
        assert!(cut.starts_with("FILE:") && cut.ends_with("the compressed data is incomplete"), "{cut}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Trace::open(Path::new("/nonexistent/trace.csv")).err().expect("it is missing");
        assert!(error.to_string().starts_with("/nonexistent/trace.csv: No such file"), "{error}");
    }
}
