// Copies what the package uses of others from node_modules to src/vendor, with their licences: browsers find modules by
// path, and users have no build step.

import { cp, mkdir, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const PARTS = {
  "noble-hashes": ["@noble/hashes", ["sha2.js", "_md.js", "_u64.js", "utils.js", "LICENSE"]],
  pako: ["pako", ["dist/browser/pako_inflate.esm.min.mjs", "LICENSE"]],
};
const root = new URL("..", import.meta.url);
const vendor = new URL("src/vendor/", root);

await rm(vendor, { recursive: true, force: true });
for (const [folder, [name, files]] of Object.entries(PARTS)) {
  await mkdir(new URL(`${folder}/`, vendor), { recursive: true });
  for (const file of files) {
    const target = new URL(`${folder}/${file.split("/").pop()}`, vendor);
    await cp(fileURLToPath(new URL(`node_modules/${name}/${file}`, root)), fileURLToPath(target));
  }
}
