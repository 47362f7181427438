//! A warning for calls that HTTP/2 rejects because of their authority.
//!
//! grpcio (gRPC's C core) sends the path of a `unix:` target, or an address list, as the HTTP/2 authority in a form that h2 rejects with
//! RST_STREAM before Terrace sees the call. h2 reports that in a debug event only, which this layer turns into a warning.

use std::fmt::{self, Write as _};

use tokio::runtime::Handle;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{Layer, filter::FilterFn, layer::Context, registry::LookupSpan};

/// Returns the layer, restricted to the events that it needs.
pub(super) fn layer<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let only: fn(&Metadata<'_>) -> bool =
        |of| of.target() == "h2::server" && *of.level() == Level::DEBUG && of.is_event();
    // Without the hint, trace events of all crates would be examined.
    AuthorityWarning.with_filter(FilterFn::new(only).with_max_level_hint(LevelFilter::DEBUG))
}

struct AuthorityWarning;

impl<S: Subscriber> Layer<S> for AuthorityWarning {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        if !text.0.contains("malformed authority") {
            return;
        }
        // In a task: an event must not be logged while another one is processed.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async {
                tracing::warn!(
                    "rejected a gRPC call with an invalid HTTP/2 authority; set the channel option grpc.default_authority, for \
                     example to \"localhost\", for unix: targets and address lists"
                );
            });
        }
    }
}

/// The message of an event.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _written = write!(self.0, "{value:?}");
        }
    }
}
