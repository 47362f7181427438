// The graph of associations (layout by d3-force), prefetch by key group, TTL advice.
"use strict";

const GRAPH_PX = { height: 320, wide: 640 };
const NODES_MAX = { wide: 18, narrow: 10 };
const SETTLE_TICKS = 300;
// Space for names next to the outermost nodes.
const LABEL_PX = { x: 62, top: 22, bottom: 32 };
const STRETCH_MAX = 2;
const SVG = "http://www.w3.org/2000/svg";

let learned = null;
let graphOf = "rules";
// Previous positions of nodes, so that a growing graph does not jump.
let places = new Map();

// Template of the keys that a rule predicts: {1} is the first variable of the source template, {1+1} is one more than it.
function made(pair) {
  const variables = pair.from.match(/\{[a-z]\}/g) || [];
  let step = "";
  const to = pair.to.replace(/\{(\d+)([+-]\d+)?\}/g, (_, number, by) => { step = by || step; return variables[number - 1] || "{d}"; });
  return { ...pair, to, step };
}

// Nodes and edges: the most probable pairs, up to a readable number of nodes.
function graph(pairs, nodesMax) {
  const nodes = new Map(), edges = [];
  const node = (name) => nodes.get(name) || nodes.set(name, { id: name, degree: 0, ...places.get(name) }).get(name);
  for (const pair of pairs) {
    const fresh = new Set([pair.from, pair.to].filter((name) => !nodes.has(name))).size;
    if (nodes.size + fresh > nodesMax || edges.some(({ from, to }) => from.id === pair.from && to.id === pair.to)) continue;
    const [source, target] = [node(pair.from), node(pair.to)];
    source.degree += 1;
    target.degree += 1;
    edges.push({ source, target, ...pair, from: source, to: target });
  }
  return { nodes: [...nodes.values()], edges };
}

function layOut({ nodes, edges }, width, height) {
  if (nodes.every((node) => places.has(node.id)) && nodes.length === places.size) return;
  const room = Math.min(width / 5, 110);
  const simulation = d3.forceSimulation(nodes).stop()
    .force("link", d3.forceLink(edges.filter((edge) => edge.source !== edge.target)).distance(room).strength(.5))
    .force("charge", d3.forceManyBody().strength(-260))
    .force("collide", d3.forceCollide(room * .42))
    .force("x", d3.forceX(width / 2).strength(.07))
    .force("y", d3.forceY(height / 2).strength(.16));
  simulation.tick(SETTLE_TICKS);
  fit(nodes, "x", LABEL_PX.x, width - LABEL_PX.x);
  fit(nodes, "y", LABEL_PX.top, height - LABEL_PX.bottom);
  places = new Map(nodes.map(({ id, x, y }) => [id, { x, y }]));
}

// Scales the graph to the picture, with an upper bound on the scale.
function fit(nodes, axis, low, high) {
  const all = nodes.map((node) => node[axis]);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const scale = Math.min((high - low) / Math.max(most - least, 1), STRETCH_MAX);
  const middle = (least + most) / 2;
  for (const node of nodes) node[axis] = (low + high) / 2 + (node[axis] - middle) * scale;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  if (text != null) made.textContent = text;
  return made;
}

// An arrow between two nodes, curved so that opposite arrows do not overlap; a loop for a node that points to itself.
function path({ source: a, target: b }) {
  if (a === b) return `M${a.x - 5},${a.y - 6} C${a.x - 30},${a.y - 42} ${a.x + 30},${a.y - 42} ${a.x + 6},${a.y - 9}`;
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const long = Math.hypot(dx, dy) || 1;
  const [ux, uy] = [dx / long, dy / long];
  const [mx, my] = [(a.x + b.x) / 2 - uy * long * .12, (a.y + b.y) / 2 + ux * long * .12];
  return `M${a.x + ux * 8},${a.y + uy * 8} Q${mx},${my} ${b.x - ux * 12},${b.y - uy * 12}`;
}

const says = (pair) =>
  `${pair.from.id ?? pair.from} is followed by ${pair.to.id ?? pair.to}${pair.step ? ` (${pair.step})` : ""}: probability ${percent(pair.probability, 0)}`;

function arrow() {
  const marker = shape("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" });
  marker.append(shape("path", { d: "M0,0 L8,4 L0,8 z", class: "head" }));
  const defs = shape("defs", {});
  defs.append(marker);
  return defs;
}

function drawGraph() {
  const picture = by("graph"), width = Math.max(picture.parentElement.clientWidth, 280);
  const narrow = width < GRAPH_PX.wide;
  const pairs = learned[graphOf].map(graphOf === "rules" ? made : (pair) => pair);
  const found = graph(pairs, narrow ? NODES_MAX.narrow : NODES_MAX.wide);
  layOut(found, width, GRAPH_PX.height);
  picture.setAttribute("viewBox", `0 0 ${width} ${GRAPH_PX.height}`);
  const parts = [shape("title", {}, `${found.edges.length} associations between ${found.nodes.length} ${graphOf === "rules" ? "key templates" : "keys"}`), arrow()];
  for (const edge of found.edges) {
    const drawn = shape("path", { d: path(edge), class: "edge", "stroke-width": (1 + 3 * edge.probability).toFixed(1), "stroke-opacity": (.25 + .7 * edge.probability).toFixed(2), "marker-end": "url(#arrow)" });
    drawn.append(shape("title", {}, says(edge)));
    parts.push(drawn);
  }
  for (const node of found.nodes) {
    const group = shape("g", { class: "node" });
    group.append(shape("title", {}, node.id), shape("circle", { cx: node.x, cy: node.y, r: Math.min(5 + node.degree, 10) }),
      shape("text", { x: node.x, y: node.y + Math.min(5 + node.degree, 10) + 12 }, cut(node.id, narrow ? 15 : 22)));
    parts.push(group);
  }
  picture.replaceChildren(...parts);
  by("graph-none").hidden = found.edges.length > 0;
  set("graph-none", graphOf === "rules" ? "no rule between key templates has been confirmed yet" : "no association between keys has been learned yet");
  sentences("graph-list", found.edges.map(says));
  by("graph-more").hidden = found.edges.length === 0;
}

function showGraphOf(which) {
  graphOf = which;
  places = new Map();
  for (const name of ["rules", "pairs"]) by(`graph-${name}`).setAttribute("aria-pressed", String(name === which));
  if (learned) drawGraph();
}

// Share of prefetched keys that a client requested, of those with a known outcome.
const wanted = (counts) => {
  const ended = counts.used + counts.late + counts.wasted;
  return ended ? (counts.used + counts.late) / ended : null;
};

function prefetch({ total, groups, gain, floor, known_keys, bytes: held }) {
  bars("pre-groups", groups.map(({ name, counts }) => (
    { name: name || "(empty)", note: `${percent(wanted(counts), 0)} requested · ${count(counts.issued)} prefetched`, part: wanted(counts) })), "no keys prefetched yet");
  const off = floor > 1 ? "paused because of too many wasted reads" : `minimum probability ${percent(floor, 0)}`;
  const spared = gain ? `Prefetch avoids ${percent(gain.part)} (± ${percent(gain.deviation)}) of the misses. ` : "No estimate of avoided misses yet. ";
  set("pre-note", spared + `${count(total.issued)} keys prefetched: ${percent(wanted(total), 0)} requested, ${count(total.wasted)} wasted, ${count(total.late)} late; ${off}. ` +
    `${count(total.shadow)} predicted without a read. The learner holds ${count(known_keys)} keys in ${bytes(held)}.`);
}

function advice(of) {
  const now = of.current_ms == null ? "writes have no TTL" : `current TTL ${ttl(of.current_ms)}`;
  const tuned = of.tuned_ms == null ? "" : `, tuned to ${ttl(of.tuned_ms)}`;
  return `${of.template}: ${now}, advised ${ttl(of.ttl_ms)}${tuned}. Hits ${percent(of.now.hit_rate, 0)} → ${percent(of.then.hit_rate, 0)}, ` +
    `time held ${percent(of.now.held, 0)} → ${percent(of.then.held, 0)}; evidence from ${count(of.keys)} keys`;
}

function showLearned(numbers) {
  learned = numbers;
  // Show rules between key templates first; pairs of keys if no rule exists.
  if (!learned.rules.length && learned.pairs.length && graphOf === "rules" && !places.size) showGraphOf("pairs");
  else drawGraph();
  prefetch(learned.prefetch);
  sentences("ttl-list", learned.ttls.map(advice));
  by("ttl-more").hidden = by("c-ttl").hidden = learned.ttls.length === 0;
  by("ttl-none").hidden = learned.ttls.length > 0;
  const moved = learned.ttls.filter((of) => of.current_ms == null || Math.abs(Math.log2(of.ttl_ms / of.current_ms)) > 1).length;
  set("s-ttl", learned.ttls.length ? `${learned.ttls.length} ${learned.ttls.length === 1 ? "key template" : "key templates"}, ${moved} differ by more than a factor of 2` : "");
}
