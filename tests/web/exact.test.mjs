// librdeic in WebAssembly decodes what librdeic decodes, to the last bit, and refuses what librdeic refuses.
//
//   node --test tests/web
//
// RDEIC_PARITY: tests/cpp/parity of a native build, for the comparison of messages.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { RdcError } from "../../web/rdeic-web/src/errors.js";
import { loadExact } from "../../web/rdeic-web/src/exact.js";
import * as damage from "./damage.mjs";
import { readNpz } from "./npz.mjs";

const ROOT = realpathSync(fileURLToPath(new URL("../..", import.meta.url)));
const GOLDEN = `${ROOT}/tests/golden`;
const FILES = `${ROOT}/tests/web/files`;
const EXPECTED = JSON.parse(readFileSync(`${FILES}/expected.json`));
const exact = await loadExact();

/** Opens the bundle in a folder, with all its entropy models. */
function openBundle(folder) {
  const bundle = exact.openBundle(readFileSync(`${folder}/bundle.json`), folder);
  for (const rate of bundle.rates) bundle.loadEntropy(rate, readFileSync(`${folder}/${bundle.entropyPath(rate)}`));
  return bundle;
}

/** Returns a check of an RdcError. */
const error = (code, words) => (thrown) => {
  assert.ok(thrown instanceof RdcError, String(thrown));
  assert.equal(thrown.code, code);
  assert.match(thrown.message, words);
  return true;
};

for (const folder of ["v1", "v1-levels"]) {
  test(`golden files of ${folder} have exactly their latents`, () => {
    const bundle = openBundle(`${GOLDEN}/${folder}/bundle`);
    const names = readdirSync(`${GOLDEN}/${folder}`).filter((name) => name.endsWith(".rdc"));
    assert.ok(names.length >= 8);
    for (const name of names) {
      const { tensors, completeSlices, nSlices } = bundle.decodeLatents(readFileSync(`${GOLDEN}/${folder}/${name}`));
      const expected = readNpz(readFileSync(`${GOLDEN}/${folder}/${name.replace(".rdc", ".npz")}`));
      assert.deepEqual(Object.keys(tensors), ["y_hat"]);
      assert.deepEqual(tensors.y_hat.dims, expected.y_hat.dims);
      assert.deepEqual(tensors.y_hat.data, expected.y_hat.data, name);
      assert.equal(completeSlices, nSlices);
    }
    bundle.free();
  });
}

for (const name of ["tiny-2", "diffo-tiny"]) {
  test(`files of every rate of ${name} have exactly their latents`, () => {
    const bundle = openBundle(`${ROOT}/engines/${name}`);
    for (const rate of bundle.rates) {
      const path = `${name}_r${rate.index}.rdc`;
      const latents = bundle.decodeLatents(readFileSync(`${FILES}/${path}`));
      assert.equal(latents.rate, rate);
      const digest = createHash("sha256");
      for (const key of Object.keys(latents.tensors).sort()) digest.update(latents.tensors[key].data);
      assert.equal(digest.digest("hex"), EXPECTED.latents[path], path);
    }
    bundle.free();
  });
}

test("indices in context are those of the golden sections", () => {
  // The golden model in a bundle whose first rate has indices of as many pixels; its units are halved, so that all grids
  // can be.
  const sections = readNpz(readFileSync(`${GOLDEN}/indices/sections.npz`));
  const px = 16;
  const document = JSON.parse(readFileSync(`${ROOT}/engines/diffo-tiny/bundle.json`));
  document.rates.splice(1);
  document.default_rate = 0;
  document.size_multiple_px = px;
  for (const [id, graph] of Object.entries(document.graphs)) {
    if (id.endsWith("_r1")) delete document.graphs[id];
    for (const { shape } of [...graph.inputs, ...graph.outputs]) {
      for (const [axis, side] of shape.entries()) {
        shape[axis] = String(side).includes("*") ? side.replace(/\d+/, (n) => n / 2).replace(/^1\*/, "") : side;
      }
    }
  }
  const open = () => exact.openBundle(Buffer.from(JSON.stringify(document)));
  const npz = readFileSync(`${GOLDEN}/indices/entropy.npz`);
  const other = open();
  let id;
  assert.throws(
    () => other.loadEntropy(other.rates[0], npz),
    (thrown) => {
      id = /this is model ([0-9a-f]{8}), bundle.json says/.exec(thrown.message)?.[1];
      return error("bundle_corrupt", /this is model/)(thrown);
    },
  );
  other.free();
  document.rates[0].model_id = id;
  const bundle = open();
  bundle.loadEntropy(bundle.rates[0], npz);
  let compared = 0;
  for (const [
    name,
    {
      dims: [rows, columns],
      data,
    },
  ] of Object.entries(sections)) {
    if (!name.startsWith("indices_")) continue;
    const section = Buffer.from(sections[name.replace("indices", "section")].data);
    const file = damage.file({ modelId: id, rate: 0, width: columns * px, height: rows * px, z: section });
    const { tensors } = bundle.decodeLatents(file);
    assert.deepEqual(tensors.vq_indices.dims, [1, rows, columns]);
    assert.deepEqual(tensors.vq_indices.data, BigInt64Array.from(data, BigInt), name);
    compared++;
  }
  assert.ok(compared >= 5);
  bundle.free();
});

test("noise is equal in every bit", () => {
  for (const { dims, seed, draw, sha256 } of EXPECTED.noise) {
    const noise = exact.noise(dims, BigInt(seed), draw);
    assert.equal(createHash("sha256").update(noise).digest("hex"), sha256);
  }
});

test("headers, metadata and cut files", () => {
  const bundle = openBundle(`${GOLDEN}/v1/bundle`);
  const plain = readFileSync(`${GOLDEN}/v1/astronaut_r0.rdc`);
  const [icc, exif] = [Buffer.from("a profile"), Buffer.from("II*\0 a structure")];
  const file = damage.withMetadata(
    plain,
    damage.metadataSection([
      [1, icc],
      [2, exif],
    ]),
  );
  const info = exact.readInfo(file);
  assert.deepEqual([info.width, info.height, info.rate, info.modelId], [130, 96, 0, bundle.rates[0].modelId]);
  assert.deepEqual([info.iccBytes, info.exifBytes, info.missingBytes], [icc.length, exif.length, 0]);
  const { metadata, tensors } = bundle.decodeLatents(file);
  assert.deepEqual([Buffer.from(metadata.icc), Buffer.from(metadata.exif)], [icc, exif]);
  assert.deepEqual(bundle.decodeLatents(plain).metadata, { icc: null, exif: null });

  const cut = plain.subarray(0, 450);
  assert.throws(() => bundle.decodeLatents(cut), error("truncated", /cut short/));
  const partial = bundle.decodeLatents(cut, { allowPartial: true });
  assert.equal(partial.missingBytes, plain.length - 450);
  assert.equal(exact.readInfo(cut, { allowPartial: true }).missingBytes, plain.length - 450);
  assert.ok(partial.completeSlices < partial.nSlices);
  const { dims, data } = tensors.y_hat;
  const widths = readNpz(readFileSync(`${GOLDEN}/v1/bundle/entropy_r0.npz`)).slices.data;
  const channels = widths.subarray(0, partial.completeSlices).reduce((sum, width) => sum + width, 0);
  const whole = (data.length / dims[1]) * channels;
  assert.ok(whole > 0);
  assert.deepEqual(partial.tensors.y_hat.data.subarray(0, whole), data.subarray(0, whole));
  bundle.free();
});

test("limits, cancelling and what is not loaded", () => {
  const bundle = openBundle(`${GOLDEN}/v1/bundle`);
  const file = readFileSync(`${GOLDEN}/v1/astronaut_r0.rdc`);
  assert.throws(() => exact.readInfo(file, { limits: { maxPixels: 1000 } }), error("limit_exceeded", /max_pixels/));
  assert.throws(() => exact.readInfo(file, { limits: { maxPixels: NaN } }), error("invalid_argument", /limit/));
  const bomb = damage.withMetadata(file, damage.metadataSection([[1, Buffer.alloc(5e6)]]));
  assert.throws(() => exact.readInfo(bomb), error("limit_exceeded", /max_metadata_bytes/));
  assert.throws(() => bundle.decodeLatents(file, { onProgress: () => false }), error("cancelled", /cancelled/));
  let asked = 0;
  bundle.decodeLatents(file, { onProgress: () => void asked++ });
  assert.ok(asked >= 3);
  const mine = new Error("mine");
  assert.throws(
    () =>
      bundle.decodeLatents(file, {
        onProgress: () => {
          throw mine;
        },
      }),
    (thrown) => thrown === mine,
  );
  for (const dims of [
    [1e5, 1e5],
    [2 ** 16, 2 ** 16],
  ]) {
    assert.throws(() => exact.noise(dims, 0n, 0), error("out_of_memory", /memory/));
  }
  const fresh = exact.openBundle(readFileSync(`${GOLDEN}/v1/bundle/bundle.json`));
  assert.throws(() => fresh.decodeLatents(file), error("invalid_argument", /not loaded/));
  const swapped = readFileSync(`${GOLDEN}/v1/bundle/entropy_r1.npz`);
  assert.throws(() => fresh.loadEntropy(fresh.rates[0], swapped), error("bundle_corrupt", /this is model b05d7801/));
  assert.throws(() => fresh.rateOf("01020304", 0), error("bundle_mismatch", /the file needs model 01020304/));
  fresh.free();
  bundle.free();
});

test("a plan is what a decode is asked for, or an error", () => {
  const bundle = exact.openBundle(readFileSync(`${GOLDEN}/v1/bundle/bundle.json`));
  const info = exact.readInfo(readFileSync(`${GOLDEN}/v1/astronaut_r1.rdc`));
  assert.deepEqual(bundle.plan(info), { rateIndex: 1, schedule: "ddpm-5" });
  assert.deepEqual(bundle.plan(info, { steps: 2 }), { rateIndex: 1, schedule: "ddpm-2" });
  assert.deepEqual(bundle.plan(info, { preview: true, steps: 9 }), { rateIndex: 1, schedule: null });
  assert.throws(() => bundle.plan(info, { steps: 3 }), error("invalid_argument", /2 or 5 steps/));
  assert.throws(() => bundle.plan(info, { sharpness: -1 }), error("invalid_argument", /sharpness is -1/));
  const limits = { maxMemoryBytes: 1e5 };
  assert.throws(() => bundle.plan(info, { limits }), error("limit_exceeded", /max_memory_bytes/));
  bundle.free();
});

test("rows are those of the tables", () => {
  for (const [folder, rateIndex] of [
    ["v1", 1],
    ["v1-levels", 0],
  ]) {
    const bundle = exact.openBundle(readFileSync(`${GOLDEN}/${folder}/bundle/bundle.json`));
    const rate = bundle.rates[rateIndex];
    const npz = readFileSync(`${GOLDEN}/${folder}/bundle/${bundle.stepTablePath(rate)}`);
    const tables = readNpz(npz);
    const rows = bundle.stepRows(rate, rate.schedule, npz);
    assert.deepEqual(Object.keys(rows).sort(), ["control", "unet_step"]);
    for (const [role, steps] of Object.entries(rows)) {
      assert.equal(steps.length, rate.steps);
      assert.deepEqual(Float32Array.from(steps.flatMap((row) => [...row])), tables[role].data);
    }
    if (!bundle.levels) {
      assert.throws(() => bundle.levelRows(npz), error("invalid_argument", /no levels/));
      bundle.free();
      continue;
    }
    const levels = readFileSync(`${GOLDEN}/${folder}/bundle/${bundle.levels.path}`);
    const { synthesis, ...others } = bundle.levelRows(levels);
    assert.deepEqual(others, {});
    assert.equal(synthesis.length, bundle.levels.count);
    assert.deepEqual(Float32Array.from(synthesis.flatMap((row) => [...row])), readNpz(levels).synthesis.data);
    bundle.free();
  }
});

test("tiles cover the image, and a canvas blends them", () => {
  const bundle = exact.openBundle(readFileSync(`${ROOT}/engines/tiny-2/bundle.json`));
  const [width, height, tilePx] = [700, 500, 256];
  const { rows, columns, single } = exact.tiles(width, height, tilePx, bundle.sizeMultiplePx);
  assert.equal(single, false);
  assert.equal(exact.tiles(64, 64, tilePx, bundle.sizeMultiplePx).single, true);
  assert.throws(() => exact.tiles(64, 64, 255, 64), error("invalid_argument", /tile_px is 255/));
  for (const axis of [rows, columns]) assert.equal(axis.starts.at(-1) + axis.tile, axis.length);
  const graphId = bundle.rates[0].graphs.vae_decoder;
  const canvas = bundle.canvas({ graphId, output: "image", width, height, tilePx });
  // A gradient that all tiles agree on stays as it is, wherever they are blended.
  const value = (y, x, channel) => (y + 2 * x + 80 * channel) & 255;
  for (const [row, top] of rows.starts.entries()) {
    for (const [column, left] of columns.starts.entries()) {
      const tile = new Uint8Array(rows.tile * columns.tile * 3);
      for (let i = 0; i < tile.length; i++) {
        const [y, x] = [Math.floor(i / 3 / columns.tile), Math.floor(i / 3) % columns.tile];
        tile[i] = value(top + y, left + x, i % 3);
      }
      assert.throws(() => canvas.add(row, column, tile.subarray(1)), error("invalid_argument", /should have/));
      canvas.add(row, column, tile);
    }
  }
  const { dtype, dims, data } = canvas.take();
  assert.deepEqual([dtype, dims], ["uint8", [1, rows.length, columns.length, 3]]);
  for (let i = 0; i < data.length; i += 7) {
    const at = Math.floor(i / 3);
    if (data[i] !== value(Math.floor(at / columns.length), at % columns.length, i % 3)) assert.fail(`byte ${i}`);
  }
  canvas.free();
  bundle.free();
});

test("graphs are walked", () => {
  const bundle = exact.openBundle(readFileSync(`${GOLDEN}/v1/bundle/bundle.json`));
  for (const [id, forms] of Object.entries(bundle.graphs)) {
    for (const [form, { path }] of Object.entries(forms)) {
      assert.deepEqual(bundle.checkGraph(id, form, readFileSync(`${GOLDEN}/v1/bundle/${path}`)), []);
    }
  }
  assert.throws(() => bundle.checkGraph("unet_step", "fp32", Buffer.from("no graph")), error("bundle_corrupt", /./));
  assert.throws(() => bundle.checkGraph("none", "fp32", Buffer.alloc(0)), error("invalid_argument", /no graph 'none'/));
  bundle.free();
});

test("a thousand errors and decodes leave no memory behind", () => {
  const bundle = openBundle(`${GOLDEN}/v1/bundle`);
  const file = readFileSync(`${GOLDEN}/v1/astronaut_r0.rdc`);
  const noDirectory = Buffer.alloc(1 << 20);
  const round = () => {
    for (let length = 0; length < 100; length++) assert.throws(() => exact.readInfo(file.subarray(0, length)));
    for (let n = 0; n < 20; n++) assert.throws(() => bundle.loadEntropy(bundle.rates[0], noDirectory));
    for (let n = 0; n < 5; n++) bundle.decodeLatents(file);
  };
  round();
  const before = exact.memoryBytes;
  for (let n = 0; n < 10; n++) round();
  assert.equal(exact.memoryBytes, before);
  bundle.free();
});

const PARITY = process.env.RDEIC_PARITY;
const skip = !PARITY && !process.env.CI && "RDEIC_PARITY is not set";

test("damaged files and bundles give librdeic's results and messages", { skip }, async () => {
  assert.ok(existsSync(PARITY ?? ""), "RDEIC_PARITY must be set to tests/cpp/parity of a native build");
  const random = damage.randomOf(20);
  const results = new Map();
  for (const folder of [`${GOLDEN}/v1`, `${GOLDEN}/v1-levels`, `${ROOT}/engines/diffo-tiny`]) {
    const isGolden = folder.startsWith(GOLDEN);
    const bundleFolder = isGolden ? `${folder}/bundle` : folder;
    const bundle = openBundle(bundleFolder);
    const rate = bundle.rates[0];
    const read = (path) => readFileSync(`${bundleFolder}/${path}`);
    const file = readFileSync(isGolden ? `${folder}/chelsea_r0.rdc` : `${FILES}/diffo-tiny_r0.rdc`);
    const cases = [];
    const add = (kind, all) => cases.push(...Array.from(all, (data) => ({ kind, data })));
    add("file", damage.files(file, random, 60));
    add("cut", damage.files(file, random, 40));
    add("manifest", damage.manifests(read("bundle.json").toString(), random, 150));
    add("entropy", damage.changes(read(bundle.entropyPath(rate)), random, 15));
    add("graph", damage.changes(read(bundle.graphs[rate.graphs.vae_decoder].fp32.path), random, 40));
    const steps = bundle.stepTablePath(rate);
    if (steps) add("steps", damage.archives(readNpz(read(steps)), random, 150));
    if (bundle.levels) add("levels", damage.archives(readNpz(read(bundle.levels.path)), random, 30));
    const ours = cases.map(({ kind, data }) => outcome(() => readAs(kind, data, bundle, bundleFolder)));
    const theirs = await librdeic(bundleFolder, cases);
    for (const [index, { kind, data }] of cases.entries()) {
      assert.deepEqual(
        ours[index],
        theirs[index],
        `${folder}, ${kind}, case ${index}: ${data.toString("hex", 0, 200)}`,
      );
      results.set(ours[index].code, (results.get(ours[index].code) ?? 0) + 1);
    }
    bundle.free();
  }
  for (const code of [
    "ok",
    "truncated",
    "checksum",
    "bitstream",
    "limit_exceeded",
    "bundle_corrupt",
    "bundle_mismatch",
  ]) {
    assert.ok(results.get(code) > 10, `${code}: ${results.get(code)}`);
  }
});

/** Does what `read_as` of tests/cpp/parity.cc does. */
function readAs(kind, data, bundle, folder) {
  const rate = bundle.rates[0];
  if (kind === "file") bundle.decodeLatents(data);
  if (kind === "cut") bundle.decodeLatents(data, { allowPartial: true });
  if (kind === "manifest") exact.openBundle(data, folder).free();
  if (kind === "entropy") bundle.loadEntropy(rate, data);
  if (kind === "steps") bundle.stepRows(rate, rate.schedule, data);
  if (kind === "levels") bundle.levelRows(data);
  if (kind === "graph") bundle.checkGraph(rate.graphs.vae_decoder, "fp32", data);
}

function outcome(work) {
  try {
    work();
    return { code: "ok", message: "" };
  } catch (thrown) {
    if (!(thrown instanceof RdcError)) throw thrown;
    return { code: thrown.code, message: thrown.message };
  }
}

/** Returns what librdeic makes of each case. */
async function librdeic(folder, cases) {
  const parity = spawn(PARITY, ["messages", folder], { stdio: ["pipe", "pipe", "inherit"] });
  let printed = "";
  parity.stdout.on("data", (chunk) => {
    printed += chunk;
  });
  parity.stdin.end(cases.map(({ kind, data }) => `${kind} ${data.toString("hex")}\n`).join(""));
  await once(parity, "close");
  const lines = printed.trimEnd().split("\n");
  assert.equal(lines.length, cases.length);
  return lines.map((line) => {
    const [result, message = ""] = line.split(" ");
    if (result === "0") return { code: "ok", message: "" };
    return { code: RdcError.ofResult(Number(result), "").code, message: Buffer.from(message, "hex").toString() };
  });
}
