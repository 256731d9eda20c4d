// MAIN PATH: decode and preview with one bundle, one call per stage. Runs in a worker, and in node.
//
//   .rdc bytes - readInfo, plan - files - entropy model - latents - stages of the family - crop -> RGBA
//
// Everything up to the latents is exact, and librdeic's (exact.js). The stages are in `families`.

import { openBackend } from "./backend.js";
import { BundleFiles } from "./bundle.js";
import { RdcError } from "./errors.js";
import { loadExact } from "./exact.js";
import { FAMILIES } from "./families/families.js";
import { checkPrecision } from "./graphs.js";
import { Loaded } from "./loading.js";
import { Tiled, Whole } from "./placement.js";
import { Clock, Progress } from "./progress.js";

const DEFAULT_TILE_PX = 1024;

/** Decodes with one bundle, one image at a time. */
export class Codec {
  #exact;
  #bundle;
  #files;
  #backend;
  #loaded;
  #limits;
  #tilePx;
  #precision;

  /** Reads bundle.json at an address; nothing else is fetched. Options are those of `RdcDecoder.load` (index.d.ts);
   * `manifest`: bytes of bundle.json, where they are there already. */
  static async open(url, { manifest, signal, ...options } = {}) {
    const precision = options.precision ?? "auto";
    checkPrecision(precision);
    const caches = options.cache === false ? null : globalThis.caches;
    const files = new BundleFiles(url, { compressed: options.compressed, fetch: options.fetch, caches });
    const [exact, json] = await Promise.all([
      loadExact({ wasmUrl: options.wasmUrl }),
      manifest ?? files.manifest(options.sha256, signal),
    ]);
    const bundle = exact.openBundle(json, url);
    const tilePx = options.tilePx ?? DEFAULT_TILE_PX;
    exact.tiles(1, 1, tilePx, bundle.sizeMultiplePx); // checks tilePx
    const backend = await openBackend(options, bundle);
    return new Codec(exact, bundle, files, backend, { limits: options.limits, tilePx, precision }, json);
  }

  constructor(exact, bundle, files, backend, { limits, tilePx, precision }, manifest) {
    this.#exact = exact;
    this.#bundle = bundle;
    this.#files = files;
    this.#limits = limits;
    this.#tilePx = tilePx;
    this.#precision = precision;
    this.manifest = manifest;
    this.#use(backend);
  }

  /** What decoding is done with, and the bytes that came over the network and from the cache so far. */
  get stats() {
    const { downloadedBytes, cachedBytes } = this.#files;
    return { backend: this.#backend.name, threads: this.#backend.threads, downloadedBytes, cachedBytes };
  }

  /** Returns { image: { width, height, data }, metadata, completeSlices, nSlices, missingBytes, seconds }, with RGBA as
   * `data`. */
  async decode(data, options) {
    return this.#orOtherwise(() => this.#decode(data, options));
  }

  async #decode(data, { preview = false, sharpness = 1, steps = 0, allowPartial = false, ...options }) {
    const { seed, signal, report = () => {} } = options;
    const clock = new Clock();
    const progress = new Progress({ signal, report, clock });
    const limits = this.#limits;
    const givenSeed = checkedSeed(seed);
    checkOptions(sharpness, steps);
    const info = this.#exact.readInfo(data, { limits, allowPartial });
    const { list, rate, schedule } = this.#stages(info, { preview, sharpness, steps });
    progress.start(1 + list.stages.filter(({ graphs }) => graphs.length > 0).length);

    const downloads = this.#loaded.fetch(rate, schedule, list, { signal, report });
    try {
      clock.enter("download");
      await this.#loaded.entropy(rate, downloads);
      await progress.begin("entropy");
      const latents = this.#bundle.decodeLatents(data, { allowPartial, limits });
      clock.enter("download");
      await this.#loaded.graphs(rate, schedule, list, downloads, clock);

      const { placement, sizes } = this.#placement(info, progress);
      const seedUsed = givenSeed ?? BigInt(latents.info.checksum);
      const padded = await list.run(placement, {
        ...latents.tensors,
        ...this.#loaded.levelRows(latents.level),
        noise: (draw, dims) => ({ dtype: "float32", dims, data: this.#exact.noise(dims, seedUsed, draw) }),
        sizes,
        sharpness,
      });
      clock.enter("pixels");
      const image = cropped(padded, info.width, info.height);
      progress.end();
      const { metadata, completeSlices, nSlices, missingBytes } = latents;
      return { image, metadata, completeSlices, nSlices, missingBytes, seconds: clock.seconds };
    } finally {
      downloads.cancel();
    }
  }

  /** Fetches and loads what decoding at a rate needs, by its index. */
  async prepare(options) {
    return this.#orOtherwise(() => this.#prepare(options));
  }

  async #prepare({ rate: index = this.#bundle.defaultRate, preview = false, steps = 0, signal, report = () => {} }) {
    const chosen = this.#bundle.rates[index];
    if (chosen === undefined) {
      throw new RdcError(
        "invalid_argument",
        `rate is ${index}; bundle '${this.#bundle.name}' has ${this.#bundle.rates.length}`,
      );
    }
    const smallest = { width: 1, height: 1, modelId: chosen.modelId, rate: chosen.number };
    const { list, rate, schedule } = this.#stages(smallest, { preview, sharpness: 1, steps });
    const downloads = this.#loaded.fetch(rate, schedule, list, { signal, report });
    try {
      await this.#loaded.entropy(rate, downloads);
      await this.#loaded.graphs(rate, schedule, list, downloads, new Clock());
    } finally {
      downloads.cancel();
    }
  }

  /** Frees graphs and entropy models. */
  async close() {
    await this.#loaded.free();
    this.#bundle.free();
  }

  #use(backend) {
    this.#backend = backend;
    this.#loaded = new Loaded(this.#bundle, this.#files, backend, this.#precision);
  }

  /** Does work, once more on another backend where the first one fails and there is one. */
  async #orOtherwise(work) {
    try {
      return await work();
    } catch (error) {
      const { otherwise } = this.#backend;
      if (otherwise === null || !/^backend|^out_of_memory/.test(error.code)) throw error;
      this.#use(otherwise);
      return work();
    }
  }

  /** Returns the family's stages for a file and options, which are checked. */
  #stages(info, { preview, sharpness, steps }) {
    const rate = this.#bundle.rateOf(info.modelId, info.rate);
    const { schedule } = this.#bundle.plan(info, { preview, sharpness, steps, limits: this.#limits });
    const family = FAMILIES.get(this.#bundle.family);
    const load = this.#loaded.loader(rate, schedule);
    const list = preview ? family.preview(load) : family.decoder(load, this.#bundle.schedules[schedule]);
    return { list, rate, schedule };
  }

  /** Returns where stages process an image of this size, and the sizes of the free dimensions. */
  #placement({ width, height }, progress) {
    const unitPx = this.#bundle.sizeMultiplePx;
    const sizes = { batch: 1, hz: Math.ceil(height / unitPx), wz: Math.ceil(width / unitPx) };
    const tiling = this.#exact.tiles(width, height, this.#tilePx, unitPx);
    const canvas = (graphId, output) => this.#bundle.canvas({ graphId, output, width, height, tilePx: this.#tilePx });
    return { placement: tiling.single ? new Whole(progress) : new Tiled(canvas, tiling, progress), sizes };
  }
}

function checkOptions(sharpness, steps) {
  if (!(Number.isFinite(sharpness) && sharpness >= 0)) {
    throw new RdcError("invalid_argument", `sharpness is ${sharpness}; it must be a finite number, 0 or more`);
  }
  if (!(Number.isInteger(steps) && steps >= 0)) {
    throw new RdcError("invalid_argument", `steps is ${steps}; it must be a whole number, or 0 for the rate's own`);
  }
}

/** Returns a seed as a BigInt; null for undefined. */
function checkedSeed(seed) {
  if (seed === undefined) return null;
  const isWhole = typeof seed === "bigint" || Number.isSafeInteger(seed);
  if (isWhole && seed >= 0 && BigInt(seed) < 2n ** 64n) return BigInt(seed);
  throw new RdcError("invalid_argument", `seed is ${seed}; it must be from 0 to 2**64 - 1, a BigInt above 2**53 - 1`);
}

/** Returns the top left of an image, uint8 [1, H, W, 3], as RGBA. */
function cropped({ dims, data }, width, height) {
  const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
  let to = 0;
  for (let y = 0; y < height; ++y) {
    let from = 3 * y * dims[2];
    for (let x = 0; x < width; ++x, to += 4, from += 3) {
      rgba[to] = data[from];
      rgba[to + 1] = data[from + 1];
      rgba[to + 2] = data[from + 2];
    }
  }
  return { width, height, data: rgba };
}
