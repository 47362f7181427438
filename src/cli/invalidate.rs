//! `terrace invalidate`: invalidates all keys that match a pattern.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Failure, Format, Result, connection::ServerArgs, say};
use crate::{
    grpc::client::InvalidationClient,
    proto::{InvalidatePatternRequest, InvalidatePatternResponse, invalidate_pattern_request::Keys},
};

/// Invalidate all keys that match a pattern, immediately and on every node.
///
/// The invalidation takes effect at once. The command then shows the progress of the removal from L2, which takes at least
/// one second. The removal continues on the server if the command is interrupted.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Redis glob pattern that is matched against whole keys, such as 'user:*' or 'session:[0-9]?'.
    #[arg(value_name = "PATTERN", required_unless_present = "prefix")]
    pattern: Option<String>,
    /// Literal key prefix, instead of a pattern.
    #[arg(long, value_name = "TEXT", conflicts_with = "pattern")]
    prefix: Option<String>,
    /// Count the matching keys and invalidate nothing.
    #[arg(long)]
    dry_run: bool,
    /// Return without waiting for the removal from L2.
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(args: Args) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let last = runtime.block_on(invalidate(&args))?;
    let InvalidatePatternResponse { ban, total, removed, done, .. } = last;
    match (args.format, args.dry_run) {
        (Format::Json, _) => {
            say(json!({ "ban": ban, "keys": total, "removed": removed, "done": done, "dry_run": args.dry_run }));
        }
        (Format::Text, true) => say(format_args!("{removed} of about {total} keys match; nothing was removed")),
        (Format::Text, false) if done => say(format_args!("done: {removed} of about {total} keys removed (ban {ban})")),
        (Format::Text, false) => say(format_args!("in effect (ban {ban}); the removal continues in the background")),
    }
    Ok(())
}

/// Sends the request and returns the last message of the response stream.
async fn invalidate(args: &Args) -> Result<InvalidatePatternResponse> {
    let Args { server, pattern, prefix, .. } = args;
    let channel = server.connect().await?;
    let bytes = |text: &String| text.clone().into_bytes().into();
    let keys =
        prefix.as_ref().map(|text| Keys::Prefix(bytes(text))).or(pattern.as_ref().map(|p| Keys::Pattern(bytes(p))));
    let request = InvalidatePatternRequest { keys, dry_run: args.dry_run, wait: !args.no_wait };
    let refused = |status: tonic::Status| Failure::new(format_args!("{server}: {}", status.message()));
    let mut messages =
        InvalidationClient::new(channel).invalidate_pattern(request).await.map_err(refused)?.into_inner();
    let bar = bar()?;
    let mut last = InvalidatePatternResponse::default();
    while let Some(message) = messages.message().await.map_err(refused)? {
        bar.set_length(message.total);
        bar.set_position(message.scanned);
        bar.set_message(message.removed.to_string());
        last = message;
    }
    bar.finish_and_clear();
    Ok(last)
}

/// Creates the progress bar. indicatif draws it on a terminal only.
fn bar() -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {percent}% {human_pos}/{human_len} keys, {msg} match {eta}");
    Ok(ProgressBar::new(0).with_style(style.map_err(Failure::new)?))
}
