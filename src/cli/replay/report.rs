//! Output of `terrace replay`.

use serde_json::{Value, json};

use super::{super::say, Format, Tally};

pub(super) fn print(trace: &str, tally: &Tally, seconds: f64, format: Format) {
    let fields = fields(trace, tally, seconds);
    match format {
        Format::Json => say(Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
        Format::Text => {
            for (name, value) in fields {
                say(format_args!("{name:<10}  {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
            }
        }
    }
}

fn fields(trace: &str, tally: &Tally, seconds: f64) -> Vec<(&'static str, Value)> {
    let per_second = if seconds > 0.0 { tally.requests as f64 / seconds } else { 0.0 };
    let at = |quantile| json!(tally.latency_us.value_at_quantile(quantile));
    vec![
        ("trace", json!(trace)),
        ("requests", json!(tally.requests)),
        ("errors", json!(tally.errors)),
        ("skipped", json!(tally.skipped)),
        ("seconds", json!((seconds * 1e3).round() / 1e3)),
        ("per_second", json!(per_second.round())),
        ("mean_us", json!((tally.latency_us.mean() * 10.0).round() / 10.0)),
        ("p50_us", at(0.5)),
        ("p99_us", at(0.99)),
        ("p999_us", at(0.999)),
        ("hit_l1", json!(tally.hit_l1)),
        ("hit_l2", json!(tally.hit_l2)),
        ("miss", json!(tally.miss)),
        ("bytes", json!(tally.bytes)),
    ]
}
