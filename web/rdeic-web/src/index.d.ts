// Decodes .rdc files in the browser. Errors are `RdcError`, but for aborts, which reject with the signal's reason.

/** librdeic's class of an error. */
export type RdcErrorCode =
  | "internal"
  | "invalid_argument"
  | "cancelled"
  | "io"
  | "not_rdc"
  | "truncated"
  | "unsupported_version"
  | "limit_exceeded"
  | "checksum"
  | "bitstream"
  | "bundle"
  | "bundle_not_found"
  | "bundle_corrupt"
  | "bundle_mismatch"
  | "backend"
  | "backend_unavailable"
  | "out_of_memory";

/** What a file, a bundle or an option that cannot be used ends in; `message` is one line. */
export class RdcError extends Error {
  constructor(code: RdcErrorCode, message: string);
  readonly code: RdcErrorCode;
}

/** Bytes of a file; they are copied. */
export type Source = ArrayBuffer | ArrayBufferView | Blob;

/** Ceilings on what a file may ask for; the defaults are those of docs/format.md. */
export interface Limits {
  maxPixels?: number;
  maxSidePx?: number;
  maxFileBytes?: number;
  maxMetadataBytes?: number;
  /** Of what grows with the image, without the graphs' own memory, which `tilePx` bounds; 0: no limit. */
  maxMemoryBytes?: number;
}

export interface LoadOptions {
  /** "wasm": WebAssembly; "webgpu": a GPU; "auto", the default: WebAssembly, but a GPU for large models. */
  backend?: "auto" | "wasm" | "webgpu";
  /** Threads of WebAssembly, where the page is cross-origin isolated; elsewhere one. */
  threads?: number;
  /** Precision of the graphs; "auto", the default: the fastest form that the bundle has. */
  precision?: "auto" | "fp32" | "fp16" | "int8";
  /** Folder of onnxruntime-web's files; by default that of the package beside this one. Same origin as the page. */
  runtimeUrl?: string | URL;
  /** Address of rdeic.wasm; by default in this package. */
  wasmUrl?: string | URL;
  /** Keep weights in CacheStorage; true by default. */
  cache?: boolean;
  /** "gzip": the site holds NAME.gz of each of the bundle's files. */
  compressed?: "gzip" | null;
  /** SHA-256 of bundle.json in hexadecimal digits, which then must be this one. */
  sha256?: string;
  /** Images of more than tilePx squared pixels are decoded in tiles; 1024 by default, at least 256. */
  tilePx?: number;
  limits?: Limits;
  signal?: AbortSignal;
}

/** What decoding is at: a stage and how many of all parts are done; of "download", bytes instead of parts. */
export interface DecodeProgress {
  stage: "download" | "entropy" | "synthesis" | "denoise" | "vae" | "done";
  done: number;
  total: number;
}

export interface PreviewOptions {
  /** Decode the intact part of a truncated file. */
  allowPartial?: boolean;
  onProgress?: (progress: DecodeProgress) => void;
  signal?: AbortSignal;
}

export interface DecodeOptions extends PreviewOptions {
  /** 1 as trained, less is smoother, more is sharper; others than 1 take up to twice the time of denoising. */
  sharpness?: number;
  /** Of the noise, 0 to 2^64 - 1; by default the file's checksum. */
  seed?: number | bigint;
  /** Denoising steps, one of the rate's `stepChoices`; by default the rate's `steps`. */
  steps?: number;
}

/** What a file's header says. */
export interface RdcInfo {
  width: number;
  height: number;
  /** Index of the rate in the bundle, or the level in a bundle with levels. */
  rate: number;
  /** Of the entropy model that the file needs, 8 hexadecimal digits. */
  modelId: string;
  /** CRC-32C. */
  checksum: number;
  zBytes: number;
  yBytes: number;
  iccBytes: number;
  exifBytes: number;
  /** How many bytes a truncated file lacks. */
  missingBytes: number;
}

/** An image with what else is in its file. */
export interface Decoded {
  /** Of the file's colour profile; without one sRGB. */
  image: ImageData;
  metadata: { icc: Uint8Array | null; exif: Uint8Array | null };
  /** How many slices of a truncated file were there, of all. */
  completeSlices: number;
  nSlices: number;
  missingBytes: number;
}

export interface Rate {
  index: number;
  /** What its files have in their header: the index, or the level in a bundle with levels. */
  number: number;
  label: string;
  /** Bits per pixel of a typical photo. */
  bpp: number;
  modelId: string;
  /** Whether sharpness has an effect; if not, it must be 1. */
  guided: boolean;
  steps: number | null;
  /** The numbers of steps that `decode` takes, ascending. */
  stepChoices: number[];
}

export interface BundleFacts {
  name: string;
  licence: string;
  family: string;
  url: string;
  defaultRate: number;
  rates: Rate[];
}

/** Of the last call. */
export interface Stats {
  backend: "wasm" | "webgpu";
  threads: number;
  /** Bytes of the bundle's files that came over the network, and from the cache, since the worker was started. */
  downloadedBytes: number;
  cachedBytes: number;
  /** Seconds by stage, of a decode. */
  seconds?: Record<string, number>;
}

/** Decodes the files of one bundle in a worker of its own, one call after the other. */
export class RdcDecoder {
  private constructor();

  /** Reads a bundle's bundle.json; weights are fetched when they are needed, and only those that are. */
  static load(bundleUrl: string | URL, options?: LoadOptions): Promise<RdcDecoder>;

  /** Reads a file's header and checks the file, without any bundle. */
  static info(
    source: Source,
    options?: { wasmUrl?: string | URL; limits?: Limits; allowPartial?: boolean },
  ): Promise<RdcInfo>;

  /** Forgets the weights that this origin has kept. */
  static clearCache(): Promise<void>;

  readonly bundle: BundleFacts;
  readonly stats: Stats;

  /** As the static method, with this decoder's limits. */
  info(source: Source, options?: { allowPartial?: boolean }): Promise<RdcInfo>;

  /** Decodes without denoising; fetches two graphs instead of four. */
  preview(source: Source, options?: PreviewOptions): Promise<ImageData>;

  decode(source: Source, options?: DecodeOptions): Promise<ImageData>;

  /** As `decode` and, with `preview`, as `preview`. */
  decodeWithDetails(source: Source, options?: DecodeOptions & { preview?: boolean }): Promise<Decoded>;

  /** Fetches and loads what files of a rate need, by its index; by default of the bundle's default rate. */
  prepare(options?: {
    rate?: number;
    preview?: boolean;
    steps?: number;
    onProgress?: (progress: DecodeProgress) => void;
    signal?: AbortSignal;
  }): Promise<void>;

  /** Ends the worker once it is done, which frees its memory; the next call starts another. */
  trim(): Promise<void>;

  /** Ends the worker at once; calls that wait are rejected, and so are all later ones. */
  close(): void;
}

/**
 * Returns a PNG file (RGB, 8 bits) of what `decodeWithDetails` returned, with its colour profile and EXIF. Browsers
 * show it in the right colours.
 */
export function pngOf(decoded: Pick<Decoded, "image" | "metadata">): Promise<Blob>;

/** Returns whether the user asks for less data: `prefers-reduced-data`, or Chromium's data saver. */
export function prefersReducedData(): boolean;

/**
 * `<rdc-img src alt bundle width height loading>`: shows an .rdc file, its preview first, then the image. It has the
 * size of the file's image before anything of a bundle is fetched.
 *
 * Events, none of which bubbles: `preview` and `load` when they are shown; `error`, an `ErrorEvent` whose `error` is
 * what was thrown. Parts for style sheets: `image`, `button`, `error`.
 */
export class RdcImg extends HTMLElement {
  /**
   * For all elements: options of `RdcDecoder.load`; `bundle`, the address of the bundle of elements without such an
   * attribute; and the text of the button that stands in for an image where the user asks for less data.
   */
  static options: Omit<LoadOptions, "signal"> & { bundle?: string | URL; buttonText: string };
  /** Whether there is nothing left to do: the image is shown, or there was an error, or there is no `src`. */
  readonly complete: boolean;
  /** Size of the file's image in pixels; 0 before its header was read. */
  readonly naturalWidth: number;
  readonly naturalHeight: number;
}

declare global {
  interface HTMLElementTagNameMap {
    "rdc-img": RdcImg;
  }
}
