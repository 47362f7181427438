//! The log: lines on stderr, with a level that a reload changes.

use std::io::IsTerminal;

use tracing_subscriber::{
    EnvFilter, Registry, filter::ParseError, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use super::{Failure, Result};

/// Changes the level of the log.
#[derive(Debug, Clone)]
pub(super) struct Level(reload::Handle<EnvFilter, Registry>);

/// Starts the log of this process.
pub(super) fn start(filter: &str) -> Result<Level> {
    let (filter, handle) = reload::Layer::new(directives(filter).map_err(Failure::new)?);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
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
