// The status page: reads the same HTTP API that every client uses, and keeps reading it while it is looked at.
//
// A page is a function that gets a root element and a `Life`. Whatever it waits for ends with its life, which is
// when another page is opened. All text from the cluster enters the document as text, never as markup.
"use strict";

// ---- the document ----

/** An element: `h("td", {class: "number"}, 3, other)`. Functions named `on...` become listeners. */
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const $ = (id) => document.getElementById(id);

/** Replaces what an element holds, unless it already looks so: a reader's selection survives a refresh. */
function show(element, ...children) {
  const fresh = h("div", {}, ...children);
  if (element.innerHTML !== fresh.innerHTML) {
    const focused = element.contains(document.activeElement) && document.activeElement.getAttribute("href");
    element.replaceChildren(...fresh.childNodes);
    if (focused) [...element.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
  }
}

function table(heads, rows, none) {
  if (rows.length === 0) return h("p", { class: "empty" }, none);
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows)));
}

const number = (value) => h("td", { class: "number" }, value == null ? "" : Number(value).toLocaleString("en"));
const state = (kind, text) => h("span", { class: "state " + kind }, text);
const tags = (all) => (all || []).map((tag) => h("span", { class: "tag" }, tag));
const facts = (pairs) => h("dl", { class: "facts" },
  pairs.filter((pair) => pair[1] != null && pair[1] !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// ---- the API ----

class ApiError extends Error {
  constructor(status, text) { super(text || "HTTP " + status); this.status = status; }
}

async function api(path, options = {}) {
  const headers = { ...options.headers };
  const token = sessionStorage.getItem("token");
  if (token) headers["X-Consul-Token"] = token;
  const response = await fetch(path, { ...options, headers });
  const text = await response.text();
  if (!response.ok && response.status !== 404 && response.status !== 429) throw new ApiError(response.status, text);
  const index = response.headers.get("X-Consul-Index");
  let value = null;
  if (response.status !== 404 && text !== "") value = JSON.parse(text);
  return { value, index, status: response.status };
}

const keyPath = (key) => "/v1/kv/" + key.split("/").map(encodeURIComponent).join("/");

/** What ends when another page is opened. */
class Life {
  constructor() { this.control = new AbortController(); }
  get over() { return this.control.signal.aborted; }
  end() { this.control.abort(); }
  sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.control.signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
    });
  }

  /** Reads `path` again and again: blocks on its index where it has one, or every two seconds. */
  async follow(path, news, missing) {
    let index = null, pause = 1000;
    while (!this.over) {
      try {
        const join = path.includes("?") ? "&" : "?";
        const from = index === null ? path : `${path}${join}index=${index}&wait=60s`;
        const answer = await api(from, { signal: this.control.signal });
        if (this.over) return;
        trouble(null);
        pause = 1000;
        news(answer.value, answer.status);
        // An index that went back belongs to another history: start over.
        const known = answer.index !== null;
        index = known && (index === null || BigInt(answer.index) >= BigInt(index) || path.startsWith("/v1/event")) ? answer.index : null;
        if (!known) await this.sleep(2000);
      } catch (error) {
        if (this.over) return;
        if (missing && error.status) missing(error);
        else trouble(error);
        index = null;
        await this.sleep(pause);
        pause = Math.min(pause * 2, 15000);
      }
    }
  }
}

function trouble(error) {
  const place = $("trouble");
  if (!error) { place.hidden = true; return; }
  place.hidden = false;
  place.textContent = error.status === 403 ? "Not permitted: " + error.message + ". Enter a token above."
    : error.status ? "The agent says: " + error.message
    : "This agent does not answer. Trying again.";
}

// ---- filter and lists ----

function filterBox(onchange) {
  return h("input", { type: "search", placeholder: "Filter  /", "aria-label": "Filter", "data-filter": true, oninput: (event) => onchange(event.target.value) });
}
const matches = (needle, ...texts) => !needle || texts.some((text) => String(text ?? "").toLowerCase().includes(needle.toLowerCase()));

// ---- pages ----

const STATUS = { 1: ["good", "alive"], 2: ["warn", "leaving"], 3: ["gone", "left"], 4: ["bad", "failed"] };

function clusterPage(root, life) {
  const seen = { self: null, members: [], servers: [], autopilot: null, why: null };
  let needle = "";
  const head = h("div"), servers = h("div"), members = h("div");
  root.append(h("h1", {}, "Cluster"), head, h("h2", {}, "Servers in Raft"), servers,
    h("h2", {}, "Members in gossip"), h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); })), members);

  function draw() {
    const stats = seen.self?.Stats || {}, raft = stats.raft || {}, consul = stats.consul || {};
    const leader = seen.servers.find((server) => server.Leader);
    const voters = seen.servers.filter((server) => server.Voter);
    const status = new Map(seen.members.map((member) => [member.Name, member.Status]));
    const alive = voters.filter((server) => status.get(server.Node) === 1).length;
    const spare = alive - (Math.floor(voters.length / 2) + 1);
    const health = !leader ? state("bad", "no leader")
      : spare < 0 ? state("bad", "quorum lost")
      : spare === 0 && voters.length > 1 ? state("warn", "no server to spare")
      : state("good", "healthy");
    show(head, facts([
      ["State", health], ["Leader", leader ? leader.Node : "none"], ["Term", raft.term],
      ["Voters", voters.length ? `${alive} of ${voters.length} alive` : null],
      ["May still fail", voters.length ? String(Math.max(spare, 0)) : null],
      ["Commit index", raft.commit_index && Number(raft.commit_index).toLocaleString("en")],
      ["This agent", seen.self ? `${seen.self.Config.NodeName}, ${seen.self.Config.Server ? (raft.state || "server").toLowerCase() : "client"}` : null],
      ["Known leader address", consul.leader_addr],
    ]), seen.why && !leader ? [h("h2", {}, "Why is there no leader?"), h("div", { class: "panel" }, h("pre", {}, seen.why))] : null);

    const last = Math.max(0, ...seen.servers.map((server) => server.LastIndex || 0));
    show(servers, table(["Node", "Address", "Role", "Gossip", "Last index", "Lag"], seen.servers.map((server) => {
      const [kind, text] = STATUS[status.get(server.Node)] || ["gone", "unknown"];
      const known = server.LastIndex != null;
      const lag = last - (server.LastIndex || 0);
      return h("tr", {}, h("td", {}, server.Node), h("td", {}, server.Address),
        h("td", {}, h("span", { class: "tag" + (server.Leader ? " strong" : "") }, server.Leader ? "leader" : server.Voter ? "voter" : "learner")),
        h("td", {}, state(kind, text)), number(known ? server.LastIndex : null), number(known ? lag : null));
    }), "No server is in a Raft configuration yet."));

    const rows = seen.members.filter((member) => matches(needle, member.Name, member.Addr, ...Object.entries(member.Tags || {}).flat())).map((member) => {
      const [kind, text] = STATUS[member.Status] || ["gone", "unknown"];
      const told = Object.entries(member.Tags || {}).filter(([key]) => !HIDDEN_TAGS.has(key)).map(([key, value]) => `${key}=${value}`);
      return h("tr", {}, h("td", {}, member.Name), h("td", {}, `${member.Addr}:${member.Port}`), h("td", {}, state(kind, text)),
        h("td", {}, member.Tags?.role === "node" ? "client" : "server"), h("td", {}, member.Tags?.build || ""), h("td", {}, tags(told)));
    });
    show(members, table(["Node", "Address", "Status", "Mode", "Version", "Tags"], rows, needle ? "No member matches." : "No members."));
  }

  life.follow("/v1/agent/self", (value) => { seen.self = value; draw(); });
  life.follow("/v1/agent/members", (value) => { seen.members = value || []; draw(); });
  life.follow("/v1/operator/raft/configuration?stale", (value) => { seen.servers = value?.Servers || []; seen.why = null; draw(); }, async (error) => {
    // Without a leader the API refuses reads; the agent can say what it sees.
    seen.servers = [];
    const answer = await fetch("/v1/status/why", { signal: life.control.signal }).catch(() => null);
    seen.why = answer && answer.ok ? await answer.text() : error.message;
    draw();
  });
}
const HIDDEN_TAGS = new Set(["role", "dc", "id", "port", "http_port", "raft_vsn", "vsn", "build", "expect", "acls"]);

const WORST = ["passing", "warning", "critical"];
const LOOKS = { passing: "good", warning: "warn", critical: "bad" };
const worst = (checks) => WORST[Math.max(0, ...checks.map((check) => WORST.indexOf(check.Status)))];

function servicesPage(root, life) {
  let services = {}, checks = [], needle = "";
  const list = h("div");
  root.append(h("h1", {}, "Services"), h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); })), list);
  function draw() {
    const rows = Object.entries(services).filter(([name, all]) => matches(needle, name, ...all)).sort().map(([name, all]) => {
      const own = checks.filter((check) => check.ServiceName === name);
      const counts = WORST.map((status) => [status, own.filter((check) => check.Status === status).length]);
      return h("tr", {}, h("td", {}, h("a", { href: "#/services/" + encodeURIComponent(name) }, name)),
        h("td", {}, own.length === 0 ? state("gone", "no checks") : state(LOOKS[worst(own)], counts.filter((pair) => pair[1]).map(([status, count]) => `${count} ${status}`).join(", "))),
        h("td", {}, tags(all)));
    });
    show(list, table(["Service", "Checks", "Tags"], rows, needle ? "No service matches." : "No services are registered."));
  }
  life.follow("/v1/catalog/services", (value) => { services = value || {}; draw(); });
  life.follow("/v1/health/state/any", (value) => { checks = value || []; draw(); });
}

function servicePage(root, life, name) {
  const list = h("div");
  root.append(h("h1", {}, h("a", { href: "#/services", "data-up": true }, "Services"), " / ", name), list);
  life.follow("/v1/health/service/" + encodeURIComponent(name), (instances) => {
    const rows = (instances || []).map(({ Node, Service, Checks }) => h("tr", {},
      h("td", {}, Service.ID), h("td", {}, Node.Node), h("td", {}, `${Service.Address || Node.Address}:${Service.Port}`),
      h("td", {}, state(LOOKS[worst(Checks)], worst(Checks))),
      h("td", { class: "wide" }, Checks.map((check) => h("div", {}, state(LOOKS[check.Status], check.Name), check.Output ? h("pre", { class: "quiet" }, check.Output) : null))),
      h("td", {}, tags(Service.Tags))));
    show(list, table(["Instance", "Node", "Address", "State", "Checks", "Tags"], rows, "No instance is registered."));
  });
}

/** The bytes of a stored value, and their text if they are UTF-8. */
function decoded(base64) {
  const bytes = Uint8Array.from(atob(base64 || ""), (character) => character.charCodeAt(0));
  try { return { bytes, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) }; } catch { return { bytes, text: null }; }
}
const hex = (bytes) => [...bytes.slice(0, 4096)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ") + (bytes.length > 4096 ? " …" : "");

function keysPage(root, life, path) {
  const folder = path.slice(0, path.lastIndexOf("/") + 1);
  const key = path.endsWith("/") || path === "" ? null : path;
  let keys = [], needle = "";
  const list = h("ul", { class: "list", "aria-label": "Keys" }), pane = h("section", { class: "panel", "aria-label": "Value" });
  const steps = folder.split("/").filter(Boolean);
  const crumbs = h("h1", { class: "crumbs" }, h("a", { href: "#/kv/" }, "keys"), " / ",
    steps.map((step, i) => [h("a", { href: link(steps.slice(0, i + 1).join("/") + "/") }, step), " / "]));
  const parent = steps.length ? steps.slice(0, -1).map((step) => step + "/").join("") : null;
  if (parent !== null) root.append(h("a", { href: link(parent), "data-up": true, hidden: true }, "up"));
  root.append(crumbs, h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); }),
    h("button", { type: "button", id: "new-key", onclick: () => editor(null) }, "New key")), h("div", { class: "split" }, list, pane));

  function link(to) { return "#/kv/" + to.split("/").map(encodeURIComponent).join("/"); }
  function draw() {
    const rows = keys.filter((name) => name !== folder && matches(needle, name.slice(folder.length)));
    show(list, rows.length ? rows.map((name) => h("li", {}, h("a", { href: link(name), "aria-current": name === key ? "true" : null }, name.slice(folder.length))))
      : h("li", { class: "empty" }, needle ? "No key matches." : "No keys here."));
  }

  /** The form for a key; `entry` is null for a new one. What was typed is never overwritten by news. */
  function editor(entry) {
    const value = entry ? decoded(entry.Value) : { bytes: new Uint8Array(), text: "" };
    const name = h("input", { id: "key-name", value: entry ? entry.Key : folder, "aria-label": "Key", size: 40, readonly: entry != null });
    const text = h("textarea", { id: "key-value", "aria-label": "Value", spellcheck: "false", readonly: value.text === null });
    text.value = value.text ?? hex(value.bytes);
    const said = h("p", { class: "said", role: "status" });
    const say = (kind, words) => { said.className = "said " + kind; said.textContent = words; };
    async function attempt(work) {
      try { await work(); } catch (error) { say("bad", error.message || "This agent does not answer; whether it was done is unknown."); }
    }
    const save = () => attempt(async () => {
      if (!name.value) { say("bad", "A key needs a name."); return; }
      const flags = entry ? entry.Flags : 0, cas = entry ? entry.ModifyIndex : 0;
      const done = await api(`${keyPath(name.value)}?cas=${cas}&flags=${flags}`, { method: "PUT", body: text.value });
      if (done.value !== true) say("bad", entry ? "Somebody has changed it since you opened it. Open it again to see; nothing was overwritten." : "There is such a key already; nothing was overwritten.");
      else if (entry) { await reload(); pane.querySelector(".said").className = "said good"; pane.querySelector(".said").textContent = "Saved."; }
      else location.hash = link(name.value);
    });
    const remove = () => attempt(async () => {
      if (!confirm(`Delete ${entry.Key}?`)) return;
      const done = await api(`${keyPath(entry.Key)}?cas=${entry.ModifyIndex}`, { method: "DELETE" });
      if (done.value !== true) say("bad", "Somebody has changed it since you opened it; it was not deleted.");
      else location.hash = link(folder);
    });
    show(pane);
    pane.append(h("form", { onsubmit: (event) => { event.preventDefault(); save(); } },
      h("div", { class: "tools" }, name),
      text,
      value.text === null ? h("p", { class: "quiet" }, `${value.bytes.length} bytes that are no text, in hexadecimal. They can be read here, not edited.`) : null,
      h("div", { class: "tools" }, h("button", { class: "main", disabled: value.text === null }, entry ? "Save" : "Create"),
        entry ? h("button", { type: "button", class: "danger", onclick: remove }, "Delete") : null),
      said,
      entry ? facts([["Created at", entry.CreateIndex], ["Changed at", entry.ModifyIndex], ["Flags", entry.Flags], ["Times locked", entry.LockIndex],
        ["Locked by session", entry.Session], ["Bytes", value.bytes.length]]) : null));
    (entry ? text : name).focus({ preventScroll: true });
  }
  let opened = null;
  async function reload() {
    const answer = await api(keyPath(key), { signal: life.control.signal });
    opened = answer.value ? answer.value[0] : null;
    if (opened) editor(opened);
    else show(pane, h("p", { class: "empty" }, "There is no such key."));
  }

  if (key === null) show(pane, h("p", { class: "empty" }, "Choose a key, or make a new one."));
  else {
    life.follow(keyPath(key), (value) => {
      const entry = value ? value[0] : null;
      if (!opened) { opened = entry; if (entry) editor(entry); else show(pane, h("p", { class: "empty" }, "There is no such key.")); return; }
      if (!entry || entry.ModifyIndex !== opened.ModifyIndex) {
        const said = pane.querySelector(".said");
        if (said) { said.className = "said bad"; said.textContent = entry ? `Changed by somebody at index ${entry.ModifyIndex}.` : "Deleted by somebody."; }
      }
    });
  }
  life.follow(`${keyPath(folder)}?keys&separator=%2F`, (value) => { keys = value || []; draw(); });
}

function eventsPage(root, life) {
  let events = [], needle = "";
  const list = h("div"), said = h("p", { class: "said", role: "status" });
  const name = h("input", { id: "event-name", placeholder: "name", "aria-label": "Event name", required: true });
  const payload = h("input", { id: "event-payload", placeholder: "payload", "aria-label": "Payload", size: 30 });
  const fire = async (event) => {
    event.preventDefault();
    try {
      await api("/v1/event/fire/" + encodeURIComponent(name.value), { method: "PUT", body: payload.value });
      said.className = "said good"; said.textContent = "Sent.";
      payload.value = "";
    } catch (error) { said.className = "said bad"; said.textContent = error.message || "This agent does not answer."; }
  };
  root.append(h("h1", {}, "Events"), h("form", { class: "tools", onsubmit: fire }, name, payload, h("button", { class: "main" }, "Fire")), said,
    h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); }), h("span", { class: "quiet" }, "The last 256 that this agent heard, newest first.")), list);
  function draw() {
    const rows = events.filter((event) => matches(needle, event.Name, event.ID)).reverse().map((event) => {
      const { bytes, text } = decoded(event.Payload);
      const filters = [["node", event.NodeFilter], ["service", event.ServiceFilter], ["tag", event.TagFilter]].filter((pair) => pair[1]).map((pair) => pair.join("~"));
      return h("tr", {}, number(event.LTime), h("td", {}, event.Name), h("td", { class: "wide" }, h("pre", {}, text ?? hex(bytes))), h("td", {}, tags(filters)), h("td", { class: "quiet" }, event.ID.slice(0, 8)));
    });
    show(list, table(["Lamport time", "Name", "Payload", "For", "Id"], rows, needle ? "No event matches." : "No event has been heard."));
  }
  life.follow("/v1/event/list", (value) => { events = value || []; draw(); });
}

// ---- where we are ----

let life = new Life();

function open() {
  life.end();
  life = new Life();
  trouble(null);
  const root = $("page");
  root.replaceChildren();
  const [, page, rest] = location.hash.match(/^#\/([a-z]+)\/?(.*)$/) || [null, "cluster", ""];
  let path;
  try { path = rest.split("/").map(decodeURIComponent).join("/"); } catch { path = rest; }
  if (page === "services") path ? servicePage(root, life, path) : servicesPage(root, life);
  else if (page === "kv") keysPage(root, life, path);
  else if (page === "events") eventsPage(root, life);
  else clusterPage(root, life);
  for (const tab of document.querySelectorAll("nav a")) {
    if (tab.dataset.page === page || (tab.dataset.page === "cluster" && !["services", "kv", "events"].includes(page))) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
}

const THEMES = ["", "light", "dark"];
function theme(next) {
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = { "": "Theme: system", light: "Theme: light", dark: "Theme: dark" }[next];
  localStorage.setItem("theme", next);
}
function nextTheme() {
  const now = localStorage.getItem("theme") || "";
  theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
}

function move(by) {
  const links = [...document.querySelectorAll("main .list a, main tbody a")];
  if (links.length === 0) return;
  const at = links.indexOf(document.activeElement);
  links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + by))].focus();
}

function onkey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing) return;
  const tab = document.querySelectorAll("nav a")[Number(event.key) - 1];
  const acts = {
    "/": () => document.querySelector("[data-filter]")?.focus(),
    j: () => move(1), k: () => move(-1),
    u: () => document.querySelector("[data-up]")?.click(),
    n: () => $("new-key")?.click(),
    t: nextTheme,
    "?": () => $("help").showModal(),
  };
  const act = tab ? () => { location.hash = tab.getAttribute("href"); } : acts[event.key];
  if (act) { event.preventDefault(); act(); }
}

theme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "");
$("theme").addEventListener("click", nextTheme);
$("help-button").addEventListener("click", () => $("help").showModal());
$("token").value = sessionStorage.getItem("token") || "";
$("token").addEventListener("change", (event) => {
  // For this tab only: it is gone when the tab is.
  sessionStorage.setItem("token", event.target.value);
  open();
});
// Enter ends the typing, which is a change.
$("token-form").addEventListener("submit", (event) => { event.preventDefault(); $("token").blur(); });
document.addEventListener("keydown", onkey);
window.addEventListener("hashchange", open);
api("/v1/agent/self").then(({ value }) => { $("agent").textContent = `${value.Config.NodeName} in ${value.Config.Datacenter}`; document.title = `driftline: ${value.Config.NodeName}`; }, () => {});
open();
