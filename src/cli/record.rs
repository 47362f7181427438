//! `terrace record`: writes a trace of the reads of a running server, for `terrace simulate` and `terrace replay`.
//!
//! The server selects the keys by hash and sends each read of them ([`Admin.RecordReads`]). A read of a key that no tier
//! has is left out where the server has an L2: no size of L1 could have answered it. Where L1 is the only store, such a
//! read waits for the write that usually follows, because a larger L1 could have kept the value.
//!
//! [`Admin.RecordReads`]: crate::proto

use std::{
    collections::{HashMap, HashSet},
    fs::OpenOptions,
    hash::{BuildHasher, RandomState},
    io::{self, BufWriter, Write},
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};

use super::{Failure, Format, Result, connection::ServerArgs, printable, trace::header};
use crate::{
    grpc::client::AdminClient,
    proto::{RecordReadsRequest, RecordedOutcome, RecordedRead},
};

/// Maximum number of keys whose absent reads wait for a write.
const ABSENT_KEYS_MAX: usize = 65_536;
/// Maximum number of distinct keys that are counted.
const COUNTED_KEYS_MAX: usize = 1_000_000;
/// Number of distinct keys below which the sample is too small for a simulation.
const KEYS_FEW: usize = 1_000;
/// Maximum value of `terrace record --for`.
const DURATION_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Maximum value of N in `terrace record --sample 1/N`.
const ONE_IN_MAX: u32 = 1 << 16;
/// Compression level of zstd.
const LEVEL: i32 = 3;

/// Record the reads of a running server as a trace, for terrace simulate.
///
/// Reads of both ports are recorded, for a sample of the keys. Ends after --for, at --max-size, or at SIGINT or SIGTERM.
/// Keys are replaced by hashes unless --plain-keys is set.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Trace file to create, with mode 600; zstd-compressed if the name ends with .zst. - writes to stdout.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    /// Duration of the recording, up to 7 days.
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = duration)]
    time: Duration,
    /// Share of the keys to record; all reads of a selected key are recorded.
    ///
    /// The header of the trace contains the share, and terrace simulate divides capacities by N. With 1/1 all keys are
    /// recorded, which simulate --prefetch requires.
    #[arg(long, value_name = "1/N", default_value = "1/8", value_parser = one_in)]
    sample: u32,
    /// Write keys as they are, for terrace replay, --ttl tune and --prefetch; the file then contains what keys contain.
    ///
    /// A comma, percent sign or line end in a key is written as % and two hexadecimal digits.
    #[arg(long)]
    plain_keys: bool,
    /// Size of the trace, before compression, at which the recording ends.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    max_size: bytesize::ByteSize,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// Output format of the counts, which are printed to stderr.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(args: Args) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let (counts, ended) = runtime.block_on(record(&args))?;
    print(&args, &counts);
    ended
}

/// Counts of a recording.
#[derive(Debug, Default)]
struct Counts {
    /// Reads written to the trace.
    reads: u64,
    /// Reads of keys that no tier had, which the trace does not contain.
    absent: u64,
    /// Reads that the server could not send in time.
    lost: u64,
    /// Size of the trace before compression in bytes.
    bytes: u64,
    keys: HashSet<u64>,
    seconds: f64,
}

/// Records until the end. The second result is a failure if the server ended the recording.
async fn record(args: &Args) -> Result<(Counts, Result)> {
    let mut client = AdminClient::new(args.server.connect().await?);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
    let request = RecordReadsRequest { one_in: args.sample, plain_keys: args.plain_keys };
    let mut reads = client.record_reads(request).await.map_err(|status| refused(args, &status))?.into_inner();
    // A call that the server refuses fails with its first message, and must not leave a file.
    let mut next = reads.message().await.map_err(|status| refused(args, &status))?;
    let begun = Instant::now();
    let mut trace = TraceWriter::create(args)?;
    let mut ended = Ok(());
    while let Some(message) = next.take() {
        for read in &message.reads {
            trace.add(read)?;
        }
        trace.counts.lost = message.lost;
        trace.flush()?;
        if trace.counts.bytes >= args.max_size.as_u64() {
            break;
        }
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = sleep_until(begun + args.time) => break,
            message = reads.message() => match message {
                Ok(message) => next = message,
                Err(status) => ended = Err(refused(args, &status)),
            },
        }
    }
    let mut counts = trace.finish()?;
    counts.seconds = begun.elapsed().as_secs_f64();
    Ok((counts, ended))
}

fn refused(args: &Args, status: &tonic::Status) -> Failure {
    Failure::new(format_args!("{}: {}", args.server, status.message()))
}

/// Reads of one key that wait for a write.
#[derive(Debug, Default)]
struct Awaited {
    reads: u64,
    caller: u64,
}

/// Writes the lines of a trace.
struct TraceWriter {
    path: PathBuf,
    lines: Lines,
    absent: HashMap<Bytes, Awaited>,
    counts: Counts,
    line: Vec<u8>,
    /// Hashes keys, to count distinct keys.
    hasher: RandomState,
}

enum Lines {
    Plain(Box<dyn Write>),
    Zstd(zstd::Encoder<'static, Box<dyn Write>>),
}

impl TraceWriter {
    fn create(args: &Args) -> Result<Self> {
        let path = args.output.clone();
        let fault = |error: io::Error| Failure::new(format_args!("{}: {error}", path.display()));
        let to: Box<dyn Write> = match path.as_os_str() == "-" {
            true => Box::new(io::stdout()),
            false => Box::new(create(&path, args.force)?),
        };
        let to: Box<dyn Write> = Box::new(BufWriter::new(to));
        let lines = match path.extension().is_some_and(|extension| extension == "zst") {
            true => Lines::Zstd(zstd::Encoder::new(to, LEVEL).map_err(fault)?),
            false => Lines::Plain(to),
        };
        let (absent, counts, line) = (HashMap::new(), Counts::default(), header(args.sample).into());
        let mut trace = Self { path, lines, absent, counts, line, hasher: RandomState::new() };
        trace.write_line()?;
        Ok(trace)
    }

    fn add(&mut self, read: &RecordedRead) -> Result {
        match read.outcome() {
            RecordedOutcome::Found => self.write(read, read.caller),
            RecordedOutcome::Absent => {
                self.counts.absent += 1;
                let has_room = self.absent.len() < ABSENT_KEYS_MAX;
                if has_room || self.absent.contains_key(&read.key) {
                    let awaited = self.absent.entry(read.key.clone()).or_default();
                    *awaited = Awaited { reads: awaited.reads + 1, caller: read.caller };
                }
                Ok(())
            }
            RecordedOutcome::Written => {
                // Without an L2, the value that a reader missed is known when it is written.
                let Some(awaited) = self.absent.remove(&read.key) else { return Ok(()) };
                self.counts.absent -= awaited.reads;
                (0..awaited.reads).try_for_each(|_| self.write(read, awaited.caller))
            }
            RecordedOutcome::Unspecified => Ok(()),
        }
    }

    fn write(&mut self, read: &RecordedRead, caller: u64) -> Result {
        self.line.clear();
        let (seconds, ms) = (read.at_ms.max(0) / 1000, read.at_ms.max(0) % 1000);
        self.line.extend_from_slice(format!("{seconds}.{ms:03},").as_bytes());
        escape(&read.key, &mut self.line);
        self.line.extend_from_slice(format!(",{},", read.size_bytes).as_bytes());
        // A TTL of 0 would mean none.
        if let Some(ttl_ms) = read.ttl_ms.map(|ttl_ms| ttl_ms.clamp(1, TTL_MAX_MS)) {
            self.line.extend_from_slice(format!("{}.{:03}", ttl_ms / 1000, ttl_ms % 1000).as_bytes());
        }
        if caller != 0 {
            self.line.extend_from_slice(format!(",{caller}").as_bytes());
        }
        self.counts.reads += 1;
        if self.counts.keys.len() < COUNTED_KEYS_MAX {
            self.counts.keys.insert(self.hasher.hash_one(&read.key));
        }
        self.write_line()
    }

    fn write_line(&mut self) -> Result {
        self.line.push(b'\n');
        self.counts.bytes += self.line.len() as u64;
        let written = match &mut self.lines {
            Lines::Plain(to) => to.write_all(&self.line),
            Lines::Zstd(to) => to.write_all(&self.line),
        };
        written.map_err(|error| self.fault(&error))
    }

    /// Makes the lines so far visible to readers of the file. A compressed trace is complete only at its end.
    fn flush(&mut self) -> Result {
        match &mut self.lines {
            Lines::Plain(to) => to.flush().map_err(|error| self.fault(&error)),
            Lines::Zstd(_) => Ok(()),
        }
    }

    fn fault(&self, error: &io::Error) -> Failure {
        let reads = self.counts.reads;
        Failure::new(format_args!("{}: {error}; the trace is incomplete after {reads} reads", self.path.display()))
    }

    fn finish(self) -> Result<Counts> {
        let Self { path, lines, counts, .. } = self;
        let flushed = match lines {
            Lines::Plain(mut to) => to.flush(),
            Lines::Zstd(to) => to.finish().and_then(|mut to| to.flush()),
        };
        flushed.map_err(|error| Failure::new(format_args!("{}: {error}", path.display())))?;
        Ok(counts)
    }
}

/// Longest TTL in a trace: 100 years of 365 days.
const TTL_MAX_MS: i64 = 100 * 365 * 86_400_000;

fn create(path: &Path, force: bool) -> Result<std::fs::File> {
    let fault = |error: &dyn std::fmt::Display| Failure::new(format_args!("{}: {error}", path.display()));
    if force {
        // A new file has the right mode and owner; an existing one may be open or readable for others.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(&error)),
            Ok(()) | Err(_) => {}
        }
    }
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    created.map_err(|error| {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        if exists { fault(&"the file exists; use --force to replace it") } else { fault(&error) }
    })
}

/// Appends a key; replaces bytes that separate fields and lines.
fn escape(key: &[u8], line: &mut Vec<u8>) {
    for &byte in key {
        match byte {
            b',' | b'%' | b'\n' | b'\r' => line.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            other => line.push(other),
        }
    }
}

fn print(args: &Args, counts: &Counts) {
    let Counts { reads, absent, lost, bytes, keys, seconds } = counts;
    let (keys, one_in, output) = (keys.len(), args.sample, args.output.display().to_string());
    match args.format {
        Format::Json => eprintln!(
            "{}",
            json!({
                "output": output, "one_in": one_in, "seconds": seconds, "reads": reads, "keys": keys,
                "absent": absent, "lost": lost, "bytes": bytes,
            })
        ),
        Format::Text => {
            let more = if keys == COUNTED_KEYS_MAX { "at least " } else { "" };
            eprintln!(
                "{}: {reads} reads of {more}{keys} keys in {seconds:.1} s, a sample of 1/{one_in} of the keys; {absent} reads \
                 of absent keys were left out, {lost} reads were lost",
                printable(&output)
            );
            if *lost > 0 {
                eprintln!("warning: lost reads make the simulated hit rate too low; use a smaller sample");
            }
            if keys < KEYS_FEW && one_in > 1 {
                eprintln!(
                    "warning: {keys} keys are too few for a simulation; use a larger sample or record for longer"
                );
            }
        }
    }
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let range = (Bound::Excluded(Duration::ZERO), Bound::Included(DURATION_MAX));
    super::duration_in(range, "more than 0 and at most 7days, such as 10m", text)
}

/// Parses `1/N` and returns N.
pub(super) fn one_in(text: &str) -> std::result::Result<u32, String> {
    let number = text.strip_prefix("1/").and_then(|number| number.parse().ok());
    number
        .filter(|number| (1..=ONE_IN_MAX).contains(number))
        .ok_or_else(|| format!("invalid sample {text:?}; expected 1/1 to 1/{ONE_IN_MAX}, such as 1/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_one_in_a_number() {
        assert_eq!((one_in("1/1"), one_in("1/65536")), (Ok(1), Ok(65_536)));
        for text in ["", "1", "0.1", "1/0", "1/65537", "2/3", "1/-1", "1/8 "] {
            assert!(one_in(text).is_err_and(|error| error.contains("such as 1/8")), "{text}");
        }
    }

    #[test]
    fn separators_in_keys_are_escaped() {
        let mut line = Vec::new();
        escape(b"a,b%c\r\nd\xff", &mut line);
        assert_eq!(line, b"a%2Cb%25c%0D%0Ad\xff");
    }
}
