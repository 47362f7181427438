//! The log: lines on stderr as text or JSON, with a level that a reload changes; repeated messages are limited.

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

/// Changes the level of the log.
#[derive(Debug, Clone)]
pub(super) struct Level(reload::Handle<EnvFilter, Registry>);

/// The log of this process, and its traces.
pub(super) struct Log {
    pub(super) level: Level,
    #[cfg(feature = "otel")]
    traces: Option<Traces>,
}

/// Starts the log of this process.
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
    /// Nothing more is to come: sends the last traces.
    pub(super) fn finish(self) {
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces {
            traces.finish();
        }
    }
}

impl Level {
    /// Takes another level or other directives, which were checked when the configuration was read.
    pub(super) fn set(&self, filter: &str) {
        let changed = directives(filter).map(|filter| self.0.reload(filter));
        if !matches!(changed, Ok(Ok(()))) {
            tracing::error!(filter, "the level of the log stays as it was");
        }
    }
}

/// What `filter` asks for. The embedded store's crates tell of each file they open, which says nothing to an operator:
/// of them only warnings, unless `filter` names them. Spans of traces are no part of the lines.
fn directives(filter: &str) -> std::result::Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("fjall=warn,lsm_tree=warn,terrace::trace=off,{filter}"))
}
