// Requests to the server: the token, patience when it is busy, and errors as sentences.

const KEY = "aladin-token";
const PATIENCE = 6; // times that a busy server is asked again
let token = sessionStorage.getItem(KEY) || "";
let askForToken = async () => "";

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const onTokenWanted = (ask) => (askForToken = ask);
export const hasToken = () => token !== "";

const wait = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

async function request(path, { method = "GET", body, type, signal } = {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = {};
    if (token) headers.Authorization = `Bearer ${token}`;
    if (type) headers["Content-Type"] = type;
    let response;
    try {
      response = await fetch(path, { method, body, headers, signal, credentials: "omit" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Failure("The server does not answer. Is “aladin serve” still running?", 0);
    }
    if (response.ok) return response;
    const said = await response.json().catch(() => ({}));
    const detail = said.detail ? said.detail[0].toUpperCase() + said.detail.slice(1) + "." : `The server answered ${response.status}.`;
    if (response.status === 401) {
      token = await askForToken(token !== "");
      sessionStorage.setItem(KEY, token);
    } else if (response.status === 503 && attempt < PATIENCE && !detail.startsWith("There is no collection")) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await wait(Math.min(1000 * seconds, 4000) * (0.25 + Math.random() / 2), signal);
    } else {
      throw new Failure(detail, response.status);
    }
  }
}

export const get = async (path, signal) => (await request(path, { signal })).json();
export const post = async (path, body, signal) =>
  (await request(path, { method: "POST", body: JSON.stringify(body), type: "application/json", signal })).json();
export const send = async (file) =>
  (await request("/v1/uploads", { method: "POST", body: file, type: file.type || "application/octet-stream" })).json();

// An <img> cannot carry a token; then its bytes are fetched and shown from memory.
const blobs = new WeakMap();

export async function show(image, path) {
  hide(image);
  if (!token) {
    image.src = path;
    return;
  }
  const control = new AbortController();
  const held = { control, url: null };
  blobs.set(image, held);
  try {
    const blob = await (await request(path, { signal: control.signal })).blob();
    if (!control.signal.aborted) image.src = held.url = URL.createObjectURL(blob);
  } catch {
    if (!control.signal.aborted) image.dispatchEvent(new Event("error"));
  }
}

export function hide(image) {
  const held = blobs.get(image);
  if (held) {
    held.control.abort();
    if (held.url) URL.revokeObjectURL(held.url);
    blobs.delete(image);
  }
  image.removeAttribute("src");
}
