//! Logging: text or JSON lines on stderr, a reloadable level, and limits for repeated messages.

mod authority;
mod limit;

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

#[cfg(feature = "otel")]
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, ParseError},
    fmt,
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use self::limit::Limited;
#[cfg(feature = "otel")]
use super::traces::Traces;
use super::{Failure, Result};
use crate::config::{Config, LogFormat};

/// Handle that changes the log level at run time.
#[derive(Debug, Clone)]
pub(super) struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    /// True while the filter enables events below the level INFO. The level of the process does not tell: layers that
    /// write no lines raise it as well.
    detailed: Arc<AtomicBool>,
}

/// Logging of this process, and its trace exporter.
pub(super) struct Log {
    pub(super) level: Level,
    #[cfg(feature = "otel")]
    traces: Option<Traces>,
}

/// Starts logging for this process.
pub(super) fn start(config: &Config) -> Result<Log> {
    let filter = directives(&config.server.log).map_err(Failure::new)?;
    let detailed = Arc::new(AtomicBool::new(is_detailed(&filter)));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match config.server.log_format {
        LogFormat::Text => lines.event_format(Limited::text(Arc::clone(&detailed))).boxed(),
        LogFormat::Json => {
            let format = fmt::format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines
                .fmt_fields(fmt::format::JsonFields::new())
                .event_format(Limited::json(format, Arc::clone(&detailed)))
                .boxed()
        }
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter)).with(authority::layer());
    #[cfg(feature = "otel")]
    let traces = config.trace.otlp.as_deref().map(Traces::start).transpose()?;
    #[cfg(feature = "otel")]
    let registry = registry.with(traces.as_ref().map(|traces| {
        let only = filter_fn(|of| of.target() == "terrace::trace");
        tracing_opentelemetry::layer().with_tracer(traces.tracer()).with_filter(only)
    }));
    registry.try_init().map_err(Failure::new)?;
    Ok(Log {
        level: Level { filter: handle, detailed },
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
        let changed = directives(filter).map(|filter| {
            let detailed = is_detailed(&filter);
            self.filter.reload(filter).map(|()| self.detailed.store(detailed, Relaxed))
        });
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

fn is_detailed(filter: &EnvFilter) -> bool {
    filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO)
}
