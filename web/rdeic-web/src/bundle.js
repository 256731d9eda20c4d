// The files of a bundle at an address: fetched when they are needed, and used only if they have the length and the
// SHA-256 that bundle.json lists. What was checked is kept in CacheStorage under its hash, and checked again when it is
// taken from there.

import { RdcError } from "./errors.js";
import { sha256 } from "./sha256.js";

const CACHE = "rdeic-web-1";
const MAX_MANIFEST_BYTES = 1 << 20;
/** How much longer than its content a gzip file may be. */
const GZIP_SLACK_BYTES = 1 << 12;

/** Forgets all weights of this origin. */
export async function clearCache() {
  await globalThis.caches?.delete(CACHE);
}

export class BundleFiles {
  /** Bytes that came over the network, as files, and from the cache. */
  downloadedBytes = 0;
  cachedBytes = 0;
  #base;
  #fetch;
  #caches;
  #suffix;
  #cache = null;

  /** `compressed`: "gzip" where the site has NAME.gz for each file; `caches`: null for no cache. */
  constructor(url, { compressed = null, fetch = globalThis.fetch, caches = globalThis.caches ?? null } = {}) {
    if (compressed !== null && compressed !== "gzip") {
      throw new RdcError("invalid_argument", `compressed is ${JSON.stringify(compressed)}; it must be "gzip" or null`);
    }
    this.#base = new URL(url.endsWith("/") ? url : `${url}/`);
    this.#fetch = (...request) => fetch(...request);
    this.#caches = caches;
    this.#suffix = compressed === "gzip" ? ".gz" : "";
  }

  /** Returns bundle.json, the last one that was seen if the network fails; `hash`: the SHA-256 that it must have. */
  async manifest(hash, signal) {
    const listed = { most: MAX_MANIFEST_BYTES, sha256: hash ?? null };
    const key = hash ? this.#keyOf(hash) : new URL("bundle.json", this.#base);
    try {
      const data = await this.#download("bundle.json", listed, signal, () => {});
      await this.#put(key, data);
      return data;
    } catch (error) {
      const kept = error.code === "io" ? await this.#kept(key, listed) : null;
      if (kept === null) throw error;
      return kept;
    }
  }

  /** Returns a file of the bundle; `listed`: its { bytes, sha256 }; `onBytes`: told how many more have come. */
  async file(path, listed, { signal, onBytes = () => {} } = {}) {
    const key = this.#keyOf(listed.sha256);
    const kept = await this.#kept(key, listed);
    if (kept !== null) {
      this.cachedBytes += kept.length;
      onBytes(kept.length);
      return kept;
    }
    let told = 0;
    const data = await this.#download(path, listed, signal, (count) => {
      told += count;
      onBytes(count);
    });
    if (told < data.length) onBytes(data.length - told); // it came packed
    await this.#put(key, data);
    return data;
  }

  #keyOf(hash) {
    return new URL(`/rdeic-web/sha256/${hash}`, globalThis.location?.origin ?? this.#base);
  }

  async #download(path, listed, signal, onBytes) {
    const name = path.split("/").map(encodeURIComponent).join("/");
    const url = new URL(name + this.#suffix, this.#base).href;
    const response = await network(url, () => this.#fetch(url, { signal }));
    if (!response.ok) {
      await response.body?.cancel();
      throw statusError(url, path, response.status);
    }
    const most = listed.most ?? listed.bytes;
    let data = await network(url, () =>
      readAll(response.body, most + (this.#suffix ? GZIP_SLACK_BYTES : 0), (count) => {
        this.downloadedBytes += count;
        onBytes(count);
      }),
    );
    // A server that knows gzip may have unpacked it.
    if (this.#suffix && isGzip(data)) data = await unpacked(url, data, most);
    const problem = await fault(data, listed);
    if (problem) {
      throw new RdcError(
        "bundle_corrupt",
        `${url}: ${problem}. The file was changed or damaged on its way: get the bundle again`,
      );
    }
    return data;
  }

  async #kept(key, listed) {
    const cache = await this.#opened();
    const found = await cache?.match(key).catch(() => undefined);
    if (!found) return null;
    const data = new Uint8Array(await found.arrayBuffer());
    if (!(await fault(data, listed))) return data;
    await cache.delete(key);
    return null;
  }

  /** A cache that is full or forbidden costs time, and no decode. */
  async #put(key, data) {
    const cache = await this.#opened();
    await cache?.put(key, new Response(data)).catch(() => {});
  }

  async #opened() {
    this.#cache ??= this.#caches?.open(CACHE).catch(() => null) ?? null;
    return this.#cache;
  }
}

/** Returns what is wrong with a file, or null. */
async function fault(data, { bytes, sha256: hash }) {
  if (bytes !== undefined && data.length !== bytes) return `${data.length} bytes, bundle.json lists ${bytes}`;
  if (hash === null) return null;
  const found = await sha256(data);
  return found === hash ? null : `SHA-256 ${found}, should be ${hash}`;
}

function statusError(url, path, status) {
  if (status !== 404 && status !== 410) return new RdcError("io", `${url}: the server answered ${status}`);
  return path === "bundle.json"
    ? new RdcError("bundle_not_found", `${url}: there is no bundle: the server answered ${status}`)
    : new RdcError("bundle_corrupt", `${url}: is missing: the server answered ${status}`);
}

/** Runs what may fail with the network; an abort stays one. */
async function network(url, work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof TooLong) throw new RdcError("bundle_corrupt", `${url}: ${error.message}`);
    if (error.name === "AbortError") throw error;
    throw new RdcError("io", `${url}: the network failed: ${error.message}`);
  }
}

class TooLong extends Error {}

/** Returns the bytes of a stream; TooLong as soon as there are more than `most`. */
async function readAll(stream, most, onBytes) {
  const chunks = [];
  let length = 0;
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > most) {
      await reader.cancel();
      throw new TooLong(`has more than ${most} bytes`);
    }
    chunks.push(value);
    onBytes(value.length);
  }
  const data = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    data.set(chunk, at);
    at += chunk.length;
  }
  return data;
}

const isGzip = (data) => data[0] === 0x1f && data[1] === 0x8b;

async function unpacked(url, data, most) {
  try {
    return await readAll(new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip")), most, () => {});
  } catch (error) {
    throw new RdcError("bundle_corrupt", `${url}: cannot be unpacked: ${error.message}`);
  }
}
