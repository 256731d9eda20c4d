// RdcDecoder: what a page uses. Its codec runs in a worker, one call after the other.

import { clearCache } from "./bundle.js";
import { RdcError } from "./errors.js";
import { loadExact } from "./exact.js";

/** How long an aborted call may go on before its worker is ended: a new one takes about as long to be ready. */
const GRACE_MS = 1000;

/** Errors after which a new worker may do better: the state of WebAssembly is unknown, or a module was not loaded. */
const FATAL = new Set(["internal", "backend", "backend_unavailable", "out_of_memory"]);

/** Decodes the files of one bundle; index.d.ts has the documentation of all methods. */
export class RdcDecoder {
  #url;
  #options;
  #manifest = undefined;
  #facts = null;
  #stats = {};
  #host = null;
  #tail = Promise.resolve(); // ends with the last call
  #closed = false;

  constructor(url, options) {
    this.#url = url;
    this.#options = options;
  }

  static async load(bundleUrl, { signal, ...options } = {}) {
    for (const name of ["runtimeUrl", "wasmUrl"]) {
      if (options[name] !== undefined) options[name] = absolute(options[name]);
    }
    const decoder = new RdcDecoder(absolute(bundleUrl), options);
    await decoder.#call(null, {}, { signal });
    return decoder;
  }

  static async info(source, { wasmUrl, limits, allowPartial = false } = {}) {
    const [exact, data] = await Promise.all([loadExact({ wasmUrl }), bytesOf(source)]);
    return exact.readInfo(data, { limits, allowPartial });
  }

  static clearCache() {
    return clearCache();
  }

  get bundle() {
    return this.#facts;
  }

  get stats() {
    return this.#stats;
  }

  info(source, { allowPartial = false } = {}) {
    const { wasmUrl, limits } = this.#options;
    return RdcDecoder.info(source, { wasmUrl, limits, allowPartial });
  }

  async preview(source, options = {}) {
    return (await this.decodeWithDetails(source, { ...options, preview: true })).image;
  }

  async decode(source, options = {}) {
    return (await this.decodeWithDetails(source, options)).image;
  }

  async decodeWithDetails(source, { signal, onProgress, ...options } = {}) {
    const data = await bytesOf(source);
    const { image, ...details } = await this.#call("decode", { data, options }, { signal, onProgress });
    return { image: imageData(image), ...details };
  }

  async prepare({ signal, onProgress, ...options } = {}) {
    await this.#call("prepare", { options }, { signal, onProgress });
  }

  trim() {
    this.#tail = this.#tail.then(() => this.#end());
    return this.#tail;
  }

  close() {
    this.#closed = true;
    this.#end(new RdcError("cancelled", "the decoder was closed"));
  }

  /** Makes a call once those before it have ended; with null only the worker is made. An abort is answered at once. */
  #call(name, argument, { signal, onProgress = () => {} }) {
    const answered = Promise.withResolvers();
    const onAbort = () => answered.reject(signal.reason);
    if (signal?.aborted) onAbort();
    signal?.addEventListener("abort", onAbort);
    this.#tail = this.#tail
      .then(async () => {
        if (signal?.aborted) return;
        if (this.#closed) throw new RdcError("invalid_argument", "the decoder is closed");
        const host = await this.#started(signal);
        if (name === null) return answered.resolve();
        const { stats, ...result } = await host.call(name, argument, { signal, onProgress });
        this.#stats = stats;
        answered.resolve(result);
      })
      .catch((error) => {
        if (FATAL.has(error.code)) this.#end();
        answered.reject(error);
      });
    return answered.promise.finally(() => signal?.removeEventListener("abort", onAbort));
  }

  /** Returns the worker, with its codec opened. */
  async #started(signal) {
    if (this.#host?.ended) this.#host = null;
    if (this.#host === null) {
      const host = new Host();
      this.#host = host;
      const argument = { url: this.#url, options: { ...this.#options, manifest: this.#manifest } };
      try {
        const { manifest, stats } = await host.call("open", argument, { signal, onProgress: () => {} });
        this.#manifest = manifest;
        this.#facts ??= describe(manifest, this.#url);
        this.#stats = stats;
      } catch (error) {
        this.#end();
        throw error;
      }
    }
    return this.#host;
  }

  #end(error) {
    this.#host?.end(error);
    this.#host = null;
  }
}

/** A worker, and the call that it is at. */
class Host {
  ended = false;
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "rdeic-web" });
  #lastId = 0;
  #current = null; // { id, resolve, reject, onProgress }

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => {
      const why = event.message ? `: ${event.message}` : "";
      this.end(new RdcError("backend", `the worker ${new URL("./worker.js", import.meta.url)} does not run${why}`));
    };
  }

  async call(name, argument, { signal, onProgress }) {
    const id = ++this.#lastId;
    let timer;
    const onAbort = () => {
      this.#worker.postMessage({ id, abort: true });
      timer = setTimeout(() => this.end(signal.reason), GRACE_MS);
    };
    signal?.addEventListener("abort", onAbort);
    try {
      return await new Promise((resolve, reject) => {
        this.#current = { id, resolve, reject, onProgress: (progress) => signal?.aborted || onProgress(progress) };
        this.#worker.postMessage({ id, call: name, argument });
        if (signal?.aborted) onAbort();
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      this.#current = null;
    }
  }

  /** Ends the worker; its memory is free then. */
  end(error = new RdcError("cancelled", "the worker was ended")) {
    this.ended = true;
    this.#worker.terminate();
    this.#current?.reject(error);
  }

  #hear({ id, progress, result, error }) {
    if (id !== this.#current?.id) return;
    if (progress) this.#current.onProgress(progress);
    if (error) this.#current.reject(new RdcError(error.code, error.message));
    if (result) this.#current.resolve(result);
  }
}

/** Returns what a page may know of a bundle, whose bundle.json is checked. */
function describe(manifest, url) {
  const { name, licence, family, rates, default_rate, schedules } = JSON.parse(new TextDecoder().decode(manifest));
  const countOf = (schedule) => schedules[schedule].timesteps.length;
  return {
    name,
    licence,
    family,
    url,
    defaultRate: default_rate,
    rates: rates.map((rate) => {
      const own = schedules[rate.schedule];
      const alike = Object.keys(rate.step_tables ?? {}).filter((other) => schedules[other].sampler === own.sampler);
      const choices = new Set(alike.map(countOf));
      return {
        index: rate.index,
        number: rate.level ?? rate.index,
        label: rate.label,
        bpp: rate.bpp,
        modelId: rate.model_id,
        guided: rate.guided ?? true,
        steps: own ? countOf(rate.schedule) : null,
        stepChoices: [...choices].sort((a, b) => a - b),
      };
    }),
  };
}

/** Returns an address that means the same in a worker as in the page. */
const absolute = (url) => new URL(url, globalThis.location?.href).href;

/** Returns a copy of the bytes of an ArrayBuffer, a view or a Blob. */
async function bytesOf(source) {
  if (source instanceof Blob) return new Uint8Array(await source.arrayBuffer());
  if (source instanceof ArrayBuffer) return new Uint8Array(source.slice());
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength).slice();
  throw new RdcError("invalid_argument", "a file is given as an ArrayBuffer, a Uint8Array or a Blob");
}

function imageData({ width, height, data }) {
  return typeof ImageData === "undefined" ? { width, height, data } : new ImageData(data, width, height);
}
