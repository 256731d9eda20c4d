// Graphs in onnxruntime-web, on its WebAssembly kernels ("wasm") or on a GPU ("webgpu").

import { RdcError } from "./errors.js";
import { resolve, sizesOf } from "./shapes.js";
import { ARRAYS } from "./tensors.js";

/** The forms of a graph (docs/bundle.md) that each backend runs. */
const FORMS = { wasm: ["fp32", "fp16", "fp16-cuda", "int8", "int8-cpu"], webgpu: ["fp32", "fp16"] };

/** What users select: the forms of a precision begin with it. */
const PRECISIONS = ["auto", "fp32", "fp16", "int8"];

/** Results of ONNX Runtime for a file that is no graph that it can read: INVALID_ARGUMENT, NO_SUCHFILE, NO_MODEL,
 * INVALID_PROTOBUF, INVALID_GRAPH; and RUNTIME_EXCEPTION, in which several checks of its WebAssembly build end. */
const UNREADABLE = { wasm: [2, 3, 4, 6, 7, 10], webgpu: [2, 3, 4, 7, 10] };

/** Returns the form of a graph that a backend runs in this precision. WebAssembly takes what a bundle prefers for
 * `cpu`: what is faster there is faster here too (docs/web.md). */
export function chooseForm(backend, bundle, id, precision) {
  const forms = bundle.graphs[id];
  const preferred = backend === "wasm" ? (bundle.preferred.cpu ?? []) : [];
  const found = [...preferred, ...FORMS[backend]].find(
    (form) => form in forms && (precision === "auto" || form.split("-")[0] === precision),
  );
  if (found !== undefined) return found;
  throw new RdcError(
    "backend_unavailable",
    `${backend}: bundle '${bundle.name}' has its graph '${id}' in ${Object.keys(forms).join(" and ")}, which is ` +
      `nothing to run with precision ${precision}`,
  );
}

/** Throws RdcError unless a precision is one. */
export function checkPrecision(precision) {
  if (PRECISIONS.includes(precision)) return;
  throw new RdcError("invalid_argument", `precision '${precision}' is not one of: ${PRECISIONS.join(", ")}`);
}

/** Whether WebAssembly can wait for JavaScript; onnxruntime-web's WebGPU build is smaller where it can. */
const hasSuspending = "Suspending" in WebAssembly;

/** onnxruntime-web on one backend; there is one in a worker, as it is configured once. */
export class Runtime {
  #ort;

  #provider;

  constructor(ort, provider) {
    this.#ort = ort;
    this.#provider = provider;
  }

  /** Loads the library for a backend of backend.js. */
  static async open({ name, threads, url }) {
    const file = name === "wasm" ? "ort.wasm.min.mjs" : hasSuspending ? "ort.jspi.min.mjs" : "ort.webgpu.min.mjs";
    let ort;
    try {
      ort = await import(/* webpackIgnore: true */ /* @vite-ignore */ new URL(file, url).href);
    } catch (error) {
      throw new RdcError(
        "backend_unavailable",
        `onnxruntime-web cannot be loaded from ${url}: ${error.message}. Put the files of its dist folder there, or ` +
          "set runtimeUrl",
      );
    }
    ort.env.wasm.wasmPaths = url;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    return new Runtime(ort, name);
  }

  /** Returns a graph, ready to run; librdeic has looked through it. `spec`: { id, path, inputs, outputs }; `weights`:
   * [{ path, data }], those that lie in other files, under the names that the graph has for them. */
  async load(spec, bytes, weights) {
    let session;
    try {
      session = await this.#ort.InferenceSession.create(bytes, {
        executionProviders: [this.#provider],
        externalData: weights,
        logSeverityLevel: 3,
      });
    } catch (error) {
      const problem = failure(error, `loading ${spec.path}`);
      const code = Number(/ERROR_CODE: (\d+)/.exec(error?.message)?.[1]);
      if (problem.code === "out_of_memory" || !UNREADABLE[this.#provider].includes(code)) throw problem;
      throw new RdcError("bundle_corrupt", `${spec.path}: not a graph that can be read: ${firstLine(error)}`);
    }
    try {
      checkSide(spec, "input", spec.inputs, session.inputMetadata);
      checkSide(spec, "output", spec.outputs, session.outputMetadata);
    } catch (error) {
      await session.release();
      throw error;
    }
    return new Graph(this.#ort, session, spec);
  }
}

/** A loaded graph. */
class Graph {
  #ort;
  #session;

  constructor(ort, session, spec) {
    this.#ort = ort;
    this.#session = session;
    this.spec = spec;
  }

  /** Returns the outputs by name; takes tensors by name, of which it uses its inputs. */
  async run(inputs) {
    const feeds = {};
    for (const { name } of this.spec.inputs) {
      const { dtype, data, dims } = inputs[name];
      feeds[name] = new this.#ort.Tensor(dtype, data, dims);
    }
    let made;
    try {
      made = await this.#session.run(feeds);
    } catch (error) {
      throw failure(error, `running ${this.spec.path}`);
    }
    return Object.fromEntries(
      Object.entries(made).map(([name, { type, dims, data }]) => [name, { dtype: type, dims: [...dims], data }]),
    );
  }

  /** Frees its memory. */
  async release() {
    await this.#session.release();
  }
}

/** Returns a graph's outputs; RdcError unless they have the types and shapes that its specification promises. */
export async function runChecked(graph, inputs) {
  const { spec } = graph;
  const made = await graph.run(inputs);
  const sizes = sizesOf(spec.inputs.map(({ name, shape }) => [shape, inputs[name].dims]));
  for (const { name, dtype, shape } of spec.outputs) {
    const wanted = resolve(shape, sizes);
    const found = made[name];
    if (found.dtype === dtype && String(found.dims) === String(wanted)) continue;
    throw new RdcError(
      "bundle_corrupt",
      `graph '${spec.id}' in ${spec.path} returned ${name} as ${found.dtype} [${found.dims}], should return ${dtype} ` +
        `[${wanted}]`,
    );
  }
  return made;
}

/** Throws RdcError unless a graph has the tensors on one side that bundle.json lists, in type and rank. */
function checkSide(spec, side, wanted, metadata) {
  const typeOf = ({ type, shape }) => `${type} of rank ${shape?.length}`;
  const typesOf = (tensors) => new Map(tensors.map((tensor) => [tensor.name, typeOf(tensor)]));
  const found = typesOf(metadata);
  const listed = typesOf(wanted.map(({ name, dtype, shape }) => ({ name, type: dtype, shape })));
  for (const [name, type] of listed) {
    if (found.get(name) === type) continue;
    throw new RdcError(
      "bundle_corrupt",
      `${spec.path}: bundle.json gives graph '${spec.id}' the ${side} '${name}', ${type}; the file has ` +
        (found.get(name) ?? "none of that name"),
    );
  }
  if (found.size !== listed.size) {
    throw new RdcError(
      "bundle_corrupt",
      `${spec.path}: has ${found.size} ${side}s, bundle.json gives graph '${spec.id}' ${listed.size}`,
    );
  }
}

/** Returns the error that an exception of onnxruntime-web stands for. */
function failure(error, what) {
  const message = firstLine(error);
  if (error instanceof RangeError || /out of memory|OOM|bad_alloc|Failed to allocate/i.test(message)) {
    return new RdcError("out_of_memory", `${what}: too little memory (${message}). Use smaller tiles (tilePx)`);
  }
  return new RdcError("backend", `onnxruntime-web, ${what}: ${message}`);
}

const firstLine = (error) =>
  String(error?.message ?? error)
    .split("\n")[0]
    .slice(0, 300);
