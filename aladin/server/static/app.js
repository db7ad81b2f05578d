// The page: what is asked, what is found, and the states between.

import { byId, element, icon } from "./dom.js";
import { Failure, get, hasToken, onTokenWanted, post, send, show } from "./api.js";
import { asQuery, filtersSet, fromAddress, isQuery, nothing, parsed, toAddress } from "./state.js";
import { Grid } from "./grid.js";
import { Viewer, percent, titleOf } from "./viewer.js";
import { answersTo } from "./words.js";

const FIRST = 80, MORE = 6, MOST = 10000; // hits at first, how many times as many when scrolled to the end, and at most
const PAGE = 400; // photographs at once when leafing
const LIGHTED = 1000; // hits among which a word's strongest answer is looked for
const TYPING = 150; // ms without a key before what is typed is searched for
const POLL = 1500;
const SLOW = 250; // ms after which the page says that it waits

let state = fromAddress(location.hash);
let status = null;
let search = null; // the one under way
let page = { asked: 0, cursor: null, busy: false, done: true, searched: 0 };
let typing = 0; // the timer of what is being typed and not yet searched for
let draft = false; // whether the newest entry of the history is what is being typed

const grid = new Grid(byId("results"), {
  onOpen: (index) => openAt(index),
  onNearEnd: () => more(),
  tagOf: (item) => (item.rank === undefined ? titleOf(item) : `${item.probability === null ? item.rank : percent(item.probability)} · ${titleOf(item)}`),
  nameOf: (item) => (item.rank === undefined ? titleOf(item) : `Hit ${item.rank}: ${titleOf(item)}`),
});
const viewer = new Viewer({
  onStep: (step) => openAt(grid.active + step),
  onClose: () => {
    if (state.open) change({ open: "" }, { search: false, replace: true });
    if (grid.items.length && document.activeElement === document.body) grid.focus(Math.min(grid.active, grid.items.length - 1));
  },
  onSimilar: (item) => change({ ...nothing(), images: [{ id: item.id, box: null }], ...filters() }),
  onRegion: (item, box) => change({ ...nothing(), images: [{ [item.id ? "id" : "upload"]: item.id || item.upload, box }], ...filters() }),
  onMore: (word) => weigh(word, 1),
  onWithout: (word) => exclude(word),
  explain: (item) => post("/v1/explain", { ...asQuery(state), image: item.id }).catch(() => null),
});

// State

const filters = () => ({ folder: state.folder, from: state.from, to: state.to });

function change(news, { search: again = true, replace = false } = {}) {
  if (again) settle();
  draft = false;
  state = { ...state, ...news, ...(again ? { open: news.open || "" } : {}) };
  history[replace ? "replaceState" : "pushState"](null, "", toAddress(state));
  draw();
  if (again) run();
}

function weigh(word, step) {
  const weight = Math.min((state.more[word] || 0) + step, 6);
  const rest = Object.fromEntries(Object.entries(state.more).filter(([other]) => other !== word));
  change({ more: weight > 0 ? { ...rest, [word]: weight } : rest });
}

function exclude(word) {
  const text = state.text.split(/\s+/).filter((other) => other !== word).join(" ");
  const more = Object.fromEntries(Object.entries(state.more).filter(([other]) => other !== word));
  const without = state.without.includes(word) ? state.without : [...state.without, word];
  // With nothing else wanted, an exclusion has nothing to work on.
  if (!text && !state.images.length && !Object.keys(more).length) return tell(`Nothing would be left to search for without “${word}”.`);
  return change({ text, more, without });
}

// Drawing what is asked

function draw() {
  const field = byId("query");
  // What is being typed is left alone, when a photograph closes only now for instance.
  if (!typing && (document.activeElement !== field || parsed(field.value).text !== state.text)) field.value = state.text;
  byId("clear").hidden = !(field.value || isQuery(state));
  document.title = state.text ? `${state.text} – aladin` : "aladin";
  const count = filtersSet(state);
  byId("filters-count").hidden = !count;
  byId("filters-count").textContent = count || "";
  byId("filters-clear").hidden = !count;
  byId("from").value = state.from;
  byId("to").value = state.to;
  drawFolders();
  drawAsked();
}

function drawAsked() {
  const words = state.text.split(/\s+/).filter(Boolean);
  const chips = [
    ...state.images.map(imageChip),
    ...words.map(wordChip),
    ...Object.keys(state.more).filter((word) => !words.includes(word)).map((word) => wordChip(word, -1)),
    ...state.without.map(withoutChip),
  ];
  byId("asked").replaceChildren(...chips);
  byId("asked").hidden = !chips.length;
}

function wordChip(word, place) {
  const weight = state.more[word] || 0;
  const on = () => place >= 0 && grid.light(answersTo(grid.items.slice(0, LIGHTED), state.text, place));
  const off = () => grid.light(null);
  const label = element("button", { type: "button", className: "label", title: "Shows the region that answers this word", "aria-label": `${word}: show where`, onfocus: on, onblur: off }, word);
  if (weight) label.setAttribute("data-weight", 1 + weight);
  return element(
    "span",
    { className: `word${weight ? " more" : ""}`, onpointerenter: on, onpointerleave: off },
    turn("minus", weight ? `Let ${word} weigh less` : `Exclude ${word}`, () => (weight ? weigh(word, -1) : exclude(word))),
    label,
    turn("plus", `Let ${word} weigh more`, () => weigh(word, 1)),
  );
}

// The picture of a chip, or what the box cuts out of it.
async function drawChip(canvas, image) {
  const full = image.id ? await get(`/v1/images/${image.id}`) : null;
  const picture = new Image();
  await show(picture, full ? full.thumbnail : `/v1/uploads/${image.upload}`);
  await picture.decode();
  const scale = full ? picture.naturalWidth / full.width : 1;
  const box = image.box || { x: 0, y: 0, width: picture.naturalWidth / scale, height: picture.naturalHeight / scale };
  const zoom = Math.max(canvas.width / box.width, canvas.height / box.height);
  const [width, height] = [canvas.width / zoom, canvas.height / zoom];
  const [x, y] = [box.x + (box.width - width) / 2, box.y + (box.height - height) / 2];
  canvas.getContext("2d").drawImage(picture, x * scale, y * scale, width * scale, height * scale, 0, 0, canvas.width, canvas.height);
}

function withoutChip(word) {
  return element(
    "span", { className: "word not" },
    element("span", { className: "visually-hidden" }, "without "),
    element("span", { className: "label" }, word),
    turn("close", `Allow ${word} again`, () => change({ without: state.without.filter((other) => other !== word) })),
  );
}

function imageChip(image) {
  const picture = element("canvas", { width: 88, height: 68 });
  drawChip(picture, image).catch(() => {});
  const label = image.box ? "this region" : "this picture";
  return element(
    "span", { className: "word image" },
    element("button", { type: "button", "aria-label": `Open ${label}`, onclick: () => openQueryImage(image) }, picture, element("span", { className: "label" }, `like ${label}`)),
    turn("close", `Remove ${label} from the search`, () => change({ images: state.images.filter((other) => other !== image) })),
  );
}

const turn = (name, label, act) => element("button", { type: "button", className: "turn", title: label, "aria-label": label, onclick: act }, icon(name));

function drawFolders() {
  const select = byId("folder");
  const names = [...new Set([...(status?.folders || []).flatMap(({ name }) => parents(name)), state.folder])].filter(Boolean).sort();
  select.replaceChildren(new Option("Every folder", ""), ...names.map((name) => new Option(name, name)));
  select.value = state.folder;
}

const parents = (name) => name.split("/").map((_, depth, parts) => parts.slice(0, depth + 1).join("/"));

// Searching

async function run() {
  search?.abort();
  const control = (search = new AbortController());
  viewer.close();
  alertNone();
  grid.light(null);
  const slow = setTimeout(() => waiting(true), SLOW);
  try {
    if (isQuery(state)) await ask(control.signal);
    else await leaf(control.signal);
  } catch (error) {
    if (!control.signal.aborted) failed(error);
  } finally {
    clearTimeout(slow);
    if (search === control) waiting(false);
  }
}

function waiting(yes) {
  document.querySelector(".top").classList.toggle("waiting", yes);
  byId("results").setAttribute("aria-busy", String(yes));
}

async function ask(signal) {
  const started = performance.now();
  page = { asked: FIRST, busy: true, done: false, cursor: null, searched: 0 };
  const found = await post("/v1/search", { ...asQuery(state), top: FIRST, why: state.text !== "" }, signal);
  page = { ...page, busy: false, done: found.hits.length < FIRST, searched: found.searched };
  const hits = found.hits.length ? found.hits : found.nearest;
  byId("results").classList.toggle("faint", found.answered === false);
  grid.set(hits);
  scrollTo({ top: 0, behavior: "instant" });
  const took = performance.now() - started;
  const cut = found.truncated ? " · the end of the text was too long to be read" : "";
  tell(hits.length ? `${plural(found.searched)} searched in ${duration(took)}${cut}` : "");
  if (!hits.length) message("search", "Nothing to search in", filtersSet(state) ? "No photograph passes the filters." : "The collection has no photograph to compare.", filtersSet(state) ? ["Clear filters", clearFilters] : null);
  else if (found.answered === false) message("search", `Nothing here seems to show “${found.query}”`, "These come nearest.");
  else messageNone();
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("aladin-hits-painted")));
}

async function leaf(signal) {
  page = { asked: 0, busy: true, done: false, cursor: null, searched: 0 };
  byId("results").classList.remove("faint");
  if (!status || !status.images.ok) await refreshStatus(signal);
  if (!status?.images.ok) {
    grid.set([]);
    return firstRun();
  }
  const found = await get(`/v1/images?${leafing()}`, signal);
  page = { ...page, busy: false, done: !found.next, cursor: found.next };
  grid.set(found.images);
  messageNone();
  if (!found.images.length) message("filter", "No photograph passes the filters", "Widen the dates, or choose another folder.", ["Clear filters", clearFilters]);
  tell(filtersSet(state) ? "" : `${plural(status.images.ok)}, the newest first${progressNote()}`);
  return undefined;
}

function leafing(cursor) {
  const parameters = new URLSearchParams({ limit: PAGE });
  if (cursor) parameters.set("cursor", cursor);
  if (state.folder) parameters.set("folder", state.folder);
  if (state.from) parameters.set("taken_from", state.from);
  if (state.to) parameters.set("taken_to", state.to);
  return parameters;
}

async function more() {
  if (page.busy || page.done) return;
  const mine = page;
  page.busy = true;
  try {
    if (isQuery(state)) {
      const top = Math.min(page.asked * MORE, MOST);
      const found = await post("/v1/search", { ...asQuery(state), top, why: state.text !== "" && top <= 1000 }, search?.signal);
      if (page !== mine) return;
      const known = new Set(grid.items.map((item) => item.id));
      Object.assign(page, { asked: top, busy: false, done: found.hits.length < top || top === MOST });
      grid.append(found.hits.filter((hit) => !known.has(hit.id)).map((hit, place) => ({ ...hit, rank: known.size + place + 1 })));
    } else {
      const found = await get(`/v1/images?${leafing(page.cursor)}`, search?.signal);
      if (page !== mine) return;
      Object.assign(page, { cursor: found.next, busy: false, done: !found.next });
      grid.append(found.images);
    }
  } catch (error) {
    if (page !== mine || search?.signal.aborted) return;
    page.done = true;
    failed(error);
  }
}

// One photograph

function openAt(index) {
  const item = grid.items[index];
  if (!item) return;
  grid.active = index;
  change({ open: item.id }, { search: false, replace: viewer.isOpen }); // so that Back closes the photograph
  viewer.open(item, { place: index, total: grid.items.length, facts: factsOf(item), query: isQuery(state) });
}

function factsOf(item) {
  const day = item.taken ? new Date(item.taken) : null;
  const date = day && !Number.isNaN(day.getTime()) ? day.toLocaleDateString(undefined, { dateStyle: "long" }) : null;
  return [date, item.camera, item.width ? `${item.width} × ${item.height}` : null].filter(Boolean).join(" · ");
}

async function openQueryImage(image) {
  if (image.id) {
    try {
      const item = await get(`/v1/images/${image.id}`);
      viewer.open(item, { place: 0, total: 1, facts: factsOf(item), query: false });
    } catch (error) {
      failed(error);
    }
    return;
  }
  const preview = `/v1/uploads/${image.upload}`;
  const probe = new Image();
  probe.onload = () => viewer.open({ upload: image.upload, name: "Your picture", width: probe.naturalWidth, height: probe.naturalHeight, preview }, { place: 0, total: 1, facts: "Drag a box on it to search for a part", query: false });
  show(probe, preview);
}

async function searchWith(file) {
  if (!file.type.startsWith("image/")) return failed(new Failure("That is no picture. Drop a JPEG, PNG or WebP file.", 0));
  tell("Reading the picture …");
  try {
    const { upload } = await send(file);
    change({ images: [{ upload, box: null }] });
  } catch (error) {
    failed(error);
  }
  return undefined;
}

// What is told

const plural = (count) => (count === 1 ? "1 photograph" : `${count.toLocaleString()} photographs`);
const tell = (text) => (byId("told").textContent = text);
const duration = (ms) => (ms < 1000 ? `${Math.max(Math.round(ms), 1)} ms` : `${(ms / 1000).toFixed(1)} s`);
const messageNone = () => (byId("message").hidden = true);

function alertNone() {
  byId("alert").hidden = true;
  byId("results").classList.remove("stale");
}

function failed(error) {
  page.done = true;
  page.busy = false;
  if (error instanceof Failure && error.message.startsWith("There is no collection")) return firstRun();
  tell("");
  const said = error instanceof Failure ? error.message : `Something went wrong in this page: ${error.message}.`;
  const again = element("button", { type: "button", onclick: () => run() }, "Try again");
  byId("alert").replaceChildren(element("span", {}, said), again);
  byId("alert").hidden = false;
  byId("results").classList.add("stale"); // what is still shown answers something else
  return undefined;
}

function message(symbol, title, text, action, whole = !grid.items.length) {
  const node = byId("message");
  const button = action ? element("button", { type: "button", className: "soft", onclick: action[1] }, action[0]) : null;
  node.replaceChildren(...[whole ? icon(symbol) : null, element("h2", {}, title), element("p", {}, text), button].filter(Boolean));
  node.classList.toggle("whole", whole);
  node.hidden = false;
  return node;
}

function firstRun() {
  tell("");
  const { indexing } = status || { indexing: { state: "idle", done: 0, total: 0, message: null } };
  if (indexing.state === "running") {
    const node = message("lamp", "Reading your photographs", "They appear here as they are read. Every one read is kept, so you can stop at any time.", null, true);
    const bar = element("progress", { "aria-label": "Photographs read" });
    if (indexing.total) Object.assign(bar, { max: indexing.total, value: indexing.done });
    node.append(bar, element("p", {}, indexing.total ? `${indexing.done.toLocaleString()} of ${indexing.total.toLocaleString()}` : "Looking for photographs …"));
  } else {
    const name = status?.name ? `“${status.name}”` : "the folder";
    const why = indexing.state === "failed" ? `${indexing.message[0].toUpperCase()}${indexing.message.slice(1)}.` : `None has been read from ${name} so far. Put some there, then run this in a terminal. They are only read, and nothing leaves this computer.`;
    const node = message("lamp", "No photographs yet", why, null, true);
    const text = `aladin index ${inShell(status?.name || "FOLDER")}`;
    const copy = element("button", { type: "button", onclick: async () => { await navigator.clipboard?.writeText(text); copy.textContent = "Copied"; } }, "Copy");
    node.append(element("div", { className: "command" }, element("code", {}, text), copy), element("p", {}, "This page notices when it is done."));
  }
  setTimeout(watch, POLL);
}

const inShell = (name) => (/^[\w.][\w./-]*$/.test(name) ? name : `'./${name.replaceAll("'", "'\\''")}'`);
const progressNote = () => (status?.indexing.state === "running" && status.indexing.total ? ` · reading ${(status.indexing.total - status.indexing.done).toLocaleString()} more` : "");

async function watch() {
  const before = status?.images.ok || 0;
  await refreshStatus().catch(() => {});
  if (isQuery(state)) return;
  if ((status?.images.ok || 0) !== before) run();
  else if (!before) firstRun();
}

async function refreshStatus(signal) {
  status = await get("/v1/status", signal);
  drawFolders();
  if (status.indexing.state === "running" && status.images.ok) setTimeout(watch, 2 * POLL);
}

// What people do

const clearFilters = () => change({ folder: "", from: "", to: "" });

function settle() {
  clearTimeout(typing);
  typing = 0;
}

function typed(push) {
  settle();
  const { text, unwanted } = parsed(byId("query").value);
  const without = [...new Set([...state.without, ...(push ? unwanted : [])])];
  const same = text === state.text && without.length === state.without.length;
  if (same && !push) return;
  const kept = Object.fromEntries(Object.entries(state.more).filter(([word]) => text.split(/\s+/).includes(word)));
  // What is typed on is one entry of the history, apart from the search before it.
  change({ text, without: text || state.images.length ? without : [], more: kept }, { replace: draft || same });
  draft = !push;
  if (push) byId("query").value = text;
}

byId("form").addEventListener("submit", (event) => (event.preventDefault(), typed(true)));
byId("query").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => typed(false), TYPING);
  byId("clear").hidden = !byId("query").value;
});
byId("query").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && grid.items.length) (event.preventDefault(), grid.focus(0));
});
byId("clear").onclick = () => (change({ ...nothing(), ...filters() }), byId("query").focus());
byId("brand").onclick = (event) => (event.preventDefault(), change(nothing()));
byId("choose").onclick = () => byId("file").click();
byId("file").onchange = () => byId("file").files[0] && searchWith(byId("file").files[0]).then(() => (byId("file").value = ""));
byId("filters-toggle").onclick = () => {
  const open = byId("filters").hidden;
  byId("filters").hidden = !open;
  byId("filters-toggle").setAttribute("aria-expanded", String(open));
  if (open) refreshStatus().catch(() => {});
};
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters-clear").onclick = clearFilters;
for (const [id, name] of [["from", "from"], ["to", "to"], ["folder", "folder"]]) byId(id).addEventListener("change", () => change({ [name]: byId(id).value }));

addEventListener("popstate", () => {
  settle();
  const before = toAddress({ ...state, open: "" });
  state = fromAddress(location.hash);
  draw();
  if (toAddress({ ...state, open: "" }) !== before) return run();
  const index = grid.items.findIndex(({ id }) => id === state.open);
  return index < 0 ? viewer.close() : openAt(index);
});
addEventListener("scroll", () => document.querySelector(".top").classList.toggle("scrolled", scrollY > 4), { passive: true });
addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && !viewer.isOpen) (event.preventDefault(), byId("query").focus(), byId("query").select());
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])].find(({ type }) => type.startsWith("image/"));
  if (file) (event.preventDefault(), searchWith(file));
});

let over = 0;
const carriesFile = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
addEventListener("dragenter", (event) => carriesFile(event) && byId("drop").classList.toggle("over", ++over > 0));
addEventListener("dragleave", (event) => carriesFile(event) && byId("drop").classList.toggle("over", --over > 0));
addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  over = 0;
  byId("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) searchWith(event.dataTransfer.files[0]);
});

addEventListener("error", (event) => event.message && failed(new Error(event.message)));
addEventListener("unhandledrejection", (event) => failed(event.reason instanceof Error ? event.reason : new Error(String(event.reason))));

let asking = null; // several requests may want the token at once
onTokenWanted((wrong) => {
  asking ||= new Promise((resolve) => {
    byId("token-title").textContent = wrong ? "That token is not accepted" : "This collection is private";
    byId("token-value").value = "";
    byId("token").showModal();
    byId("token").onclose = () => {
      const value = byId("token-value").value.trim();
      if (!value) return byId("token").showModal();
      asking = null;
      return resolve(value);
    };
  });
  return asking;
});

// Beginning

draw();
const opened = state.open;
run().then(() => {
  if (!hasToken() && !status) refreshStatus().catch(() => {});
  const index = grid.items.findIndex(({ id }) => id === opened);
  if (opened && index >= 0) openAt(index);
});
