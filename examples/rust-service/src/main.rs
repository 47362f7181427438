//! Starts the example service: `cargo run -p terrace-example-service -- --help`

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use terrace_client::{Client, NearCache};
use terrace_example_service::{App, Database, Lifetimes, router};
use tokio::net::TcpListener;

/// Serves pages of team members from a slow database, through a Terrace cache.
#[derive(Parser)]
struct Args {
    /// Address of the HTTP port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Nodes of the cache.
    #[arg(long, value_name = "NODES", default_value = "127.0.0.1:7400")]
    cache: String,
    /// Keep copies of pages in this process.
    #[arg(long)]
    near: bool,
    /// File of the SQLite database; in memory by default.
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Simulated duration of each query.
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = humantime::parse_duration)]
    query_delay: Duration,
    /// Time for which a page is fresh.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Time after the TTL in which a page is still returned while it is loaded again.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    stale: Duration,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut cache = Client::builder(args.cache);
    if args.near {
        cache = cache.near_cache(NearCache::new().prefixes(["team:"]));
    }
    // The service starts without the cache, too.
    let cache = cache.connect_lazy()?;
    let database = Database::open(args.database.as_deref(), args.query_delay)?;
    let lifetimes = Lifetimes { ttl: args.ttl, stale: args.stale };
    let listener = TcpListener::bind(args.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router(App { cache, database, lifetimes })).await?;
    Ok(())
}
