// The page at /: requests the values every two seconds and draws them. Read-only; every text is inserted as text, never as markup.
"use strict";

const EVERY_MS = 2000;
const SLOW_EVERY_MS = 10000;
// The interval between requests doubles while the server does not respond.
const WAIT_MAX_MS = 30000;

// Points of the last minutes.
let points = [];
let pointsMax = 150;
let paused = false;
let charts = [];
let sizes = null;
let ttls = null;
let last = null;

function build() {
  [...charts.map(({ plot }) => plot), sizes, ttls].forEach((plot) => plot && plot.destroy());
  const table = columns(points);
  charts = curves().map((kind) => ({ plot: curve(kind, table), kind }));
  sizes = ttls = null;
  if (last) drawSizes(last);
  if (learned) drawTtls();
}

function draw() {
  const table = columns(points);
  charts.forEach(({ plot, kind }) => {
    plot.setData(kind.data(table));
    latest(plot);
  });
  words(table);
}

function drawSizes({ what_if, windows }) {
  const measured = windows[1].reads.l1_hit_rate;
  const data = missRatio(what_if, measured == null ? null : 1 - measured);
  const rate = (scale) => what_if.sizes.find((size) => size.scale === scale)?.l1_hit_rate;
  const known = data[0].length > 1;
  by("c-mrc").hidden = !known;
  set("s-mrc", known ? `2×: ${percent(rate(2) - rate(1))} fewer misses, ½×: ${percent(rate(1) - rate(.5))} more` : "no estimate yet");
  bars("sizes", known ? what_if.sizes.map((size) => (
    { name: `${size.scale} × = ${bytes(size.capacity_bytes)}`, note: `${percent(size.l1_hit_rate)} hits`, part: size.l1_hit_rate })) : [], "no estimate yet");
  if (!known) return;
  if (sizes) sizes.setData(data); else sizes = sizesChart(data);
  latest(sizes);
}

function drawTtls() {
  const { ttls: rows } = learned;
  if (ttls) ttls.destroy();
  ttls = rows.length ? ttlChart(rows) : null;
}

const sum = (reads) => reads.hit_l1 + reads.stale + reads.hit_l2 + reads.miss + reads.error;

function chips(stats) {
  const wanted = [];
  const { health, l2, coherence, warming, node } = stats;
  if (node.draining) wanted.push(["warn", "draining"]);
  else wanted.push(health.ready ? [health.says === "ready" ? "good" : "warn", health.says] : ["bad", health.says]);
  if (l2.kind !== "none") wanted.push([l2.state === "up" ? "good" : l2.state === "down" ? "bad" : "warn", `L2 ${l2.kind} ${l2.state}`]);
  wanted.push(coherence.open ? ["good", "L1 in use"] : ["warn", "L1 bypassed"]);
  if (warming.at_work) wanted.push(["warn", `warming up, ${count(warming.left)} keys left`]);
  if (coherence.stale_detected > 0) wanted.push(["bad", `${coherence.stale_detected} stale reads detected`]);
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
  // The busier port.
  const [port, latency] = minute.resp.count > minute.grpc.count ? ["RESP", minute.resp] : ["gRPC", minute.grpc];
  set("t-p99", micros(latency.p99_us));
  set("t-p99-note", latency.p50_us == null ? "no requests in the last minute" : `${port}, p50 ${micros(latency.p50_us)}, last minute`);
  set("t-fill", percent(stats.l1.bytes / stats.l1.capacity_bytes));
  set("t-fill-note", `${bytes(stats.l1.bytes)} of ${bytes(stats.l1.capacity_bytes)}, ${count(stats.l1.entries)} entries`);
}

function lists(stats) {
  const most = Math.max(1, ...stats.groups.map((group) => sum(group.reads)));
  bars("groups", stats.groups.map((group) => {
    const total = sum(group.reads);
    const below = group.reads.l2_hit_rate == null ? "" : ` · ${percent(group.reads.l2_hit_rate, 0)} L2`;
    const note = total ? `${percent(group.reads.l1_hit_rate, 0)} L1${below} · ${count(total)} reads` : `${bytes(group.bytes)} in L1`;
    return { name: group.name, note, part: total / most };
  }), "no reads yet");
  const { removed } = stats.windows[1];
  const causes = [["size", "space, or unused prefetch"], ["expired", "TTL expired"], ["invalidated", "invalidated"], ["replaced", "newer value"]];
  const gone = Math.max(1, ...causes.map(([cause]) => removed[cause]));
  bars("bans", stats.bans.map((pattern) => ({ name: pattern, note: "removal in progress", part: null })), "none");
  set("bans-note", stats.bans_open > stats.bans.length ? `${stats.bans.length} of ${stats.bans_open}` : "removal from L2 in progress");
  bars("why", causes.map(([cause, says]) => ({ name: says, note: count(removed[cause]), part: removed[cause] / gone })), "");
}

// Loads by key group: the bar is the saved origin time.
function loads({ loads: { total, groups, waiters } }) {
  const most = Math.max(1e-9, ...groups.map((group) => group.origin_seconds_saved));
  bars("loads", groups.map((group) => {
    const failed = group.load_failed ? ` · ${count(group.load_failed)} failed` : "";
    const note = `${seconds(group.origin_seconds_saved)} saved · ${micros(group.mean_us)} each · ${count(group.started)} started · ${count(group.waited)} waited${failed}`;
    return { name: group.name, note, part: group.origin_seconds_saved / most };
  }), "no loads: clients do not use GetOrLease");
  set("loads-note", groups.length ? `Hits saved the origin ${seconds(total.origin_seconds_saved)}. ${count(total.started)} loads started, ${count(total.waited)} callers waited, ${count(total.load_failed)} loads failed. Waiting now: ${count(waiters)}.` : "");
}

function facts(stats) {
  const { l2, coherence, node } = stats;
  const rows = [["L2", l2.why ? `${l2.kind}, ${l2.state}: ${l2.why}` : `${l2.kind}, ${l2.state}`]];
  rows.push(["read from L2", `${count(l2.keys_read)} keys`], ["written to L2", count(l2.ops_written)], ["L2 errors", count(l2.errors)]);
  if (l2.kind === "redis") {
    rows.push(["primaries, breakers open", `${l2.primaries}, ${l2.breakers_open}`]);
    rows.push(["fence age", coherence.fence_age_ms == null ? "no fence yet" : `${coherence.fence_age_ms} ms`]);
    rows.push(["invalidations", count(coherence.invalidations)], ["lost connections", count(coherence.reconnects)]);
    rows.push(["self-check", `${count(coherence.checked)} checked, ${count(coherence.stale_detected)} stale`]);
    if (coherence.refused) rows.push(["Redis refuses", coherence.refused]);
  }
  if (l2.kind !== "none") rows.push(["L2 reads, p50 and p99", `${micros(stats.windows[0].l2_read.p50_us)}, ${micros(stats.windows[0].l2_read.p99_us)}`]);
  const c = node.connections;
  rows.push(["clients", `${c.grpc} gRPC, ${c.resp} RESP, ${c.http} HTTP`], ["clients refused", count(c.rejected)]);
  rows.push(["bytes in flight", bytes(node.in_flight_bytes)]);
  const list = by("facts");
  if (list.children.length !== 2 * rows.length) {
    list.replaceChildren(...rows.flatMap(() => [element("dt"), element("dd")]));
  }
  rows.flat().forEach((text, at) => { if (list.children[at].textContent !== text) list.children[at].textContent = text; });
}

function show(stats) {
  last = stats;
  points.push(stats.point);
  if (points.length > pointsMax) points.shift();
  set("who", `${stats.node.version} · up ${span(stats.node.uptime_s)} · gRPC ${stats.node.grpc}`);
  chips(stats);
  tiles(stats);
  lists(stats);
  loads(stats);
  facts(stats);
  draw();
  drawSizes(stats);
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
      banner(`The server does not respond (${error.message}). The values shown are outdated; next attempt in ${Math.round(wait / 1000)} s.`);
    }
  }
  setTimeout(round, wait);
}

async function slowRound() {
  if (!paused && !document.hidden) {
    try {
      const { keys } = await ask("/api/top");
      keys.sort((a, b) => b.hits - a.hits);
      const most = Math.max(1, ...keys.map((key) => key.hits));
      bars("top", keys.map((key) => ({ name: key.key, note: `${count(key.hits)} hits · ${bytes(key.bytes)}`, part: key.hits / most })), "L1 is empty");
      showLearned(await ask("/api/learned"));
      drawTtls();
    } catch {
      // The other loop reports the failure.
    }
  }
  setTimeout(slowRound, SLOW_EVERY_MS);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  set("theme", name === "dark" ? "Light" : "Dark");
  by("theme").setAttribute("aria-label", name === "dark" ? "Light colors" : "Dark colors");
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
  for (const which of ["rules", "pairs"]) by(`graph-${which}`).addEventListener("click", () => showGraphOf(which));
  let width = by("main").clientWidth;
  const fit = () => {
    // The height changes with the content; only the width matters.
    if (by("main").clientWidth === width) return;
    width = by("main").clientWidth;
    places = new Map();
    build();
    if (learned) drawGraph();
  };
  new ResizeObserver(fit).observe(by("main"));
  ask("/api/history")
    .then((history) => { points = history.points; pointsMax = history.points_max; })
    .catch(() => {})
    .finally(() => { build(); round(); slowRound(); });
}

begin();
