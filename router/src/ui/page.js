// The live page: asks for what is new once a second and draws it. Whatever comes from outside is
// set as text, never as markup. What is kept is bounded: five minutes of points, and the events of
// the last answer.
"use strict";

const POINTS = 300;
const PATIENCE_MS = 5000;
const $ = (id) => document.getElementById(id);

const model = { run: null, next: 0, tickMs: 1000, windowMs: 0, roles: [], links: [], points: [], events: [] };
// `at`: which point is read, or null for the newest.
const view = { paused: false, lostSince: null, selected: null, at: null, notice: "" };

// Numbers

const digits = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));
function scaled(value, units) {
  const size = Math.abs(value);
  const unit = units.find(([least]) => size >= least) ?? units[units.length - 1];
  return [size === 0 ? "0" : (value < 0 ? "−" : "") + digits(size / unit[0]), unit[1]];
}
const BYTES = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]];
const TIMES = [[1e6, "s"], [1e3, "ms"], [1, "µs"]];
const COUNTS = [[1e9, "G"], [1e6, "M"], [1e4, "k"], [1, ""]];
const count = (value) => Math.round(value).toLocaleString("en");
const bytes = (value) => scaled(value, BYTES).join(" ");
const rate = (value) => {
  const [number, unit] = scaled(value, value === 0 ? [[1, "GB"]] : BYTES);
  return [number, unit + "/s"];
};
const micros = (value) => scaled(value, TIMES);
const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

// Documents

function element(name, attributes = {}, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function text(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

// Charts

const sum = (values) => values.reduce((all, value) => all + (value ?? 0), 0);
const known = (values) => values.some((value) => value !== null);
const CHARTS = [
  { id: "requests", name: "Requests", lines: [(p) => p.requests_per_s],
    value: (p) => [digits(p.requests_per_s), "per second"],
    more: (p) => `${count(p.in_flight)} in flight, ${p.failed_per_s > 0 ? digits(p.failed_per_s) + "/s failed" : "none failed"}` },
  { id: "tokens", name: "Tokens generated", lines: [(p) => p.tokens_per_s],
    value: (p) => [scaled(p.tokens_per_s, COUNTS).join(""), "per second"], more: () => "all decodes" },
  { id: "ttft", name: "TTFT", names: "p50, dashed p99", lines: [(p) => p.ttft?.p50_us ?? null, (p) => p.ttft?.p99_us ?? null],
    value: (p) => (p.ttft ? micros(p.ttft.p50_us) : ["–", ""]), more: (p) => percentiles(p.ttft) },
  { id: "itl", name: "ITL", names: "p50, dashed p99", lines: [(p) => p.itl?.p50_us ?? null, (p) => p.itl?.p99_us ?? null],
    value: (p) => (p.itl ? micros(p.itl.p50_us) : ["–", ""]), more: (p) => percentiles(p.itl) },
  { id: "kv", name: "KV moved", lines: [(p) => p.kv_bytes_per_s],
    value: (p) => rate(p.kv_bytes_per_s), more: () => `${model.links.length} link${model.links.length === 1 ? "" : "s"}` },
  { id: "pinned", name: "KV blocks pinned", lines: [(p) => p.blocks_pinned],
    value: (p) => [count(p.blocks_pinned), "blocks"], more: () => "all prefills" },
  { id: "memory", name: "Memory", lines: [(p) => (known(p.rss_bytes) ? sum(p.rss_bytes) : null)],
    value: (p) => (known(p.rss_bytes) ? scaled(sum(p.rss_bytes), BYTES) : ["–", ""]),
    more: (p) => (known(p.rss_bytes) ? "RSS of all processes" : "nobody watches the processes") },
  { id: "slope", name: "Memory growth", lines: [],
    value: () => steepest(), more: () => steepestWhere() },
];

function percentiles(of) {
  if (!of) return "no streamed answers";
  return `p90 ${micros(of.p90_us).join(" ")}, p99 ${micros(of.p99_us).join(" ")}`;
}
const slopes = () => model.roles.filter((role) => role.memory?.slope)
  .sort((a, b) => b.memory.slope.bytes_per_s - a.memory.slope.bytes_per_s);
function steepest() {
  const [role] = slopes();
  if (!role) return ["–", ""];
  const [number, unit] = scaled(role.memory.slope.bytes_per_s * 60, BYTES);
  return [number, unit + "/min"];
}
function steepestWhere() {
  const [role] = slopes();
  if (!role) return "too little seen to tell";
  return `${role.name}, the steepest: ${VERDICTS[role.memory.verdict][0]}`;
}

function makeChart(chart) {
  const value = element("p", { class: "value" }), more = element("p", { class: "more" });
  const top = element("span"), plot = element("svg:svg", { viewBox: "0 0 300 62", preserveAspectRatio: "none", "aria-hidden": "true" });
  const figure = element("figure", { class: "chart", id: `chart-${chart.id}` },
    element("figcaption", {}, chart.name, top), value, more);
  if (chart.lines.length > 0) {
    figure.append(plot);
    figure.tabIndex = 0;
    figure.setAttribute("role", "group");
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      read(Math.round(((event.clientX - box.left) / box.width) * (span() - 1)) - (span() - model.points.length));
    });
    plot.addEventListener("pointerleave", () => read(null));
    figure.addEventListener("blur", () => read(null));
    figure.addEventListener("keydown", (event) => {
      const at = view.at ?? model.points.length - 1;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: null, Escape: null };
      if (!(event.key in to)) return;
      event.preventDefault();
      read(to[event.key]);
    });
  }
  $("charts").append(figure);
  return { ...chart, figure, valueNode: value, moreNode: more, top, plot };
}
const charts = CHARTS.map(makeChart);

// Points that a chart has room for: a minute of them, and more as they come.
function span() {
  return Math.max(60, model.points.length);
}

function read(at) {
  view.at = at === null ? null : Math.max(0, Math.min(model.points.length - 1, at));
  drawCharts();
}

// A line of `values`, the newest at the right; gaps where nothing is known.
function line(values, top, height) {
  const step = 300 / (span() - 1), first = span() - values.length;
  let path = "", pen = "M";
  values.forEach((value, index) => {
    if (value === null) { pen = "M"; return; }
    path += `${pen}${((first + index) * step).toFixed(1)} ${(height - 1 - (value / top) * (height - 4)).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

function drawCharts() {
  const point = model.points[view.at ?? model.points.length - 1];
  if (!point) return;
  for (const chart of charts) {
    const [number, unit] = chart.value(point);
    chart.valueNode.replaceChildren(number, " ", element("small", {}, unit));
    text(chart.moreNode, chart.more(point));
    if (chart.lines.length === 0) continue;
    const series = chart.lines.map((of) => model.points.map(of));
    const top = Math.max(1e-9, ...series.flat().filter((value) => value !== null));
    const lines = series.flatMap((values, index) => {
      const path = line(values, top, 62);
      const drawn = element("svg:path", { class: index === 0 ? "line" : "line second", d: path });
      if (index > 0 || path === "" || path.lastIndexOf("M") > 0) return [drawn];
      const left = ((span() - values.length + values.findIndex((value) => value !== null)) * 300) / (span() - 1);
      return [element("svg:path", { class: "area", d: `${path}L300 61L${left.toFixed(1)} 61Z` }), drawn];
    });
    const base = element("svg:path", { class: "base", d: "M0 61.5H300" });
    chart.plot.replaceChildren(base, ...lines);
    if (view.at !== null) {
      const x = ((span() - model.points.length + view.at) * 300) / (span() - 1);
      chart.plot.append(element("svg:path", { class: "cursor", d: `M${x} 0V61` }));
    }
    text(chart.top, chart.names ?? "");
    const when = view.at === null ? "now" : "at " + clock(point.at_ms);
    chart.figure.setAttribute("aria-label", `${chart.name} ${when}: ${number} ${unit}, ${chart.more(point)}. Left and right arrows read earlier values.`);
  }
  const reading = view.at === null ? "" : "Reading ";
  text($("moment"), reading + clock(point.at_ms));
}

// Topology

const HEALTH = { up: ["● up", "good"], suspect: ["▲ suspect", "doubt"], down: ["✕ down", "bad"] };
const VERDICTS = { leak: ["✕ leak", "bad"], clean: ["✓ no leak", "good"], inconclusive: ["… undecided", "doubt"] };
const cards = new Map();

function makeCard(role) {
  const parts = { name: element("span", { class: "name" }, role.name), health: element("span"),
    work: element("span"), pinned: element("span"), memory: element("span"), verdict: element("span"),
    plot: element("svg:svg", { viewBox: "0 0 300 26", preserveAspectRatio: "none", "aria-hidden": "true" }) };
  const button = element("button", { class: "role", type: "button", "aria-controls": "details", "data-name": role.name },
    element("span", {}, parts.name, parts.health),
    element("span", { class: "facts-line" }, parts.work, parts.pinned),
    element("span", { class: "facts-line" }, parts.memory, parts.verdict), parts.plot);
  button.addEventListener("click", () => select(view.selected === role.name ? null : role.name, true));
  const item = element("li", {}, button);
  $(role.role + "s").append(item);
  const card = { ...parts, button, item };
  cards.set(role.name, card);
  return card;
}

function growth(memory) {
  if (!memory) return "memory not watched";
  const slope = memory.slope;
  if (!slope) return bytes(memory.rss_bytes);
  const sign = slope.bytes_per_unit > 0 ? "+" : "";
  return `${bytes(memory.rss_bytes)}, ${sign}${scaled(slope.bytes_per_unit, BYTES).join(" ")}/${slope.unit}`;
}

function drawRoles() {
  const names = new Set(model.roles.map((role) => role.name));
  for (const [name, card] of cards) if (!names.has(name)) { card.item.remove(); cards.delete(name); }
  model.roles.forEach((role, index) => {
    const card = cards.get(role.name) ?? makeCard(role);
    const [health, tone] = HEALTH[role.health];
    text(card.health, health);
    card.health.className = tone;
    card.button.dataset.health = role.health;
    card.button.setAttribute("aria-pressed", String(view.selected === role.name));
    const engine = role.snapshot?.engine;
    text(card.work, engine ? `${count(engine.running)} running, ${count(engine.waiting + engine.waiting_remote)} waiting` : `${count(role.in_flight)} in flight`);
    text(card.pinned, engine && role.role === "prefill" ? `${count(engine.blocks_pinned)} pinned` : "");
    text(card.memory, growth(role.memory));
    const [verdict, mood] = role.memory ? VERDICTS[role.memory.verdict] : ["", ""];
    text(card.verdict, verdict);
    card.verdict.className = mood;
    const values = model.points.map((point) => point.rss_bytes[index] ?? null);
    const top = Math.max(1, ...values.filter((value) => value !== null));
    card.plot.replaceChildren(element("svg:path", { class: "line", d: line(values, top, 26) }));
  });
}

// Where the label of a wire stands: a third of the way, where wires that cross are still apart.
function along(a, b, bend) {
  const t = 0.32, s = 1 - t;
  const bezier = (p0, p1, p2, p3) => s ** 3 * p0 + 3 * s * s * t * p1 + 3 * s * t * t * p2 + t ** 3 * p3;
  return { x: bezier(a.right, a.right + bend, b.left - bend, b.left), y: bezier(a.middle, a.middle, b.middle, b.middle) - 7 };
}

function drawWires() {
  const frame = $("topology").getBoundingClientRect();
  if (frame.width === 0 || getComputedStyle($("wires")).display === "none") return;
  const box = (name) => {
    const at = cards.get(name)?.button.getBoundingClientRect();
    return at && { left: at.left - frame.left, right: at.right - frame.left, top: at.top - frame.top, middle: (at.top + at.bottom) / 2 - frame.top, bottom: at.bottom - frame.top, centre: (at.left + at.right) / 2 - frame.left };
  };
  const router = box("router"), drawn = [], labels = [];
  for (const first of ["prefill-0", "decode-0"]) {
    const to = box(first);
    if (router && to) drawn.push(element("svg:path", { d: `M${router.centre} ${router.bottom}C${router.centre} ${to.top - 4} ${to.centre} ${router.bottom + 4} ${to.centre} ${to.top}` }));
  }
  const moving = new Map(model.links.map((link) => [link.from + " " + link.to, link]));
  const most = Math.max(1, ...model.links.map((link) => link.bytes_per_s));
  for (const from of model.roles.filter((role) => role.role === "prefill")) {
    for (const to of model.roles.filter((role) => role.role === "decode")) {
      const a = box(from.name), b = box(to.name), link = moving.get(from.name + " " + to.name);
      if (!a || !b) continue;
      const bend = (b.left - a.right) / 2;
      const path = element("svg:path", { d: `M${a.right} ${a.middle}C${a.right + bend} ${a.middle} ${b.left - bend} ${b.middle} ${b.left} ${b.middle}` });
      drawn.push(path);
      if (!link || link.bytes_per_s <= 0) continue;
      path.setAttribute("class", "flow");
      path.setAttribute("stroke-width", (1.5 + 3.5 * (link.bytes_per_s / most)).toFixed(1));
      if (model.links.length <= 4) labels.push(element("svg:text", along(a, b, bend), rate(link.bytes_per_s).join(" ")));
    }
  }
  // The same wires stay in place: replacing them would start their motion anew.
  const wires = $("wires"), old = [...wires.querySelectorAll("path")];
  drawn.forEach((path, index) => {
    const before = old[index];
    if (!before) { wires.append(path); return; }
    for (const name of ["d", "class", "stroke-width"]) {
      const value = path.getAttribute(name);
      if (value === null) before.removeAttribute(name);
      else if (before.getAttribute(name) !== value) before.setAttribute(name, value);
    }
  });
  old.slice(drawn.length).forEach((path) => path.remove());
  wires.querySelectorAll("text").forEach((label) => label.remove());
  wires.append(...labels);
}

function drawLinks() {
  const rows = model.links.map((link) => element("tr", {},
    element("td", {}, link.from), element("td", {}, link.to),
    element("td", {}, rate(link.bytes_per_s).join(" ")), element("td", {}, bytes(link.bytes))));
  $("links").tBodies[0].replaceChildren(...rows);
  $("links").hidden = rows.length === 0;
  $("no-links").hidden = rows.length > 0;
}

// Details

function select(name, focus) {
  const before = view.selected;
  view.selected = name;
  drawRoles();
  drawDetails();
  if (!focus) return;
  if (name) $("details-title").focus();
  else cards.get(before)?.button.focus();
}

function facts(role) {
  const { snapshot, memory } = role;
  const all = [["Health", HEALTH[role.health][0] + (role.why ? `: it ${role.why}` : "")], ["In flight", count(role.in_flight)]];
  if (role.url) all.push(["Address", role.url]);
  if (memory) {
    all.push(["RSS", bytes(memory.rss_bytes)], ["Held by it alone", bytes(memory.held_bytes)],
      ["File descriptors", count(memory.fds)], ["Threads", count(memory.threads)]);
    if (memory.slope) {
      const { unit, bytes_per_unit, low, high, bytes_per_s } = memory.slope;
      all.push([`Growth per ${unit} (95 % CI)`, `${bytes_per_unit.toFixed(1)} B (${low.toFixed(1)} to ${high.toFixed(1)})`],
        ["Growth per minute", bytes(bytes_per_s * 60)]);
    }
  }
  if (!snapshot) return [...all, ["Snapshot", "none: it is down, or no worker of pdlab's"]];
  all.push(["Process", String(snapshot.pid)], ["Requests", count(snapshot.work.requests)]);
  const { engine, transport, work } = snapshot;
  if (engine) {
    all.push(["KV blocks", `${count(engine.blocks_total)}, ${count(engine.blocks_free)} free`], ["Pinned", count(engine.blocks_pinned)],
      ["Running", count(engine.running)], ["Waiting", count(engine.waiting)], ["Waiting for KV", count(engine.waiting_remote)],
      ["Prompt tokens", count(work.prompt_tokens)], ["Generated tokens", count(work.generation_tokens)]);
  }
  if (role.role === "prefill") all.push(["Leases", count(snapshot.leases)]);
  if (role.role === "decode") {
    all.push(["Transfers", count(work.transfers)], ["KV received", bytes(work.kv_bytes)], ["Blocks verified", count(work.blocks_verified)],
      ["Corrupt blocks", count(work.corrupt_blocks)], ["Unmaps", count(work.unmaps)], ["Remote engines", count(snapshot.remote_engines)]);
  }
  if (transport) {
    all.push(["Registered", `${bytes(transport.registered_bytes)} in ${count(transport.regions)} region${transport.regions === 1 ? "" : "s"}`], ["Endpoints", count(transport.endpoints)]);
    if (transport.rcache_queue !== null) all.push(["UCX invalidation queue", count(transport.rcache_queue)]);
  }
  for (const [name, times] of Object.entries(snapshot.failures)) all.push([name.replaceAll("_", " "), count(times)]);
  return all;
}

function drawDetails() {
  const role = model.roles.find((one) => one.name === view.selected);
  $("details").hidden = !role;
  if (!role) return;
  text($("details-title"), role.name);
  text($("details-says"), role.memory?.says ?? "Its memory is not watched: `pdlab up --ui` watches the processes that it starts.");
  $("details-facts").replaceChildren(...facts(role).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

// Events

const LEVELS = { info: ["○ info", ""], warning: ["▲ warning", "doubt"], problem: ["✕ problem", "bad"] };

function drawEvents() {
  const items = model.events.slice().reverse().map((event) => {
    const [word, tone] = LEVELS[event.level];
    const times = event.count > 1 ? ` (${count(event.count)} times)` : "";
    return element("li", {}, element("time", { datetime: new Date(event.at_ms).toISOString() }, clock(event.at_ms)),
      element("span", { class: tone }, word), element("span", {}, event.role), element("span", {}, event.text + times));
  });
  $("events").replaceChildren(...items);
  $("no-events").hidden = items.length > 0;
}

// Connection

function drawStatus() {
  const [state, words] = view.lostSince !== null ? ["lost", "Disconnected"]
    : view.paused ? ["paused", "Paused"] : model.run === null ? ["waiting", "Connecting"] : ["live", "Live"];
  $("status").dataset.state = document.body.dataset.state = state;
  text($("status"), words);
  const notice = view.lostSince === null ? view.notice
    : `Disconnected since ${clock(view.lostSince)}: the router does not answer. Trying again. What is shown is from before.`;
  text($("notice"), notice);
  $("notice").hidden = notice === "";
}

function draw() {
  drawStatus();
  drawCharts();
  drawRoles();
  drawLinks();
  drawWires();
  drawDetails();
  text($("window"), `TTFT and ITL are of the last ${Math.round(model.windowMs / 1000)} s of streamed answers, as they pass through the router. Charts show five minutes at most.`);
}

function take(state) {
  if (model.run !== null && state.run !== model.run) {
    view.notice = `The router was restarted at ${clock(state.run)}. What was before is gone.`;
    Object.assign(model, { next: 0, points: [], events: [] });
    view.at = null;
  }
  const dropped = Math.max(0, model.points.length + state.points.length - POINTS);
  model.points = model.points.concat(state.points).slice(-POINTS);
  // What is being read stays under the cursor while the line moves on.
  if (view.at !== null) view.at = Math.max(0, view.at - dropped);
  Object.assign(model, { run: state.run, next: state.next, tickMs: state.tick_ms, windowMs: state.window_ms, roles: state.roles, links: state.links });
  if (state.events !== null) {
    model.events = state.events;
    drawEvents();
  }
}

async function ask(after) {
  const answer = await fetch(`ui/state?after=${after}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

// What is new; null if the router does not answer.
async function news() {
  try {
    const state = await ask(model.next);
    // Another process counts from one again: what it has is asked for whole.
    return model.run !== null && state.run !== model.run ? await ask(0) : state;
  } catch {
    return null;
  }
}

async function poll() {
  if (!view.paused && !document.hidden) {
    const state = await news();
    if (state) {
      view.lostSince = null;
      take(state);
      draw();
    } else {
      view.lostSince ??= Date.now();
      drawStatus();
    }
  }
  setTimeout(poll, model.tickMs);
}

$("pause").addEventListener("click", () => {
  view.paused = !view.paused;
  text($("pause"), view.paused ? "Resume" : "Pause");
  drawStatus();
});
$("close").addEventListener("click", () => select(null, true));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && view.selected && !event.defaultPrevented) select(null, true);
});
new ResizeObserver(drawWires).observe($("topology"));
poll();
