// Draws a run on a canvas: the map of all of it on top, lanes of nodes and clients below, over true time.
//
// Work a frame is bounded by the width of the canvas and the number of lanes, not by the number of events: everything is kept in
// arrays sorted by time, what is in view is found by binary search, and what would fall on the same pixel is drawn once. Texts of
// the run reach the page as text only (fillText, textContent), never as markup.
'use strict';
(() => {
const page = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const root = document.documentElement;

// --- Data: columns back from their differences, rows into lanes.

const sums = (steps, times) => {
  const out = new Float64Array(steps.length);
  let sum = 0;
  for (let i = 0; i < steps.length; i++) out[i] = (sum += steps[i]) * times;
  return out;
};
const end = Math.max(page.end_ns, 1);
const firstClient = page.first_client;

const lanes = page.lanes.map((lane) => ({
  ...lane,
  name: 'n' + lane.node,
  at: sums(lane.progress.at_ns, 1),
  last: sums(lane.progress.last, 1),
  durable: sums(lane.progress.durable, 1),
  applied: sums(lane.progress.applied, 1),
  cuts: [],
}));
// From each boot until the node says what part it plays.
for (const lane of lanes) {
  lane.boots = lane.marks.filter((mark) => mark.kind === 'boot').map((mark) => {
    const role = lane.roles.find((role) => role.from_ns >= mark.at_ns), gone = lane.processes.find((one) => one.from_ns > mark.at_ns);
    return { at_ns: mark.at_ns, until_ns: Math.min(role?.from_ns ?? end, gone?.from_ns ?? end) };
  });
}
const laneOf = new Map(lanes.map((lane) => [lane.node, lane]));

// What is wrong with the links of a node, as spans of its lane. What is wrong with all links is told at the top.
for (const rule of page.rules) {
  if (!rule.senders && !rule.receivers) continue;
  const all = lanes.map((lane) => lane.node);
  const from = rule.senders || all, to = rule.receivers || all;
  const names = (hosts) => [...hosts.filter((host) => host < firstClient).map((host) => 'n' + host), ...(hosts.some((host) => host >= firstClient) ? ['clients'] : [])].join(' ');
  for (const node of from) {
    const others = to.filter((other) => other !== node);
    if (others.length) laneOf.get(node)?.cuts.push({ from_ns: rule.from_ns, to_ns: rule.to_ns, text: rule.blocks ? 'does not reach ' + names(others) : `to ${names(others)}: ${rule.effect}`, blocks: rule.blocks, apart: rule.blocks && from.length <= to.length });
  }
  for (const node of to) {
    const others = from.filter((other) => other !== node);
    if (others.length) laneOf.get(node)?.cuts.push({ from_ns: rule.from_ns, to_ns: rule.to_ns, text: rule.blocks ? 'does not hear ' + names(others) : `from ${names(others)}: ${rule.effect}`, blocks: rule.blocks, apart: rule.blocks && to.length < from.length });
  }
}

const raw = page.messages;
const messages = (() => {
  const sent = sums(raw.sent_us, 1000);
  const ends = Float64Array.from(sent, (at, i) => at + raw.took_us[i] * 1000);
  return { count: sent.length, sent, ends, from: Uint32Array.from(raw.from), to: Uint32Array.from(raw.to), kind: Uint8Array.from(raw.kind), bytes: Uint32Array.from(raw.bytes), fate: Uint32Array.from(raw.fate) };
})();
const LOST = 5, DAMAGED = 4, LATE = 3, COPY = 2, FLYING = 0;

const byClient = new Map();
for (const op of page.operations) {
  if (!byClient.has(op.client)) byClient.set(op.client, []);
  byClient.get(op.client).push(op);
}
const opById = new Map(page.operations.map((op) => [op.id, op]));
// A client asks for one thing after the other; a history from elsewhere may know better, so bars that overlap get rows of their own.
const clientRows = [];
// Clients that the violation in question is about stand nearest to the nodes.
const blamed = new Set(page.operations.filter((op) => page.violations[page.lead]?.operations.includes(op.id)).map((op) => op.client));
for (const [client, ops] of [...byClient].sort((a, b) => blamed.has(b[0]) - blamed.has(a[0]) || a[0] - b[0])) {
  const rows = [];
  for (const op of ops) {
    op.words = (op.key ? op.key + ': ' : '') + op.label;
    op.name = op.beside ? 'request' : 'op ' + op.id;
    let row = rows.find((row) => row[row.length - 1].to_ns === undefined || row[row.length - 1].to_ns <= op.from_ns);
    if (!row) rows.push(row = []);
    op.at = row.length;
    row.push(op);
  }
  rows.forEach((row, i) => {
    row.forEach((op, at) => { op.drawn_ns = op.to_ns ?? Math.min(row[at + 1]?.from_ns ?? end, end); });
    const from = Float64Array.from(row, (op) => op.from_ns), to = Float64Array.from(row, (op) => op.drawn_ns);
    clientRows.push({ client, ops: row, from, to, name: i ? '' : clientName(client), first: i === 0 });
  });
}
function clientName(client) { return client === page.own_client ? 'the testbed' : 'client ' + client; }

// What is highlighted, and why.
const culprits = new Map();
page.violations.forEach((violation, i) => violation.operations.forEach((id) => { if (!culprits.has(id)) culprits.set(id, i); }));
const order = page.order;
const reader = order ? order.reader : null;

/** The first place in a sorted array whose value is at least `value`. */
const lower = (array, value, low = 0, high = array.length) => {
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (array[middle] < value) low = middle + 1; else high = middle;
  }
  return low;
};
/** The same over rows, by one of their fields. */
const lowerBy = (rows, field, value) => {
  let low = 0, high = rows.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (rows[middle][field] < value) low = middle + 1; else high = middle;
  }
  return low;
};

// Long flights would make every search begin far to the left, so they are kept apart. Losses too: they are drawn in any case.
const LONG = 50e6;
const flights = { short: [], long: [], lost: [] };
for (let i = 0; i < messages.count; i++) {
  if (messages.fate[i] >= LOST) flights.lost.push(i);
  else if (messages.ends[i] - messages.sent[i] > LONG) flights.long.push(i);
  else flights.short.push(i);
}
for (const name of Object.keys(flights)) {
  flights[name] = Uint32Array.from(flights[name]);
  flights[name + 'Sent'] = Float64Array.from(flights[name], (i) => messages.sent[i]);
}
/** The times at which each host sent something. */
const sentBy = (which) => {
  const times = new Map();
  for (let i = 0; i < messages.count; i++) {
    if (!which(messages.fate[i])) continue;
    if (!times.has(messages.from[i])) times.set(messages.from[i], []);
    times.get(messages.from[i]).push(messages.sent[i]);
  }
  for (const [host, list] of times) times.set(host, Float64Array.from(list));
  return times;
};
const allSent = sentBy(() => true), allLost = sentBy((fate) => fate >= LOST);

// --- What the reader of the page has chosen.

const HUES = { other: '#7a8594', raft: '#2f6fde', gossip: '#1f9d62', http: '#a35bd6', rpc: '#2f6fde' };
const view = { from: 0, to: end };
const shown = { layers: new Map(), nodes: new Map(lanes.map((lane) => [lane.node, true])), key: '', client: '', find: '', selected: null, violation: page.lead };
raw.kinds.forEach((kind) => { if (kind !== 'other' || messages.kind.includes(raw.kinds.indexOf('other'))) shown.layers.set(kind, true); });
for (const layer of ['lost only', 'marks', 'faults', 'order']) shown.layers.set(layer, layer !== 'lost only');
if (!order) shown.layers.delete('order');
if (!lanes.length) for (const layer of [...shown.layers.keys()]) if (layer !== 'order') shown.layers.delete(layer);
let matches = [], matchAt = -1, matching = null;

// --- Colours.

const dark = () => (root.dataset.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
const palette = () => dark() ? {
  paper: '#12161c', band: '#171c24', ink: '#e4e9ef', dim: '#98a4b3', line: '#303945', bad: '#ff6673', badPaper: 'rgba(255,70,90,.16)', amber: '#f0b840',
  ok: '#2c6e4a', okEdge: '#5ccb86', failed: '#4a5160', failedEdge: '#8b96a5', unknown: '#6a5420', unknownEdge: '#e3b341', down: '#0b0e12', downLine: '#48515e',
  frozen: 'rgba(80,150,220,.28)', frozenLine: '#6fb2f2', log: 'rgba(120,150,190,.35)', applied: '#8fb8ea', durable: '#d9a441', clock: '#e39a54', text: '#fff', view: 'rgba(108,176,255,.18)', viewLine: '#6cb0ff', cut: '#e0566a', cutBand: 'rgba(224,86,106,.13)',
} : {
  paper: '#ffffff', band: '#f6f7f9', ink: '#1b2129', dim: '#5d6875', line: '#d5dae0', bad: '#c4162a', badPaper: 'rgba(210,20,40,.11)', amber: '#b26a00',
  ok: '#cdebd7', okEdge: '#2c9a5b', failed: '#e3e6ea', failedEdge: '#8b96a5', unknown: '#fbeecb', unknownEdge: '#b8860b', down: '#dfe3e8', downLine: '#a9b2bd',
  frozen: 'rgba(90,160,230,.22)', frozenLine: '#4a8fd0', log: 'rgba(90,120,160,.25)', applied: '#2c5f9e', durable: '#b8860b', clock: '#b4631a', text: '#fff', view: 'rgba(11,98,196,.12)', viewLine: '#0b62c4', cut: '#c4364a', cutBand: 'rgba(196,22,42,.08)',
};
let colour = palette();
// Far apart from one term to the next, and none near the red of what is wrong.
const TERM_HUES = [262, 212, 32, 174, 292, 88, 236, 48, 196, 318, 130];
const hue = (term) => TERM_HUES[term % TERM_HUES.length];
function roleColours(role, term) {
  const h = hue(term);
  if (role === 'leader') return { fill: `hsl(${h} 62% ${dark() ? 46 : 40}%)`, ink: '#fff' };
  if (role === 'candidate') return { fill: `hsl(${h} 60% ${dark() ? 30 : 80}%)`, ink: colour.ink, stripes: `hsl(${h} 62% ${dark() ? 46 : 55}%)` };
  if (role === 'learner') return { fill: colour.band, ink: colour.ink, edge: `hsl(${h} 50% 50%)` };
  if (role === 'stopped') return { fill: colour.down, ink: colour.dim };
  return { fill: `hsl(${h} 45% ${dark() ? 22 : 89}%)`, ink: colour.ink };
}
const FAULTS = { partition: '#c4364a', loss: '#b2557f', delay: '#8a63b8', reorder: '#8a63b8', duplicate: '#8a63b8', stall: '#4a8fd0', kill: '#6b7480', 'power-loss': '#4b525c', clock: '#b4631a', 'fsync-fail': '#8d6b2f', membership: '#23857f', transfer: '#23857f', lag: '#8a63b8', bandwidth: '#8a63b8', clog: '#8a63b8', 'black-hole': '#9e3d3d', refusal: '#9e3d3d', corrupt: '#b2557f', vanish: '#4b525c', move: '#23857f' };
const faultColour = (kind) => FAULTS[kind] || (kind.includes('disk') || kind.includes('sync') || kind.includes('rot') || kind.includes('write') ? '#8d6b2f' : '#7a6a9c');
const SIGNS = { vote: ['V', '#5a6ee0'], truncated: ['T', '#c4364a'], purged: ['P', '#7a8594'], 'snapshot-built': ['s', '#23857f'], 'snapshot-installed': ['S', '#0f766e'], membership: ['M', '#8a4fc4'], member: ['g', '#1f8f5a'], event: ['e', '#7a8594'], disk: ['D', '#8d6b2f'], boot: ['B', '#4b6b8f'], fatal: ['✕', '#c4162a'] };
const GRAVE = ['fatal', 'truncated', 'snapshot-installed', 'disk', 'membership'];

// --- Times and words.

// Where nobody wrote times down there are places of events.
const eventNs = page.event_ns;
const seconds = (ns) => eventNs ? 'event ' + Math.round(ns / eventNs) : (ns / 1e9).toFixed(9).replace(/0{1,6}$/, '') + ' s';
const span = (ns) => eventNs ? (Math.round(ns / eventNs) === 1 ? '1 event' : Math.round(ns / eventNs) + ' events') : ns < 1e3 ? ns.toFixed(0) + ' ns' : ns < 1e6 ? (ns / 1e3).toFixed(1) + ' µs' : ns < 1e9 ? (ns / 1e6).toFixed(ns < 1e7 ? 3 : 1) + ' ms' : (ns / 1e9).toFixed(2) + ' s';
const hostName = (host) => host >= firstClient ? clientName(host - firstClient) : 'n' + host;
const cut = (text, most) => text.length > most ? text.slice(0, most - 1) + '…' : text;

function clockAt(lane, at) {
  let piece = null;
  for (const next of lane.clocks) { if (next.at_ns > at) break; piece = next; }
  if (!piece) return { ahead: 0, rate: 1, wall: 0 };
  return { ahead: piece.own_ns + (at - piece.at_ns) * piece.rate_ppm / 1e6 - at, rate: piece.rate_ppm / 1e6, wall: piece.wall_ahead_ns };
}
/** How far it is ahead by more than it was at the beginning: where a monotonic clock begins means nothing. */
const clockGain = (lane, at) => lane.clocks.length ? clockAt(lane, at).ahead - (lane.clocks[0].own_ns - lane.clocks[0].at_ns) : 0;
const signed = (ns) => (ns < 0 ? '−' : '+') + span(Math.abs(ns));
function clockWords(lane, at) {
  const { rate, wall } = clockAt(lane, at), gained = clockGain(lane, at);
  const words = [];
  if (Math.abs(gained) > 5e4) words.push(signed(gained));
  if (rate !== 1) words.push('×' + rate.toFixed(rate > 0.99 && rate < 1.01 ? 5 : 3));
  if (wall) words.push('wall ' + signed(wall));
  return words.join(', ');
}
function roleAt(lane, at) {
  const i = lowerBy(lane.roles, 'from_ns', at + 1) - 1;
  return i >= 0 && lane.roles[i].to_ns >= at ? lane.roles[i] : null;
}
const roleWords = (role) => role.role === 'follower' && role.leader ? `follows ${role.leader} · term ${role.term}` : `${role.role} · term ${role.term}`;

// --- The picture: rows from top to bottom.

const canvas = $('picture'), ctx = canvas.getContext('2d'), scroll = $('scroll');
const AXIS = 24, FAULT_ROW = 17, LANE = 92, CLIENT_ROW = 30, ROLE = 22;
let GUTTER = 128, rows = [], tall = 0, width = 0, height = 0, ratio = 1, drawn = 0, hits = [], pointer = null, frame = 0, printing = false;

// Faults side by side in as few rows as hold them.
const faultRows = [];
page.faults.forEach((fault) => {
  let row = faultRows.find((row) => row[row.length - 1].to_ns <= fault.from_ns);
  if (!row) faultRows.push(row = []);
  row.push(fault);
});

function layout() {
  rows = [];
  GUTTER = scroll.clientWidth < 600 ? 84 : 128;
  let y = AXIS + 22;
  // Where there is room the lanes stand further apart: messages are easier to follow.
  const nodes = lanes.filter((lane) => shown.nodes.get(lane.node)).length;
  const least = y + faultRows.length * FAULT_ROW + nodes * (LANE + 8) + clientRows.length * CLIENT_ROW + 60;
  const apart = 8 + Math.max(0, Math.min(64, (scroll.clientHeight - least) / Math.max(1, nodes)));
  if (shown.layers.get('faults') && faultRows.length) {
    faultRows.forEach((faults, i) => { rows.push({ kind: 'faults', y, h: FAULT_ROW, faults, title: i ? '' : 'faults' }); y += FAULT_ROW; });
    y += 8;
  }
  for (const lane of lanes) {
    if (!shown.nodes.get(lane.node)) continue;
    rows.push({ kind: 'lane', y, h: LANE, lane });
    y += LANE + apart;
  }
  y += 4;
  for (const row of clientRows) {
    if (shown.client !== '' && String(row.client) !== shown.client) continue;
    if (shown.key !== '' && !row.ops.some((op) => op.key === shown.key)) continue;
    rows.push({ kind: 'client', y, h: CLIENT_ROW, row });
    y += CLIENT_ROW;
  }
  tall = y + 16;
  placeOf.clear();
  for (const row of rows) {
    if (row.kind === 'lane') placeOf.set(row.lane.node, row.y + ROLE / 2 + 2);
    if (row.kind === 'client' && row.row.first) placeOf.set(firstClient + row.row.client, row.y + CLIENT_ROW / 2);
  }
  $('tall').style.height = tall + 'px';
}
const placeOf = new Map();

const plotWidth = () => Math.max(10, width - GUTTER - 8);
const xOf = (at) => GUTTER + (at - view.from) / (view.to - view.from) * plotWidth();
const timeOf = (x) => view.from + (x - GUTTER) / plotWidth() * (view.to - view.from);

function setView(from, to) {
  const least = 1000;
  let size = Math.min(Math.max(to - from, least), end * 1.04);
  const middle = (from + to) / 2;
  from = middle - size / 2;
  from = Math.min(Math.max(from, -end * 0.02), end * 1.02 - size);
  view.from = from;
  view.to = from + size;
  redraw();
}
function zoom(factor, x) {
  const at = timeOf(x ?? GUTTER + plotWidth() / 2);
  setView(at - (at - view.from) * factor, at + (view.to - at) * factor);
}
const pan = (share) => { const by = (view.to - view.from) * share; setView(view.from + by, view.to + by); };
const whole = () => setView(-end * 0.01, end * 1.01);
const toFailure = () => { if (page.focus_ns) setView(page.focus_ns[0], page.focus_ns[1]); };

function redraw() { if (!frame) frame = requestAnimationFrame(draw); }

/** A filled box, at least one pixel wide, cut to the plot; remembers what it was for the pointer. */
function box(from, to, y, h, fill, item, edge) {
  let x = Math.max(xOf(from), GUTTER - 2);
  const right = Math.min(xOf(to), width);
  if (right < GUTTER || x > width) return null;
  const w = Math.max(right - x, 1);
  if (fill) { ctx.fillStyle = fill; ctx.fillRect(x, y, w, h); }
  if (edge) { ctx.strokeStyle = edge; ctx.strokeRect(x + 0.5, y + 0.5, Math.max(w - 1, 0.5), h - 1); }
  drawn++;
  if (item) hits.push({ x, y, w: Math.max(w, 4), h, item });
  return { x, w };
}
/** Text that is cut to the room it has. */
function write(text, x, y, room, ink, font) {
  if (room < 14) return;
  if (font) ctx.font = font;
  ctx.fillStyle = ink;
  const size = ctx.measureText(text).width;
  if (size > room) {
    const letters = Math.floor(text.length * room / size) - 1;
    if (letters < 2) return;
    text = text.slice(0, letters) + '…';
  }
  ctx.fillText(text, x, y);
  drawn++;
}
/** Words on a ground of their own, kept inside the plot. */
function pill(text, x, y, ink, ground) {
  ctx.font = BOLD;
  const size = ctx.measureText(text).width + 12;
  x = Math.max(GUTTER + 2, Math.min(x, width - size - 4));
  ctx.fillStyle = ground ?? colour.paper;
  ctx.beginPath();
  ctx.roundRect(x, y - 9, size, 18, 4);
  ctx.fill();
  ctx.strokeStyle = ink;
  ctx.stroke();
  ctx.fillStyle = ground ? colour.paper : ink;
  ctx.fillText(text, x + 6, y + 0.5);
  drawn++;
  return { x, w: size };
}
const TINY = '600 10px system-ui, "DejaVu Sans", sans-serif';
const SANS = '12px system-ui, "DejaVu Sans", sans-serif', SMALL = '11px system-ui, "DejaVu Sans", sans-serif', BOLD = '600 12.5px system-ui, "DejaVu Sans", sans-serif';

const patterns = new Map();
function hatch(background, line, lean, step) {
  const name = background + line + lean + step;
  if (!patterns.has(name)) {
    const tile = document.createElement('canvas');
    tile.width = tile.height = step * 2;
    const pen = tile.getContext('2d');
    pen.fillStyle = background;
    pen.fillRect(0, 0, step * 2, step * 2);
    pen.strokeStyle = line;
    pen.lineWidth = step / 4;
    pen.beginPath();
    for (let i = -2; i <= 4; i++) { pen.moveTo(i * step, lean ? step * 2 : 0); pen.lineTo(i * step + (lean ? step * 2 : 0), lean ? 0 : step * 2); }
    pen.stroke();
    patterns.set(name, ctx.createPattern(tile, 'repeat'));
  }
  return patterns.get(name);
}

/** The spans of a sorted row that are in view, two a pixel at most: of those that begin on the same pixel the first and the last. */
function* inView(rowsOf, fromField, toField) {
  const pixel = (view.to - view.from) / plotWidth();
  let i = Math.max(0, lowerBy(rowsOf, fromField, view.from) - 1);
  while (i < rowsOf.length && rowsOf[i][fromField] <= view.to) {
    const item = rowsOf[i];
    if (item[toField] >= view.from) yield item;
    const next = item[toField] - item[fromField] < pixel ? lowerBy(rowsOf, fromField, item[fromField] + pixel) - 1 : i + 1;
    i = Math.max(next, i + 1);
  }
}

function draw() {
  frame = 0;
  colour = palette();
  const top = printing ? 0 : scroll.scrollTop;
  width = scroll.clientWidth;
  height = printing ? tall : scroll.clientHeight;
  ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = width + 'px';
    canvas.style.height = height + 'px';
  }
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.fillStyle = colour.paper;
  ctx.fillRect(0, 0, width, height);
  ctx.save();
  ctx.translate(0, -top);
  ctx.textBaseline = 'middle';
  ctx.lineWidth = 1;
  hits = [];
  drawn = 0;
  const seen = rows.filter((row) => row.y + row.h >= top && row.y <= top + height);
  // What begins before the view does not reach into the names.
  ctx.save();
  ctx.beginPath();
  ctx.rect(GUTTER - 2, top, width - GUTTER + 2, height);
  ctx.clip();
  grid(top);
  for (const row of seen) if (row.kind === 'lane') ground(row);
  for (const row of seen) if (row.kind === 'faults') drawFaults(row);
  const flying = drawMessages(top);
  for (const row of seen) if (row.kind === 'lane') drawLane(row);
  for (const row of seen) if (row.kind === 'client') drawClient(row);
  if (shown.layers.get('order') && order) drawOrder();
  drawEvidence();
  ctx.restore();
  for (const row of seen) gutter(row);
  axis(top);
  drawFlags(top);
  ctx.restore();
  drawMap();
  report(flying, seen);
}

/** Times at round steps. */
function steps() {
  const rough = (view.to - view.from) / Math.max(2, plotWidth() / 110);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((by) => by * power).find((step) => step >= rough);
  const out = [];
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) out.push(at);
  return { out, digits: Math.max(0, Math.min(9, 9 - Math.floor(Math.log10(step) + 1e-9))) };
}
function grid(top) {
  ctx.strokeStyle = colour.line;
  ctx.globalAlpha = 0.6;
  ctx.beginPath();
  for (const at of steps().out) {
    const x = Math.round(xOf(at)) + 0.5;
    if (x < GUTTER) continue;
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    drawn++;
  }
  ctx.stroke();
  ctx.globalAlpha = 1;
  for (const [at, name] of [[page.storm_ns, 'storm'], [page.heal_ns, 'heal']]) {
    if (at === null || at < view.from || at > view.to) continue;
    const x = Math.round(xOf(at)) + 0.5;
    ctx.strokeStyle = colour.dim;
    ctx.setLineDash([2, 4]);
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    ctx.setLineDash([]);
    hits.push({ x: x - 3, y: top, w: 6, h: height, low: true, item: { type: 'stage', name, at } });
  }
}
function axis(top) {
  ctx.fillStyle = colour.paper;
  ctx.fillRect(0, top, width, AXIS);
  ctx.strokeStyle = colour.line;
  ctx.beginPath();
  ctx.moveTo(0, top + AXIS - 0.5);
  ctx.lineTo(width, top + AXIS - 0.5);
  ctx.stroke();
  const { out, digits } = steps();
  for (const at of out) {
    const x = xOf(at);
    if (x >= GUTTER - 1 && x < width - 20) write(eventNs ? (at / eventNs).toFixed(digits) : (at / 1e9).toFixed(digits) + ' s', x + 3, top + AXIS / 2, 110, colour.dim, SMALL);
  }
  write(eventNs ? 'event' : 'true time', 10, top + AXIS / 2, GUTTER - 20, colour.dim, SMALL);
  for (const [at, name] of [[page.storm_ns, '▸ storm begins'], [page.heal_ns, '▸ everything healed']]) {
    if (at !== null && at >= view.from && at <= view.to) write(name, xOf(at) + 3, top + AXIS + 9, 140, colour.dim, SMALL);
  }
}

function gutter(row) {
  ctx.fillStyle = colour.paper;
  ctx.fillRect(0, row.y - 2, GUTTER - 4, row.h + 4);
  if (row.kind === 'faults') return write(row.title, 10, row.y + row.h / 2, GUTTER - 18, colour.dim, SANS);
  if (row.kind === 'client') return write(row.row.name, 10, row.y + row.h / 2, GUTTER - 18, colour.ink, SANS);
  const { lane } = row, at = pointer ? timeOf(Math.max(pointer.x, GUTTER)) : Math.min(view.to, end);
  write(lane.name, 10, row.y + 13, GUTTER - 14, colour.ink, '700 15px system-ui, "DejaVu Sans", sans-serif');
  const after = 18 + ctx.measureText(lane.name).width;
  const gone = lane.processes.find((one) => one.from_ns <= at && at < one.to_ns && one.state !== 'frozen');
  const role = gone ? null : roleAt(lane, at);
  write(gone ? { down: 'down', 'power-loss': 'no power', absent: 'not there' }[gone.state] : role ? role.role + ' t' + role.term : lane.client ? 'client' : '', after, row.y + 14, GUTTER - 6 - after, colour.dim, SMALL);
  const i = lower(lane.at, at + 1) - 1;
  if (i >= 0) {
    write(`log ${lane.last[i]}`, 10, row.y + 33, GUTTER - 18, colour.dim, SMALL);
    write(`durable ${lane.durable[i]}`, 10, row.y + 46, GUTTER - 18, colour.dim, SMALL);
    write(`applied ${lane.applied[i]}`, 10, row.y + 59, GUTTER - 18, colour.dim, SMALL);
  }
  const clock = clockWords(lane, at);
  if (clock) write(clock, 10, row.y + 74, GUTTER - 14, colour.clock, SMALL);
}

function drawFaults(row) {
  for (const fault of inView(row.faults, 'from_ns', 'to_ns')) {
    const ground = faultColour(fault.kind);
    ctx.globalAlpha = faded(fault.kind + ' ' + fault.what) ? 0.25 : 0.9;
    const at = box(fault.from_ns, Math.max(fault.to_ns, fault.from_ns + 1), row.y + 1, row.h - 3, ground, { type: 'fault', fault });
    ctx.globalAlpha = 1;
    const words = fault.what ? `${fault.kind}: ${fault.what}` : fault.kind;
    if (!at) continue;
    if (at.w > 30) write(words, at.x + 5, row.y + row.h / 2, at.w - 8, '#fff', SMALL);
    else write(words, at.x + at.w + 3, row.y + row.h / 2, Math.min(90, roomAfter(row.faults, fault) - 6), colour.dim, SMALL);
  }
}
function roomAfter(faults, fault) {
  const next = faults[faults.indexOf(fault) + 1];
  return (next ? xOf(next.from_ns) : width) - xOf(fault.to_ns);
}

/** What lies under everything else in a lane: faults that concern it. */
function ground({ y, h, lane }) {
  ctx.fillStyle = colour.band;
  ctx.fillRect(GUTTER, y, width - GUTTER, h);
  if (shown.layers.get('faults')) {
    for (const one of lane.cuts) {
      if (one.to_ns < view.from || one.from_ns > view.to) continue;
      if (one.apart) box(one.from_ns, one.to_ns, y, h, colour.cutBand);
      box(one.from_ns, one.to_ns, y + h - (one.blocks ? 5 : 4), one.blocks ? 5 : 4, one.blocks ? colour.cut : '#8a63b8', { type: 'cut', lane, cut: one });
    }
  }
}

function drawLane({ y, h, lane }) {
  // The part it plays; until it says so, only that it runs.
  if (lane.client) box(0, end, y + 2, ROLE, colour.band);
  if (lane.client) write('client agent: no part in Raft, asks the servers', GUTTER + 6, y + 2 + ROLE / 2, plotWidth() - 8, colour.dim, SANS);
  else box(0, end, y + 2, ROLE, hatch(colour.band, colour.line, true, 3));
  if (!lane.client) for (const mark of inView(lane.boots, 'at_ns', 'until_ns')) {
    const x = Math.max(GUTTER, xOf(mark.at_ns));
    write('runs, no role yet', x + 6, y + 2 + ROLE / 2, xOf(mark.until_ns) - x - 8, colour.dim, SMALL);
  }
  for (const role of inView(lane.roles, 'from_ns', 'to_ns')) {
    const look = roleColours(role.role, role.term);
    const at = box(role.from_ns, role.to_ns, y + 2, ROLE, look.stripes ? hatch(look.fill, look.stripes, true, 5) : look.fill, { type: 'role', lane, role }, look.edge);
    if (at && at.w > 26) write(roleWords(role), at.x + 6, y + 2 + ROLE / 2, at.w - 10, look.ink, role.role === 'leader' ? BOLD : SANS);
  }
  drawProgress(y + 28, 30, lane);
  drawClock(y + 60, 12, lane);
  if (shown.layers.get('marks')) drawMarks(y + 73, lane);
  // When it did not run, over everything.
  for (const gone of inView(lane.processes, 'from_ns', 'to_ns')) {
    const frozen = gone.state === 'frozen';
    const fill = gone.state === 'absent' ? colour.paper : frozen ? hatch(colour.frozen, colour.frozenLine, false, 5) : hatch(colour.down, colour.downLine, true, gone.state === 'down' ? 6 : 4);
    if (frozen) ctx.globalAlpha = 0.75;
    const at = box(gone.from_ns, gone.to_ns, y, h - (frozen ? 18 : 5), fill, { type: 'process', lane, gone });
    ctx.globalAlpha = 1;
    const words = { frozen: 'frozen', down: 'down', 'power-loss': 'no power', absent: 'not there yet' }[gone.state];
    if (at && at.w > 36) {
      ctx.font = BOLD;
      const size = Math.min(ctx.measureText(words).width + 12, at.w - 4);
      ctx.fillStyle = colour.paper;
      ctx.fillRect(at.x + 4, y + 30, size, 18);
      write(words, at.x + 10, y + 39, size - 8, frozen ? colour.frozenLine : colour.ink);
    }
  }
}

/** The log: what is in it as an area, what is durable dashed, what is applied as a line; the scale is that of all lanes in view. */
function drawProgress(y, h, lane) {
  if (!lane.at.length) return;
  const { low, high } = scale;
  const yOf = (index) => y + h - 2 - Math.min(1, Math.max(0, (index - low) / Math.max(1, high - low))) * (h - 4);
  const columns = [[lane.last, colour.log, 'area'], [lane.durable, colour.durable, 'dash'], [lane.applied, colour.applied, 'line']];
  const begin = Math.max(0, lower(lane.at, view.from) - 1);
  const pixel = (view.to - view.from) / plotWidth();
  const right = Math.min(width, xOf(Math.min(view.to, end)));
  for (const [column, ink, how] of columns) {
    const left = Math.max(GUTTER, xOf(lane.at[begin]));
    let before = yOf(column[begin]);
    ctx.beginPath();
    ctx.moveTo(left, before);
    let at = begin + 1;
    while (at < lane.at.length && lane.at[at] <= view.to) {
      // Of several steps on one pixel the last counts.
      const next = Math.max(at + 1, lower(lane.at, lane.at[at] + pixel, at + 1));
      const x = Math.max(GUTTER, xOf(lane.at[at])), now = yOf(column[next - 1]);
      ctx.lineTo(x, before);
      ctx.lineTo(x, now);
      before = now;
      at = next;
      drawn++;
    }
    ctx.lineTo(right, before);
    if (how === 'area') {
      ctx.lineTo(right, y + h - 1);
      ctx.lineTo(left, y + h - 1);
      ctx.fillStyle = ink;
      ctx.fill();
    } else {
      ctx.strokeStyle = ink;
      ctx.lineWidth = how === 'line' ? 1.5 : 1;
      ctx.setLineDash(how === 'dash' ? [3, 3] : []);
      ctx.stroke();
      ctx.setLineDash([]);
      ctx.lineWidth = 1;
    }
  }
  hits.push({ x: GUTTER, y, w: width, h, low: true, item: { type: 'progress', lane } });
}
const scale = {
  get low() { return this.of(view.from, Math.min, Infinity, 'applied'); },
  get high() { return this.of(view.to, Math.max, 0, 'last'); },
  of(at, pick, worst, column) {
    let value = worst;
    for (const lane of lanes) {
      if (!shown.nodes.get(lane.node) || !lane.at.length) continue;
      value = pick(value, lane[column][Math.max(0, lower(lane.at, at) - 1)]);
    }
    return Number.isFinite(value) ? value : 0;
  },
};

/** How far the clock is ahead of true time: a line that leans when the clock runs fast or slow, with the figures. */
function drawClock(y, h, lane) {
  const wrong = lane.clocks.some((piece) => piece.rate_ppm !== 1e6 || piece.wall_ahead_ns) || lane.clocks.some((piece) => Math.abs(clockGain(lane, piece.at_ns)) > 5e4);
  if (!wrong) return;
  const pieces = lane.clocks;
  const base = pieces[0].own_ns - pieces[0].at_ns;
  const samples = [...pieces.map((piece) => clockGain(lane, piece.at_ns)), clockGain(lane, end)];
  const least = Math.min(...samples, 0), most = Math.max(...samples, 0);
  const yOf = (ahead) => y + h - 1 - (ahead - least) / Math.max(1, most - least) * (h - 2);
  ctx.strokeStyle = colour.clock;
  ctx.beginPath();
  let begun = false;
  pieces.forEach((piece, i) => {
    const to = pieces[i + 1]?.at_ns ?? end;
    if (to < view.from || piece.at_ns > view.to) return;
    const at = Math.max(piece.at_ns, view.from), until = Math.min(to, view.to);
    const gain = (t) => piece.own_ns + (t - piece.at_ns) * piece.rate_ppm / 1e6 - t - base;
    ctx[begun ? 'lineTo' : 'moveTo'](Math.max(GUTTER, xOf(at)), yOf(gain(at)));
    ctx.lineTo(xOf(until), yOf(gain(until)));
    begun = true;
    drawn++;
  });
  ctx.stroke();
  let free = 0;
  pieces.forEach((piece, i) => {
    const x = Math.max(GUTTER, xOf(piece.at_ns)) + 3, next = xOf(pieces[i + 1]?.at_ns ?? end);
    if (piece.at_ns > view.to || next < GUTTER || x < free) return;
    const words = clockWords(lane, Math.max(piece.at_ns, view.from));
    if (!words || next - x <= 60) return;
    ctx.font = SMALL;
    const room = Math.min(next - x - 4, 230), size = Math.min(room, ctx.measureText('clock ' + words).width);
    ctx.fillStyle = colour.band;
    ctx.fillRect(x - 2, y, size + 4, h);
    write('clock ' + words, x, y + h / 2, room, colour.clock, SMALL);
    free = x + size + 12;
  });
  hits.push({ x: GUTTER, y, w: width, h, low: true, item: { type: 'clock', lane } });
}

function drawMarks(y, lane) {
  const pixel = (view.to - view.from) / plotWidth(), size = 14;
  let i = lowerBy(lane.marks, 'at_ns', view.from - size * pixel);
  while (i < lane.marks.length && lane.marks[i].at_ns <= view.to) {
    const next = Math.max(i + 1, lowerBy(lane.marks, 'at_ns', lane.marks[i].at_ns + size * pixel));
    // Of those that share a place the gravest shows.
    let mark = lane.marks[i];
    for (let at = i, tries = 0; at < next && tries < 24; at++, tries++) {
      const rank = (one) => GRAVE.includes(one.kind) ? GRAVE.indexOf(one.kind) : 99;
      if (rank(lane.marks[at]) < rank(mark) || (matching && !faded(lane.marks[at].text) && faded(mark.text))) mark = lane.marks[at];
    }
    const [sign, ink] = SIGNS[mark.kind] || ['?', '#7a8594'];
    const x = xOf(lane.marks[i].at_ns);
    ctx.globalAlpha = faded(mark.text) ? 0.2 : 1;
    ctx.fillStyle = ink;
    ctx.beginPath();
    ctx.roundRect(x - 1, y, 13, 13, 3);
    ctx.fill();
    ctx.fillStyle = '#fff';
    ctx.font = TINY;
    ctx.fillText(sign, x + 2.2, y + 7);
    if (next - i > 1) { ctx.fillStyle = colour.dim; ctx.fillRect(x + 1, y + 14, 9, 2); }
    ctx.globalAlpha = 1;
    drawn += 2;
    hits.push({ x: x - 1, y, w: 14, h: 16, item: { type: 'mark', lane, mark, more: lane.marks.slice(i, Math.min(next, i + 8)), count: next - i } });
    i = next;
  }
}

function drawClient({ y, h, row }) {
  ctx.strokeStyle = colour.line;
  ctx.beginPath();
  ctx.moveTo(GUTTER, y + h - 0.5);
  ctx.lineTo(width, y + h - 0.5);
  ctx.stroke();
  const pixel = (view.to - view.from) / plotWidth();
  let i = lower(row.to, view.from);
  while (i < row.ops.length && row.from[i] <= view.to) {
    const op = row.ops[i];
    let next = i + 1;
    if (row.to[i] - row.from[i] < pixel) next = Math.max(next, lower(row.from, row.from[i] + pixel, i) - 1);
    let chosen = op;
    for (let at = i; at < next && at < i + 24; at++) if (culprits.has(row.ops[at].id)) chosen = row.ops[at];
    drawOperation(chosen, y + 4, h - 8);
    i = next;
  }
}
function drawOperation(op, y, h) {
  if (shown.key !== '' && op.key !== shown.key) return;
  const fill = { ok: colour.ok, failed: colour.failed, unknown: hatch(colour.unknown, colour.paper, true, 5) }[op.result];
  const edge = { ok: colour.okEdge, failed: colour.failedEdge, unknown: colour.unknownEdge }[op.result];
  const wrong = culprits.has(op.id);
  ctx.globalAlpha = faded(op.words) && !wrong ? 0.22 : 1;
  const at = box(op.from_ns, op.drawn_ns, y, h, fill, { type: 'op', op }, edge);
  if (!at) { ctx.globalAlpha = 1; return; }
  op.x = at.x; op.y = y; op.w = at.w;
  const sign = { ok: '', failed: '✗ ', unknown: '? ' }[op.result];
  if (at.w > 34) write(sign + op.words, at.x + 5, y + h / 2 + 0.5, at.w - 8, colour.ink, wrong ? BOLD : SMALL);
  if (wrong || shown.selected?.op === op) {
    ctx.strokeStyle = shown.selected?.op === op && !wrong ? colour.viewLine : op.id === reader ? colour.amber : colour.bad;
    ctx.lineWidth = 2.5;
    ctx.strokeRect(at.x - 1, y - 1, at.w + 2, h + 2);
    ctx.lineWidth = 1;
    drawn++;
  }
  ctx.globalAlpha = 1;
}

/** The longest order of the broken key: where each operation may have taken effect, and what cannot follow. */
function drawOrder() {
  const placed = order.placed;
  const first = Math.max(0, lowerBy(placed, 'at_ns', view.from) - 1), last = lowerBy(placed, 'at_ns', view.to);
  ctx.strokeStyle = colour.applied;
  ctx.lineWidth = 1.3;
  ctx.beginPath();
  let begun = false, free = -1e9, beforeX = -1e9;
  const dots = [];
  const stride = Math.max(1, Math.ceil((last - first) / 1500));
  for (let i = first; i <= last && i < placed.length; i += stride) {
    const y = rowY(placed[i].id);
    if (y === null) continue;
    let x = xOf(placed[i].at_ns);
    // Instants that coincide are drawn one after the other, inside the bar where there is room.
    const op = opById.get(placed[i].id);
    x = Math.max(x + 3, Math.min(beforeX + 5, op ? xOf(op.drawn_ns) - 2 : x));
    beforeX = x;
    ctx[begun ? 'lineTo' : 'moveTo'](x, y);
    begun = true;
    dots.push({ x, y, i });
    drawn++;
  }
  ctx.globalAlpha = 0.7;
  ctx.stroke();
  ctx.globalAlpha = 1;
  ctx.lineWidth = 1;
  for (const { x, y, i } of dots) {
    ctx.fillStyle = colour.applied;
    ctx.beginPath();
    ctx.arc(x, y, 3.2, 0, 7);
    ctx.fill();
    drawn++;
    hits.push({ x: x - 5, y: y - 5, w: 10, h: 10, item: { type: 'placed', place: placed[i], number: i + 1 } });
    if (x > free && dots.length < 120) {
      write(`${i + 1}`, x - 3, y - 10, 40, colour.applied, TINY);
      free = x + ctx.measureText(`${i + 1}`).width + 8;
    }
  }
  const readerOp = reader !== null ? opById.get(reader) : null, readerY = readerOp ? rowY(reader) : null;
  const visible = (op) => op.from_ns <= view.to && op.drawn_ns >= view.from;
  for (const id of order.stuck.slice(0, 12)) {
    const op = opById.get(id), y = rowY(id);
    if (!op || y === null) continue;
    // Why it cannot wait: it was answered before the reader was asked.
    if (readerOp && readerY !== null && op !== readerOp && op.to_ns !== undefined && op.to_ns < readerOp.from_ns && (visible(op) || visible(readerOp))) {
      const x = Math.max(GUTTER, xOf(op.to_ns)), toX = Math.min(width, xOf(readerOp.from_ns));
      ctx.strokeStyle = ctx.fillStyle = colour.bad;
      ctx.lineWidth = 1.5;
      ctx.setLineDash([4, 3]);
      ctx.beginPath();
      ctx.moveTo(x, y);
      ctx.lineTo(toX - (y === readerY ? 6 : 0), y);
      if (y !== readerY) ctx.lineTo(toX, readerY + (y < readerY ? -10 : 10));
      ctx.stroke();
      ctx.setLineDash([]);
      ctx.lineWidth = 1;
      ctx.beginPath();
      if (y === readerY) { ctx.moveTo(toX - 1, y); ctx.lineTo(toX - 8, y - 4); ctx.lineTo(toX - 8, y + 4); }
      else { const tipY = readerY + (y < readerY ? -10 : 10), back = y < readerY ? -7 : 7; ctx.moveTo(toX, tipY); ctx.lineTo(toX - 4, tipY + back); ctx.lineTo(toX + 4, tipY + back); }
      ctx.fill();
      const words = `answered ${span(readerOp.from_ns - op.to_ns)} before`;
      ctx.font = BOLD;
      const size = ctx.measureText(words).width + 12;
      if (toX - x > size + 24) pill(words, (x + toX - size) / 2, y, colour.bad);
    }
    if (!visible(op)) continue;
    pill('✗ must come next, and cannot', xOf(op.from_ns) - 6, y - 20, colour.bad);
  }
  if (readerOp && readerY !== null && visible(readerOp)) {
    const state = placed.length ? placed[placed.length - 1].after : null;
    pill(`still finds ${state === null ? 'nothing' : cut(JSON.stringify(state), 40)}, already replaced`, xOf(readerOp.from_ns) + 4, readerY + 20, colour.amber);
  }
}
function rowY(id) {
  const op = opById.get(id);
  if (!op || (shown.key !== '' && op.key !== shown.key)) return null;
  const row = rows.find((row) => row.kind === 'client' && row.row.client === op.client && row.row.ops[op.at] === op);
  return row ? row.y + CLIENT_ROW / 2 : null;
}

/** How many messages each host sends, as bars under its lane. */
function density(sent, ink, strength, top) {
  const step = 4, bins = Math.floor(plotWidth() / step);
  ctx.fillStyle = ink;
  ctx.globalAlpha = strength;
  for (const [host, y] of placeOf) {
    const times = sent.get(host);
    if (!times || y < top - 60 || y > top + height + 60) continue;
    const most = laneOf.has(host) ? 9 : 6, foot = y + (laneOf.has(host) ? 24 : 11);
    let at = lower(times, view.from);
    for (let bin = 0; bin < bins; bin++) {
      const next = lower(times, timeOf(GUTTER + (bin + 1) * step), at);
      if (next > at) {
        const tall = Math.min(most, Math.sqrt(next - at) * 1.6);
        ctx.fillRect(GUTTER + bin * step, foot - tall, step - 1, tall);
        drawn++;
      }
      at = next;
    }
  }
  ctx.globalAlpha = 1;
}
/** Messages as lines while they are few, and as the density of what each host sends when they are many. */
function drawMessages(top) {
  const kinds = raw.kinds.map((kind) => shown.layers.get(kind) !== false && shown.layers.has(kind));
  const lostOnly = shown.layers.get('lost only');
  if (!kinds.some(Boolean)) return { count: 0, lines: 0, many: false };
  const firstShort = lower(flights.shortSent, view.from - LONG), lastShort = lower(flights.shortSent, view.to);
  const count = lower(flights.shortSent, view.to) - lower(flights.shortSent, view.from);
  const LINES = 2500, LOSSES = 500;
  let lines = 0;
  const line = (i) => {
    const from = placeOf.get(messages.from[i]), to = placeOf.get(messages.to[i]);
    if (from === undefined || to === undefined || !kinds[messages.kind[i]] || messages.ends[i] < view.from) return;
    if (Math.max(from, to) < top || Math.min(from, to) > top + height) return;
    const fate = messages.fate[i], x = xOf(messages.sent[i]);
    let toX = xOf(messages.ends[i]), toY = to;
    ctx.strokeStyle = HUES[raw.kinds[messages.kind[i]]] || HUES.other;
    if (fate >= LOST || fate === FLYING) {
      // It gets half of the way.
      toX = Math.max(toX, x + 7);
      toY = from + (to - from) * 0.45;
      ctx.strokeStyle = fate >= LOST ? colour.bad : colour.dim;
    }
    if (fate === DAMAGED) ctx.strokeStyle = colour.amber;
    ctx.setLineDash(fate === LATE ? [6, 3] : fate === COPY ? [2, 3] : []);
    ctx.beginPath();
    ctx.moveTo(x, from);
    ctx.lineTo(toX, toY);
    ctx.stroke();
    if (fate >= LOST) {
      ctx.beginPath();
      ctx.moveTo(toX - 3, toY - 3); ctx.lineTo(toX + 3, toY + 3);
      ctx.moveTo(toX - 3, toY + 3); ctx.lineTo(toX + 3, toY - 3);
      ctx.stroke();
    } else if (fate !== FLYING && count < 400) {
      ctx.fillStyle = ctx.strokeStyle;
      ctx.beginPath();
      ctx.arc(toX, toY, 2, 0, 7);
      ctx.fill();
    }
    drawn++;
    lines++;
    hits.push({ line: [x, from, toX, toY], item: { type: 'message', i } });
  };
  ctx.globalAlpha = Math.max(0.3, 0.85 - count / 1200);
  if (!lostOnly && count <= LINES) {
    for (let at = firstShort; at < lastShort; at++) line(flights.short[at]);
    const long = lower(flights.longSent, view.to);
    for (let at = Math.max(0, long - LINES); at < long; at++) line(flights.long[at]);
  } else if (!lostOnly) {
    density(allSent, colour.dim, 0.35, top);
  }
  ctx.globalAlpha = 1;
  const lost = [lower(flights.lostSent, view.from - 1e9), lower(flights.lostSent, view.to)];
  if (lost[1] - lost[0] > LOSSES) density(allLost, colour.bad, 0.7, top);
  else {
    ctx.globalAlpha = lost[1] - lost[0] > 120 ? 0.45 : 0.9;
    for (let at = lost[0]; at < lost[1]; at++) line(flights.lost[at]);
  }
  ctx.setLineDash([]);
  ctx.globalAlpha = 1;
  return { count: count + (lost[1] - lost[0]), lines, many: (!lostOnly && count > LINES) || lost[1] - lost[0] > LOSSES };
}

function drawFlags(top) {
  // Names stand where there is room, that of the violation in question before the others.
  const taken = [];
  const byWeight = page.violations.map((violation, i) => [violation, i]).sort((a, b) => (b[1] === shown.violation) - (a[1] === shown.violation));
  byWeight.forEach(([violation, i]) => {
    if (!violation.at_ns || violation.at_ns < view.from || violation.at_ns > view.to) return;
    if (byWeight.find(([other]) => other.at_ns === violation.at_ns)[1] !== i) return;
    const x = Math.round(xOf(violation.at_ns)) + 0.5;
    ctx.strokeStyle = colour.bad;
    ctx.lineWidth = i === shown.violation ? 1.5 : 0.6;
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    ctx.lineWidth = 1;
    const same = page.violations.filter((other) => other.at_ns === violation.at_ns).map((other) => other.check);
    const words = [...new Set(same)].join(' ');
    ctx.font = BOLD;
    const size = ctx.measureText(words).width + 10;
    const left = Math.min(x, width - size);
    if (taken.some((other) => left < other + size + 2 && other < left + size + 2)) return;
    taken.push(left);
    ctx.fillStyle = colour.bad;
    ctx.fillRect(left, top + 3, size, 18);
    write(words, left + 5, top + 12.5, size, dark() ? '#12161c' : '#fff');
    hits.push({ x: left, y: top, w: size, h: AXIS, item: { type: 'violation', violation } });
  });
}
/** What the violation in question speaks of. */
function drawEvidence() {
  for (const event of page.violations[shown.violation]?.events ?? []) {
    const row = rows.find((row) => row.kind === 'lane' && row.lane.node === event.node);
    if (!row || event.at_ns < view.from || event.at_ns > view.to) continue;
    const x = xOf(event.at_ns);
    ctx.strokeStyle = colour.bad;
    ctx.lineWidth = 2;
    ctx.beginPath();
    ctx.arc(x, row.y + 2 + ROLE / 2, 7, 0, 7);
    ctx.stroke();
    ctx.lineWidth = 1;
    drawn++;
    hits.push({ x: x - 7, y: row.y + 2, w: 14, h: ROLE, item: { type: 'event', event, violation: shown.violation } });
  }
}

// --- The map of the whole run.

const map = $('minimap'), mapCtx = map.getContext('2d');
let still = null, stillFor = '';
function drawMap() {
  const w = map.clientWidth, h = map.clientHeight;
  const name = [w, h, ratio, dark()].join();
  if (stillFor !== name) {
    stillFor = name;
    map.width = w * ratio;
    map.height = h * ratio;
    still = document.createElement('canvas');
    still.width = map.width;
    still.height = map.height;
    const pen = still.getContext('2d');
    pen.scale(ratio, ratio);
    pen.fillStyle = colour.paper;
    pen.fillRect(0, 0, w, h);
    const x = (at) => mapX(at, w);
    const share = (h - 16) / Math.max(1, lanes.length || 1);
    pen.globalAlpha = 0.8;
    for (const fault of page.faults) {
      pen.fillStyle = faultColour(fault.kind);
      pen.fillRect(x(fault.from_ns), 2, Math.max(1, x(fault.to_ns) - x(fault.from_ns)), 5);
    }
    pen.globalAlpha = 1;
    lanes.forEach((lane, i) => {
      const y = 9 + i * share, tall = Math.max(1, share - 1.5);
      for (const role of lane.roles) {
        pen.fillStyle = roleColours(role.role, role.term).fill;
        pen.fillRect(x(role.from_ns), y, Math.max(0.6, x(role.to_ns) - x(role.from_ns)), tall);
      }
      for (const gone of lane.processes) {
        pen.fillStyle = gone.state === 'frozen' ? colour.frozenLine : colour.downLine;
        if (gone.state !== 'absent') pen.fillRect(x(gone.from_ns), y, Math.max(1, x(gone.to_ns) - x(gone.from_ns)), tall);
      }
    });
    const bins = new Float64Array(Math.ceil(w) + 1);
    for (const op of page.operations) bins[Math.max(0, Math.floor(x(op.from_ns)))] += 1;
    const most = Math.max(...bins, 1), low = lanes.length ? 6 : h - 12;
    pen.fillStyle = colour.okEdge;
    bins.forEach((count, at) => { if (count) pen.fillRect(at, h - 1 - low * Math.sqrt(count / most), 1, low * Math.sqrt(count / most)); });
    pen.fillStyle = colour.bad;
    for (const violation of page.violations) if (violation.at_ns) pen.fillRect(x(violation.at_ns) - 1, 0, 2, h);
  }
  mapCtx.setTransform(1, 0, 0, 1, 0, 0);
  mapCtx.drawImage(still, 0, 0);
  mapCtx.scale(ratio, ratio);
  const from = mapX(view.from, w), to = mapX(view.to, w);
  mapCtx.fillStyle = colour.view;
  mapCtx.fillRect(from, 0, Math.max(2, to - from), h);
  mapCtx.strokeStyle = colour.viewLine;
  mapCtx.lineWidth = 1.5;
  mapCtx.strokeRect(from + 0.5, 0.75, Math.max(2, to - from - 1), h - 1.5);
}
const mapX = (at, w) => GUTTER + at / end * (w - GUTTER - 8);
const mapTime = (x) => (x - GUTTER) / Math.max(1, map.clientWidth - GUTTER - 8) * end;

// --- What the pointer is at, in words.

function itemAt(x, y) {
  let best = null;
  for (let i = hits.length - 1; i >= 0; i--) {
    const hit = hits[i];
    if (hit.line) {
      if (best) continue;
      const [ax, ay, bx, by] = hit.line, dx = bx - ax, dy = by - ay;
      const t = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
      if (Math.hypot(x - ax - t * dx, y - ay - t * dy) < 4) best = hit.item;
    } else if (x >= hit.x && x <= hit.x + hit.w && y >= hit.y && y <= hit.y + hit.h) {
      if (!hit.low) return hit.item;
      best = best || hit.item;
    }
  }
  return best;
}
/** Rows of a name and a text. */
function describe(item, at) {
  switch (item.type) {
    case 'op': {
      const { op } = item;
      const placed = order ? order.placed.findIndex((one) => one.id === op.id) : -1;
      return [['operation', `${op.name} of ${clientName(op.client)}` + (op.node !== undefined ? `, through n${op.node}` : '')], ['does', op.words],
        ['result', { ok: 'ok', failed: 'failed: it did not happen', unknown: 'unknown: it may have happened, may yet, or never' }[op.result] + (op.told ? ` (${op.told})` : '')],
        ['from', seconds(op.from_ns)], ['to', op.to_ns === undefined ? 'never answered' : `${seconds(op.to_ns)}, after ${span(op.to_ns - op.from_ns)}`],
        ...(placed >= 0 ? [['in the order', `number ${placed + 1} of ${order.placed.length}`]] : []),
        ...(culprits.has(op.id) ? [['violation', op.id === reader ? 'needs a value that is already replaced' : order?.stuck.includes(op.id) ? 'cannot be next in the order' : 'named by ' + page.violations[culprits.get(op.id)].check]] : [])];
    }
    case 'message': {
      const { i } = item, fate = messages.fate[i];
      const became = fate >= LOST ? 'lost: ' + raw.reasons[fate - LOST] : { 0: 'still on its way at the end', 1: 'arrived', 2: 'arrived a second time', 3: 'arrived, after it had been lost and sent again', 4: 'arrived with bytes that were changed on the way' }[fate];
      return [['message', `${raw.kinds[messages.kind[i]]}, ${hostName(messages.from[i])} → ${hostName(messages.to[i])}`], ['size', messages.bytes[i] + ' bytes'], ['sent', seconds(messages.sent[i])], ['became', `${became} (after ${span(messages.ends[i] - messages.sent[i])})`]];
    }
    case 'role': return [['node', item.lane.name], ['part', roleWords(item.role)], ['from', seconds(item.role.from_ns)], ['to', `${seconds(item.role.to_ns)} (${span(item.role.to_ns - item.role.from_ns)})`]];
    case 'process': return [['node', item.lane.name], ['state', `${item.gone.state}: ${item.gone.why}`], ['from', seconds(item.gone.from_ns)], ['to', `${seconds(item.gone.to_ns)} (${span(item.gone.to_ns - item.gone.from_ns)})`]];
    case 'fault': return [['fault', item.fault.kind], ['what', item.fault.what], ['from', seconds(item.fault.from_ns)], ['to', `${seconds(item.fault.to_ns)} (${span(item.fault.to_ns - item.fault.from_ns)})`]];
    case 'cut': return [['node', item.lane.name], [item.cut.blocks ? 'cut off' : 'links', item.cut.text], ['from', seconds(item.cut.from_ns)], ['to', seconds(item.cut.to_ns)]];
    case 'mark': return item.more.map((mark) => [mark.kind, `${item.lane.name} ${mark.text}, at ${seconds(mark.at_ns)}`]).concat(item.count > item.more.length ? [['and', `${item.count - item.more.length} more; zoom in`]] : []);
    case 'event': return [['named by', page.violations[item.violation].check], ['event', item.event.text], ['at', seconds(item.event.at_ns)]];
    case 'violation': return [['violated', item.violation.check], ['claim', item.violation.claim], ['at', seconds(item.violation.at_ns)]];
    case 'placed': return [['in the order', `number ${item.number}: op ${item.place.id}`], ['takes effect', 'at ' + seconds(item.place.at_ns) + ' or later, before its answer'], ['leaves', item.place.after === null ? 'nothing' : JSON.stringify(item.place.after)]];
    case 'stage': return [[item.name, item.name === 'storm' ? 'faults and clients begin' : 'all links, clocks and nodes are right again'], ['at', seconds(item.at)]];
    case 'progress': {
      const { lane } = item, i = lower(lane.at, at + 1) - 1;
      return i < 0 ? [] : [['log of', lane.name], ['last index', String(lane.last[i])], ['durable', String(lane.durable[i])], ['applied', String(lane.applied[i])], ['at', seconds(at)]];
    }
    case 'clock': { const c = clockAt(item.lane, at); return [['clock of', item.lane.name], ['shows', seconds(at + c.ahead)], ['against true time', `${signed(clockGain(item.lane, at))} since the beginning`], ['runs', `${c.rate.toFixed(6)} s a second`], ['wall clock', `${signed(c.wall)} ahead of it`], ['at', seconds(at)]]; }
  }
  return [];
}
const tip = $('tip');
function showTip(event) {
  const at = canvas.getBoundingClientRect(), x = event.clientX - at.left, y = event.clientY - at.top + scroll.scrollTop;
  pointer = { x, y };
  const item = x > GUTTER && event.clientY - at.top > AXIS ? itemAt(x, y) : null;
  const lines = item ? describe(item, timeOf(x)) : [];
  tip.hidden = !lines.length;
  tip.textContent = lines.map(([name, text]) => `${name}: ${text}`).join('\n');
  const { offsetWidth: w, offsetHeight: h } = tip;
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - w - 8)) + 'px';
  tip.style.top = (event.clientY + 18 + h > innerHeight ? Math.max(4, event.clientY - h - 12) : event.clientY + 18) + 'px';
  return item;
}
function select(item, at) {
  shown.selected = item;
  $('selected').hidden = !item;
  const list = $('details');
  list.replaceChildren();
  for (const [name, text] of item ? describe(item, at) : []) list.append(element('dt', name), element('dd', text));
  if (item) $('selected').scrollIntoView({ block: 'nearest' });
  const y = item?.op ? rowY(item.op.id) : null;
  if (y !== null && (y < scroll.scrollTop + AXIS || y > scroll.scrollTop + scroll.clientHeight - CLIENT_ROW)) scroll.scrollTop = y - scroll.clientHeight / 2;
  redraw();
}

function report(flying, seen) {
  const many = flying.many;
  const parts = [`${seconds(Math.max(0, view.from))} to ${seconds(Math.min(end, view.to))} (${span(view.to - view.from)})`];
  if (messages.count) parts.push(many ? `${flying.count} messages in view: bars show how many each host sends; zoom in for lines` : `${flying.lines} messages in view`);
  if (raw.left_out) parts.push(`${raw.left_out} messages far from the failure are not in this page`);
  if (page.operations_left_out) parts.push(`${page.operations_left_out} operations are not in this page`);
  parts.push('? for keys');
  $('status').textContent = parts.join('  ·  ');
  // For whoever tests the page, and for screen readers.
  Object.assign(canvas.dataset, { from: Math.round(view.from), to: Math.round(view.to), drawn, lines: flying.lines, inView: flying.count, lanes: rows.filter((row) => row.kind === 'lane').length, clients: rows.filter((row) => row.kind === 'client').length, operations: hits.filter((hit) => hit.item?.type === 'op').length, culprits: hits.filter((hit) => hit.item?.type === 'op' && culprits.has(hit.item.op.id)).length, frames: Number(canvas.dataset.frames || 0) + 1 });
  canvas.setAttribute('aria-label', `${page.headline}. ${lanes.length} nodes, ${page.operations.filter((op) => !op.beside).length} operations, shown from ${seconds(Math.max(0, view.from))} to ${seconds(view.to)}.`);
}

// --- Finding.

function find(text) {
  shown.find = text.trim().toLowerCase();
  matching = shown.find ? (words) => words.toLowerCase().includes(shown.find) : null;
  matches = [];
  if (matching) {
    for (const op of page.operations) if (matching(op.words) || op.name === shown.find) matches.push({ at: op.from_ns, to: op.drawn_ns, op });
    for (const lane of lanes) for (const mark of lane.marks) if (matching(mark.text)) matches.push({ at: mark.at_ns, to: mark.at_ns });
    for (const fault of page.faults) if (matching(fault.kind + ' ' + fault.what)) matches.push({ at: fault.from_ns, to: fault.to_ns });
    matches.sort((a, b) => a.at - b.at);
  }
  matchAt = -1;
  $('found').textContent = matching ? `${matches.length} found` : '';
  canvas.dataset.matches = matches.length;
  redraw();
}
const faded = (words) => matching !== null && !matching(words);
function nextMatch(by) {
  if (!matches.length) return;
  matchAt = (matchAt + by + matches.length * 2) % matches.length;
  const { at, to, op } = matches[matchAt];
  const size = Math.max(view.to - view.from, (to - at) * 1.5);
  setView((at + to) / 2 - size / 2, (at + to) / 2 + size / 2);
  $('found').textContent = `${matchAt + 1} of ${matches.length}`;
  if (op) select({ type: 'op', op }, at);
}

// --- The rest of the page.

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
function chip(parent, name, on, swatch, change) {
  const button = element('button', undefined, 'chip');
  button.type = 'button';
  if (swatch) { const dot = element('i'); dot.style.background = swatch; button.append(dot); }
  button.append(name);
  button.setAttribute('aria-pressed', String(on));
  button.addEventListener('click', (event) => {
    const pressed = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(pressed));
    change(pressed, event);
    layout();
    redraw();
  });
  parent.append(button);
  return button;
}
function copyText(text) {
  if (navigator.clipboard?.writeText) return navigator.clipboard.writeText(text);
  const area = element('textarea', text);
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  return done ? Promise.resolve() : Promise.reject(new Error('no clipboard'));
}

function fill() {
  $('verdict').textContent = { violated: page.violations[page.lead]?.check + ' violated', ok: 'ok', unknown: 'undecided' }[page.verdict];
  $('verdict').classList.add(page.verdict);
  $('headline').textContent = page.headline;
  $('claim').textContent = page.claim ? `What must hold. ${page.claim}.` : '';
  if (page.again) {
    $('again-line').hidden = false;
    $('again').textContent = page.again;
    $('copy').addEventListener('click', () => copyText(page.again).then(() => { $('copy').textContent = 'copied'; }, () => { $('copy').textContent = 'select it and copy'; }));
  }
  for (const [name, text] of page.facts) {
    const pair = element('div');
    pair.append(element('dt', name), element('dd', text));
    $('facts').append(pair);
  }
  for (const [name, on] of shown.layers) chip($('layers'), name, on, HUES[name], (now) => shown.layers.set(name, now));
  for (const lane of lanes) {
    chip($('nodes'), lane.name, true, null, (now, event) => {
      // With shift, this one alone.
      if (event.shiftKey) {
        for (const other of lanes) shown.nodes.set(other.node, other === lane);
        [...$('nodes').children].forEach((button, i) => button.setAttribute('aria-pressed', String(lanes[i] === lane)));
      } else shown.nodes.set(lane.node, now);
    });
  }
  for (const key of [...new Set(page.operations.map((op) => op.key).filter(Boolean))].sort().slice(0, 2000)) { const option = element('option', cut(key, 60)); option.value = key; $('key').append(option); }
  for (const client of [...byClient.keys()].sort((a, b) => a - b).slice(0, 2000)) { const option = element('option', clientName(client)); option.value = client; $('client').append(option); }
  $('key').addEventListener('change', () => { shown.key = $('key').value; layout(); redraw(); });
  $('client').addEventListener('change', () => { shown.client = $('client').value; layout(); redraw(); });
  broke();
  if (page.plan.length) {
    $('plan-box').hidden = false;
    $('plan-box').open = page.plan.length <= 20;
    for (const line of page.plan) $('plan').append(element('li', line));
    $('save-plan').addEventListener('click', () => {
      const link = element('a');
      link.href = URL.createObjectURL(new Blob([page.scenario], { type: 'application/json' }));
      link.download = 'scenario.json';
      link.click();
    });
    $('save-plan').hidden = !page.scenario;
  }
  for (const [keys, words] of KEYS) {
    const row = element('tr'), names = element('td');
    keys.split(' ').forEach((key) => names.append(element('kbd', key), ' '));
    row.append(names, element('td', words));
    $('keys').append(row);
  }
}

function broke() {
  const parent = $('broke');
  parent.append(element('h2', page.violations.length ? 'What broke' : 'Nothing broke'));
  // The one that says most comes first.
  const cards = page.violations.map((violation, i) => ({ violation, i })).sort((a, b) => (b.i === page.lead) - (a.i === page.lead));
  for (const { violation, i } of cards) {
    const card = element('div', undefined, 'card');
    const place = [violation.at_ns ? 'at ' + seconds(violation.at_ns) : '', violation.node !== null ? 'on n' + violation.node : ''].filter(Boolean).join(', ');
    card.append(element('h3', `${violation.check} violated${place ? ', ' + place : ''}`));
    card.append(element('p', `${violation.claim} (${violation.source}).`, 'dim'));
    if (violation.sentences.length) for (const sentence of violation.sentences) card.append(element('p', sentence));
    else card.append(element('p', violation.words.split('\n')[0].replace(/:$/, '')));
    const list = element('ol');
    for (const id of violation.operations) {
      const op = opById.get(id);
      if (op) list.append(link(`${op.beside ? '' : op.name + ', '}${clientName(op.client)}${op.node !== undefined ? ' through n' + op.node : ''}: ${op.words}${op.beside ? ', at ' + seconds(op.to_ns ?? op.from_ns) : ''}`, op.from_ns, op.drawn_ns, () => select({ type: 'op', op }, op.from_ns)));
    }
    for (const event of violation.events.slice(-16)) list.append(link(`${event.text}, at ${seconds(event.at_ns)}`, event.at_ns, event.at_ns));
    if (list.children.length) card.append(list);
    if (violation.words.includes('\n')) {
      const more = element('details');
      more.append(element('summary', 'in the check’s own words'), element('pre', violation.words));
      card.append(more);
    }
    card.addEventListener('click', () => {
      shown.violation = i;
      for (const other of parent.querySelectorAll('.card')) other.classList.toggle('chosen', other === card);
      redraw();
    });
    card.classList.toggle('chosen', i === page.lead);
    parent.append(card);
  }
  for (const text of page.undecided) parent.append(element('p', 'undecided: ' + text));
}
function link(text, from, to, then) {
  const item = element('li'), button = element('button', text, 'link');
  button.type = 'button';
  button.addEventListener('click', () => {
    const room = Math.max(to - from, 4e6);
    setView(from - room, to + room);
    if (then) then();
  });
  item.append(button);
  return item;
}

/** A small picture of each sign beside what it means. */
function legend() {
  const parent = $('legend');
  parent.replaceChildren();
  const entry = (paint, words) => {
    const sample = element('canvas');
    sample.width = 52 * ratio;
    sample.height = 18 * ratio;
    const pen = sample.getContext('2d');
    pen.scale(ratio, ratio);
    paint(pen);
    parent.append(sample, element('span', words));
  };
  const bar = (role, term) => (pen) => {
    const look = roleColours(role, term);
    pen.fillStyle = look.stripes ? hatch(look.fill, look.stripes, true, 5) : look.fill;
    pen.fillRect(0, 1, 52, 16);
    if (look.edge) { pen.strokeStyle = look.edge; pen.strokeRect(0.5, 1.5, 51, 15); }
  };
  if (lanes.length) {
    entry((pen) => { bar('leader', 1)(pen); pen.fillStyle = roleColours('leader', 2).fill; pen.fillRect(26, 1, 26, 16); }, 'leads; the colour is the term, the same on every node');
    entry((pen) => { bar('follower', 1)(pen); pen.fillStyle = roleColours('follower', 2).fill; pen.fillRect(26, 1, 26, 16); }, 'follows, in the pale colour of the term it is in');
    entry(bar('candidate', 1), 'asks for votes');
    entry(bar('learner', 1), 'learner: gets the log, has no vote');
    entry((pen) => { pen.fillStyle = hatch(colour.down, colour.downLine, true, 6); pen.fillRect(0, 1, 52, 16); }, 'down: the process or the power is gone');
    entry((pen) => { pen.fillStyle = hatch(colour.frozen, colour.frozenLine, false, 5); pen.fillRect(0, 1, 52, 16); }, 'frozen: no processor, while the world goes on');
    entry((pen) => { pen.fillStyle = colour.cutBand; pen.fillRect(0, 1, 52, 16); pen.fillStyle = colour.cut; pen.fillRect(0, 12, 52, 5); }, 'cut off: a partition stands between this node and others');
    if (lanes.some((lane) => lane.cuts.some((one) => !one.blocks))) entry((pen) => { pen.fillStyle = '#8a63b8'; pen.fillRect(0, 13, 52, 4); }, 'some of its links are bad: point at it to see how');
    entry((pen) => { pen.fillStyle = colour.log; pen.fillRect(0, 4, 52, 13); pen.strokeStyle = colour.applied; pen.beginPath(); pen.moveTo(0, 14); pen.lineTo(30, 9); pen.lineTo(52, 8); pen.stroke(); pen.strokeStyle = colour.durable; pen.setLineDash([3, 3]); pen.beginPath(); pen.moveTo(0, 9); pen.lineTo(52, 6); pen.stroke(); }, 'the log: filled what is in it, dashed what is durable, line what is applied');
    entry((pen) => { pen.strokeStyle = colour.clock; pen.beginPath(); pen.moveTo(0, 14); pen.lineTo(30, 14); pen.lineTo(52, 4); pen.stroke(); }, 'the node’s own clock against true time');
    const lineOf = (ink, dash, lost) => (pen) => { pen.strokeStyle = ink; pen.setLineDash(dash); pen.beginPath(); pen.moveTo(4, 2); pen.lineTo(lost ? 26 : 48, lost ? 9 : 16); pen.stroke(); if (lost) { pen.setLineDash([]); pen.beginPath(); pen.moveTo(23, 6); pen.lineTo(29, 12); pen.moveTo(23, 12); pen.lineTo(29, 6); pen.stroke(); } };
    for (const kind of raw.kinds) if (shown.layers.has(kind)) entry(lineOf(HUES[kind] || HUES.other, []), `${kind}: a message, from its sender to its receiver`);
    entry(lineOf(colour.bad, [], true), 'a message that is lost; dashed: lost at first, and sent again');
    if (messages.fate.includes(DAMAGED)) entry(lineOf(colour.amber, []), 'a message that arrives with bytes changed on the way');
    for (const [kind, [sign, ink]] of Object.entries(SIGNS)) {
      if (!lanes.some((lane) => lane.marks.some((mark) => mark.kind === kind))) continue;
      entry((pen) => { pen.fillStyle = ink; pen.beginPath(); pen.roundRect(19, 2, 14, 14, 3); pen.fill(); pen.fillStyle = '#fff'; pen.font = '600 10px system-ui, "DejaVu Sans", sans-serif'; pen.textBaseline = 'middle'; pen.fillText(sign, 22.5, 9.5); }, page.marks[kind] || kind);
    }
  }
  const operation = (fill, edge, sign) => (pen) => { pen.fillStyle = fill; pen.fillRect(0, 2, 52, 14); pen.strokeStyle = edge; pen.strokeRect(0.5, 2.5, 51, 13); pen.fillStyle = colour.ink; pen.font = SMALL; pen.textBaseline = 'middle'; pen.fillText(sign, 20, 9.5); };
  entry(operation(colour.ok, colour.okEdge, ''), 'an operation, from call to answer');
  entry(operation(hatch(colour.unknown, colour.paper, true, 5), colour.unknownEdge, '?'), 'unknown outcome: it may have happened, may yet, or never');
  entry(operation(colour.failed, colour.failedEdge, '✗'), 'failed: it did not happen');
  if (order) {
    entry((pen) => { pen.strokeStyle = pen.fillStyle = colour.applied; pen.beginPath(); pen.moveTo(4, 13); pen.lineTo(26, 5); pen.lineTo(48, 11); pen.stroke(); for (const [x, y] of [[4, 13], [26, 5], [48, 11]]) { pen.beginPath(); pen.arc(x, y, 3, 0, 7); pen.fill(); } }, 'the longest order that explains the answers: where each operation may have taken effect');
    entry((pen) => { pen.strokeStyle = colour.bad; pen.lineWidth = 2.5; pen.strokeRect(2, 3, 48, 12); }, 'had to be next in that order, and cannot be');
    entry((pen) => { pen.strokeStyle = colour.amber; pen.lineWidth = 2.5; pen.strokeRect(2, 3, 48, 12); }, 'still needs what would be replaced');
  } else if (culprits.size) entry((pen) => { pen.strokeStyle = colour.bad; pen.lineWidth = 2.5; pen.strokeRect(2, 3, 48, 12); }, 'an operation that the violated check names');
  if (page.violations.some((violation) => violation.events.length)) entry((pen) => { pen.strokeStyle = colour.bad; pen.lineWidth = 2; pen.beginPath(); pen.arc(26, 9, 7, 0, 7); pen.stroke(); }, 'an event that the violated check names');
}

// --- Keys and the pointer.

const KEYS = [
  ['+ −', 'zoom in, zoom out'], ['← →', 'move through time; with shift, by a whole view'], ['↑ ↓', 'scroll the lanes'], ['0', 'the whole run'], ['f', 'what broke'],
  ['n p', 'next, previous of what was found; without a search, of the operations'], ['/', 'find'], ['m', 'messages on or off'], ['o', 'the order on or off'], ['l', 'lost messages only'], ['t', 'light or dark'], ['?', 'this list'], ['Esc', 'clear the selection and the search'],
];
function press(name) { const button = [...$('layers').children].find((button) => button.textContent === name); if (button) button.click(); }
function neighbour(by) {
  const ops = page.operations.filter((op) => (shown.key === '' || op.key === shown.key) && (shown.client === '' || String(op.client) === shown.client));
  if (!ops.length) return;
  const at = shown.selected?.op ? ops.indexOf(shown.selected.op) + by : lowerBy(ops, 'from_ns', (view.from + view.to) / 2);
  const op = ops[Math.max(0, Math.min(ops.length - 1, at))];
  if (op.from_ns < view.from || op.drawn_ns > view.to) { const half = (view.to - view.from) / 2; setView(op.from_ns - half, op.from_ns + half); }
  select({ type: 'op', op }, op.from_ns);
}
addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === 'Escape') { $('search').value = ''; find(''); select(null); if (typing) event.target.blur(); return; }
  if (typing) { if (event.key === 'Enter') nextMatch(event.shiftKey ? -1 : 1); return; }
  if ($('help').open) return;
  const act = {
    '+': () => zoom(0.6), '=': () => zoom(0.6), '-': () => zoom(1 / 0.6), '−': () => zoom(1 / 0.6), _: () => zoom(1 / 0.6),
    ArrowLeft: () => pan(event.shiftKey ? -1 : -0.15), ArrowRight: () => pan(event.shiftKey ? 1 : 0.15),
    ArrowUp: () => scroll.scrollBy(0, -60), ArrowDown: () => scroll.scrollBy(0, 60),
    0: whole, Home: whole, f: toFailure, '/': () => $('search').focus(), t: theme, '?': () => $('help').showModal(),
    n: () => matching ? nextMatch(1) : neighbour(1), p: () => matching ? nextMatch(-1) : neighbour(-1),
    m: () => raw.kinds.forEach((kind) => press(kind)), o: () => press('order'), l: () => press('lost only'),
  }[event.key];
  if (act && !(event.target.tagName === 'BUTTON' && (event.key === 'Enter' || event.key === ' '))) { event.preventDefault(); act(); }
});
function theme() {
  root.dataset.theme = dark() ? 'light' : 'dark';
  colour = palette();
  stillFor = '';
  legend();
  redraw();
}
let drag = null;
canvas.addEventListener('pointerdown', (event) => {
  drag = { x: event.clientX, y: event.clientY, from: view.from, to: view.to, top: scroll.scrollTop, moved: false };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener('pointermove', (event) => {
  if (!drag) { showTip(event); redraw(); return; }
  const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
  if (!drag.moved && Math.hypot(dx, dy) < 4) return;
  drag.moved = true;
  tip.hidden = true;
  const by = -dx / plotWidth() * (drag.to - drag.from);
  scroll.scrollTop = drag.top - dy;
  setView(drag.from + by, drag.to + by);
});
canvas.addEventListener('pointerup', (event) => {
  if (drag && !drag.moved) { const item = showTip(event); select(item, timeOf(pointer.x)); }
  drag = null;
});
// A finger that scrolls the page is the browser's.
canvas.addEventListener('pointercancel', () => { drag = null; });
canvas.addEventListener('pointerleave', () => { tip.hidden = true; pointer = null; redraw(); });
canvas.addEventListener('dblclick', (event) => zoom(0.35, event.clientX - canvas.getBoundingClientRect().left));
canvas.addEventListener('wheel', (event) => {
  event.preventDefault();
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return pan((event.deltaX || event.deltaY) / 900);
  zoom(Math.exp(Math.max(-80, Math.min(80, event.deltaY)) / 260), event.clientX - canvas.getBoundingClientRect().left);
}, { passive: false });
const mapTo = (event) => { const half = (view.to - view.from) / 2, at = mapTime(event.clientX - map.getBoundingClientRect().left); setView(at - half, at + half); };
map.addEventListener('pointerdown', (event) => { map.setPointerCapture(event.pointerId); mapTo(event); });
map.addEventListener('pointermove', (event) => { if (event.buttons) mapTo(event); });
map.addEventListener('wheel', (event) => { event.preventDefault(); zoom(Math.exp(Math.max(-80, Math.min(80, event.deltaY)) / 260)); }, { passive: false });
scroll.addEventListener('scroll', redraw);
new ResizeObserver(() => { layout(); redraw(); }).observe(scroll);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { colour = palette(); stillFor = ''; legend(); redraw(); });
$('zoom-in').addEventListener('click', () => zoom(0.6));
$('zoom-out').addEventListener('click', () => zoom(1 / 0.6));
$('whole').addEventListener('click', whole);
$('to-failure').hidden = !page.focus_ns;
$('to-failure').addEventListener('click', toFailure);
$('theme').addEventListener('click', theme);
$('help-button').addEventListener('click', () => $('help').showModal());
$('search').addEventListener('input', () => find($('search').value));
addEventListener('beforeprint', () => { printing = true; root.dataset.before = root.dataset.theme || ''; root.dataset.theme = 'light'; stillFor = ''; layout(); draw(); });
addEventListener('afterprint', () => { printing = false; if (root.dataset.before) root.dataset.theme = root.dataset.before; else delete root.dataset.theme; stillFor = ''; draw(); });

ratio = window.devicePixelRatio || 1;
fill();
layout();
legend();
whole();
if (page.focus_ns) toFailure();
draw();
})();
