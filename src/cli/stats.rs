//! `terrace stats`: statistics of a running server: windows, key groups, top keys, estimates for other L1 sizes, TTL
//! advice.

use std::time::Duration;

use terrace_client::Channel;

use super::{Failure, Format, Result, clear_screen, connection::ServerArgs, say};
use crate::{
    grpc::client::InsightClient,
    proto::{
        GetAssociationsRequest, GetAssociationsResponse, GetStatsRequest, GetStatsResponse, GetTtlAdviceRequest,
        SimulateCapacityRequest, SimulateCapacityResponse, TopBy, TopKeysRequest, TopKeysResponse,
    },
};

mod columns;
mod fields;
pub(super) mod loads;
pub(super) use fields::text_of;
pub(super) mod tables;

/// Default interval of --watch.
const WATCH: &str = "2s";

/// Print statistics of a running server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Print the TTL advice for each key template, with the evidence, instead of the statistics.
    #[arg(long)]
    ttl: bool,
    /// Time window of the key group table.
    #[arg(long, value_name = "WINDOW", default_value = "1m", value_parser = ["1m", "5m", "1h", "start"])]
    window: String,
    /// Maximum number of keys or groups in each ranking.
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    top: u32,
    /// Refresh periodically until interrupted.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = WATCH, value_parser = interval)]
    watch: Option<Duration>,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Print JSON; short for --format json.
    #[arg(long)]
    json: bool,
}

/// All responses that are printed.
pub(super) struct Seen {
    pub(super) stats: GetStatsResponse,
    pub(super) capacity: SimulateCapacityResponse,
    pub(super) prefetch: GetAssociationsResponse,
    /// Rankings by reads, bytes, misses and L2 time.
    pub(super) top: Vec<(TopBy, TopKeysResponse)>,
}

/// All rankings, in display order.
pub(super) const RANKINGS: [TopBy; 4] = [TopBy::Reads, TopBy::Bytes, TopBy::Misses, TopBy::L2Time];

pub(super) fn run(args: Args) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(show(&args))
}

async fn show(args: &Args) -> Result {
    let mut client = connect(&args.server).await?;
    loop {
        let text = match args.ttl {
            true => ttl(&mut client, args).await?,
            false => all(&mut client, args).await?,
        };
        let Some(interval) = args.watch else {
            say(text);
            return Ok(());
        };
        // Clear the screen for text; programs need consecutive JSON objects.
        if !is_json(args) {
            clear_screen();
        }
        say(text);
        tokio::time::sleep(interval).await;
    }
}

/// Connects to the server.
pub(super) async fn connect(server: &ServerArgs) -> Result<InsightClient<Channel>> {
    Ok(InsightClient::new(server.connect().await?))
}

fn is_json(args: &Args) -> bool {
    args.json || args.format == Format::Json
}

async fn ttl(client: &mut InsightClient<Channel>, args: &Args) -> Result<String> {
    let response = client.get_ttl_advice(GetTtlAdviceRequest::default()).await.map_err(refused)?;
    let advice = response.into_inner();
    Ok(if is_json(args) { fields::ttl(&advice).to_string() } else { tables::ttl(&advice, args.top) })
}

async fn all(client: &mut InsightClient<Channel>, args: &Args) -> Result<String> {
    let seen = look(client, args.top).await?;
    Ok(if is_json(args) {
        fields::all(&seen).to_string()
    } else {
        tables::all(&args.server.address, &seen, &args.window, args.top)
    })
}

async fn look(client: &mut InsightClient<Channel>, count: u32) -> Result<Seen> {
    let stats = client.get_stats(GetStatsRequest {}).await.map_err(refused)?.into_inner();
    let capacity = client.simulate_capacity(SimulateCapacityRequest {}).await.map_err(refused)?.into_inner();
    let prefetch = client.get_associations(GetAssociationsRequest::default()).await.map_err(refused)?.into_inner();
    let mut top = Vec::new();
    for by in RANKINGS {
        let response = client.top_keys(TopKeysRequest { by: by.into(), count }).await.map_err(refused)?;
        top.push((by, response.into_inner()));
    }
    Ok(Seen { stats, capacity, prefetch, top })
}

/// Returns the failure of a call.
#[expect(clippy::needless_pass_by_value, reason = "signature of map_err")]
pub(super) fn refused(status: tonic::Status) -> Failure {
    Failure::new(format_args!("the call failed: {}", status.message()))
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    super::duration_in(Duration::from_millis(100).., "at least 100ms, such as 2s", text)
}
