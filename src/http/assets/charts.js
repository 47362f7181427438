// The charts, drawn with uPlot: curves of the last minutes, estimates for other L1 sizes, current and advised TTLs.
"use strict";

const CANVAS_PX = 186;
const MIN_STEP_S = 1.2;
// Order of the fields of a point; src/http/history.rs writes the same order.
const [TIME, HIT_L1, STALE, HIT_L2, MISS, ERROR, EVICTED, BYTES, L2_P50, L2_P99, GRPC_P50, GRPC_P99, RESP_P99, ISSUED, USED, LATE, WASTED] =
  Array(17).keys();
const TTL_TICKS_MS = [1e3, 10e3, 60e3, 300e3, 1800e3, 3600e3, 6 * 3600e3, 86400e3, 7 * 86400e3];

// One column per curve: rates between two points, or the level at each point.
function columns(points) {
  const table = { time: [], l1: [], l2: [], any: [], reads: [[], [], [], [], []], latency: [[], [], [], [], []], held: [], evicted: [],
    prefetch: [[], [], [], []] };
  let last = points[0];
  for (const b of points.slice(1)) {
    const [a, seconds] = [last, (b[TIME] - last[TIME]) / 1000];
    // The points of the server and of the page are not synchronized: skip pairs that are too close for a rate.
    if (seconds > 0 && seconds < MIN_STEP_S) continue;
    last = b;
    // The server was restarted or the clock was set: no rate between these two points.
    if (seconds <= 0 || b[HIT_L1] < a[HIT_L1] || b[MISS] < a[MISS]) continue;
    const rate = (of) => (b[of] - a[of]) / seconds;
    const [h1, st, h2, miss, error] = [HIT_L1, STALE, HIT_L2, MISS, ERROR].map(rate);
    const answered = h1 + st + h2 + miss;
    table.time.push(b[TIME] / 1000);
    table.l1.push(answered > 0 ? (h1 + st) / answered : null);
    table.l2.push(h2 + miss > 0 ? h2 / (h2 + miss) : null);
    table.any.push(answered > 0 ? (h1 + st + h2) / answered : null);
    [h1, h2, miss, st, error].forEach((value, of) => table.reads[of].push(value));
    // A logarithmic axis cannot show 0.
    [GRPC_P50, GRPC_P99, RESP_P99, L2_P50, L2_P99].forEach((of, at) => table.latency[at].push(b[of] == null ? null : Math.max(b[of], 1)));
    table.held.push(b[BYTES]);
    table.evicted.push(rate(EVICTED));
    [ISSUED, USED, LATE, WASTED].forEach((of, at) => table.prefetch[at].push(rate(of)));
  }
  return table;
}

const line = (label, c, value, more = {}) =>
  ({ label, stroke: color(c), width: 2, points: { show: false }, value: (_, v) => value(v), ...more });
const filled = (c) => ({ fill: color(c) + "22" });
const dots = (label, c, more = {}) =>
  ({ label, stroke: color(c), paths: () => null, points: { show: true, size: 10, width: 2, stroke: color(c), fill: color(c), ...more } });

const look = () => {
  const font = "11px system-ui, sans-serif";
  return { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font };
};
const upward = (_, low, high) => [0, high > 0 ? high * 1.08 : 1];

// The curves of the last minutes.
function curves() {
  return [
    { id: "c-rate", range: () => [0, 1], axis: (v) => Math.round(100 * v) + " %", data: (c) => [c.time, c.l1, c.l2, c.any],
      series: [line("L1", "--c1", percent, filled("--c1")), line("L2, of L1 misses", "--c4", percent), line("any tier", "--c2", percent)] },
    { id: "c-reads", axis: count, data: (c) => [c.time, ...c.reads],
      series: [line("L1", "--c1", count, filled("--c1")), line("L2", "--c2", count), line("miss", "--c3", count),
        line("stale", "--c4", count), line("error", "--c5", count)] },
    { id: "c-lat", log: true, axis: micros, data: (c) => [c.time, ...c.latency],
      series: [line("gRPC p50", "--c1", micros, { dash: [4, 4] }), line("gRPC p99", "--c1", micros), line("RESP p99", "--c4", micros),
        line("L2 read p50", "--c3", micros, { dash: [4, 4] }), line("L2 read p99", "--c3", micros)] },
    { id: "c-l1", axis: bytes, incrs: Array.from({ length: 44 }, (_, power) => 2 ** power), right: (v) => count(v) + "/s", data: (c) => [c.time, c.held, c.evicted],
      series: [line("memory", "--c1", bytes, filled("--c1")), line("evicted per second", "--c3", count, { scale: "right" })] },
    { id: "c-pre", axis: count, data: (c) => [c.time, ...c.prefetch],
      series: [line("issued", "--c2", count, filled("--c2")), line("used", "--c1", count), line("late", "--c4", count),
        line("wasted", "--c3", count)] },
  ];
}

function curve(kind, table) {
  const at = by(kind.id), axis = look();
  const axes = [
    { ...axis, size: 28, space: 78, values: (_, ticks) => ticks.map(clock) },
    { ...axis, size: 62, space: 34, incrs: kind.incrs, ...(kind.log ? { splits: tens, filter: all } : {}), values: (_, ticks) => ticks.map(kind.axis) },
  ];
  const scales = { x: { time: true }, y: kind.log ? { distr: 3, range: (_, low, high) => decades(low, high) } : { range: kind.range || upward } };
  if (kind.right) {
    scales.right = { range: upward };
    axes.push({ ...axis, scale: "right", side: 1, size: 54, grid: { show: false }, values: (_, ticks) => ticks.map(kind.right) });
  }
  return drawn(at, {
    width: at.clientWidth, height: CANVAS_PX, scales, axes, cursor: { y: false, drag: { x: false, y: false } },
    legend: { live: true }, series: [{ label: "", value: (_, t) => (t == null ? "–" : clock(t)) }, ...kind.series],
  }, kind.data(table));
}

const all = (_, splits) => splits;
const tens = (_, __, low, high) => Array.from({ length: Math.round(Math.log10(high / low)) + 1 }, (_, power) => low * 10 ** power);

// Range of whole powers of ten around the data.
function decades(low, high) {
  if (!(low > 0)) return [1, 1000];
  return [10 ** Math.floor(Math.log10(low)), 10 ** Math.max(Math.ceil(Math.log10(high)), Math.floor(Math.log10(low)) + 1)];
}

function drawn(at, options, data) {
  const plot = new uPlot({ ...options, hooks: { ready: [latest] } }, data, at);
  plot.root.querySelector("canvas").setAttribute("aria-hidden", "true");
  return plot;
}

// Estimated miss ratio at other L1 sizes, and the measured miss ratio.
function missRatio(what_if, measured) {
  const known = what_if.sizes.filter((size) => size.l1_hit_rate != null);
  const sizes = known.map((size) => size.capacity_bytes);
  const now = known.map((size) => (size.scale === 1 ? measured : null));
  return [sizes, known.map((size) => 1 - size.l1_hit_rate), now];
}

function sizesChart(data) {
  const at = by("c-mrc"), axis = look();
  return drawn(at, {
    width: at.clientWidth, height: CANVAS_PX, cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: false, distr: 3, log: 2, range: (_, low, high) => (low > 0 ? [low / 1.25, high * 1.25] : [1, 2]) }, y: { range: upward } },
    axes: [
      { ...axis, size: 28, splits: (plot) => plot.data[0], filter: all, values: (_, ticks) => ticks.map(bytes) },
      { ...axis, size: 62, space: 34, values: (_, ticks) => ticks.map((v) => percent(v, v < .1 ? 1 : 0)) },
    ],
    series: [{ label: "L1 size", value: (_, v) => (v == null ? "–" : bytes(v)) },
      line("estimated miss ratio without prefetch", "--c2", percent, { ...filled("--c2"), points: { show: true, size: 7, fill: color("--c2") } }),
      { ...dots("measured, last 5 min", "--c3"), value: (_, v) => percent(v) }],
  }, data);
}

// TTLs by template: current, advised and tuned.
const ttlColumns = (ttls) => [ttls.map((_, at) => at), ttls.map((of) => of.current_ms), ttls.map((of) => of.ttl_ms), ttls.map((of) => of.tuned_ms)];

function ttlChart(ttls) {
  const at = by("c-ttl"), axis = look();
  const narrow = at.clientWidth < 460;
  return drawn(at, {
    width: at.clientWidth, height: 60 + 26 * ttls.length, cursor: { show: false }, legend: { live: false },
    scales: {
      x: { time: false, ori: 1, dir: -1, range: () => [-.6, ttls.length - .4] },
      y: { ori: 0, distr: 3, range: (_, low, high) => (low > 0 ? [Math.max(low / 2, 1), high * 2] : [60e3, 86400e3]) },
    },
    axes: [
      { ...axis, side: 3, size: narrow ? 112 : 190, splits: () => ttls.map((_, at) => at), filter: all,
        values: () => ttls.map((of) => cut(of.template, narrow ? 17 : 30)) },
      { ...axis, side: 2, size: 28, splits: (_, __, low, high) => TTL_TICKS_MS.filter((ms) => ms >= low && ms <= high), filter: all,
        values: (_, ticks) => ticks.map(ttl) },
    ],
    series: [{ label: "" }, dots("current", "--c3"), dots("advised", "--c1"), dots("tuned", "--c4", { size: 5 })],
  }, ttlColumns(ttls));
}

// The legend shows the latest values (or the current L1 size) unless the pointer selects others.
function latest(plot) {
  if (!plot.legend.live || plot.cursor.idx != null || !plot.data[0].length) return;
  const today = plot.root.parentElement.id === "c-mrc" ? plot.data[2].findIndex((v) => v != null) : -1;
  plot.setLegend({ idx: today >= 0 ? today : plot.data[0].length - 1 });
}

// Text alternatives of the curves for screen readers.
function words(table) {
  const known = (values) => values.filter((v) => v != null);
  const range = (values, show, nothing = "no reads yet") => {
    const all = known(values);
    return all.length ? `now ${show(all.at(-1))}, ${show(Math.min(...all))} to ${show(Math.max(...all))}` : nothing;
  };
  set("s-rate", "L1 " + range(table.l1, (v) => percent(v, 0)));
  const all = table.time.map((_, at) => table.reads.reduce((sum, of) => sum + of[at], 0));
  set("s-reads", range(all, (v) => count(Math.round(v))));
  set("s-lat", "gRPC p99 " + range(table.latency[1], micros, "no data yet"));
  set("s-l1", range(table.held, bytes));
  set("s-pre", "issued " + range(table.prefetch[0], (v) => count(Math.round(v))));
}
