// A bundle in librdeic, compiled to WebAssembly, and what is decoded and checked with it.

import { bytesOf, infoOf } from "./exact-values.js";

/**
 * @typedef {import("./exact.js").Exact} Exact
 * @typedef {import("./exact-values.js").Graph} Graph
 * @typedef {import("./exact-values.js").Latents} Latents
 * @typedef {import("./exact-values.js").Limits} Limits
 * @typedef {import("./exact-values.js").Rate} Rate
 * @typedef {import("./exact-values.js").Tensor} Tensor
 */

/** A checked bundle, and the entropy models that were loaded of it. */
export class Bundle {
  #exact;
  #pointer;
  #document;

  /**
   * @param {Exact} exact
   * @param {number} pointer
   * @param {object} document its bundle.json, which librdeic has checked
   */
  constructor(exact, pointer, document) {
    this.#exact = exact;
    this.#pointer = pointer;
    this.#document = document;
    this.name = document.name;
    this.licence = document.licence;
    this.family = document.family;
    this.sizeMultiplePx = document.size_multiple_px;
    this.defaultRate = document.default_rate;
    this.levels = document.levels ? { count: document.levels.count, path: document.levels.file } : null;
    /** @type {Record<string, string[]>} backend -> forms, the fastest first */
    this.preferred = document.preferred;
    /** @type {Map<string, { bytes: number, sha256: string }>} */
    this.files = new Map(Object.entries(document.files));
    /** @type {Record<string, Record<string, Graph>>} id -> form -> graph */
    this.graphs = mapped(document.graphs, ({ inputs, outputs, forms }) =>
      mapped(forms, (path) => ({ path, inputs, outputs })),
    );
    /** @type {Record<string, { sampler: string, timesteps: number[], abarStart: number, a: number[], b: number[], c: number[] }>} */
    this.schedules = mapped(document.schedules, ({ abar_start: abarStart, ...rest }) => ({ ...rest, abarStart }));
    /** @type {Rate[]} */
    this.rates = document.rates.map((rate) => ({
      index: rate.index,
      number: rate.level ?? rate.index,
      label: rate.label,
      bpp: rate.bpp,
      modelId: rate.model_id,
      steps: rate.schedule === undefined ? 1 : this.schedules[rate.schedule].timesteps.length,
      guided: rate.guided ?? true,
      graphs: rate.graphs,
      schedule: rate.schedule ?? null,
    }));
  }

  /**
   * Returns the rate that a file needs; a "bundle_mismatch" names both models.
   *
   * @param {string} modelId as in `Info`
   * @param {number} rateNumber `Info.rate`
   * @returns {Rate}
   */
  rateOf(modelId, rateNumber) {
    return this.rates[this.#call("bundle_rate_of", parseInt(modelId, 16), rateNumber).numbers[0]];
  }

  /**
   * Checks what a decode of a file is asked for, before anything is loaded: whether the bundle is the file's, has these
   * steps, can be made sharper, and the image fits in `limits.maxMemoryBytes`.
   *
   * @param {{ width: number, height: number, modelId: string, rate: number }} info of the file
   * @param {{ preview?: boolean, sharpness?: number, steps?: number, limits?: Limits }} [options] `steps`: 0 for the
   *   rate's own number
   * @returns {{ rateIndex: number, schedule: string | null }} the schedule is null for a preview, and where there are no
   *   steps
   */
  plan({ width, height, modelId, rate }, { preview = false, sharpness = 1, steps = 0, limits } = {}) {
    const file = [width, height, parseInt(modelId, 16), rate];
    const answer = this.#call("bundle_plan", ...file, preview, sharpness, steps, this.#exact.limits(limits));
    return { rateIndex: answer.numbers[0], schedule: answer.texts[0] ?? null };
  }

  /** @param {Rate} rate */
  entropyPath(rate) {
    return this.#document.rates[rate.index].entropy;
  }

  /**
   * Returns the path of the rate's step table for a schedule, or null if the rate has none.
   *
   * @param {Rate} rate
   * @param {string | null} [schedule]
   * @returns {string | null}
   */
  stepTablePath(rate, schedule = rate.schedule) {
    return this.#document.rates[rate.index].step_tables?.[schedule] ?? null;
  }

  /**
   * Reads a rate's entropy model and keeps it, having compared its id with the one that bundle.json gives.
   *
   * @param {Rate} rate
   * @param {ArrayBuffer | ArrayBufferView} npz the content of `entropyPath(rate)`
   */
  loadEntropy(rate, npz) {
    this.#call("bundle_load_entropy", rate.index, bytesOf(npz));
  }

  /**
   * Decodes a file up to its latents. The entropy model of its rate must have been loaded.
   *
   * @param {ArrayBuffer | ArrayBufferView} data
   * @param {{ allowPartial?: boolean, limits?: Limits, onProgress?: () => boolean | void }} [options]
   *   `onProgress` is called at least every tenth of a second; if it returns false, decoding ends with "cancelled"
   * @returns {Latents}
   */
  decodeLatents(data, { allowPartial = false, limits, onProgress } = {}) {
    const { numbers, arrays } = this.#exact.withProgress(onProgress, () =>
      this.#call("bundle_decode_latents", bytesOf(data), this.#exact.limits(limits), allowPartial),
    );
    const info = infoOf(numbers);
    const [rateIndex, completeSlices, nSlices, nMetadata] = numbers.slice(10);
    const metadata = { icc: null, exif: null };
    for (const { name, data: bytes } of arrays.splice(arrays.length - nMetadata)) metadata[name] = bytes;
    const tensors = Object.fromEntries(arrays.map(({ name, ...tensor }) => [name, tensor]));
    const rate = this.rates[rateIndex];
    return { info, rate, level: info.rate, completeSlices, nSlices, missingBytes: info.missingBytes, tensors, metadata };
  }

  /**
   * Returns what the input `step` of each role's graph is, float32 [1, D], one row for each step of the schedule.
   *
   * @param {Rate} rate
   * @param {string} schedule
   * @param {ArrayBuffer | ArrayBufferView} npz the content of `stepTablePath(rate, schedule)`
   * @returns {Record<string, Float32Array[]>} by role
   */
  stepRows(rate, schedule, npz) {
    return rowsOf(this.#call("bundle_step_rows", rate.index, schedule, bytesOf(npz)));
  }

  /**
   * Returns what the input `level` of each role's graph is, float32 [1, D], one row for each level.
   *
   * @param {ArrayBuffer | ArrayBufferView} npz the content of `levels.path`
   * @returns {Record<string, Float32Array[]>} by role
   */
  levelRows(npz) {
    return rowsOf(this.#call("bundle_level_rows", bytesOf(npz)));
  }

  /**
   * Checks the file of a graph, before an inference library sees it: a graph may have weights in listed files of the
   * bundle, and nowhere else.
   *
   * @param {string} graphId
   * @param {string} form
   * @param {ArrayBuffer | ArrayBufferView} onnx
   * @returns {{ location: string, path: string }[]} files that hold weights: as the graph names each, and as
   *   `bundle.files` does
   */
  checkGraph(graphId, form, onnx) {
    const { texts } = this.#call("bundle_check_graph", graphId, form, bytesOf(onnx));
    const paths = new Map();
    for (let i = 0; i < texts.length; i += 2) paths.set(texts[i], texts[i + 1]);
    return Array.from(paths, ([location, path]) => ({ location, path }));
  }

  /**
   * Returns a canvas, on which the tiles of a graph's output are blended.
   *
   * @param {{ graphId: string, output: string, width: number, height: number, tilePx: number }} of the output, and the
   *   image, in pixels
   * @returns {Canvas} to be freed by `free`
   */
  canvas({ graphId, output, width, height, tilePx }) {
    const args = [this.#pointer, graphId, output, width, height, tilePx];
    return new Canvas(this.#exact, this.#exact.create("canvas_create", ...args));
  }

  /** Gives its memory back; the bundle is of no use afterwards. */
  free() {
    this.#exact.destroy("bundle_close", this.#pointer);
    this.#pointer = 0;
  }

  #call(name, ...args) {
    return this.#exact.call(name, this.#pointer, ...args);
  }
}

/** A tensor of the whole image, filled tile by tile (docs/tiling.md). */
export class Canvas {
  #exact;
  #pointer;

  /**
   * @param {Exact} exact
   * @param {number} pointer
   */
  constructor(exact, pointer) {
    this.#exact = exact;
    this.#pointer = pointer;
  }

  /**
   * Adds what was made of a tile. Tiles come row by row, and by column in each.
   *
   * @param {number} row index of the tile's row
   * @param {number} column
   * @param {ArrayBufferView} data
   */
  add(row, column, data) {
    this.#exact.call("canvas_add", this.#pointer, row, column, bytesOf(data));
  }

  /**
   * Returns the whole, once all tiles were added.
   *
   * @returns {Tensor}
   */
  take() {
    const { dtype, dims, data } = this.#exact.call("canvas_take", this.#pointer).arrays[0];
    return { dtype, dims, data };
  }

  /** Gives its memory back. */
  free() {
    this.#exact.destroy("canvas_destroy", this.#pointer);
    this.#pointer = 0;
  }
}

/**
 * @template T, U
 * @param {Record<string, T>} entries
 * @param {(value: T) => U} change
 * @returns {Record<string, U>}
 */
function mapped(entries, change) {
  return Object.fromEntries(Object.entries(entries).map(([key, value]) => [key, change(value)]));
}

/** @param {{ arrays: (Tensor & { name: string })[] }} answer */
function rowsOf({ arrays }) {
  const rows = {};
  for (const { name, data } of arrays) {
    rows[name] ??= [];
    rows[name].push(data);
  }
  return rows;
}
