// The exact half of decoding: librdeic, compiled to WebAssembly. Everything up to the latents is equal in every bit to
// what librdeic and Python decode, and what is refused is refused with the same error.

import createModule from "../wasm/rdeic.mjs";
import { RdcError } from "./errors.js";
import { Bundle } from "./exact-bundle.js";
import { bytesOf, infoOf } from "./exact-values.js";
import { Inflater, Sha256 } from "./imports.js";

/**
 * @typedef {import("./exact-values.js").Info} Info
 * @typedef {import("./exact-values.js").Limits} Limits
 * @typedef {import("./exact-values.js").Tensor} Tensor
 * @typedef {import("./exact-values.js").Tiling} Tiling
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
