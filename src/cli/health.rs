//! `terrace health`: checks the health of a running server, for probes.

use std::time::Duration;

use serde_json::json;
use terrace_client::{Channel, Tls};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    Failure, Format, Result,
    connection::{self, ServerArgs},
    say,
};
use crate::{
    config::{self, Sources},
    socket::Protocol,
};

/// Check the health of a running server: exit code 0 if healthy, 1 if not.
///
/// Without --ready, a server that responds is healthy. With --ready, the server also has to accept requests, which it does
/// from the first contact with L2 until the drain.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    /// Fail while the server does not accept requests.
    #[arg(long)]
    ready: bool,
    /// Maximum time to wait for a response.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Health as reported by the server.
struct Health {
    ready: bool,
    l2: bool,
}

pub(super) fn run(args: Args) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let response = async { tokio::time::timeout(args.timeout, ask(&args.server)).await };
    let within = humantime::format_duration(args.timeout);
    let health = runtime
        .block_on(response)
        .unwrap_or_else(|_| Err(Failure::new(format_args!("{} did not respond within {within}", args.server))))?;
    print(&args, &health);
    if args.ready && !health.ready {
        return Err(Failure::new(format_args!("{} responds but is not ready", args.server)));
    }
    Ok(())
}

fn print(args: &Args, health: &Health) {
    let Health { ready, l2 } = *health;
    match args.format {
        Format::Json => say(json!({ "server": args.server.address, "ready": ready, "l2": l2 })),
        Format::Text => {
            let ready = if ready { "ready" } else { "not ready" };
            let l2 = if l2 { "up" } else { "down" };
            say(format_args!("{}: {ready}, L2 {l2}", args.server));
        }
    }
}

/// Connects as the configuration of this machine requires, if the server is local and no flag specifies otherwise: the
/// command then works as a probe without flags, inside the server's container.
async fn connect(server: &ServerArgs) -> Result<Channel> {
    let mut client = server.client();
    if server.tls_ca.is_none()
        && connection::is_local(&server.address)
        && !server.address.starts_with("unix:")
        && let Some(certificate) = own_certificate()
    {
        client = client.tls(certificate);
    }
    connection::connect(client).await
}

/// Returns the certificate of the gRPC port in the configuration of this machine, if the port has TLS and the file can
/// be read.
fn own_certificate() -> Option<Tls> {
    let sources =
        Sources { default_file: config::default_file(), environment: config::environment(), ..Sources::default() };
    let config = config::load(&sources).ok()?.config;
    let certificate = config.tls_of(Protocol::Grpc).ok()??.certificate.path;
    std::fs::File::open(&certificate).is_ok().then(|| Tls::pinned(certificate))
}

async fn ask(args: &ServerArgs) -> Result<Health> {
    let (channel, server) = (connect(args).await?, &*args.address);
    let mut client = HealthClient::new(channel);
    let ready = serving(&mut client, "", server).await?;
    let l2 = serving(&mut client, "terrace.l2", server).await?;
    Ok(Health { ready, l2 })
}

async fn serving(client: &mut HealthClient<Channel>, service: &str, server: &str) -> Result<bool> {
    match client.check(HealthCheckRequest { service: service.into() }).await {
        Ok(response) => Ok(response.into_inner().status() == ServingStatus::Serving),
        // A server without L2 does not have to know the service.
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(Failure::new(format_args!("{server} health check failed: {}", status.message()))),
    }
}
