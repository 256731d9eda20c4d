// Makes the package as it is published, in the folder `build`: the same files in the same places, with the modules
// minified one by one, so that a page loads half of their bytes.

import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

import { transform } from "esbuild";

const root = new URL("..", import.meta.url);
const target = new URL("build/", root);

async function put(name, content) {
  const path = fileURLToPath(new URL(name, target));
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
}

await rm(target, { recursive: true, force: true });
for (const folder of ["src", "wasm"]) {
  for (const entry of await readdir(new URL(folder, root), { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const name = `${entry.parentPath}/${entry.name}`.slice(fileURLToPath(root).length);
    const content = await readFile(new URL(name, root));
    const isModule = /\.m?js$/.test(name);
    const minified = isModule && (await transform(content, { minify: true, format: "esm", target: "es2022" })).code;
    await put(name, minified || content);
  }
}
const { private: _, scripts, devDependencies, ...manifest } = JSON.parse(await readFile(new URL("package.json", root)));
await put("package.json", `${JSON.stringify(manifest, null, 2)}\n`);
await cp(new URL("README.md", root), new URL("README.md", target));
await cp(new URL("../../LICENSE", root), new URL("LICENSE", target));
