//! Limits repeated log messages, so that a fault that recurs a thousand times per second does not fill a disk or hide
//! other messages.
//!
//! Per minute, a message with the same source location and text is written [`SAME_MAX`] times, and one source location
//! writes at most [`PLACE_MAX`] messages with any text. Further messages are suppressed until the minute ends; the next
//! message is preceded by the number of suppressed ones. Sampled request logs are exempt.

use std::{
    collections::HashMap,
    fmt::{self, Debug, Write},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Json, Writer},
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use crate::clock::stopwatch_ns;

const MINUTE_NS: u64 = 60_000_000_000;
/// Maximum number of log lines per minute with the same source location and text.
const SAME_MAX: u64 = 5;
/// Maximum number of log lines per minute from one source location.
const PLACE_MAX: u64 = 100;
/// Maximum number of distinct log messages that are counted. The counts restart when there are more.
const REMEMBERED_MAX: usize = 4_096;
/// Target of request logs, which are sampled before they get here.
const EXEMPT: &str = "terrace::request";

/// Line format that suppresses repeated messages.
pub(super) struct Limited<F> {
    format: F,
    is_json: bool,
    /// True while debug logs are enabled: a user who enabled them needs all lines.
    detailed: Arc<AtomicBool>,
    seen: Mutex<Seen>,
}

impl Limited<Format<Full>> {
    pub(super) fn text(detailed: Arc<AtomicBool>) -> Self {
        Self { format: Format::default(), is_json: false, detailed, seen: Mutex::default() }
    }
}

impl Limited<Format<Json>> {
    pub(super) fn json(format: Format<Json>, detailed: Arc<AtomicBool>) -> Self {
        Self { format, is_json: true, detailed, seen: Mutex::default() }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let target = event.metadata().target();
        if target == EXEMPT || *event.metadata().level() > Level::INFO || self.detailed.load(Relaxed) {
            return self.format.format_event(context, writer, event);
        }
        let (place, words) = identity(event);
        let Some(left_out) = self.seen.lock().admit(place, words, stopwatch_ns()) else { return Ok(()) };
        if left_out > 0 {
            self.report_suppressed(&mut writer, target, left_out)?;
        }
        self.format.format_event(context, writer, event)
    }
}

impl<F> Limited<F> {
    /// Writes the number of suppressed messages before the next message.
    fn report_suppressed(&self, writer: &mut Writer<'_>, target: &str, left_out: u64) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let words = "suppressed repeats of the next message";
        if self.is_json {
            let line = serde_json::json!({
                "timestamp": time, "level": "INFO", "target": target, "message": words, "left_out": left_out,
            });
            return writeln!(writer, "{line}");
        }
        writeln!(writer, "{time}  INFO {target}: {words} left_out={left_out}")
    }
}

/// Counts of written messages, by source location, and by source location and text.
#[derive(Default)]
struct Seen(HashMap<u64, Count>);

#[derive(Default)]
struct Count {
    begun_ns: u64,
    written: u64,
    left_out: u64,
}

impl Seen {
    /// Returns the number of messages suppressed since the last written one, or `None` if this message has to be
    /// suppressed too.
    fn admit(&mut self, place: u64, words: u64, now_ns: u64) -> Option<u64> {
        if self.0.len() > REMEMBERED_MAX {
            self.0.clear();
        }
        let same = self.count(words, SAME_MAX, now_ns);
        let of_place = same.and_then(|same| Some(same + self.count(place, PLACE_MAX, now_ns)?));
        if of_place.is_none() && same.is_some() {
            // Suppressed because of its location: its text was not written.
            let words = self.0.entry(words).or_default();
            words.written = words.written.saturating_sub(1);
        }
        of_place
    }

    fn count(&mut self, identity: u64, most: u64, now_ns: u64) -> Option<u64> {
        let count = self.0.entry(identity).or_default();
        if now_ns.saturating_sub(count.begun_ns) >= MINUTE_NS {
            (count.begun_ns, count.written) = (now_ns, 0);
        }
        if count.written >= most {
            count.left_out += 1;
            return None;
        }
        count.written += 1;
        Some(std::mem::take(&mut count.left_out))
    }
}

/// Returns hashes of the source location, and of the location with the message text. Numeric fields do not count as
/// text.
fn identity(event: &Event<'_>) -> (u64, u64) {
    let mut place = DefaultHasher::new();
    event.metadata().callsite().hash(&mut place);
    let mut words = Words(place.clone());
    event.record(&mut words);
    (place.finish(), words.0.finish() ^ 1)
}

struct Words(DefaultHasher);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        struct Into<'a>(&'a mut DefaultHasher);
        impl Write for Into<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        field.name().hash(&mut self.0);
        // Hashing cannot fail.
        let _ok = write!(Into(&mut self.0), "{value:?}");
    }

    fn record_i64(&mut self, _field: &Field, _value: i64) {}

    fn record_u64(&mut self, _field: &Field, _value: u64) {}

    fn record_i128(&mut self, _field: &Field, _value: i128) {}

    fn record_u128(&mut self, _field: &Field, _value: u128) {}

    fn record_f64(&mut self, _field: &Field, _value: f64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_written_a_few_times_a_minute_and_then_counted() {
        let mut seen = Seen::default();
        let mut admit = |words, now_ns| seen.admit(1, words, now_ns);
        for _ in 0..SAME_MAX {
            assert_eq!(admit(2, 10), Some(0));
        }
        assert_eq!((admit(2, 20), admit(2, 30)), (None, None));
        assert_eq!(admit(3, 40), Some(0), "other words of the same place");
        assert_eq!(admit(2, 10 + MINUTE_NS), Some(2));
        assert_eq!(admit(2, 11 + MINUTE_NS), Some(0));
    }

    #[test]
    fn a_place_is_limited_whatever_its_words() {
        let mut seen = Seen::default();
        let admitted = (0..1_000).filter(|words| seen.admit(u64::MAX, *words, 10).is_some()).count();
        assert_eq!(admitted as u64, PLACE_MAX);
        assert_eq!(seen.admit(u64::MAX, 999, 10 + MINUTE_NS), Some(1_000 - PLACE_MAX));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::default();
        for words in 0..100_000_u64 {
            let _admitted = seen.admit(words | 1 << 40, words, 10);
        }
        assert!(seen.0.len() <= REMEMBERED_MAX + 2);
    }
}
