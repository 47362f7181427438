//! The log: lines on stderr as text or JSON, with a level that a reload changes; repeated messages are limited.

mod limit;

use std::io::IsTerminal;

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use self::limit::Limited;
use super::{Failure, Result};
use crate::config::LogFormat;

/// Changes the level of the log.
#[derive(Debug, Clone)]
pub(super) struct Level(reload::Handle<EnvFilter, Registry>);

/// Starts the log of this process.
pub(super) fn start(filter: &str, format: LogFormat) -> Result<Level> {
    let (filter, handle) = reload::Layer::new(directives(filter).map_err(Failure::new)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.event_format(Limited::text()).boxed(),
        LogFormat::Json => {
            let format = fmt::format().json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.fmt_fields(fmt::format::JsonFields::new()).event_format(Limited::json(format)).boxed()
        }
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(Failure::new)?;
    Ok(Level(handle))
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
/// of them only warnings, unless `filter` names them.
fn directives(filter: &str) -> std::result::Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("fjall=warn,lsm_tree=warn,{filter}"))
}
