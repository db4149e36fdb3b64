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
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
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

/** So many entries of a list are drawn at most; the filter finds the others. */
const MOST = 1000;
const rest = (all) => all.length > MOST ? `${(all.length - MOST).toLocaleString("en")} more are not drawn: the filter finds them.` : null;

/** A table of what `row` makes of each entry. Heads that begin with `#` stand over numbers. */
function table(heads, all, row, none) {
  if (all.length === 0) return h("p", { class: "empty" }, none);
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col", class: head.startsWith("#") && "number" }, head.replace("#", ""))))),
    h("tbody", {}, all.slice(0, MOST).map(row))), rest(all) && h("p", { class: "empty" }, rest(all)));
}

const number = (value) => h("td", { class: "number" }, value == null ? "" : Number(value).toLocaleString("en"));
const state = (kind, text) => h("span", { class: "state " + kind }, text);
const tags = (all) => (all || []).map((tag) => h("span", { class: "tag" }, tag));
const facts = (pairs) => h("dl", { class: "facts" },
  pairs.filter((pair) => pair[1] != null && pair[1] !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// ---- the API ----

/** What the browser keeps for the page, where it is allowed to. */
function kept(store, name, value) {
  try {
    if (value === undefined) return window[store].getItem(name) || "";
    window[store].setItem(name, value);
  } catch { /* Then it is kept as long as the page. */ }
  return value || "";
}

// For this tab only: it is gone when the tab is.
let token = kept("sessionStorage", "token");

/** What went wrong: `status` is that of the answer, or 0 without one. */
class ApiError extends Error {
  constructor(status, text) { super(text.trim() || "HTTP " + status); this.status = status; }
}

function inWords(error) {
  if (!(error instanceof ApiError)) return "The page is at fault: " + error.message;
  if (error.status === 403) return `Not permitted: ${error.message.replace(/\.$/, "")}. Another token can be entered above.`;
  return error.status ? "The agent says: " + error.message : error.message;
}

async function api(path, options = {}) {
  if (/[^!-~]/.test(token)) throw new ApiError(0, "No token has such letters as the one above.");
  let response, text;
  try {
    response = await fetch(path, { ...options, headers: token ? { "X-Consul-Token": token } : {} });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, options.method ? "This agent does not answer; whether it was done is unknown." : "This agent does not answer. Trying again.");
  }
  const absent = response.status === 404 && !options.method;
  if (!response.ok && !absent) throw new ApiError(response.status, text);
  // Flags have 64 bits, of which a number here keeps 53.
  const value = absent || text === "" ? null : JSON.parse(text.replace(/"Flags":(\d+)/g, '"Flags":"$1"'));
  return { value, index: response.headers.get("X-Consul-Index"), hides: hides(response.headers) };
}

/** What an answer may leave out, in words. Who shows no token is not told by the agent whether it did. */
function hides(headers) {
  if (headers.has("X-Consul-Results-Filtered-By-ACLs")) return "The token does not show all that there is here.";
  return token === "" && headers.get("X-Consul-Default-ACL-Policy") === "deny" ? "Without a token only what everybody may see is shown." : null;
}

/** A name in a path as one step of it: a browser takes `..` between slashes for a way up, whoever escaped it. */
const keyPath = (key) => "/v1/kv/" + encodeURIComponent(key);

/** Resolves when the page is looked at: one that nobody sees would keep connections, of which a browser has six for an agent. */
const looked = () => new Promise((resolve) => {
  if (!document.hidden) resolve();
  else document.addEventListener("visibilitychange", resolve, { once: true });
});

/** What ends when another page is opened. */
class Life {
  constructor() {
    this.control = new AbortController();
    /** By what is read: what stands in the way. */
    this.troubles = new Map();
  }
  get over() { return this.control.signal.aborted; }
  end() { this.control.abort(); }
  sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.control.signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
    });
  }

  /** A read that ends with this life, and when nobody looks any more. */
  async read(path) {
    const look = new AbortController(), unseen = () => { if (document.hidden) look.abort(); };
    document.addEventListener("visibilitychange", unseen);
    try {
      return await api(path, { signal: AbortSignal.any([this.control.signal, look.signal]) });
    } finally { document.removeEventListener("visibilitychange", unseen); }
  }

  /** Reads `path` again and again: blocks on its index where it has one, or every two seconds. `refused` says whether it dealt with an error. */
  async follow(path, news, refused = () => false) {
    let index = null, pause = 1000;
    while (!this.over) {
      await looked();
      try {
        const join = path.includes("?") ? "&" : "?";
        const answer = await this.read(index === null ? path : `${path}${join}index=${index}&wait=60s`);
        if (this.over) return;
        this.trouble(path, answer.hides);
        pause = 1000;
        news(answer.value);
        // An index that went back belongs to another history: start over. Events have no order of theirs.
        const known = answer.index !== null;
        index = known && (index === null || BigInt(answer.index) >= BigInt(index) || path.startsWith("/v1/event")) ? answer.index : null;
        // What changes all the time is drawn a few times a second.
        await this.sleep(known ? 200 : 2000);
      } catch (error) {
        if (this.over) return;
        if (error.name === "AbortError") continue;
        let words = refused(error) ? null : inWords(error);
        // Without a leader nobody vouches for an answer; this agent may still tell what it knew last.
        if (words && error.status >= 500 && !path.endsWith("stale")) {
          const old = await this.read(path + (path.includes("?") ? "&" : "?") + "stale").catch(() => null);
          if (this.over) return;
          if (old) { news(old.value); words += "\nWhat is shown may be old."; }
        }
        this.trouble(path, words);
        index = null;
        await this.sleep(pause);
        pause = Math.min(pause * 2, 15000);
      }
    }
  }

  /** Shows what stands in the way of this read, beside what stands in the way of others. */
  trouble(path, words) {
    if (words) this.troubles.set(path, words); else this.troubles.delete(path);
    const place = $("trouble"), text = [...new Set(this.troubles.values())].join("\n");
    place.hidden = text === "";
    if (place.textContent !== text) place.textContent = text;
  }
}

// ---- filter and lists ----

function filterBox(onchange, value = "") {
  return h("input", { type: "search", value, placeholder: "Filter  /", "aria-label": "Filter", "data-filter": true, oninput: (event) => onchange(event.target.value) });
}
const matches = (needle, ...texts) => !needle || texts.some((text) => String(text ?? "").toLowerCase().includes(needle.toLowerCase()));

// ---- pages ----

const STATUS = { 1: ["good", "alive"], 2: ["warn", "leaving"], 3: ["gone", "left"], 4: ["bad", "failed"] };

function clusterPage(root, life) {
  // What is not known yet, or may not be known, is null.
  const seen = { self: null, members: null, servers: null, fares: {}, leader: null, why: null };
  let needle = "";
  const head = h("div"), servers = h("div"), members = h("div");
  root.append(h("h1", {}, "Cluster"), head, h("h2", {}, "Servers in Raft"), servers,
    h("h2", {}, "Members in gossip"), h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); })), members);

  function draw() {
    const raft = seen.self?.Stats?.raft || {};
    const status = new Map((seen.members || []).map((member) => [member.Name, member.Status]));
    const gossip = (name) => state(...(STATUS[status.get(name)] || ["gone", "unknown"]));
    const voters = (seen.servers || []).filter((server) => server.Voter);
    const alive = voters.filter((server) => status.get(server.Node) === 1).length;
    const spare = alive - (Math.floor(voters.length / 2) + 1);
    // Who may not see all voters is not told that they are gone.
    const judged = voters.length > 0 && voters.every((server) => status.has(server.Node));
    const leader = seen.servers?.find((server) => server.Leader)?.Node || seen.leader;
    const health = seen.leader === null ? state("gone", "not known yet")
      : seen.leader === "" ? state("bad", "no leader")
      : !judged ? state("good", "has a leader")
      : spare < 0 ? state("bad", "quorum lost")
      : spare === 0 && voters.length > 1 ? state("warn", "no server to spare")
      : state("good", "healthy");
    show(head, facts([
      ["State", health], ["Leader", seen.leader === "" ? "none" : leader], ["Term", raft.term],
      ["Voters", judged ? `${alive} of ${voters.length} alive` : null],
      ["May still fail", judged ? String(Math.max(spare, 0)) : null],
      ["Commit index", raft.commit_index && Number(raft.commit_index).toLocaleString("en")],
      ["This agent", seen.self ? `${seen.self.Config.NodeName}, ${seen.self.Config.Server ? (raft.state || "server").toLowerCase() : "client"}` : null],
    ]), seen.why ? [h("h2", {}, "Why is there no leader?"), h("ul", { class: "why panel" }, seen.why.Findings.map(({ Level, What, Do }) =>
      h("li", {}, h("span", { class: "state " + ({ fine: "good", warning: "warn" }[Level] || "bad") }, What), Do && h("p", {}, Do))))] : null);

    // How far the others are only the leader knows; each server knows of itself.
    const last = Math.max(...Object.values(seen.fares).map((fares) => fares.LastIndex));
    show(servers, seen.servers === null ? null : table(["Node", "Address", "Role", "Gossip", "#Last term", "#Last index", "#Lag", "#Last contact"], seen.servers, (server) => {
      const fares = seen.fares[server.ID];
      return h("tr", {}, h("td", {}, server.Node), h("td", {}, server.Address),
        h("td", {}, h("span", { class: "tag" + (server.Leader ? " strong" : "") }, server.Leader ? "leader" : server.Voter ? "voter" : "learner")),
        h("td", {}, gossip(server.Node)), number(fares?.LastTerm), number(fares ? fares.LastIndex : server.LastIndex),
        number(fares && last - fares.LastIndex), h("td", { class: "number" }, fares ? fares.LastContact : ""));
    }, "No server is in a Raft configuration yet."));

    const found = (seen.members || []).filter((member) => matches(needle, member.Name, member.Addr, STATUS[member.Status]?.[1], ...Object.entries(member.Tags || {}).flat()));
    show(members, seen.members === null ? null : table(["Node", "Address", "Status", "Mode", "Version", "Tags"], found, (member) => {
      const told = Object.entries(member.Tags || {}).filter(([key]) => !HIDDEN_TAGS.has(key)).map(([key, value]) => `${key}=${value}`);
      return h("tr", {}, h("td", {}, member.Name), h("td", {}, `${member.Addr}:${member.Port}`), h("td", {}, gossip(member.Name)),
        h("td", {}, member.Tags?.role === "node" ? "client" : "server"), h("td", {}, member.Tags?.build || ""), h("td", {}, tags(told)));
    }, needle ? "No member matches." : "No members."));
  }

  life.follow("/v1/agent/self", (value) => { seen.self = value; draw(); });
  life.follow("/v1/agent/members", (value) => { seen.members = value || []; draw(); });
  life.follow("/v1/operator/raft/configuration?stale", (value) => { seen.servers = value?.Servers || []; draw(); });
  // The leader's alone to tell: that there is none, or that one may not ask, is said of the reads beside it.
  life.follow("/v1/operator/autopilot/state", (value) => { seen.fares = value?.Servers || {}; draw(); }, () => { seen.fares = {}; draw(); return true; });
  const led = async (leader) => {
    seen.leader = leader;
    seen.why = leader === "" ? (await life.read("/v1/status/why").catch(() => null))?.value : null;
    if (!life.over) draw();
  };
  // A client that finds no server answers with an error, and can say why all the same.
  life.follow("/v1/status/leader", led, (error) => { if (error.status) led(""); return error.status > 0; });
}
const HIDDEN_TAGS = new Set(["role", "dc", "id", "port", "http_port", "raft_vsn", "vsn", "build", "expect", "acls"]);

const WORST = ["passing", "warning", "critical"];
const LOOKS = { passing: "good", warning: "warn", critical: "bad" };
const worst = (checks) => WORST[Math.max(0, ...checks.map((check) => WORST.indexOf(check.Status)))];
const said = (check) => check.Output ? h("pre", { class: "quiet" }, check.Output) : null;

function servicesPage(root, life) {
  let services = null, checks = [], needle = "";
  const list = h("div"), ofNodes = h("div");
  root.append(h("h1", {}, "Services"), h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); })), list, h("h2", {}, "Checks of nodes"), ofNodes);
  function draw() {
    if (services === null) return;
    // A check of a node counts for every instance on it, as it does for who asks for instances that pass.
    const nodes = Map.groupBy(checks.filter((check) => !check.ServiceID), (check) => check.Node);
    const own = Map.groupBy(checks.filter((check) => check.ServiceID), (check) => check.ServiceName);
    const counts = new Map([...own].map(([name, all]) => {
      const instances = [...Map.groupBy(all, (check) => JSON.stringify([check.Node, check.ServiceID])).values()];
      const states = instances.map((checks) => worst([...checks, ...(nodes.get(checks[0].Node) || [])]));
      const counted = WORST.map((status) => [states.filter((one) => one === status).length, status]).filter(([count]) => count);
      return [name, state(LOOKS[counted[counted.length - 1][1]], counted.map((pair) => pair.join(" ")).join(", "))];
    }));
    const look = (name) => counts.get(name) || state("gone", "no checks");
    const found = Object.keys(services).filter((name) => matches(needle, name, look(name).textContent, ...services[name])).sort();
    show(list, table(["Service", "Instances", "Tags"], found,
      (name) => h("tr", {}, h("td", {}, h("a", { href: "#/services/" + encodeURIComponent(name) }, name)), h("td", {}, look(name).cloneNode(true)), h("td", {}, tags(services[name]))),
      needle ? "No service matches." : "No services are registered."));
    const order = [...nodes.values()].flat().filter((check) => matches(needle, check.Node, check.Name, check.Status, check.Output))
      .sort((a, b) => WORST.indexOf(b.Status) - WORST.indexOf(a.Status));
    show(ofNodes, table(["Node", "Check", "Output"], order,
      (check) => h("tr", {}, h("td", {}, check.Node), h("td", {}, state(LOOKS[check.Status], check.Name)), h("td", { class: "wide" }, said(check))),
      needle ? "No check matches." : "No checks of nodes."));
  }
  life.follow("/v1/catalog/services", (value) => { services = value || {}; draw(); });
  life.follow("/v1/health/state/any", (value) => { checks = value || []; draw(); });
}

function servicePage(root, life, name) {
  let instances = null, needle = "";
  const list = h("div");
  root.append(h("h1", {}, h("a", { href: "#/services", "data-up": true }, "Services"), " / ", name),
    h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); })), list);
  function draw() {
    if (instances === null) return;
    const found = instances.filter(({ Node, Service, Checks }) => matches(needle, Service.ID, Node.Node, worst(Checks), ...Service.Tags || [], ...Checks.flatMap((check) => [check.Name, check.Output])));
    show(list, table(["Instance", "Node", "Address", "State", "Checks", "Tags"], found, ({ Node, Service, Checks }) => h("tr", {},
      h("td", {}, Service.ID), h("td", {}, Node.Node), h("td", {}, `${Service.Address || Node.Address}${Service.Port ? ":" + Service.Port : ""}`),
      h("td", {}, state(LOOKS[worst(Checks)], worst(Checks))),
      h("td", { class: "wide" }, Checks.map((check) => h("div", {}, state(LOOKS[check.Status], check.Name), said(check)))),
      h("td", {}, tags(Service.Tags))), needle ? "No instance matches." : "No instance is registered."));
  }
  life.follow("/v1/health/service/" + encodeURIComponent(name), (value) => { instances = value || []; draw(); });
}

/** The bytes of a stored value, and their text if they are UTF-8. */
function decoded(base64) {
  const bytes = Uint8Array.from(atob(base64 || ""), (character) => character.charCodeAt(0));
  try { return { bytes, text: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) }; } catch { return { bytes, text: null }; }
}
const hex = (bytes) => [...bytes.slice(0, 4096)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ") + (bytes.length > 4096 ? " …" : "");

/** What was typed and is not saved, by key; a new key's is under `null`. It outlives the page it was typed on, so nothing typed is lost. */
const drafts = new Map();

/** The folder that was shown last: its list stays where it was while one opens its keys. */
let shelf = { folder: null, keys: null, needle: "", top: 0 };

/** Where a folder is, which ends with a slash, or a key: one that ends with a slash too has it escaped. */
function keyLink(name, isFolder) {
  const steps = name.split("/").map(encodeURIComponent).join("/");
  return "#/kv/" + (isFolder ? steps : steps.replace(/\/$/, "%2F"));
}

/**
 * The form for a key: `base` is the entry that it changes, or null if there is none yet; `key` is null while it has no name.
 * It is saved only over the entry it was based on. News of another is shown where nothing was typed, and beside what was typed.
 */
function editor(pane, key, base, folder, done) {
  const draft = drafts.get(key);
  if (draft) base = draft.base;
  const name = h("input", { id: "key-name", value: key ?? draft?.name ?? folder, "aria-label": "Key", size: 40, readonly: key !== null });
  const text = h("textarea", { id: "key-value", "aria-label": "Value", spellcheck: "false" });
  const said = h("p", { class: "said", role: "status" }), note = h("p", { class: "quiet" }), about = h("div"), theirs = h("div");
  const main = h("button", { class: "main" }, key === null ? "Create" : "Save");
  const remove = h("button", { type: "button", class: "danger", hidden: key === null, onclick: () => attempt(erase) }, "Delete");
  const discard = h("button", { type: "button", onclick: () => { drafts.delete(key); if (base?.ModifyIndex) { adopt(base); say("", ""); ask(); } else done(null); } }, "Discard changes");
  const say = (kind, words) => { said.className = "said " + kind; said.textContent = words; };
  let original, crlf, editable;

  /** What would be stored. A text field has line feeds only; lines end as they did before. */
  const typed = () => crlf ? text.value.replaceAll("\n", "\r\n") : text.value;
  const touched = () => text.value !== original || (key === null && name.value !== folder);

  /** Takes an entry for what the form is based on, and shows its value. */
  function adopt(entry, shown) {
    base = entry;
    const value = decoded(entry?.Value);
    crlf = value.text?.includes("\r\n");
    const given = value.text ?? hex(value.bytes);
    if (text.value !== given) text.value = given;
    original = text.value;
    editable = value.text !== null && typed() === value.text;
    if (shown !== undefined) text.value = shown;
    text.readOnly = main.disabled = !editable;
    note.textContent = value.text === null ? `${value.bytes.length} bytes that are no text, in hexadecimal. They can be read here, not edited.`
      : editable ? "" : "Its lines end in more than one way, which a text field does not keep. It can be read here, not edited.";
    show(theirs);
    show(about, entry?.CreateIndex ? facts([["Created at", entry.CreateIndex], ["Changed at", entry.ModifyIndex], ["Flags", entry.Flags], ["Times locked", entry.LockIndex],
      ["Locked by session", entry.Session], ["Bytes", value.bytes.length]]) : null);
    noted();
  }
  function noted() {
    if (touched()) drafts.set(key, { base, name: name.value, text: text.value }); else drafts.delete(key);
    discard.hidden = !touched();
  }
  /** The entry as it is now; null if it is gone. */
  function news(entry) {
    if ((entry?.ModifyIndex ?? 0) === (base?.ModifyIndex ?? 0)) return;
    const what = entry ? `Changed by somebody at index ${entry.ModifyIndex}` : "Deleted by somebody";
    if (entry && decoded(entry.Value).text === typed() && entry.Flags === (base?.Flags ?? "0")) { adopt(entry); say("good", "Saved."); return; }
    if (!touched()) {
      if (entry) { adopt(entry); say("", what + "; this is the new value."); } else done(null, what + ".");
      return;
    }
    say("bad", what + " while you were typing. Nothing was overwritten.");
    const value = entry ? decoded(entry.Value) : null;
    show(theirs);
    theirs.append(h("div", { class: "tools" },
      h("button", { type: "button", onclick: () => { const mine = text.value; adopt(entry ?? { ...base, ModifyIndex: 0 }, mine); say("", "Saving now replaces that."); } }, "Go on with mine"),
      h("button", { type: "button", onclick: () => { drafts.delete(key); entry ? adopt(entry) : done(null); say("", ""); } }, "Take theirs")),
    h("pre", { class: "theirs", "aria-label": "Their value" }, value ? value.text ?? hex(value.bytes) : "There is no such key any more."));
  }
  async function attempt(work) {
    main.disabled = remove.disabled = text.readOnly = true;
    say("", "…");
    try { await work(); } catch (error) { say("bad", inWords(error)); }
    main.disabled = text.readOnly = !editable;
    remove.disabled = false;
  }
  /** What it is by now. Where nobody can be asked, following the key will tell. */
  const ask = async () => { const answer = await api(keyPath(key)).catch(() => null); if (answer) news(answer.value?.[0] ?? null); };
  async function save() {
    if (!name.value) { say("bad", "A key needs a name."); return; }
    if (/^\.\.?$/.test(name.value)) { say("bad", "A browser cannot ask for a key of that name; the command line can."); return; }
    const { value } = await api(`${keyPath(name.value)}?cas=${base?.ModifyIndex ?? 0}&flags=${base?.Flags ?? 0}`, { method: "PUT", body: typed() });
    if (key === null) {
      if (!value) { say("bad", "There is such a key already; nothing was overwritten."); return; }
      drafts.delete(key);
      done(name.value);
    } else {
      say(value ? "good" : "bad", value ? "Saved." : "Somebody has changed it since you opened it; nothing was overwritten.");
      if (value) { original = text.value; noted(); }
      await ask();
    }
  }
  async function erase() {
    if (!confirm(`Delete ${key}?`)) { say("", ""); return; }
    const { value } = await api(`${keyPath(key)}?cas=${base.ModifyIndex}`, { method: "DELETE" });
    if (value) { drafts.delete(key); location.hash = keyLink(folder, true); return; }
    say("bad", "Somebody has changed it since you opened it; it was not deleted.");
    await ask();
  }

  show(pane);
  pane.append(h("form", { onsubmit: (event) => { event.preventDefault(); attempt(save); }, oninput: noted },
    h("div", { class: "tools" }, name), text, note, h("div", { class: "tools" }, main, discard, remove), said, theirs, about));
  adopt(base, draft?.text);
  if (draft) say("", "Not saved yet.");
  name.setSelectionRange(name.value.length, name.value.length);
  if (!document.activeElement?.matches("input, textarea")) (key === null ? name : text).focus({ preventScroll: true });
  return { key, news };
}

function keysPage(root, life, path) {
  const isFolder = path === "" || path.endsWith("/"), name = path.split("/").map(unescaped).join("/");
  const key = isFolder ? null : name, folder = isFolder ? name : name.slice(0, name.lastIndexOf("/") + 1);
  if (shelf.folder !== folder) shelf = { folder, keys: null, needle: "", top: 0 };
  const list = h("ul", { class: "list", "aria-label": "Keys", onscroll: () => { shelf.top = list.scrollTop; } });
  const pane = h("section", { class: "panel", "aria-label": "Value" }), unsaved = h("p", { class: "quiet" });
  const steps = folder.split("/").slice(0, -1), up = (count) => steps.slice(0, count).map((step) => step + "/").join("");
  if (steps.length) root.append(h("a", { href: keyLink(up(steps.length - 1), true), "data-up": true, hidden: true }, "up"));
  root.append(h("h1", { class: "crumbs" }, h("a", { href: "#/kv/" }, "keys"), " / ", steps.map((step, i) => [h("a", { href: keyLink(up(i + 1), true) }, step || "(no name)"), " / "])),
    h("div", { class: "tools" }, filterBox((text) => { shelf.needle = text; draw(); }, shelf.needle), h("button", { type: "button", id: "new-key", onclick: make }, "New key")),
    unsaved, h("div", { class: key === null ? "split" : "split chosen" }, list, pane));

  function draw() {
    const others = [...drafts.keys()].filter((one) => one !== null && one !== key);
    show(unsaved, others.length ? ["Not saved yet: ", others.map((one) => [h("a", { href: keyLink(one) }, one), " "])] : null);
    if (shelf.keys === null) return;
    const found = shelf.keys.filter((name) => matches(shelf.needle, name.slice(folder.length)));
    show(list, found.length ? found.slice(0, MOST).map((name) => h("li", {},
      // What is listed with a slash at its end is a folder, but for the folder's own name: that is a key.
      h("a", { href: keyLink(name, name.endsWith("/") && name !== folder), "aria-current": name === key ? "true" : null }, name.slice(folder.length) || "(the key of this folder)")))
      : h("li", { class: "empty" }, shelf.needle ? "No key matches." : "No keys here."),
    rest(found) && h("li", { class: "empty" }, rest(found)));
  }
  /** The form that is open, if one is. */
  let form = null;
  function make() {
    form = editor(pane, null, null, folder, (made) => { if (made === null) open(); else if (location.hash === keyLink(made)) open(); else location.hash = keyLink(made); });
  }
  const absent = (words) => { form = null; show(pane, h("p", { class: "empty" }, words)); };
  const draft = drafts.get(key);
  if (draft && key === null) make();
  else if (key === null) absent("Choose a key, or make a new one.");
  else {
    life.follow(keyPath(key), (value) => {
      const entry = value ? value[0] : null;
      if (form && form.key === null) return;
      if (form) form.news(entry);
      else if (!entry && !drafts.has(key)) absent("There is no such key.");
      else {
        form = editor(pane, key, entry, folder, (made, words) => absent(words ?? "There is no such key."));
        form.news(entry);
      }
    });
  }
  draw();
  list.scrollTop = shelf.top;
  life.follow(`${keyPath(folder)}?keys&separator=%2F`, (value) => { shelf.keys = value || []; draw(); });
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
    } catch (error) { said.className = "said bad"; said.textContent = inWords(error); }
  };
  root.append(h("h1", {}, "Events"), h("form", { class: "tools", onsubmit: fire }, name, payload, h("button", { class: "main" }, "Fire")), said,
    h("div", { class: "tools" }, filterBox((text) => { needle = text; draw(); }), h("span", { class: "quiet" }, "The last 256 that this agent heard, newest first.")), list);
  function draw() {
    const found = events.filter((event) => matches(needle, event.Name, event.ID)).reverse();
    show(list, table(["#Lamport time", "Name", "Payload", "For", "Id"], found, (event) => {
      const { bytes, text } = decoded(event.Payload);
      const filters = [["node", event.NodeFilter], ["service", event.ServiceFilter], ["tag", event.TagFilter]].filter((pair) => pair[1]).map((pair) => pair.join("~"));
      return h("tr", {}, number(event.LTime), h("td", {}, event.Name), h("td", { class: "wide" }, h("pre", {}, text ?? hex(bytes))), h("td", {}, tags(filters)), h("td", { class: "quiet" }, event.ID.slice(0, 8)));
    }, needle ? "No event matches." : "No event has been heard."));
  }
  life.follow("/v1/event/list", (value) => { events = value || []; draw(); });
}

// ---- where we are ----

let life = new Life();

function open() {
  life.end();
  life = new Life();
  life.trouble();
  const root = $("page");
  root.replaceChildren();
  const [, page, path] = location.hash.match(/^#\/([a-z]+)\/?(.*)$/) || [null, "cluster", ""];
  if (page === "services") path ? servicePage(root, life, unescaped(path)) : servicesPage(root, life);
  else if (page === "kv") keysPage(root, life, path);
  else if (page === "events") eventsPage(root, life);
  else clusterPage(root, life);
  for (const tab of document.querySelectorAll("nav a")) {
    if (tab.dataset.page === page || (tab.dataset.page === "cluster" && !["services", "kv", "events"].includes(page))) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  if (!root.contains(document.activeElement)) root.focus({ preventScroll: true });
}
function unescaped(path) {
  try { return decodeURIComponent(path); } catch { return path; }
}
function greet() {
  api("/v1/agent/self").then(({ value }) => { $("agent").textContent = `${value.Config.NodeName} in ${value.Config.Datacenter}`; document.title = `driftline: ${value.Config.NodeName}`; }, () => {});
}

const THEMES = ["", "light", "dark"];
let look = kept("localStorage", "theme");
function theme(next) {
  look = THEMES.includes(next) ? next : "";
  if (look) document.documentElement.dataset.theme = look;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = "Theme: " + (look || "system");
  kept("localStorage", "theme", look);
}
const nextTheme = () => theme(THEMES[(THEMES.indexOf(look) + 1) % THEMES.length]);

function move(by) {
  const links = [...document.querySelectorAll("main .list a, main tbody a")];
  if (links.length === 0) return;
  let at = links.indexOf(document.activeElement);
  if (at < 0) at = links.findIndex((link) => link.hasAttribute("aria-current"));
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

theme(look);
$("theme").addEventListener("click", nextTheme);
$("help-button").addEventListener("click", () => $("help").showModal());
$("token").value = token;
$("token").addEventListener("change", (event) => {
  token = kept("sessionStorage", "token", event.target.value.trim());
  greet();
  open();
});
// Enter ends the typing, which is a change.
$("token-form").addEventListener("submit", (event) => { event.preventDefault(); $("token").blur(); });
document.addEventListener("keydown", onkey);
// Where one is already, a link opens the page anew.
document.addEventListener("click", (event) => { if (event.target.closest("a")?.hash === location.hash) open(); });
window.addEventListener("hashchange", open);
// Drafts live as long as the page.
window.addEventListener("beforeunload", (event) => { if (drafts.size) event.preventDefault(); });
greet();
open();
