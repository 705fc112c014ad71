// Calls of the service: keys, problem documents, events, and the binary forms of its answers.

const KEY = "omnitok-key";
const BUSY_TRIES = 3;
const BUSY_MS = 5000; // to wait at most before a try

/** A refusal: the problem document of the service, or a sentence about the connection. */
export class Problem extends Error {
  constructor(document) {
    super(document.detail);
    this.document = document;
  }
}

let askForKey = async () => null;

/** Set the function that asks for an API key: it gets the refusal, and returns a key, or null to give up. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Fetch a path of the service, and again while it is busy; throw a `Problem` for everything but success. */
export async function call(path, { headers = {}, ...options } = {}) {
  for (let tries = 1; ; tries++) {
    const key = sessionStorage.getItem(KEY);
    const authorization = key ? { Authorization: `Bearer ${key}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...headers, ...authorization } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ title: "The service did not answer", detail: "The connection failed. Is the service running?" });
    }
    if (response.ok) return response;
    const problem = new Problem(await documentOf(response));
    if (response.status === 503 && tries < BUSY_TRIES && !options.signal?.aborted) {
      const seconds = Number(response.headers.get("Retry-After") ?? 1);
      await new Promise((resume) => setTimeout(resume, Math.min(1000 * seconds, BUSY_MS)));
      continue;
    }
    if (response.status !== 401) throw problem;
    const given = await askForKey(problem);
    if (given === null) throw problem;
    sessionStorage.setItem(KEY, given);
  }
}

async function documentOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: `Status ${response.status}`, detail: "A proxy before the service answered, not the service." };
  }
}

/** Return a path with the parameters that have a value. */
export function withQuery(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return query ? `${path}?${query}` : path;
}

/** Return the milliseconds of a `Server-Timing` header by name. */
export function serverTiming(response) {
  const stages = [...(response.headers.get("Server-Timing") ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g)];
  return Object.fromEntries(stages.map(([, name, milliseconds]) => [name, Number(milliseconds)]));
}

const NPY_TYPES = { "|u1": Uint8ClampedArray, "<f4": Float32Array };

/** Parse a `.npy` file: shape, and data in C order. */
export function parseNpy(buffer) {
  const view = new DataView(buffer);
  const [size, start] = view.getUint8(6) === 1 ? [view.getUint16(8, true), 10] : [view.getUint32(8, true), 12];
  const header = new TextDecoder("latin1").decode(new Uint8Array(buffer, start, size));
  const Type = NPY_TYPES[/'descr': '([^']+)'/.exec(header)[1]];
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((side) => side.trim()).map(Number);
  return { shape, data: new Type(buffer.slice(start + size)) };
}

const SAFETENSORS_TYPES = { U16: Uint16Array, I32: Int32Array, F32: Float32Array };

/** Parse an answer of `/encode` in safetensors: its tensors by name, and `meta`. */
export function parseCodes(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: metadata, ...tensors } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const codes = { meta: JSON.parse(metadata.meta) };
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(tensors)) {
    codes[name] = { shape, data: new SAFETENSORS_TYPES[dtype](buffer.slice(8 + size + from, 8 + size + to)) };
  }
  return codes;
}

/** Yield the events of an answer of `/generate`, [name, data]; throw a `Problem` if it ends before `done`. */
export async function* events(response) {
  let text = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) throw new Problem({ title: "The service did not finish", detail: "The connection broke off. Is the service running?" });
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim()]);
      const data = fields.filter(([name]) => name === "data").map(([, value]) => value).join("\n");
      const name = fields.find(([name]) => name === "event")?.[1];
      if (name) yield [name, JSON.parse(data)];
      if (name === "done") return;
    }
  }
}

/** Return the bytes of base64 as a blob. */
export function blobOf(base64, type) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type });
}
