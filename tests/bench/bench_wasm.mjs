// What bench_wasm.py runs: entropy decoding in WebAssembly, as tests/cpp/bench_entropy.cc does it natively.
//
//   node bench_wasm.mjs BUNDLE RUNS FILE...     for each file: the milliseconds of the fastest run

import { readFileSync } from "node:fs";
import { performance } from "node:perf_hooks";

import { loadExact } from "../../web/rdeic-web/src/exact.js";

const [folder, runs, ...paths] = process.argv.slice(2);
const exact = await loadExact();
const bundle = exact.openBundle(readFileSync(`${folder}/bundle.json`), folder);
for (const path of paths) {
  const file = readFileSync(path);
  const { modelId, rate: number } = exact.readInfo(file);
  const rate = bundle.rateOf(modelId, number);
  bundle.loadEntropy(rate, readFileSync(`${folder}/${bundle.entropyPath(rate)}`));
  let fastest = Infinity;
  for (let run = 0; run < Number(runs); run++) {
    const start = performance.now();
    bundle.decodeLatents(file);
    fastest = Math.min(fastest, performance.now() - start);
  }
  console.log(fastest.toFixed(2));
}
