// What is looked for, as a value that the address holds after its #, where no server sees it.

export const nothing = () => ({ text: "", more: {}, without: [], images: [], folder: "", from: "", to: "", open: "" });

export function fromAddress(hash) {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  const state = nothing();
  state.text = parameters.get("q") || "";
  for (const entry of parameters.getAll("more")) {
    const [word, weight] = split(entry);
    if (word && Number(weight) > 0) state.more[word] = Math.min(Number(weight), 9);
  }
  state.without = parameters.getAll("without").slice(0, 16);
  state.images = parameters.getAll("image").slice(0, 8).map(imageOf).filter(Boolean);
  for (const name of ["folder", "from", "to", "open"]) state[name] = parameters.get(name) || "";
  return state;
}

export function toAddress(state) {
  const parameters = new URLSearchParams();
  if (state.text) parameters.set("q", state.text);
  for (const [word, weight] of Object.entries(state.more)) parameters.append("more", `${word}:${weight}`);
  for (const text of state.without) parameters.append("without", text);
  for (const image of state.images) {
    const box = image.box ? `:${[image.box.x, image.box.y, image.box.width, image.box.height].join(",")}` : "";
    parameters.append("image", `${image.upload ? "upload" : "id"}:${image.upload || image.id}${box}`);
  }
  for (const name of ["folder", "from", "to", "open"]) if (state[name]) parameters.set(name, state[name]);
  const text = parameters.toString();
  return text ? `#${text}` : "#";
}

export const isQuery = (state) => Boolean(state.text || state.images.length || Object.keys(state.more).length);
export const filtersSet = (state) => [state.folder, state.from, state.to].filter(Boolean).length;

// "beach -people" wants the beach without people.
export function parsed(typed) {
  const words = typed.trim().split(/\s+/).filter(Boolean);
  const unwanted = words.filter((word) => /^-\S/.test(word)).map((word) => word.slice(1));
  return { text: words.filter((word) => !/^-\S/.test(word)).join(" "), unwanted };
}

// The body of POST /v1/search, but for how many hits.
export function asQuery(state) {
  const texts = state.text ? [{ text: state.text, weight: 1 }] : [];
  for (const [word, weight] of Object.entries(state.more)) texts.push({ text: word, weight: weight / 2 });
  const images = state.images.map(({ id, upload, box }) => ({ ...(upload ? { upload } : { id }), ...(box ? { box } : {}) }));
  const filter = {};
  if (state.folder) filter.folder = state.folder;
  if (state.from) filter.taken_from = state.from;
  if (state.to) filter.taken_to = state.to;
  return { texts, images, without: state.without, filter };
}

function split(entry) {
  const at = entry.lastIndexOf(":");
  return [entry.slice(0, at), entry.slice(at + 1)];
}

function imageOf(entry) {
  const found = /^(id|upload):([A-Za-z0-9_-]{1,40})(?::(\d+),(\d+),(\d+),(\d+))?$/.exec(entry);
  if (!found) return null;
  const [, kind, name, x, y, width, height] = found;
  return { [kind]: name, box: x === undefined ? null : { x: +x, y: +y, width: +width, height: +height } };
}
