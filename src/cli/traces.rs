//! Sends spans to an OpenTelemetry collector, in batches and beside the work: what it does not take is dropped.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, Tracer},
};

use super::{Failure, Result};

/// Maximum duration of an export of traces to the OpenTelemetry collector.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// The way to the collector; ends with [`Traces::finish`].
pub(super) struct Traces {
    provider: SdkTracerProvider,
    /// Carries the connection.
    runtime: tokio::runtime::Runtime,
}

impl Traces {
    /// To the collector at `endpoint`. It need not be there yet.
    pub(super) fn start(endpoint: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        let inside = runtime.enter();
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_MAX).build();
        let exporter = exporter.map_err(|error| Failure::new(format_args!("trace.otlp: {error}")))?;
        let resource = Resource::builder().with_service_name("terrace").build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        drop(inside);
        Ok(Self { provider, runtime })
    }

    /// Makes spans.
    pub(super) fn tracer(&self) -> Tracer {
        self.provider.tracer("terrace")
    }

    /// Sends what is left.
    pub(super) fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_MAX) {
            tracing::warn!(%error, "the last traces are not sent");
        }
        self.runtime.shutdown_background();
    }
}
