// Formats numbers and names; small helpers for the elements of the page.
"use strict";

const by = (id) => document.getElementById(id);
const set = (id, text) => { if (by(id).textContent !== text) by(id).textContent = text; };

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
// Formats a duration that may be shorter than a second.
const seconds = (s) => (s < 10 ? micros(Math.round(s * 1e6)) : span(Math.round(s)));
// Formats a TTL with two digits.
const ttl = (ms) => {
  if (ms == null) return "none";
  const units = [[86400e3, "d"], [3600e3, "h"], [60e3, "min"], [1e3, "s"]];
  const [size, unit] = units.find(([size]) => ms >= size) || [1, "ms"];
  const n = ms / size;
  return (n < 10 ? Number(n.toFixed(1)) : Math.round(n)) + " " + unit;
};
const clock = (s) => new Date(s * 1000).toLocaleTimeString([], { hour12: false });
// Shortens a key in the middle, because its end is more specific.
const cut = (text, most) => (text.length <= most ? text : text.slice(0, Math.ceil(most * .6) - 1) + "…" + text.slice(-Math.floor(most * .4)));

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text != null) made.textContent = text;
  return made;
}

// Bars with name, note and length. Existing elements are updated in place, so that the position of a screen reader stays.
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
      // The note has the same value.
      bar.setAttribute("aria-hidden", "true");
      item.append(line, bar);
      list.append(item);
    }
    const [line, bar] = item.children;
    if (line.children[0].textContent !== row.name) line.children[0].textContent = line.children[0].title = row.name;
    if (line.children[1].textContent !== row.note) line.children[1].textContent = row.note;
    bar.hidden = row.part == null;
    bar.value = row.part || 0;
  });
}

// Text alternative of a chart: the same data as a list.
function sentences(id, texts) {
  const list = by(id);
  while (list.children.length > texts.length) list.lastChild.remove();
  texts.forEach((text, at) => {
    const item = list.children[at] || list.appendChild(element("li"));
    if (item.textContent !== text) item.textContent = text;
  });
}
