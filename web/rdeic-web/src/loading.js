// What of a bundle is loaded: entropy models, graphs and rows, each fetched when it is first needed.

import { chooseForm, Runtime } from "./graphs.js";
import { levelInput } from "./families/base.js";
import { row } from "./tensors.js";

export class Loaded {
  #bundle;
  #files;
  #backend;
  #precision;
  #runtime = null; // promise
  #graphs = new Map(); // path -> loaded graph
  #models = new Set(); // paths
  #rows = new Map(); // path -> { role: [Float32Array] }

  constructor(bundle, files, backend, precision) {
    this.#bundle = bundle;
    this.#files = files;
    this.#backend = backend;
    this.#precision = precision;
  }

  /** Returns the loader that a family's stages at a rate are made with; its graphs are loaded by `graphs`. */
  loader(rate, schedule) {
    return {
      graph: (role) => {
        const id = rate.graphs[role];
        const form = chooseForm(this.#backend.name, this.#bundle, id, this.#precision);
        const spec = { id, form, ...this.#bundle.graphs[id][form] };
        return { spec, run: (inputs) => this.#graphs.get(spec.path).run(inputs) };
      },
      stepRow: (role, number) => {
        const rows = this.#rows.get(this.#bundle.stepTablePath(rate, schedule));
        return row(rows[role][number], [1, rows[role][number].length]);
      },
    };
  }

  /** Begins to fetch what a list of stages needs at a rate and is not loaded. */
  fetch(rate, schedule, list, { signal, report }) {
    const has = (path) => this.#models.has(path) || this.#rows.has(path) || this.#graphs.has(path);
    const paths = [this.#bundle.entropyPath(rate), ...specsOf(list).map(({ path }) => path)];
    paths.push(...this.#tables(rate, schedule).map(({ path }) => path));
    this.#runtime ??= Runtime.open(this.#backend);
    this.#runtime.catch(() => {}); // told by `graphs`
    return new Downloads(this.#files, this.#bundle.files, new Set(paths.filter((path) => !has(path))), signal, report);
  }

  /** Loads the entropy model of a rate. */
  async entropy(rate, downloads) {
    const path = this.#bundle.entropyPath(rate);
    if (this.#models.has(path)) return;
    this.#bundle.loadEntropy(rate, await downloads.get(path));
    this.#models.add(path);
  }

  /** Loads the graphs and rows of a list of stages, and frees the graphs of other rates. */
  async graphs(rate, schedule, list, downloads, clock) {
    const ids = new Set(Object.values(rate.graphs));
    for (const [path, graph] of this.#graphs) {
      if (ids.has(graph.spec.id)) continue;
      this.#graphs.delete(path);
      await graph.release();
    }
    for (const { path, read } of this.#tables(rate, schedule)) {
      if (!this.#rows.has(path)) this.#rows.set(path, read(await downloads.get(path)));
    }
    const runtime = await this.#runtime.catch((error) => {
      this.#runtime = null; // the next decode tries again
      throw error;
    });
    for (const spec of specsOf(list)) {
      if (this.#graphs.has(spec.path)) continue;
      clock.enter("download");
      const bytes = await downloads.get(spec.path);
      clock.enter("load");
      const weights = [];
      for (const { location, path } of this.#bundle.checkGraph(spec.id, spec.form, bytes)) {
        weights.push({ path: location, data: await downloads.get(path) });
      }
      this.#graphs.set(spec.path, await runtime.load(spec, bytes, weights));
    }
  }

  /** Returns what `given` has of a level: rows under the names of `levelInput`. */
  levelRows(level) {
    const { levels } = this.#bundle;
    if (levels === null) return {};
    const rows = Object.entries(this.#rows.get(levels.path));
    return Object.fromEntries(rows.map(([role, all]) => [levelInput(role), row(all[level], [1, all[level].length])]));
  }

  /** The files of rows that decoding with a schedule needs, and how each is read. */
  #tables(rate, schedule) {
    const tables = [];
    const { levels } = this.#bundle;
    if (levels !== null) tables.push({ path: levels.path, read: (npz) => this.#bundle.levelRows(npz) });
    const steps = schedule === null ? null : this.#bundle.stepTablePath(rate, schedule);
    if (steps !== null) tables.push({ path: steps, read: (npz) => this.#bundle.stepRows(rate, schedule, npz) });
    return tables;
  }

  /** Frees the graphs. */
  async free() {
    for (const graph of this.#graphs.values()) await graph.release();
    this.#graphs.clear();
  }
}

/** Returns the specifications of all graphs that a list of stages runs. */
const specsOf = (list) => {
  const graphs = list.stages.flatMap((stage) => stage.graphs);
  return [...new Map(graphs.map(({ spec }) => [spec.path, spec])).values()];
};

/** Files on their way, all at once. */
class Downloads {
  #abort = new AbortController();
  #promises = new Map();
  #signal;
  #files;
  #listed;
  #report;
  #done = 0;
  #total = 0;

  constructor(files, listed, paths, signal, report) {
    this.#signal = signal ? AbortSignal.any([signal, this.#abort.signal]) : this.#abort.signal;
    this.#files = files;
    this.#listed = listed;
    this.#report = report;
    for (const path of paths) this.#begin(path);
  }

  /** Returns the bytes of a file, which is fetched now if it was not asked for before. */
  get(path) {
    return this.#promises.get(path) ?? this.#begin(path);
  }

  #begin(path) {
    this.#total += this.#listed.get(path).bytes;
    const onBytes = (count) => this.#report({ stage: "download", done: (this.#done += count), total: this.#total });
    const promise = this.#files.file(path, this.#listed.get(path), { signal: this.#signal, onBytes });
    promise.catch(() => {}); // told by `get`
    this.#promises.set(path, promise);
    return promise;
  }

  /** Ends what is still on its way. */
  cancel() {
    this.#abort.abort();
  }
}
