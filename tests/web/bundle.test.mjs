// The files of a bundle: fetched with a made-up network and cache.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { BundleFiles } from "../../web/rdeic-web/src/bundle.js";

const URL_OF = "https://example.org/bundles/tiny/";
const CONTENT = new Uint8Array(10_000).map((_, index) => index % 251);
const LISTED = { bytes: CONTENT.length, sha256: createHash("sha256").update(CONTENT).digest("hex") };

/** A network of these files, by address: bytes, a status, or an error. */
function network(files) {
  const asked = [];
  const fetch = async (url, { signal } = {}) => {
    asked.push(String(url));
    signal?.throwIfAborted();
    const found = files[String(url).replace(URL_OF, "")] ?? 404;
    if (found instanceof Error) throw found;
    if (typeof found === "number") return new Response("no", { status: found });
    return new Response(found);
  };
  return { fetch, asked };
}

/** CacheStorage in memory. */
function cacheStorage() {
  const entries = new Map();
  const cache = {
    match: async (key) => entries.get(String(key))?.clone(),
    put: async (key, response) => void entries.set(String(key), response),
    delete: async (key) => entries.delete(String(key)),
  };
  return { entries, open: async () => cache };
}

const open = (files, options = {}) => {
  const { fetch, asked } = network(files);
  return { files: new BundleFiles(URL_OF, { fetch, caches: null, ...options }), asked };
};

const rejects = (promise, code, pattern) =>
  assert.rejects(promise, (error) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, pattern);
    return true;
  });

test("a file is fetched from beside bundle.json, with its bytes counted", async () => {
  const { files, asked } = open({ "a%20b/c.npz": CONTENT });
  let counted = 0;

  const data = await files.file("a b/c.npz", LISTED, { onBytes: (count) => (counted += count) });

  assert.deepEqual(data, CONTENT);
  assert.deepEqual(asked, [`${URL_OF}a%20b/c.npz`]);
  assert.equal(counted, CONTENT.length);
  assert.equal(files.downloadedBytes, CONTENT.length);
});

test("an address without a slash at its end is a folder too", async () => {
  const { fetch, asked } = network({ x: CONTENT });
  await new BundleFiles(URL_OF.slice(0, -1), { fetch, caches: null }).file("x", LISTED);
  assert.deepEqual(asked, [`${URL_OF}x`]);
});

test("a file of the right length and other content is refused, and not kept", async () => {
  const caches = cacheStorage();
  const { files } = open({ x: CONTENT.with(5000, 0) }, { caches });
  await rejects(files.file("x", LISTED), "bundle_corrupt", /SHA-256/);
  assert.equal(caches.entries.size, 0);
});

test("a file that is too short, too long or missing is refused", async () => {
  await rejects(open({ x: CONTENT.slice(1) }).files.file("x", LISTED), "bundle_corrupt", /9999 bytes/);
  await rejects(open({ x: new Uint8Array([...CONTENT, 0]) }).files.file("x", LISTED), "bundle_corrupt", /more than/);
  await rejects(open({}).files.file("x", LISTED), "bundle_corrupt", /missing/);
});

test("a file without end is left as soon as it is too long", async () => {
  let sent = 0;
  const endless = new ReadableStream({
    pull(controller) {
      sent += 1000;
      controller.enqueue(new Uint8Array(1000));
    },
  });
  await rejects(open({ x: endless }).files.file("x", LISTED), "bundle_corrupt", /more than 10000 bytes/);
  assert.ok(sent < 20_000);
});

test("a failing network and a failing server are io", async () => {
  await rejects(open({ x: new TypeError("no route") }).files.file("x", LISTED), "io", /no route/);
  await rejects(open({ x: 500 }).files.file("x", LISTED), "io", /500/);
  await rejects(open({ "bundle.json": 503 }).files.manifest(), "io", /503/);
});

test("no bundle.json is no bundle", async () => {
  await rejects(open({}).files.manifest(), "bundle_not_found", /404/);
});

test("bundle.json must have the hash that is asked for", async () => {
  assert.deepEqual(await open({ "bundle.json": CONTENT }).files.manifest(LISTED.sha256), CONTENT);
  const changed = open({ "bundle.json": CONTENT.with(0, 9) });
  await rejects(changed.files.manifest(LISTED.sha256), "bundle_corrupt", /SHA-256/);
});

test("what was fetched once comes from the cache", async () => {
  const caches = cacheStorage();
  const { files, asked } = open({ x: CONTENT, y: CONTENT }, { caches });
  await files.file("x", LISTED);

  assert.deepEqual(await files.file("y", LISTED), CONTENT); // the same content under another name

  assert.equal(asked.length, 1);
  assert.equal(files.cachedBytes, CONTENT.length);
  assert.equal(files.downloadedBytes, CONTENT.length);
});

test("what was damaged in the cache is fetched again", async () => {
  const caches = cacheStorage();
  const { files, asked } = open({ x: CONTENT }, { caches });
  await files.file("x", LISTED);
  const [key] = caches.entries.keys();
  caches.entries.set(key, new Response(CONTENT.with(1, 77)));

  assert.deepEqual(await files.file("x", LISTED), CONTENT);

  assert.equal(asked.length, 2);
  assert.deepEqual(new Uint8Array(await caches.entries.get(key).arrayBuffer()), CONTENT);
});

test("a cache that fails costs nothing", async () => {
  const broken = { open: async () => Promise.reject(new Error("SecurityError")) };
  assert.deepEqual(await open({ x: CONTENT }, { caches: broken }).files.file("x", LISTED), CONTENT);
  const full = { open: async () => ({ match: async () => undefined, put: () => Promise.reject(new Error("quota")) }) };
  assert.deepEqual(await open({ x: CONTENT }, { caches: full }).files.file("x", LISTED), CONTENT);
});

test("without a network, the last bundle.json serves", async () => {
  const caches = cacheStorage();
  await open({ "bundle.json": CONTENT }, { caches }).files.manifest();
  const offline = open({ "bundle.json": new TypeError("offline") }, { caches });
  assert.deepEqual(await offline.files.manifest(), CONTENT);
  const gone = open({ "bundle.json": 404 }, { caches });
  await rejects(gone.files.manifest(), "bundle_not_found", /404/);
});

test("gzip files are unpacked, and must be what is listed", async () => {
  const packed = gzipSync(CONTENT);
  const { files, asked } = open({ "x.gz": packed }, { compressed: "gzip" });
  let counted = 0;

  assert.deepEqual(await files.file("x", LISTED, { onBytes: (count) => (counted += count) }), CONTENT);

  assert.deepEqual(asked, [`${URL_OF}x.gz`]);
  assert.equal(files.downloadedBytes, packed.length);
  assert.equal(counted, CONTENT.length);
  const damaged = open({ "x.gz": packed.subarray(0, -9) }, { compressed: "gzip" });
  await rejects(damaged.files.file("x", LISTED), "bundle_corrupt", /unpacked/);
  const bomb = open({ "x.gz": gzipSync(new Uint8Array(5_000_000)) }, { compressed: "gzip" });
  await rejects(bomb.files.file("x", LISTED), "bundle_corrupt", /unpacked/);
});

test("gzip files that the network has unpacked already are taken as they are", async () => {
  const { files } = open({ "x.gz": CONTENT }, { compressed: "gzip" });
  assert.deepEqual(await files.file("x", LISTED), CONTENT);
});

test("an abort stays one", async () => {
  const { files } = open({ x: CONTENT });
  await assert.rejects(files.file("x", LISTED, { signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("another compression is an invalid argument", () => {
  assert.throws(() => new BundleFiles(URL_OF, { compressed: "zip" }), { code: "invalid_argument" });
});
