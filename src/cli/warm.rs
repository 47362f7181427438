//! `terrace warm`: loads keys from L2 into the L1 of a running server.

use std::{fs, path::PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use terrace_client::Channel;

use super::{Failure, Format, Result, connection::ServerArgs, say};
use crate::{
    grpc::client::AdminClient,
    persist::hot_keys,
    proto::{WarmRequest, WarmResponse},
};

/// Number of keys per call: the limit of the server.
const CALL_KEYS: usize = 10_000;
/// Approximate size of the keys per call in bytes: half of the usual message limit of clients.
const CALL_BYTES: usize = 2 << 20;

/// Load keys from L2 into the L1 of a running server, from a key list or by pattern.
///
/// The file is a hot key list from a data directory (hot-keys), or text with one key per line, hottest first. The command
/// stops when L1 is full.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Hot key list, or text file with one key per line.
    #[arg(required_unless_present = "pattern", conflicts_with = "pattern")]
    file: Option<PathBuf>,
    /// Redis glob pattern that is matched against whole keys.
    #[arg(long)]
    pattern: Option<String>,
    /// Maximum number of keys per second [default: data.warm_rate of the server].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(args: Args) -> Result {
    let calls = calls(&args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let done = runtime.block_on(warm(&args, calls))?;
    print(&done, args.format);
    if done.failed > 0 {
        let message = format_args!("{} keys could not be loaded: L2 does not respond, or L1 is bypassed", done.failed);
        return Err(Failure::new(message));
    }
    Ok(())
}

/// Returns the calls to send.
fn calls(args: &Args) -> Result<Vec<WarmRequest>> {
    let keys_per_second = args.rate.unwrap_or(0);
    let call = WarmRequest { keys_per_second, ..WarmRequest::default() };
    if let Some(pattern) = &args.pattern {
        return Ok(vec![WarmRequest { pattern: pattern.clone().into(), ..call }]);
    }
    let Some(file) = &args.file else { return Err(Failure::new("missing key list; specify a file or --pattern")) };
    let bytes = fs::read(file).map_err(|error| Failure::new(format_args!("{}: {error}", file.display())))?;
    let keys = keys(bytes).map_err(|why| Failure::new(format_args!("{}: {why}", file.display())))?;
    let mut calls: Vec<WarmRequest> = Vec::new();
    let mut bytes = 0;
    for key in keys {
        if calls.last().is_none_or(|last| last.keys.len() == CALL_KEYS) || bytes + key.len() > CALL_BYTES {
            calls.push(call.clone());
            bytes = 0;
        }
        bytes += key.len();
        if let Some(last) = calls.last_mut() {
            last.keys.push(key.into());
        }
    }
    Ok(calls)
}

fn keys(bytes: Vec<u8>) -> std::result::Result<Vec<Vec<u8>>, String> {
    if hot_keys::is_hot_keys(&bytes) {
        return Ok(hot_keys::decode(&bytes)?.into_iter().map(|hot| hot.key.to_vec()).collect());
    }
    let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Ok(lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

async fn warm(args: &Args, calls: Vec<WarmRequest>) -> Result<WarmResponse> {
    let fault = |why: &dyn std::fmt::Display| Failure::new(format_args!("{}: {why}", args.server));
    let mut client = AdminClient::new(args.server.connect().await?);
    let bar = bar(args.file.is_some().then(|| calls.iter().map(|call| call.keys.len() as u64).sum()));
    let mut total = WarmResponse::default();
    for call in calls {
        let done = follow(&mut client, call, &total, &bar).await.map_err(|status| fault(&status.message()))?;
        total = sum(&total, &done);
        if total.full {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(total)
}

/// Follows one call to its end. The progress bar adds the keys of earlier calls.
async fn follow(
    client: &mut AdminClient<Channel>,
    call: WarmRequest,
    before: &WarmResponse,
    bar: &ProgressBar,
) -> std::result::Result<WarmResponse, tonic::Status> {
    let mut progress = client.warm(call).await?.into_inner();
    let mut last = WarmResponse::default();
    while let Some(message) = progress.message().await? {
        last = message;
        bar.set_position(before.done + last.done);
    }
    Ok(last)
}

fn sum(before: &WarmResponse, done: &WarmResponse) -> WarmResponse {
    WarmResponse {
        done: before.done + done.done,
        found: before.found + done.found,
        absent: before.absent + done.absent,
        resident: before.resident + done.resident,
        failed: before.failed + done.failed,
        full: done.full,
    }
}

/// Creates the progress bar, or a counter if the number of keys is unknown.
fn bar(keys: Option<u64>) -> ProgressBar {
    let (bar, template) = match keys {
        Some(keys) => (ProgressBar::new(keys), "{bar:40} {percent}% {human_pos}/{human_len} {per_sec} {eta}"),
        None => (ProgressBar::no_length(), "{spinner} {human_pos} keys {per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn print(done: &WarmResponse, format: Format) {
    let WarmResponse { done: keys, found, absent, resident, failed, full } = *done;
    match format {
        Format::Json => say(json!({
            "keys": keys, "found": found, "absent": absent, "resident": resident, "failed": failed, "full": full,
        })),
        Format::Text => {
            let full = if full { "; L1 is full, the remaining keys were not loaded" } else { "" };
            say(format_args!(
                "{keys} keys: {found} loaded, {resident} already in L1, {absent} not in L2, {failed} failed{full}"
            ));
        }
    }
}
