// Which backend runs graphs, and in how many threads.

import { RdcError } from "./errors.js";

const NAMES = ["auto", "wasm", "webgpu"];

/** Bytes of a bundle's decoder above which `auto` takes a GPU: below, WebAssembly has decoded before a GPU's larger
 * download and its shaders are ready. */
const LARGE_BYTES = 2 ** 26;

const MAX_THREADS = 4; // as onnxruntime-web has it

/** Returns { name, threads, url, otherwise }; `url`: of onnxruntime-web's files; `otherwise`: the backend to take where
 * this one fails, or null. */
export async function openBackend({ backend = "auto", threads, runtimeUrl }, bundle) {
  if (!NAMES.includes(backend)) {
    throw new RdcError("invalid_argument", `backend '${backend}' is not one of: ${NAMES.join(", ")}`);
  }
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1)) {
    throw new RdcError("invalid_argument", `threads is ${threads}; it must be a whole number, 1 or more`);
  }
  const url = new URL(runtimeUrl ?? "../../onnxruntime-web/dist", import.meta.url).href.replace(/\/?$/, "/");
  const wasm = { name: "wasm", threads: possibleThreads(threads), url, otherwise: null };
  if (backend === "wasm" || (backend === "auto" && decoderBytes(bundle) <= LARGE_BYTES)) return wasm;
  const adapter = await globalThis.navigator?.gpu?.requestAdapter().catch(() => null);
  const gpu = { name: "webgpu", threads: 1, url };
  if (backend === "auto") {
    return adapter && !adapter.info?.isFallbackAdapter ? { ...gpu, otherwise: wasm } : wasm;
  }
  if (adapter) return { ...gpu, otherwise: null };
  throw new RdcError("backend_unavailable", 'webgpu: this browser offers no adapter here. Use backend "wasm"');
}

/** Threads share memory, which browsers allow in cross-origin isolated pages only. */
function possibleThreads(asked) {
  if (globalThis.crossOriginIsolated === false) return 1;
  return asked ?? Math.min(Math.ceil((globalThis.navigator?.hardwareConcurrency ?? 1) / 2), MAX_THREADS);
}

/** Returns how many bytes the smallest forms of the default rate's graphs have. */
function decoderBytes(bundle) {
  const { graphs, rates, defaultRate, files } = bundle;
  return Object.values(rates[defaultRate].graphs)
    .map((id) => Math.min(...Object.values(graphs[id]).map(({ path }) => files.get(path).bytes)))
    .reduce((sum, bytes) => sum + bytes, 0);
}
