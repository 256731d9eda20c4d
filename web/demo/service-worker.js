// Keeps the demo for use without a network: its files when it is installed, onnxruntime-web once it was fetched. Weights
// are kept by the package. A new version waits until no page uses the one before, so that no page sees files of both.

importScripts("service-worker-files.js"); // self.SITE: { version, first, onUse }

const PREFIX = `rdeic-demo ${self.registration.scope} `;
const CACHE = PREFIX + self.SITE.version;
const address = (name) => new URL(name, self.registration.scope).href;
const FIRST = new Set(self.SITE.first.map(address));
const ON_USE = new Set(self.SITE.onUse.map(address));
// With these, pages may use shared memory, and the decoder threads. They have an effect from the second visit on.
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

self.addEventListener("install", (event) => {
  const requests = [...FIRST].map((url) => new Request(url, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      // Other sites of this origin have caches too.
      const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
      await Promise.all(old.map((name) => caches.delete(name)));
      await self.clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  url.search = url.hash = "";
  const wanted = url.href === self.registration.scope ? address("index.html") : url.href;
  if (event.request.method === "GET" && (FIRST.has(wanted) || ON_USE.has(wanted))) event.respondWith(answer(wanted));
});

async function answer(url) {
  const cache = await caches.open(CACHE);
  let found = await cache.match(url);
  if (!found) {
    found = await fetch(url, { cache: "no-cache" });
    if (!found.ok) return found;
    await cache.put(url, found.clone());
  }
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
