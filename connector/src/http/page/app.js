// The connector's page: asks for the status each second and shows it. No dependencies, no build step.
//
// Everything that comes from outside (encoder names, reasons) is set as text, never as HTML. Keys are fetched only
// when somebody asks to see one, and forgotten when it is hidden again.
"use strict";

const POLL_MS = 1000;
const ANSWER_MS = 4000;
const EVENTS_MS = 2000;
const EVENTS_SHOWN = 30;

const byId = (id) => document.getElementById(id);
const cards = new Map(); // line id → card
let lastAnswer = null;   // Date of the last good status
let joinAsked = false;   // the token box was opened by hand
let justAdded = null;    // the id of the line that this page added: its address is shown at once

// ---- talking to the connector

/** A request that the connector can tell from another site's: see the guard on the other side. */
async function call(method, path, body, wait = 35000) {
  const response = await fetch(path, {
    method,
    headers: { "X-Firstmile": "page", ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body && JSON.stringify(body),
    cache: "no-store",
    signal: AbortSignal.timeout(wait),
  });
  if (response.ok) return response;
  let message = `the connector answered ${response.status}`;
  try { message = (await response.json()).error ?? message; } catch { /* not JSON: the number has to do */ }
  throw new Error(message);
}

async function poll() {
  try {
    const status = await (await call("GET", "/api/v1/status", undefined, ANSWER_MS)).json();
    lastAnswer = new Date();
    document.body.classList.remove("stale");
    show(status);
  } catch {
    showSilence();
  }
  setTimeout(poll, POLL_MS);
}

async function pollEvents() {
  try {
    showEvents(await (await call("GET", "/api/v1/events", undefined, ANSWER_MS)).json());
  } catch { /* the status says that nobody answers */ }
  setTimeout(pollEvents, EVENTS_MS);
}

// ---- the whole page

function show(status) {
  const relays = status.relays, lines = status.lines;
  byId("studio").textContent = [status.studio && `Studio ${status.studio}`, status.host].filter(Boolean).join(" · ");
  byId("version").textContent = `firstmile-connector ${status.version}`;
  byId("summary").textContent = summary(relays, lines);
  document.title = title(lines);
  showNotices([...relays.filter((relay) => relay.state !== "connected").map(relayNotice), ...(status.notices ?? [])]);
  showRelays(relays);

  const joined = relays.length > 0;
  byId("join").hidden = joined && !joinAsked;
  byId("join-cancel").hidden = !joined;
  byId("join-title").textContent = joined ? "Join another relay" : lines.length ? "Connect to a relay" : "1. Connect to a relay";

  byId("add").hidden = false;
  byId("add-title").textContent = lines.length ? "Add a line" : joined ? "Name the first line" : "2. Name the first line";
  byId("add-hint").hidden = lines.length > 0;
  showLines(lines);
}

function summary(relays, lines) {
  if (!relays.length) return "Not connected to a relay yet";
  const up = relays.filter((relay) => relay.state === "connected").length;
  if (!up) return "No relay is connected";
  if (!lines.length) return "Connected; no lines yet";
  const live = lines.filter((line) => line.state === "live").length;
  const on = lines.filter((line) => line.state !== "off").length;
  return `${live} of ${on} ${on === 1 ? "line" : "lines"} live` + (up < relays.length ? `; ${relays.length - up} relay not connected` : "");
}

function title(lines) {
  const gone = lines.filter((line) => line.state === "slate").length;
  const live = lines.filter((line) => line.state === "live").length;
  return (gone ? `⚠ ${gone} gone · ` : live ? `● ${live} live · ` : "") + "Firstmile";
}

function relayNotice(relay) {
  const refused = relay.state === "refused";
  return {
    severity: refused ? "error" : "warning",
    text: `The relay ${relay.address} ${refused ? "refuses this connector" : "is not connected; trying again"}.`,
    remedy: relay.reason && sentence(relay.reason),
  };
}

function showNotices(notices) {
  const box = byId("notices");
  const key = JSON.stringify(notices);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...notices.map((notice) => {
    const p = element("p", `notice ${notice.severity}`);
    p.append(element("b", "", notice.text));
    if (notice.remedy) p.append(notice.remedy);
    return p;
  }));
}

function showSilence() {
  document.body.classList.add("stale");
  byId("summary").textContent = "The connector does not answer";
  document.title = "✕ no answer · Firstmile";
  const since = lastAnswer ? ` since ${lastAnswer.toLocaleTimeString()}` : "";
  showNotices([{
    severity: "error",
    text: `No answer from the connector${since}.`,
    remedy: (cards.size ? "What is shown below is the last that was known. " : "") +
      "Is the program running on this machine? This page tries again each second.",
  }]);
}

// ---- relays

function showRelays(relays) {
  byId("relays").hidden = relays.length === 0;
  byId("join-another").hidden = joinAsked;
  byId("relay-list").replaceChildren(...relays.map((relay) => {
    const item = element("li");
    item.dataset.state = relay.state;
    const words = { connected: "connected", dialing: "not connected, trying", refused: "refused us" };
    item.append(element("span", "where", relay.address), element("span", "how", words[relay.state] ?? relay.state));
    const facts = [];
    if (relay.state === "connected") {
      if (relay.transport) facts.push(relay.transport.toUpperCase());
      if (relay.rtt_ms != null) facts.push(`round trip ${number(relay.rtt_ms, 0)} ms`);
      if (relay.lost_percent != null) facts.push(`${number(relay.lost_percent, 1)} % lost`);
    }
    if (relay.reason) facts.push(relay.reason);
    item.append(element("span", "quiet", facts.join(" · ")));
    return item;
  }));
}

// ---- lines

const WORDS = { live: "LIVE", slate: "FEED LOST", waiting: "WAITING", off: "OFF" };

function showLines(lines) {
  const ids = new Set(lines.map((line) => line.id));
  for (const [id, card] of cards) {
    if (!ids.has(id)) { card.root.remove(); cards.delete(id); }
  }
  lines.forEach((line, n) => {
    let card = cards.get(line.id);
    if (!card) {
      card = newCard(line.id);
      cards.set(line.id, card);
      if (line.id === justAdded) { justAdded = null; card.find(".reveal").click(); }
    }
    const at = byId("lines").children[n];
    if (at !== card.root) byId("lines").insertBefore(card.root, at ?? null);
    showLine(card, line);
  });
}

function showLine(card, line) {
  card.line = line;
  card.root.dataset.state = line.state;
  setText(card.find(".name"), line.name);
  setText(card.find(".word"), WORDS[line.state] ?? line.state);
  setText(card.find(".reason"), line.reason ?? "");
  showRivals(card, line);
  showFindings(card, line);
  const tally = (line.outputs ?? []).map((output) => output.tally);
  const on = tally.includes("program") ? "program" : tally.includes("preview") ? "preview" : null;
  const mark = card.find(".tally");
  mark.hidden = !on;
  card.root.dataset.tally = on ?? "";
  if (on) { mark.dataset.tally = on; setText(mark, on === "program" ? "PGM" : "PVW"); }
  showFacts(card.find(".facts"), facts(line));
  setText(card.find(".output"), (line.outputs ?? []).map(outputText).join(" · "));
  card.find(".resync").hidden = !line.encoder || line.state === "off";
  setText(card.find(".switch"), line.state === "off" ? "Switch on" : "Switch off");
}

/** Encoders that use the line's key and do not have the line: take or refuse. */
function showRivals(card, line) {
  const box = card.find(".rivals"), held = line.held ?? [], refused = line.refused ?? [];
  const key = JSON.stringify([line.name, held, refused, line.frozen]);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  const path = `/api/v1/lines/${line.id}`;
  const choice = (action, label, kind, rival) => {
    const button = element("button", kind, label);
    button.type = "button";
    button.addEventListener("click", () => act(button, card.root, () => call("POST", `${path}/${action}`, { publisher: rival.publisher })));
    return button;
  };
  const asked = held.map((rival) => {
    const item = element("div", "rival");
    item.append(element("p", "", `A second encoder uses ${line.name}'s key: ${rival.encoder}, ${rival.peer}`));
    item.append(element("p", "quiet", `Since ${new Date(rival.since).toLocaleTimeString()}, by relay ${rival.relay}. It waits; what is on air stays.`));
    const row = element("div", "row");
    row.append(choice("take", "Take", "danger", rival), choice("refuse", "Refuse", "", rival));
    item.append(row);
    return item;
  });
  const sent = refused.map((rival) => {
    const item = element("div", "rival");
    item.append(element("p", "quiet", `Refused: ${rival.encoder}, ${rival.peer}`), choice("take", "Let it try again", "plain", rival));
    return item;
  });
  const frozen = line.frozen ? [element("p", "rival", "Encoders took this line from each other again and again: it stays as it is until you decide.")] : [];
  box.replaceChildren(...frozen, ...asked, ...sent);
}

/** What is wrong with the feed and what to set: in the operator's words, each with how bad it is. */
function showFindings(card, line) {
  const box = card.find(".findings"), found = line.state === "off" ? [] : line.findings ?? [];
  const key = JSON.stringify(found);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...found.map((finding) => {
    const item = element("li", "", sentence(finding.text));
    item.dataset.severity = finding.severity;
    return item;
  }));
}

function showEvents(events) {
  const list = byId("event-list"), shown = events.slice(-EVENTS_SHOWN).reverse();
  byId("events").hidden = shown.length === 0;
  const key = JSON.stringify(shown);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...shown.map((event) => {
    const item = element("li");
    item.append(element("time", "quiet", new Date(event.at).toLocaleTimeString()));
    const where = [event.line, event.line ? null : event.relay].filter(Boolean).join(" ");
    if (where) item.append(element("b", "", where));
    item.append(element("span", "", sentence(event.text)));
    return item;
  }));
}

function facts(line) {
  const list = [["Delay", line.delay_ms == null ? "–" : `${line.delay_ms} ms`]];
  const video = line.video, audio = line.audio;
  if (line.state === "live" && video?.width) {
    list.push(["Picture", `${video.width}×${video.height}${video.fps ? `p${number(video.fps, 2)}` : ""}`]);
  }
  if (line.state === "live") {
    if (line.bitrate_bps != null) list.push(["Bitrate", `${number(line.bitrate_bps / 1e6, 1)} Mbit/s`]);
    if (audio?.codec) list.push(["Sound", `${audio.codec}${audio.sample_rate ? ` · ${number(audio.sample_rate / 1000, 1)} kHz` : ""}`]);
    if (line.av_offset_ms != null) {
      const off = Math.round(line.av_offset_ms);
      list.push(["Sound to picture", off === 0 ? "together" : `${Math.abs(off)} ms ${off > 0 ? "later" : "earlier"}`, Math.abs(off) > 60]);
    }
  }
  if (line.encoder_lag_ms != null && line.state !== "off") list.push(["Encoder lag", `${line.encoder_lag_ms} ms`, line.encoder_lag_ms > line.delay_ms / 2]);
  if (line.accepted_lag_ms) list.push(["Shown later by", `${line.accepted_lag_ms} ms`, true]);
  const missed = (video?.late_total ?? 0) + (video?.dropped_total ?? 0) + (video?.lost_total ?? 0);
  if (missed) list.push(["Pictures missed", `${missed} of ${video.units_total}`]);
  if (line.state === "live" && line.encoder) list.push(["Encoder", line.encoder, false, true]);
  if (video?.decode_errors_total) list.push(["Damaged pictures", `${video.decode_errors_total}`]);
  return list;
}

function showFacts(box, list) {
  const key = JSON.stringify(list);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...list.map(([label, value, bad, wide]) => {
    const pair = element("div", bad ? "bad" : wide ? "wide" : "");
    pair.append(element("dt", "", label), element("dd", "", value));
    pair.title = value;
    return pair;
  }));
}

function outputText(output) {
  const kind = { ndi: "NDI® source", null: "No NDI® source: pictures are only counted" }[output.kind] ?? output.kind;
  const name = output.kind !== "null" && output.name ? ` “${output.name}”` : "";
  const seen = output.connections == null ? "" : output.connections === 0 ? ", nobody is watching"
    : output.connections === 1 ? ", 1 receiver" : `, ${output.connections} receivers`;
  return kind + name + (output.kind === "null" ? "" : seen);
}

function newCard(id) {
  const root = byId("line-template").content.firstElementChild.cloneNode(true);
  const card = { root, line: null, find: (selector) => root.querySelector(selector) };
  const path = `/api/v1/lines/${id}`;
  card.find(".reveal").addEventListener("click", () => reveal(card, path));
  card.find(".switch").addEventListener("click", (event) => {
    const off = card.line.state === "off";
    const change = () => call("PATCH", path, { enabled: off });
    if (off || card.line.state === "waiting") act(event.currentTarget, root, change);
    else confirm(card, "Its feed ends and its NDI source disappears until the line is switched on again.", "Switch the line off", change);
  });
  card.find(".resync").addEventListener("click", () =>
    confirm(card, "Its encoder is disconnected and dials again, at live; the last picture stays for the second or two that it takes.", "Start the encoder again",
      () => call("POST", `${path}/resync`)));
  card.find(".remove").addEventListener("click", () =>
    confirm(card, "Its NDI source and its key are gone for good. The other lines are not touched.", "Remove the line", () => call("DELETE", path)));
  card.find(".no").addEventListener("click", () => { card.find(".confirm").hidden = true; });
  return card;
}

/** Asks in the card, not in a window over it: nothing may cover the other lines. */
function confirm(card, text, label, action) {
  const yes = card.find(".yes"), onAir = card.root.dataset.tally === "program";
  card.find(".confirm p").textContent = (onAir ? "This line is ON PROGRAM. " : "") + text;
  yes.textContent = label;
  yes.onclick = async () => { if (await act(yes, card.root, action)) card.find(".confirm").hidden = true; };
  card.find(".confirm").hidden = false;
  card.find(".no").focus({ preventScroll: true });
}

async function reveal(card, path) {
  const button = card.find(".reveal"), box = card.find(".secret");
  if (!box.hidden) {
    box.hidden = true;
    card.find(".fields").replaceChildren();
    const image = card.find(".qr");
    if (image.src) URL.revokeObjectURL(image.src);
    image.removeAttribute("src");
    image.hidden = true;
    button.textContent = "Address and key";
    button.setAttribute("aria-expanded", "false");
    return;
  }
  await act(button, card.root, async () => {
    const line = await (await call("GET", path)).json();
    const fields = [];
    if (line.urls.length) {
      fields.push(field("Server", line.server), field("Stream key", line.key, "key"));
      line.urls.forEach((url, n) => fields.push(field(n ? "Or" : "As one address", url)));
      const code = await (await call("GET", `${path}/qr`)).blob();
      const image = card.find(".qr");
      image.src = URL.createObjectURL(code);
      image.hidden = false;
    } else {
      fields.push(field("Stream key", line.key, "key"));
      fields.push(element("p", "quiet", "The address is known once this connector has joined a relay."));
    }
    card.find(".fields").replaceChildren(...fields);
    box.hidden = false;
    button.textContent = "Hide address";
    button.setAttribute("aria-expanded", "true");
  });
}

function field(label, value, kind = "") {
  const root = byId("field-template").content.firstElementChild.cloneNode(true);
  if (kind) root.classList.add(kind);
  root.querySelector(".label").textContent = label;
  root.querySelector(".value").textContent = value;
  const button = root.querySelector(".copy");
  button.setAttribute("aria-label", `Copy ${label.toLowerCase()}`);
  button.addEventListener("click", async () => {
    button.textContent = (await copy(value, root.querySelector(".value"))) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return root;
}

/** Browsers give a clipboard to HTTPS and localhost only; elsewhere the text is selected for the person to copy. */
async function copy(text, shown) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* the old way below */ }
  const range = document.createRange();
  range.selectNodeContents(shown);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  try { return document.execCommand("copy"); } catch { return false; }
}

// ---- forms

/** Runs an action with its button disabled; what goes wrong is shown in words beside it. */
async function act(button, root, action) {
  const problem = root.querySelector(".problem");
  problem.hidden = true;
  button.disabled = true;
  try {
    await action();
    return true;
  } catch (error) {
    problem.textContent = error.name === "TimeoutError" || error instanceof TypeError
      ? "The connector did not answer. Is it still running?" : sentence(error.message);
    problem.hidden = false;
    return false;
  } finally {
    button.disabled = false;
  }
}

byId("join-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.currentTarget, button = form.querySelector(".primary");
  button.textContent = "Joining…";
  const done = await act(button, form, () => call("POST", "/api/v1/join", { token: byId("token").value }));
  button.textContent = "Join";
  if (done) { byId("token").value = ""; joinAsked = false; byId("name").focus(); }
});
byId("add-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const done = await act(form.querySelector("button"), form, async () => {
    justAdded = (await (await call("POST", "/api/v1/lines", { name: byId("name").value })).json()).id;
  });
  if (done) byId("name").value = "";
});
byId("join-another").addEventListener("click", () => { joinAsked = true; byId("join").hidden = false; byId("join-cancel").hidden = false; byId("token").focus(); });
byId("join-cancel").addEventListener("click", () => { joinAsked = false; byId("join").hidden = true; byId("token").value = ""; });

// ---- small things

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
function setText(node, text) { if (node.textContent !== text) node.textContent = text; }
function number(value, digits) { return Number(value).toFixed(digits).replace(/\.?0+$/, (tail) => (digits ? "" : tail)); }
function sentence(text) { return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : "."); }

setInterval(() => { byId("clock").textContent = new Date().toLocaleTimeString(); }, 500);
poll();
pollEvents();
