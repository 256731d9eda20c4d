// The exact half of decoding: librdeic, compiled to WebAssembly. Everything up to the latents is equal in every bit to
// what librdeic and Python decode, and what is refused is refused with the same error.

import createModule from "../wasm/rdeic.mjs";
import { RdcError } from "./errors.js";
import { Inflater, Sha256 } from "./imports.js";

/**
 * @typedef {object} Limits what a file may ask for; the defaults are those of docs/format.md
 * @property {number} [maxPixels]
 * @property {number} [maxFileBytes]
 * @property {number} [maxMetadataBytes] of ICC profile and EXIF together, inflated
 * @property {number} [maxMemoryBytes] of all buffers for one image; 0: no limit
 * @property {number} [maxSidePx]
 *
 * @typedef {object} Info the header of a file
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {number} rate index in the bundle; the level, where the bundle has levels
 * @property {string} modelId of the entropy model that the file needs, 8 hexadecimal digits
 * @property {number} checksum the seed of the noise, unless another is given
 * @property {number} zBytes
 * @property {number} yBytes
 * @property {number} iccBytes 0: none
 * @property {number} exifBytes 0: none
 * @property {number} missingBytes of a truncated file
 *
 * @typedef {object} Tensor
 * @property {string} dtype "uint8", "int64" or "float32"
 * @property {number[]} dims
 * @property {Uint8Array | BigInt64Array | Float32Array} data in C order
 *
 * @typedef {object} Latents
 * @property {Info} info
 * @property {Rate} rate
 * @property {number} level the file's, where the bundle has levels
 * @property {number} completeSlices how many slices of the latents are as in the whole file
 * @property {number} nSlices
 * @property {number} missingBytes of a truncated file
 * @property {Record<string, Tensor>} tensors by name, exact
 * @property {{ icc: Uint8Array | null, exif: Uint8Array | null }} metadata
 *
 * @typedef {object} Rate one operating point of a bundle
 * @property {number} index
 * @property {number} number what a file stores: the level, where the bundle has levels, else the index
 * @property {string} label
 * @property {number} bpp bits per pixel of a typical photo
 * @property {string} modelId
 * @property {number} steps of its own schedule; 1 where there is none
 * @property {boolean} guided whether sharpness other than 1 is possible
 * @property {Record<string, string>} graphs role -> graph id
 * @property {string | null} schedule
 *
 * @typedef {object} TensorSpec
 * @property {string} name
 * @property {string} dtype
 * @property {(number | string)[]} shape as in bundle.json: numbers, "batch", "8*hz", "8*wz"
 *
 * @typedef {object} Graph one form of a graph
 * @property {string} path
 * @property {TensorSpec[]} inputs
 * @property {TensorSpec[]} outputs
 *
 * @typedef {object} Axis tiles along one side, in pixels
 * @property {number} length
 * @property {number} tile of every tile
 * @property {number[]} starts
 * @property {number} ramp over which two neighbours are blended
 *
 * @typedef {{ rows: Axis, columns: Axis, unitPx: number, single: boolean }} Tiling
 */

const LIMITS = ["maxPixels", "maxFileBytes", "maxMetadataBytes", "maxMemoryBytes", "maxSidePx"];
const ARRAYS = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float32: Float32Array,
};

/**
 * Loads librdeic.
 *
 * @param {{ wasmUrl?: string | URL }} [options] where rdeic.wasm is, if it is not beside this package
 * @returns {Promise<Exact>}
 */
export async function loadExact({ wasmUrl = new URL("../wasm/rdeic.wasm", import.meta.url) } = {}) {
  const compiled = await compile(new URL(wasmUrl, import.meta.url));
  const settings = { sha256: new Sha256(), inflate: new Inflater(), progress: () => true };
  const module = await new Promise((resolve, reject) => {
    const instantiateWasm = (imports, receive) => {
      WebAssembly.instantiate(compiled, imports).then(receive, reject);
      return {};
    };
    createModule({ ...settings, instantiateWasm }).then(resolve, reject);
  });
  return new Exact(module);
}

/** @param {URL} url */
async function compile(url) {
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return WebAssembly.compile(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new RdcError("io", `${url}: cannot be loaded (HTTP ${response.status})`);
  return WebAssembly.compile(await response.arrayBuffer());
}

/** @param {ArrayBuffer | ArrayBufferView} data */
function bytesOf(data) {
  return ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
}

/** @param {number} id */
const modelIdText = (id) => id.toString(16).padStart(8, "0");

/** librdeic in WebAssembly; make one with `loadExact`. It is used by one thread, and calls do not overlap. */
export class Exact {
  #module;
  #defaultLimits;

  /** @param {object} module of Emscripten */
  constructor(module) {
    this.#module = module;
    this.#defaultLimits = this.call("default_limits").numbers;
    /** librdeic's version */
    this.version = module.UTF8ToString(module._rdeic_version());
  }

  /** How much memory WebAssembly has taken; it never gives any back. */
  get memoryBytes() {
    return this.#module.HEAPU8.length;
  }

  /**
   * Reads what is known about a file without a bundle, and checks its structure and its checksum.
   *
   * @param {ArrayBuffer | ArrayBufferView} data
   * @param {{ limits?: Limits, allowPartial?: boolean }} [options]
   * @returns {Info}
   */
  readInfo(data, { limits, allowPartial = false } = {}) {
    return infoOf(this.call("read_info", bytesOf(data), this.limits(limits), allowPartial).numbers);
  }

  /**
   * Opens and checks a bundle. No other file is looked at: lengths and hashes of what is downloaded are for the caller
   * to compare with `files`.
   *
   * @param {ArrayBuffer | ArrayBufferView} manifest the content of bundle.json
   * @param {string} [where] the bundle's folder or URL, for messages
   * @returns {Bundle} to be freed by `free`
   */
  openBundle(manifest, where = ".") {
    const bytes = bytesOf(manifest);
    return new Bundle(this, this.create("bundle_open", bytes, where), JSON.parse(new TextDecoder().decode(bytes)));
  }

  /**
   * Returns standard normal noise (docs/format.md, "Noise").
   *
   * @param {number[]} dims
   * @param {bigint | number} seed 64 bits
   * @param {number} draw 0: the noise that denoising starts from; k + 1: the noise that step k adds
   * @returns {Float32Array}
   */
  noise(dims, seed, draw) {
    const [low, high] = [Number(BigInt(seed) & 0xffffffffn), Number((BigInt(seed) >> 32n) & 0xffffffffn)];
    return this.call("noise", new Uint32Array(dims), low, high, draw).arrays[0].data;
  }

  /**
   * Returns where the tiles of an image lie (docs/tiling.md).
   *
   * @param {number} width of the image, in pixels
   * @param {number} height
   * @param {number} tilePx an image of more pixels than its square is tiled
   * @param {number} unitPx what sides are padded to multiples of: `bundle.sizeMultiplePx`
   * @returns {Tiling}
   */
  tiles(width, height, tilePx, unitPx) {
    const { numbers } = this.call("tiles", width, height, tilePx, unitPx);
    const axis = () => {
      const [length, tile, ramp, count] = numbers.splice(0, 4);
      return { length, tile, starts: numbers.splice(0, count), ramp };
    };
    const [rows, columns] = [axis(), axis()];
    return { rows, columns, unitPx, single: rows.starts.length * columns.starts.length === 1 };
  }

  /**
   * Returns limits as C functions take them.
   *
   * @param {Limits} [limits]
   */
  limits(limits = {}) {
    return Float64Array.from(LIMITS, (name, index) => limits[name] ?? this.#defaultLimits[index]);
  }

  /**
   * Calls `rdeic_<name>`. Texts and arrays are copied to WebAssembly's memory for the call: a text as a pointer,
   * bytes as a pointer and a length, doubles as a pointer, and 32-bit integers as a pointer and a count.
   *
   * @param {string} name
   * @param {...(number | boolean | string | Uint8Array | Float64Array | Uint32Array)} args
   * @returns {{ numbers: number[], texts: string[], arrays: (Tensor & { name: string })[] }}
   */
  call(name, ...args) {
    const module = this.#module;
    const taken = [];
    const passed = args.flatMap((arg) => {
      if (typeof arg !== "object" && typeof arg !== "string") return [Number(arg)];
      const bytes = typeof arg === "string" ? new TextEncoder().encode(`${arg}\0`) : bytesOf(arg);
      const at = this.#allocate(bytes.length, taken);
      module.HEAPU8.set(bytes, at);
      return arg instanceof Uint8Array || arg instanceof Uint32Array ? [at, arg.length] : [at];
    });
    try {
      const result = module[`_rdeic_${name}`](...passed);
      const answer = this.#takeAnswer();
      if (result !== 0) throw RdcError.ofResult(result, answer.texts[0]);
      return answer;
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      throw new RdcError("internal", `WebAssembly: ${error.message}`);
    } finally {
      taken.forEach(module._free);
    }
  }

  /**
   * Calls a function whose last argument is where a pointer goes, and returns that.
   *
   * @param {string} name
   * @param {...(number | string | Uint8Array)} args
   * @returns {number}
   */
  create(name, ...args) {
    const taken = [];
    const out = this.#allocate(4, taken);
    try {
      this.call(name, ...args, out);
      return this.#module.HEAPU32[out >> 2];
    } finally {
      taken.forEach(this.#module._free);
    }
  }

  /**
   * Calls a function that destroys an object.
   *
   * @param {string} name
   * @param {number} pointer
   */
  destroy(name, pointer) {
    this.#module[`_rdeic_${name}`](pointer);
  }

  /**
   * Runs `work` with a function that decoding asks from time to time whether to go on.
   *
   * @template T
   * @param {(() => boolean | void) | undefined} onProgress
   * @param {() => T} work
   * @returns {T}
   */
  withProgress(onProgress, work) {
    let thrown;
    this.#module.progress = () => {
      try {
        return onProgress?.() !== false;
      } catch (error) {
        thrown = { error };
        return false;
      }
    };
    try {
      return work();
    } catch (error) {
      throw thrown ? thrown.error : error;
    } finally {
      this.#module.progress = () => true;
    }
  }

  #allocate(nBytes, taken) {
    const at = this.#module._malloc(Math.max(nBytes, 1));
    if (at === 0) throw new RdcError("out_of_memory", "not enough memory");
    taken.push(at);
    return at;
  }

  #takeAnswer() {
    const module = this.#module;
    const count = (what) => Array.from({ length: module[`_rdeic_answer_${what}`]() }, (_, index) => index);
    const numbersAt = module._rdeic_answer_number() >> 3;
    const answer = {
      numbers: Array.from(module.HEAPF64.subarray(numbersAt, numbersAt + module._rdeic_answer_numbers())),
      texts: count("texts").map((index) => module.UTF8ToString(module._rdeic_answer_text(index))),
      arrays: count("arrays").map((index) => {
        const rank = module._rdeic_answer_array_rank(index);
        const dims = Array.from({ length: rank }, (_, axis) => module._rdeic_answer_array_side(index, axis));
        const dtype = module.UTF8ToString(module._rdeic_answer_array_dtype(index));
        const at = module._rdeic_answer_array_data(index);
        const nBytes = dims.reduce((product, side) => product * side, ARRAYS[dtype].BYTES_PER_ELEMENT);
        const data = new ARRAYS[dtype](module.HEAPU8.slice(at, at + nBytes).buffer);
        return { name: module.UTF8ToString(module._rdeic_answer_array_name(index)), dtype, dims, data };
      }),
    };
    module._rdeic_answer_clear();
    return answer;
  }
}

/**
 * @param {number[]} numbers
 * @returns {Info}
 */
function infoOf(numbers) {
  const [width, height, rate, modelId, checksum, zBytes, yBytes, iccBytes, exifBytes, missingBytes] = numbers;
  const sizes = { zBytes, yBytes, iccBytes, exifBytes, missingBytes };
  return { width, height, rate, modelId: modelIdText(modelId), checksum, ...sizes };
}

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
  for (const { name, data } of arrays) (rows[name] ??= []).push(data);
  return rows;
}
