//! Logging: text or JSON lines on stderr, a reloadable level, and limits for repeated messages.

mod limit;

use std::io::IsTerminal;

#[cfg(feature = "otel")]
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use self::limit::Limited;
#[cfg(feature = "otel")]
use super::traces::Traces;
use super::{Failure, Result};
use crate::config::{Config, LogFormat};

/// Handle that changes the log level at run time.
#[derive(Debug, Clone)]
pub(super) struct Level(reload::Handle<EnvFilter, Registry>);

/// Logging of this process, and its trace exporter.
pub(super) struct Log {
    pub(super) level: Level,
    #[cfg(feature = "otel")]
    traces: Option<Traces>,
}

/// Starts logging for this process.
pub(super) fn start(config: &Config) -> Result<Log> {
    let (filter, handle) = reload::Layer::new(directives(&config.server.log).map_err(Failure::new)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match config.server.log_format {
        LogFormat::Text => lines.event_format(Limited::text()).boxed(),
        LogFormat::Json => {
            let format = fmt::format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.fmt_fields(fmt::format::JsonFields::new()).event_format(Limited::json(format)).boxed()
        }
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otel")]
    let traces = config.trace.otlp.as_deref().map(Traces::start).transpose()?;
    #[cfg(feature = "otel")]
    let registry = registry.with(traces.as_ref().map(|traces| {
        let only = filter_fn(|of| of.target() == "terrace::trace");
        tracing_opentelemetry::layer().with_tracer(traces.tracer()).with_filter(only)
    }));
    registry.try_init().map_err(Failure::new)?;
    Ok(Log {
        level: Level(handle),
        #[cfg(feature = "otel")]
        traces,
    })
}

impl Log {
    /// Flushes the remaining traces at the end of the process.
    pub(super) fn finish(self) {
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces {
            traces.finish();
        }
    }
}

impl Level {
    /// Replaces the log filter. The configuration loader has already validated `filter`.
    pub(super) fn set(&self, filter: &str) {
        let changed = directives(filter).map(|filter| self.0.reload(filter));
        if !matches!(changed, Ok(Ok(()))) {
            tracing::error!(filter, "cannot change the log filter; keeping the current one");
        }
    }
}

/// Returns the log filter for `filter`. The crates of the embedded store log every file that they open, so only their
/// warnings are logged unless `filter` names them. Trace spans are never logged.
fn directives(filter: &str) -> std::result::Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("fjall=warn,lsm_tree=warn,terrace::trace=off,{filter}"))
}
