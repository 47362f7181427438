//! Exports spans to an OpenTelemetry collector in batches, in the background. Spans that the collector does not accept
//! are dropped.

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

/// Connection to the collector; closed by [`Traces::finish`].
pub(super) struct Traces {
    provider: SdkTracerProvider,
    /// Runtime of the connection.
    runtime: tokio::runtime::Runtime,
}

impl Traces {
    /// Starts the export to the collector at `endpoint`, which does not have to be reachable yet.
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

    /// Returns the tracer that creates spans.
    pub(super) fn tracer(&self) -> Tracer {
        self.provider.tracer("terrace")
    }

    /// Sends the remaining spans.
    pub(super) fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_MAX) {
            tracing::warn!(%error, "cannot send the remaining traces");
        }
        self.runtime.shutdown_background();
    }
}
