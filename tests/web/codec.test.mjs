// A codec in node: what it keeps loaded, and that it frees it.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { Codec } from "../../web/rdeic-web/src/codec.js";

const RUNTIME = new URL("../../web/rdeic-web/node_modules/onnxruntime-web/dist/", import.meta.url);
const GOLDEN = new URL("../golden/v1/", import.meta.url);
const ort = await import(new URL("ort.wasm.min.mjs", RUNTIME));

/** Sessions that were created and not released. */
const live = new Set();
const { create } = ort.InferenceSession;
ort.InferenceSession.create = async (...given) => {
  const session = await create(...given);
  const { release } = session;
  live.add(session);
  session.release = async () => {
    live.delete(session);
    await release.call(session);
  };
  return session;
};

const fetched = [];

async function open(options = {}) {
  const fetch = async (url) => {
    fetched.push(url.slice(url.lastIndexOf("/") + 1));
    return new Response(readFileSync(fileURLToPath(url)));
  };
  const bundle = new URL("bundle/", GOLDEN).href;
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  return Codec.open(bundle, { fetch, cache: false, threads: 1, runtimeUrl: RUNTIME, ...given });
}

/** Serves the golden bundle with a decoder of more than 64 MiB: the graph of the VAE has a long description. */
function enlarged() {
  const name = "vae_decoder.onnx";
  const length = 65 * 2 ** 20;
  const field = [
    (6 << 3) | 2,
    0x80 | (length & 0x7f),
    0x80 | ((length >> 7) & 0x7f),
    0x80 | ((length >> 14) & 0x7f),
    length >> 21,
  ];
  const graph = Buffer.concat([
    readFileSync(new URL(`bundle/${name}`, GOLDEN)),
    Buffer.from(field),
    Buffer.alloc(length, "x"),
  ]);
  const manifest = JSON.parse(readFileSync(new URL("bundle/bundle.json", GOLDEN)));
  manifest.files[name] = { bytes: graph.length, sha256: createHash("sha256").update(graph).digest("hex") };
  const changed = { [name]: graph, "bundle.json": JSON.stringify(manifest) };
  return async (url) => new Response(changed[url.slice(url.lastIndexOf("/") + 1)] ?? readFileSync(fileURLToPath(url)));
}

/** Runs work in a browser that says it has such an adapter. */
async function withAdapter(adapter, work) {
  Object.defineProperty(globalThis, "navigator", {
    value: { gpu: { requestAdapter: async () => adapter } },
    configurable: true,
  });
  try {
    return await work();
  } finally {
    delete globalThis.navigator;
  }
}

const file = (rate) => readFileSync(new URL(`chelsea_r${rate}.rdc`, GOLDEN));

test("graphs are loaded once, and those of another rate are freed", async () => {
  const codec = await open();
  await codec.decode(file(0), { preview: true });
  assert.equal(live.size, 2);
  const { image } = await codec.decode(file(0), {});
  assert.equal(live.size, 4);
  assert.equal(image.data.length, 4 * image.width * image.height);

  await codec.decode(file(1), {});
  assert.equal(live.size, 4); // unet_step and vae_decoder are those of both rates
  assert.equal(fetched.filter((name) => name === "vae_decoder.onnx").length, 1);

  await codec.close();
  assert.equal(live.size, 0);
});

test("the same file and options give the same image, another seed another one", async () => {
  const codec = await open();
  const decode = async (options) => Buffer.from((await codec.decode(file(0), options)).image.data).toString("base64");
  const first = await decode({});
  assert.equal(await decode({}), first);
  assert.equal(await decode({ seed: BigInt(file(0).readUInt32LE(file(0).length - 4)) }), first);
  assert.notEqual(await decode({ seed: 1 }), first);
  await codec.close();
});

test("seconds are told by stage", async () => {
  const codec = await open();
  const { seconds } = await codec.decode(file(0), {});
  assert.deepEqual(Object.keys(seconds).sort(), [
    "denoise",
    "download",
    "entropy",
    "load",
    "pixels",
    "synthesis",
    "vae",
  ]);
  assert.ok(Object.values(seconds).every((one) => one >= 0 && one < 60));
  await codec.close();
});

test("a precision that the bundle has not", async () => {
  const codec = await open({ precision: "int8" });
  await assert.rejects(codec.decode(file(0), {}), { code: "backend_unavailable" });
  await codec.close();
});

test("a folder without onnxruntime-web", async () => {
  const codec = await open({ runtimeUrl: new URL("nowhere/", RUNTIME) });
  await assert.rejects(codec.decode(file(0), {}), { code: "backend_unavailable", message: /runtimeUrl/ });
  await codec.close();
});

test("auto takes a GPU for large bundles, if it is one, and WebAssembly where that fails", async () => {
  const backendOf = async (adapter, fetch) => withAdapter(adapter, async () => (await open({ fetch })).stats.backend);
  const large = enlarged();
  const hardware = { info: { isFallbackAdapter: false } };
  const emulated = { info: { isFallbackAdapter: true } };
  assert.equal(await backendOf(hardware, large), "webgpu");
  assert.equal(await backendOf(emulated, large), "wasm");
  assert.equal(await backendOf(null, large), "wasm");
  assert.equal(await backendOf(hardware, undefined), "wasm"); // a small bundle

  const codec = await withAdapter(hardware, () => open({ fetch: large }));
  const { image } = await codec.decode(file(0), { preview: true }); // node has no WebGPU
  assert.equal(codec.stats.backend, "wasm");
  assert.ok(image.width > 0);
  await codec.close();
});

test("webgpu needs an adapter", async () => {
  await assert.rejects(open({ backend: "webgpu" }), { code: "backend_unavailable" });
  await withAdapter(null, () => assert.rejects(open({ backend: "webgpu" }), { code: "backend_unavailable" }));
});
