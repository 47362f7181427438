//! The miss ratio curve as SVG: capacity on a logarithmic axis, one line per policy and unit.

use std::fmt::Write;

use super::{Played, miss_ratio, policy_name};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// Space for the axis labels.
const MARGIN: f64 = 60.0;
const COLORS: [&str; 4] = ["#0b6e99", "#d9730d", "#4d6461", "#ad1a72"];

/// Draws the runs of one trace. Entries and bytes share the axis but have separate lines.
pub(super) fn draw(trace: &str, all: &[Played]) -> String {
    let amounts = || all.iter().map(|played| played.run.plan().room.parts().1 as f64);
    let (least, most) = amounts().fold((f64::MAX, 1.0_f64), |(least, most), a| (least.min(a), most.max(a)));
    let scale = Scale { least: least.min(most), most };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, WIDTH / 2.0, 24.0, "middle", &format!("{}: miss ratio by capacity", escaped(trace)));
    axes(&mut svg, &scale);
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
    for Played { run, .. } in all {
        let (unit, amount) = run.plan().room.parts();
        let label = format!("{}, {unit}", policy_name(run));
        let point = (amount as f64, miss_ratio(run));
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

fn axes(svg: &mut String, scale: &Scale) {
    for step in 0..=5 {
        let ratio = f64::from(step) / 5.0;
        let y = Scale::y(ratio);
        rule(svg, (MARGIN, y), (WIDTH - MARGIN, y));
        text(svg, MARGIN - 8.0, y + 4.0, "end", &format!("{ratio:.1}"));
    }
    let mut amount = 10_f64.powf(scale.least.log10().floor());
    while amount <= scale.most {
        if amount >= scale.least {
            let x = scale.x(amount);
            rule(svg, (x, Scale::y(0.0)), (x, Scale::y(1.0)));
            text(svg, x, HEIGHT - MARGIN + 18.0, "middle", &format!("{amount}"));
        }
        amount *= 10.0;
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
