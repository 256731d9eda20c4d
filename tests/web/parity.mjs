#!/usr/bin/env node
// Does what tests/cpp/parity.cc does, with the web package in node, for tests/conformance/parity.py:
//
//   parity.mjs BUNDLE latents|pixels|preview [TILE_PX]    RESULT [SHA-256 of the latents [pixels in hexadecimal]]
//   parity.mjs bundles                                    the same as for pixels, for lines of a bundle's folder in
//                                                         hexadecimal, a blank, and a file
//
// The first three run graphs in fp32. Of a bundle every file is checked first, as librdeic does; what leads out of its
// folder is not served.

import { createHash } from "node:crypto";
import { readFileSync, realpathSync } from "node:fs";
import { sep } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";

// The package as it is published.
import { BundleFiles } from "../../web/rdeic-web/build/src/bundle.js";
import { Codec } from "../../web/rdeic-web/build/src/codec.js";
import { RdcError } from "../../web/rdeic-web/build/src/errors.js";
import { loadExact } from "../../web/rdeic-web/build/src/exact.js";

const RUNTIME = new URL("../../web/rdeic-web/node_modules/onnxruntime-web/dist/", import.meta.url);
const RESULTS = new Map(Array.from({ length: 100 }, (_, result) => [RdcError.ofResult(result, "").code, result]));
RESULTS.set("internal", 10);

/** A server of one folder. */
function serverOf(folder) {
  const root = realpathSync(folder);
  return async (url) => {
    try {
      const path = realpathSync(fileURLToPath(url));
      return path.startsWith(root + sep) ? new Response(readFileSync(path)) : new Response(null, { status: 404 });
    } catch {
      return new Response(null, { status: 404 });
    }
  };
}

/** Opens a bundle whose files are all as listed. */
async function open(folder, { precision = "auto", tilePx } = {}) {
  const url = pathToFileURL(folder + sep).href;
  const fetch = serverOf(folder);
  const options = { fetch, cache: false, precision, threads: 1, runtimeUrl: RUNTIME, tilePx };
  const codec = await Codec.open(url, options);
  const exact = await loadExact();
  const bundle = exact.openBundle(codec.manifest);
  const files = new BundleFiles(url, { fetch, caches: null });
  for (const [path, listed] of bundle.files) await files.file(path, listed);
  return { codec, exact, bundle, files, models: new Set() };
}

/** Returns the digest of all latents in the order of their names. */
async function digestOf({ exact, bundle, files, models }, data) {
  const { modelId, rate: number } = exact.readInfo(data);
  const rate = bundle.rateOf(modelId, number);
  const path = bundle.entropyPath(rate);
  if (!models.has(path)) bundle.loadEntropy(rate, await files.file(path, bundle.files.get(path)));
  models.add(path);
  const { tensors } = bundle.decodeLatents(data);
  const digest = createHash("sha256");
  for (const name of Object.keys(tensors).sort()) digest.update(tensors[name].data);
  return digest.digest("hex");
}

async function pixelsOf({ codec }, data, preview) {
  const { image } = await codec.decode(data, { preview });
  const rgb = Buffer.alloc(3 * image.width * image.height);
  for (let i = 0; i < rgb.length / 3; ++i) rgb.set(image.data.subarray(4 * i, 4 * i + 3), 3 * i);
  return rgb.toString("hex");
}

/** Returns the line of what comes of some work. */
async function outcome(work) {
  try {
    return `0 ${await work()}`;
  } catch (error) {
    if (!(error instanceof RdcError)) throw error;
    if (process.env.PARITY_MESSAGES) console.error(error.message);
    return String(RESULTS.get(error.code));
  }
}

const [first, mode, tilePx] = process.argv.slice(2);
const opened = first === "bundles" ? null : await open(first, { precision: "fp32", tilePx: tilePx && Number(tilePx) });
for await (const line of createInterface({ input: process.stdin })) {
  const [folder, file] = opened ? [null, line] : line.split(" ");
  const data = Buffer.from(file, "hex");
  const decode = async (of) => {
    const digest = await digestOf(of, data);
    return mode === "latents" ? digest : `${digest} ${await pixelsOf(of, data, mode === "preview")}`;
  };
  console.log(await outcome(async () => decode(opened ?? (await open(Buffer.from(folder, "hex").toString())))));
}
