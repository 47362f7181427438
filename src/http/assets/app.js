// The page at /: asks for the numbers every two seconds and draws them. Read-only; every text goes in as text, never as markup.
"use strict";

const EVERY_MS = 2000;
const TOP_EVERY_MS = 10000;
const MIN_STEP_S = 1.2;
const CANVAS_PX = 186;
// A server that does not answer is asked again, ever more rarely.
const WAIT_MAX_MS = 30000;
// The order of a point, as src/http/history.rs writes it.
const [TIME, HIT_L1, STALE, HIT_L2, MISS, ERROR, EVICTED, BYTES, P50, P99] = Array(10).keys();

const by = (id) => document.getElementById(id);
const set = (id, text) => { if (by(id).textContent !== text) by(id).textContent = text; };

// How numbers read.
const percent = (part, digits = 1) => (part == null || Number.isNaN(part) ? "–" : (100 * part).toFixed(digits) + " %");
const count = (n) => {
  if (n == null || Number.isNaN(n)) return "–";
  if (n >= 1e9) return (n / 1e9).toFixed(1) + " G";
  if (n >= 1e6) return (n / 1e6).toFixed(1) + " M";
  if (n >= 1e4) return (n / 1e3).toFixed(1) + " k";
  return n >= 100 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(1);
};
const bytes = (n) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return (at === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[at];
};
const micros = (us) => (us == null ? "–" : us < 1000 ? us + " µs" : (us / 1000).toFixed(us < 10000 ? 1 : 0) + " ms");
const span = (s) => {
  if (s < 120) return s + " s";
  if (s < 7200) return Math.floor(s / 60) + " min";
  return s < 172800 ? Math.floor(s / 3600) + " h" : Math.floor(s / 86400) + " days";
};

// Points of the last minutes.
let points = [];
let pointsMax = 150;
let paused = false;
let charts = [];

// One column for each curve: rates between two points, levels at each.
function columns() {
  const time = [], l1 = [], any = [], reads = [[], [], [], [], []], p50 = [], p99 = [], held = [], evicted = [];
  let last = points[0];
  for (const b of points.slice(1)) {
    const [a, seconds] = [last, (b[TIME] - last[TIME]) / 1000];
    // The server's points and the page's own are not in step: two that lie close together say little.
    if (seconds > 0 && seconds < MIN_STEP_S) continue;
    last = b;
    // The server was restarted, or the clock set: there is no rate between these two.
    if (seconds <= 0 || b[HIT_L1] < a[HIT_L1] || b[MISS] < a[MISS]) continue;
    const rate = (of) => (b[of] - a[of]) / seconds;
    const [h1, st, h2, miss, error] = [HIT_L1, STALE, HIT_L2, MISS, ERROR].map(rate);
    const answered = h1 + st + h2 + miss;
    time.push(b[TIME] / 1000);
    l1.push(answered > 0 ? (h1 + st) / answered : null);
    any.push(answered > 0 ? (h1 + st + h2) / answered : null);
    [h1, h2, miss, st, error].forEach((value, of) => reads[of].push(value));
    p50.push(b[P50]);
    p99.push(b[P99]);
    held.push(b[BYTES]);
    evicted.push(rate(EVICTED));
  }
  return { time, l1, any, reads, p50, p99, held, evicted };
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// What the four charts show.
function kinds() {
  const line = (label, c, value, more = {}) =>
    ({ label, stroke: color(c), width: 2, points: { show: false }, value: (_, v) => value(v), ...more });
  return [
    { id: "c-rate", range: [0, 1], axis: (v) => Math.round(100 * v) + " %", data: (c) => [c.time, c.l1, c.any],
      series: [line("L1", "--c1", percent, { fill: color("--c1") + "22" }), line("any tier", "--c2", percent)] },
    { id: "c-reads", axis: count, data: (c) => [c.time, ...c.reads],
      series: [line("L1", "--c1", count, { fill: color("--c1") + "22" }), line("L2", "--c2", count), line("miss", "--c3", count),
        line("stale", "--c4", count), line("error", "--c5", count)] },
    { id: "c-lat", axis: micros, data: (c) => [c.time, c.p50, c.p99],
      series: [line("p50", "--c1", micros), line("p99", "--c3", micros)] },
    { id: "c-l1", axis: bytes, incrs: Array.from({ length: 44 }, (_, power) => 2 ** power), right: (v) => count(v) + "/s", data: (c) => [c.time, c.held, c.evicted],
      series: [line("held", "--c1", bytes, { fill: color("--c1") + "22" }),
        line("evicted a second", "--c3", count, { scale: "right" })] },
  ];
}

function build() {
  charts.forEach((chart) => chart.plot.destroy());
  const [ink, grid] = [color("--quiet"), { stroke: color("--line"), width: 1 }];
  const font = "11px system-ui, sans-serif";
  const axis = { stroke: ink, grid, ticks: { show: false }, font };
  const table = columns();
  charts = kinds().map((kind) => {
    const at = by(kind.id);
    const axes = [
      { ...axis, size: 28, space: 78, values: (_, ticks) => ticks.map((t) => new Date(t * 1000).toLocaleTimeString([], { hour12: false })) },
      { ...axis, size: 62, space: 34, incrs: kind.incrs, values: (_, ticks) => ticks.map(kind.axis) },
    ];
    const upward = (_, low, high) => kind.range || [0, high > 0 ? high * 1.08 : 1];
    const scales = { x: { time: true }, y: { range: upward } };
    if (kind.right) {
      scales.right = { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] };
      axes.push({ ...axis, scale: "right", side: 1, size: 54, grid: { show: false }, values: (_, ticks) => ticks.map(kind.right) });
    }
    const plot = new uPlot({
      width: at.clientWidth, height: CANVAS_PX, scales, axes, cursor: { y: false, drag: { x: false, y: false } },
      legend: { live: true }, series: [{ label: "", value: (_, t) => (t == null ? "–" : new Date(t * 1000).toLocaleTimeString([], { hour12: false })) }, ...kind.series],
    }, kind.data(table), at);
    plot.root.querySelector("canvas").setAttribute("aria-hidden", "true");
    return { plot, kind, at };
  });
}

// The same as the curves, in words, for those who do not see them.
function words(table) {
  const known = (values) => values.filter((v) => v != null);
  const range = (values, show) => {
    const all = known(values);
    return all.length ? `now ${show(all.at(-1))}, ${show(Math.min(...all))} to ${show(Math.max(...all))}` : "no reads yet";
  };
  set("s-rate", "L1 " + range(table.l1, (v) => percent(v, 0)));
  const all = table.time.map((_, at) => table.reads.reduce((sum, of) => sum + of[at], 0));
  set("s-reads", range(all, (v) => count(Math.round(v))) + " a second");
  set("s-lat", "p99 " + range(table.p99, micros));
  set("s-l1", range(table.held, bytes));
}

// The legend shows the last values, unless a pointer asks for others.
function latest(plot) {
  if (plot.cursor.idx == null && plot.data[0].length) plot.setLegend({ idx: plot.data[0].length - 1 });
}

function draw() {
  const table = columns();
  charts.forEach(({ plot, kind }) => {
    plot.setData(kind.data(table));
    latest(plot);
  });
  words(table);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
}

// Bars: name, note, and how long. What is there is changed in place, so that a reader's cursor stays.
function bars(id, rows, nothing) {
  const list = by(id);
  const wanted = rows.length ? rows : [{ name: nothing, note: "", part: null }];
  while (list.children.length > wanted.length) list.lastChild.remove();
  wanted.forEach((row, at) => {
    let item = list.children[at];
    if (!item) {
      item = element("li");
      const line = element("div", "row");
      line.append(element("span", "name"), element("span", "note"));
      const bar = element("progress");
      bar.max = 1;
      item.append(line, bar);
      list.append(item);
    }
    const [line, bar] = item.children;
    if (line.children[0].textContent !== row.name) line.children[0].textContent = line.children[0].title = row.name;
    if (line.children[1].textContent !== row.note) line.children[1].textContent = row.note;
    bar.hidden = row.part == null;
    bar.value = row.part || 0;
    bar.setAttribute("aria-label", `${row.name}: ${row.note}`);
  });
}

const sum = (reads) => reads.hit_l1 + reads.stale + reads.hit_l2 + reads.miss + reads.error;

function chips(stats) {
  const wanted = [];
  const { health, l2, coherence, warming, node } = stats;
  if (node.draining) wanted.push(["warn", "draining"]);
  else wanted.push(health.ready ? [health.says === "ready" ? "good" : "warn", health.says] : ["bad", health.says]);
  if (l2.kind !== "none") wanted.push([l2.state === "up" ? "good" : l2.state === "down" ? "bad" : "warn", `L2 ${l2.kind} ${l2.state}`]);
  wanted.push(coherence.open ? ["good", "L1 open"] : ["warn", "L1 closed"]);
  if (warming.at_work) wanted.push(["warn", `warming up, ${count(warming.left)} keys left`]);
  if (coherence.stale_detected > 0) wanted.push(["bad", `${coherence.stale_detected} stale reads found`]);
  const list = by("chips");
  const text = JSON.stringify(wanted);
  if (list.dataset.shown === text) return;
  list.dataset.shown = text;
  list.replaceChildren(...wanted.map(([kind, says]) => element("li", kind, says)));
}

function tiles(stats) {
  const minute = stats.windows[0];
  const seconds = Math.max(minute.over_ms / 1000, 1);
  const { reads } = minute;
  const answered = reads.hit_l1 + reads.stale + reads.hit_l2 + reads.miss;
  set("t-l1", percent(reads.l1_hit_rate));
  set("t-any", percent(answered ? (reads.hit_l1 + reads.stale + reads.hit_l2) / answered : null));
  set("t-any-note", reads.error ? `last minute, ${count(reads.error)} errors` : "last minute");
  set("t-reads", count(sum(reads) / seconds));
  set("t-p99", micros(minute.l2_read.p99_us));
  set("t-p99-note", minute.l2_read.p50_us == null ? "no reads of L2 in the last minute" : `p50 ${micros(minute.l2_read.p50_us)}, last minute`);
  set("t-fill", percent(stats.l1.bytes / stats.l1.capacity_bytes));
  set("t-fill-note", `${bytes(stats.l1.bytes)} of ${bytes(stats.l1.capacity_bytes)}, ${count(stats.l1.entries)} entries`);
}

function lists(stats) {
  const most = Math.max(1, ...stats.groups.map((group) => sum(group.reads)));
  bars("groups", stats.groups.map((group) => {
    const total = sum(group.reads);
    const note = total ? `${percent(group.reads.l1_hit_rate, 0)} L1 · ${count(total)} reads` : `${bytes(group.bytes)} in L1`;
    return { name: group.name, note, part: total / most };
  }), "nothing was read yet");
  const { removed } = stats.windows[1];
  const causes = [["size", "room was needed"], ["expired", "time was over"], ["invalidated", "was written"], ["replaced", "newer value"]];
  const gone = Math.max(1, ...causes.map(([cause]) => removed[cause]));
  bars("why", causes.map(([cause, says]) => ({ name: says, note: count(removed[cause]), part: removed[cause] / gone })), "");
}

function facts(stats) {
  const { l2, coherence, node } = stats;
  const rows = [["L2", l2.why ? `${l2.kind}, ${l2.state}: ${l2.why}` : `${l2.kind}, ${l2.state}`]];
  rows.push(["read from L2", `${count(l2.keys_read)} keys`], ["written to L2", count(l2.ops_written)], ["errors of L2", count(l2.errors)]);
  if (l2.kind === "redis") {
    rows.push(["primaries, breakers open", `${l2.primaries}, ${l2.breakers_open}`]);
    rows.push(["all changes heard", coherence.fence_age_ms == null ? "never yet" : `${coherence.fence_age_ms} ms ago`]);
    rows.push(["invalidations", count(coherence.invalidations)], ["link lost", count(coherence.reconnects)]);
    rows.push(["self-check", `${count(coherence.checked)} checked, ${count(coherence.stale_detected)} stale`]);
    if (coherence.refused) rows.push(["Redis refuses", coherence.refused]);
  }
  if (l2.kind !== "none") rows.push(["open bans", stats.bans.length ? stats.bans.join(", ") : "none"]);
  const c = node.connections;
  rows.push(["clients", `${c.grpc} gRPC, ${c.resp} RESP, ${c.http} HTTP`], ["clients refused", count(c.rejected)]);
  rows.push(["under way", bytes(node.in_flight_bytes)]);
  const list = by("facts");
  if (list.children.length !== 2 * rows.length) {
    list.replaceChildren(...rows.flatMap(() => [element("dt"), element("dd")]));
  }
  rows.flat().forEach((text, at) => { if (list.children[at].textContent !== text) list.children[at].textContent = text; });
}

function show(stats) {
  points.push(stats.point);
  if (points.length > pointsMax) points.shift();
  set("who", `${stats.node.version} · up ${span(stats.node.uptime_s)} · gRPC ${stats.node.grpc}`);
  chips(stats);
  tiles(stats);
  lists(stats);
  facts(stats);
  draw();
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function banner(text) {
  by("banner").hidden = !text;
  set("banner", text);
}

let wait = EVERY_MS;
async function round() {
  if (!paused && !document.hidden) {
    try {
      show(await ask("/api/stats"));
      banner("");
      wait = EVERY_MS;
    } catch (error) {
      wait = Math.min(wait * 2, WAIT_MAX_MS);
      banner(`The server does not answer (${error.message}). What is shown is old; asking again in ${Math.round(wait / 1000)} s.`);
    }
  }
  setTimeout(round, wait);
}

async function topRound() {
  if (!paused && !document.hidden) {
    try {
      const { keys } = await ask("/api/top");
      keys.sort((a, b) => b.hits - a.hits);
      const most = Math.max(1, ...keys.map((key) => key.hits));
      bars("top", keys.map((key) => ({ name: key.key, note: `${count(key.hits)} hits · ${bytes(key.bytes)}`, part: key.hits / most })), "L1 is empty");
    } catch {
      // The other round tells of it.
    }
  }
  setTimeout(topRound, TOP_EVERY_MS);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  set("theme", name === "dark" ? "Light" : "Dark");
  by("theme").setAttribute("aria-label", name === "dark" ? "Light colours" : "Dark colours");
}

function begin() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  theme(localStorage.getItem("theme") || (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => {
    if (!localStorage.getItem("theme")) { theme(system.matches ? "dark" : "light"); build(); }
  });
  by("theme").addEventListener("click", () => {
    const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", name);
    theme(name);
    build();
  });
  by("pause").addEventListener("click", () => {
    paused = !paused;
    by("pause").setAttribute("aria-pressed", String(paused));
  });
  const fit = () => charts.forEach(({ plot, at }) => plot.setSize({ width: at.clientWidth, height: CANVAS_PX }));
  new ResizeObserver(fit).observe(by("main"));
  ask("/api/history")
    .then((history) => { points = history.points; pointsMax = history.points_max; })
    .catch(() => {})
    .finally(() => { build(); round(); topRound(); });
}

begin();
