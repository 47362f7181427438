//! The miss ratio curve as SVG: capacity on a logarithmic axis, one line per policy and unit.

use std::fmt::Write;

use super::{Played, engine::Mode, miss_ratio, policy_name};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// Space for the axis labels.
const MARGIN: f64 = 60.0;
const COLORS: [&str; 4] = ["#0b6e99", "#d9730d", "#4d6461", "#ad1a72"];

/// Returns a capacity with its unit: `64KiB`, or `1000` entries.
fn tick(unit: &str, amount: f64) -> String {
    const UNITS: [(&str, f64); 4] =
        [("TiB", (1_u64 << 40) as f64), ("GiB", (1 << 30) as f64), ("MiB", (1 << 20) as f64), ("KiB", 1024.0)];
    let of_bytes = UNITS.iter().find(|(_, bytes)| unit == "bytes" && amount >= *bytes);
    of_bytes.map_or_else(|| amount.to_string(), |(name, bytes)| format!("{}{name}", amount / bytes))
}

/// Draws the runs of one trace. Entries and bytes share the axis but have separate lines.
pub(super) fn draw(trace: &str, all: &[Played]) -> String {
    let amounts = || all.iter().map(|played| played.capacity().1 as f64);
    let (least, most) = amounts().fold((f64::MAX, 1.0_f64), |(least, most), a| (least.min(a), most.max(a)));
    let scale = Scale { least: least.min(most), most };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, WIDTH / 2.0, 24.0, "middle", &format!("{}: miss ratio by capacity", escaped(trace)));
    let mut units: Vec<&str> = all.iter().map(|played| played.capacity().0).collect();
    units.sort_unstable();
    units.dedup();
    axes(&mut svg, &scale, &units);
    for (number, line) in lines(all).iter().enumerate() {
        curve(&mut svg, &scale, line, number);
    }
    svg.push_str("</svg>\n");
    svg
}

struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn x(&self, amount: f64) -> f64 {
        let span = (self.most / self.least).ln();
        let part = if span > 0.0 { (amount / self.least).ln() / span } else { 0.5 };
        MARGIN + part * (WIDTH - 2.0 * MARGIN)
    }

    fn y(ratio: f64) -> f64 {
        HEIGHT - MARGIN - ratio * (HEIGHT - 2.0 * MARGIN)
    }
}

/// Points of one policy and unit, by capacity.
struct Line {
    label: String,
    points: Vec<(f64, f64)>,
}

fn lines(all: &[Played]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for played in all {
        let (fleet, (unit, amount)) = (&played.fleet, played.capacity());
        let mut label = format!("{}, {unit}", policy_name(fleet));
        match fleet.plan().prefetch {
            Mode::Off => {}
            mode @ (Mode::Shadow | Mode::Auto) => label = format!("{label}, prefetch {}", mode.name()),
        }
        if fleet.nodes() > 1 {
            label = format!("{label}, routing {}", fleet.routing().name());
        }
        let point = (amount as f64, miss_ratio(fleet));
        match lines.iter_mut().find(|line| line.label == label) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { label, points: vec![point] }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

/// Draws the axes; ticks are powers of ten for entries, and powers of two for bytes.
fn axes(svg: &mut String, scale: &Scale, units: &[&str]) {
    text(svg, WIDTH / 2.0, HEIGHT - MARGIN + 40.0, "middle", &format!("L1 capacity in {}", units.join(" or ")));
    text(svg, MARGIN - 44.0, MARGIN - 14.0, "start", "miss ratio (share of requests)");
    for step in 0..=5 {
        let ratio = f64::from(step) / 5.0;
        let y = Scale::y(ratio);
        rule(svg, (MARGIN, y), (WIDTH - MARGIN, y));
        text(svg, MARGIN - 8.0, y + 4.0, "end", &format!("{ratio:.1}"));
    }
    let unit = if units == ["bytes"] { "bytes" } else { "entries" };
    let span = (scale.most / scale.least).log2();
    // At most about ten ticks.
    let step = if unit == "bytes" { 2_f64.powf((span / 10.0).ceil().max(1.0)) } else { 10.0 };
    let mut amount = step.powf((scale.least.ln() / step.ln()).floor());
    while amount <= scale.most {
        if amount >= scale.least {
            let x = scale.x(amount);
            rule(svg, (x, Scale::y(0.0)), (x, Scale::y(1.0)));
            text(svg, x, HEIGHT - MARGIN + 18.0, "middle", &tick(unit, amount.round()));
        }
        amount *= step;
    }
}

fn curve(svg: &mut String, scale: &Scale, line: &Line, number: usize) {
    let color = COLORS[number % COLORS.len()];
    let places: Vec<(f64, f64)> =
        line.points.iter().map(|&(amount, ratio)| (scale.x(amount), Scale::y(ratio))).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    add(
        svg,
        format_args!("<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>\n", path.join(" ")),
    );
    for (x, y) in places {
        add(svg, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>\n"));
    }
    let y = 48.0 + 16.0 * number as f64;
    add(
        svg,
        format_args!("<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{color}\"/>\n", WIDTH - 160.0, y - 9.0),
    );
    text(svg, WIDTH - 145.0, y, "start", &escaped(&line.label));
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    add(svg, format_args!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#dddddd\"/>\n"));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    add(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"));
}

fn add(svg: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = svg.write_fmt(part);
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
