//! `terrace replay`: replays a trace against a running server over gRPC: get, and after a miss set a value of the
//! recorded size.
//!
//! The trace is read twice: first to validate and count it, so that a damaged trace sends no request; then to replay
//! it. Requests are distributed over [`lane`]s, each with at most one request in flight. All requests of a caller use
//! the same lane, so they stay on one connection and in order; requests without a caller are distributed round-robin.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use terrace_client::Channel;

use super::{
    Failure, Format, Result,
    connection::{self, ServerArgs},
    trace::{Request, Trace},
};
use crate::{clock::stopwatch_ns, grpc::client::AdminClient, proto::GetConfigRequest};
use lane::{Lane, Limits, Tally};

mod lane;
mod report;

/// Deadline of each call: longer than the server's, so that the report has the reason of the server.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of connections for a trace with callers. A trace without callers uses one connection, to keep its order.
const CONNECTIONS_WITH_CALLERS: usize = 8;
/// Queue length of each lane, in requests: enough to keep the lane busy while others are filled.
const LANE_QUEUE: usize = 64;
/// Maximum value of `terrace replay --connections`.
const CONNECTIONS_MAX: u64 = 1_000;
/// Maximum number of requests in flight on each connection of `terrace replay`.
const IN_FLIGHT_MAX: u64 = 256;
/// Maximum value size that `terrace replay` writes if the server does not report its limit.
const VALUE_MAX_BYTES: u64 = 8 << 20;

/// Replay a trace against a running server: get each key, and set a value of the recorded size after a miss.
///
/// Prints at the end: trace, requests (Gets sent), errors (failed calls), skipped (requests above a limit of the server),
/// seconds, per_second, mean_us, p50_us, p99_us, p999_us (latencies of Gets), hit_l1, hit_l2, miss, and bytes (size of all
/// values read and set).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Trace file with lines timestamp_seconds,key,size[,ttl[,caller]], plain or zstd-compressed.
    #[arg(value_name = "FILE")]
    trace: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    /// Replay speed: max, or a multiple of the recorded speed (1 = real time).
    #[arg(long, value_name = "max|FACTOR", default_value = "max", value_parser = speed)]
    speed: Speed,
    /// Number of connections; all requests of a caller use one connection. [default: 8 for a trace with callers, otherwise 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=CONNECTIONS_MAX))]
    connections: Option<u64>,
    /// Maximum requests in flight on each connection. A caller has at most one request in flight.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=IN_FLIGHT_MAX))]
    in_flight: u64,
    /// TTL of written values.
    #[arg(long, value_enum, default_value = "ignore")]
    ttl: Ttl,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Source of the TTLs of written values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Ttl {
    /// Write without a TTL; the policies of the server apply.
    Ignore,
    /// Write with the TTL recorded in the trace line, if any.
    Recorded,
}

/// Replay speed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    Max,
    Times(f64),
}

/// Summary of a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Census {
    requests: u64,
    callers: bool,
    first_ms: u64,
}

pub(super) fn run(args: Args) -> Result {
    let census = census(&args.trace)?;
    let connections = args.connections.unwrap_or(if census.callers { CONNECTIONS_WITH_CALLERS as u64 } else { 1 });
    let runtime = runtime(connections).map_err(Failure::new)?;
    let (tally, seconds) = runtime.block_on(play(&args, census, connections))?;
    report::print(&Trace::name(&args.trace), &tally, seconds, args.format);
    match &tally.first_error {
        None => Ok(()),
        Some(error) => Err(Failure::new(format_args!("{} calls failed; first error: {error}", tally.errors))),
    }
}

/// Creates the runtime. With one connection a current-thread runtime is fastest.
fn runtime(connections: u64) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match connections {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}

/// Reads the whole trace, so that a fault is found before the first request is sent.
fn census(path: &Path) -> Result<Census> {
    let mut census = Census::default();
    for request in Trace::open(path).map_err(Failure::new)? {
        let request = request.map_err(Failure::new)?;
        if census.requests == 0 {
            census.first_ms = request.at_ms;
        }
        census.requests += 1;
        census.callers |= request.caller.is_some();
    }
    Ok(census)
}

/// Replays the trace and returns the results and the duration in seconds.
async fn play(args: &Args, census: Census, connections: u64) -> Result<(Tally, f64)> {
    let lanes = lanes(args, connections).await?;
    let progress = progress(census.requests);
    let mut senders = Vec::new();
    let mut players = Vec::new();
    for lane in lanes {
        let (sender, requests) = mpsc::channel(LANE_QUEUE);
        senders.push(sender);
        players.push(tokio::spawn(lane.play(requests, progress.clone())));
    }
    let begun_ns = stopwatch_ns();
    deal(args, census, senders).await?;
    let mut tally = Tally::default();
    for player in players {
        tally.add(&player.await.map_err(Failure::new)?);
    }
    let seconds = Duration::from_nanos(stopwatch_ns() - begun_ns).as_secs_f64();
    progress.finish_and_clear();
    Ok((tally, seconds))
}

/// Opens the connections and creates `in_flight` lanes on each.
async fn lanes(args: &Args, connections: u64) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for _ in 0..connections {
        let limits = match lanes.first() {
            Some(Lane { limits, .. }) => *limits,
            None => {
                let channel = args.server.connect().await?;
                Limits { value_max: value_max(AdminClient::new(channel)).await?, ttl: args.ttl }
            }
        };
        let client = args.server.client().read_timeout(CALL_TIMEOUT).write_timeout(CALL_TIMEOUT).connect().await;
        let client = client.map_err(|error| connection::failure(&error))?;
        lanes.extend((0..args.in_flight).map(|_| Lane::new(client.clone(), limits)));
    }
    Ok(lanes)
}

/// Reads `server.max_value` from the server.
async fn value_max(mut admin: AdminClient<Channel>) -> Result<u64> {
    let response = admin.get_config(GetConfigRequest {}).await;
    let config = response.map_err(|status| Failure::new(format_args!("GetConfig failed: {status}")))?.into_inner();
    let entry = config.entries.iter().find(|entry| entry.key == "server.max_value");
    // The value has the syntax of the configuration file: a quoted size or a number of bytes.
    let size = entry.and_then(|entry| entry.value.trim_matches('"').parse::<bytesize::ByteSize>().ok());
    Ok(size.map_or(VALUE_MAX_BYTES, |size| size.as_u64()))
}

/// Sends each request to its lane at its replay time.
async fn deal(args: &Args, census: Census, lanes: Vec<mpsc::Sender<Request>>) -> Result {
    let begun = tokio::time::Instant::now();
    let mut next = 0;
    for request in Trace::open(&args.trace).map_err(Failure::new)? {
        let request = request.map_err(Failure::new)?;
        if let Speed::Times(factor) = args.speed {
            let at = Duration::from_millis(request.at_ms.saturating_sub(census.first_ms)).div_f64(factor);
            tokio::time::sleep_until(begun + at).await;
        }
        let lane = match &request.caller {
            Some(caller) => lane_of(caller, lanes.len()),
            None => next,
        };
        next = (next + 1) % lanes.len();
        // A lane ends only when its queue is closed.
        lanes[lane].send(request).await.map_err(|_| Failure::new("a replay connection ended unexpectedly"))?;
    }
    Ok(())
}

/// Returns the lane of a caller, which is always the same.
fn lane_of(caller: &[u8], lanes: usize) -> usize {
    let hash = lane::caller_hash(caller, 0);
    usize::try_from(hash % lanes as u64).unwrap_or(0)
}

/// Creates the progress bar, drawn on stderr if it is a terminal.
fn progress(requests: u64) -> ProgressBar {
    let bar = ProgressBar::new(requests);
    match ProgressStyle::with_template("{bar:40} {percent}% {human_pos}/{human_len} {per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn speed(text: &str) -> std::result::Result<Speed, String> {
    match (text, text.parse::<f64>()) {
        ("max", _) => Ok(Speed::Max),
        (_, Ok(factor)) if (1e-6..=1e6).contains(&factor) => Ok(Speed::Times(factor)),
        (_, Ok(_) | Err(_)) => Err(format!("invalid speed {text:?}; expected max or a factor such as 1 or 0.5")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_max_or_a_factor() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("1"), Ok(Speed::Times(1.0)));
        for text in ["0", "-1", "fast", "NaN", "inf", ""] {
            assert!(speed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_caller_keeps_its_lane_and_callers_spread() {
        let lanes: Vec<usize> = (0..100).map(|n| lane_of(format!("caller-{n}").as_bytes(), 8)).collect();
        assert_eq!(lanes, (0..100).map(|n| lane_of(format!("caller-{n}").as_bytes(), 8)).collect::<Vec<_>>());
        for lane in 0..8 {
            assert!(lanes.contains(&lane), "nobody has lane {lane}");
        }
    }
}
