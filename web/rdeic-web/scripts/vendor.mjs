// Copies what the package uses of others from node_modules to src/vendor, with their licences: browsers find modules by
// path, and users have no build step. Of each there is only what is imported here.

import { copyFile, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const PARTS = {
  "noble-hashes/sha2.js": ["@noble/hashes", 'export { sha256 } from "@noble/hashes/sha2.js";'],
  "pako/inflate.js": ["pako", 'export { Inflate } from "pako";'],
};
const root = new URL("..", import.meta.url);
const vendor = new URL("src/vendor/", root);

await rm(vendor, { recursive: true, force: true });
for (const [target, [name, contents]] of Object.entries(PARTS)) {
  const outfile = new URL(target, vendor);
  await build({
    stdin: { contents, resolveDir: fileURLToPath(root) },
    outfile: fileURLToPath(outfile),
    bundle: true,
    format: "esm",
    minify: true,
    target: "es2022",
  });
  await copyFile(new URL(`node_modules/${name}/LICENSE`, root), new URL("LICENSE", outfile));
}
