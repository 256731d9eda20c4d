"""The npm package: what is in it, its licences and declarations, and how large it is."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, missing

from .conftest import PACKAGE, SOURCE

# Of what a page loads besides onnxruntime-web and a bundle.
MAX_GZIP_BYTES = 150_000

USE = """
import { RdcDecoder, RdcError, RdcImg, pngOf, prefersReducedData } from "rdeic-web";
const decoder: RdcDecoder = await RdcDecoder.load("engines/tiny-2/", { backend: "wasm", threads: 2 });
const controller = new AbortController();
const image: ImageData = await decoder.decode(new Uint8Array(10), {
    sharpness: 1.2, seed: 5n, signal: controller.signal, onProgress: ({ stage, done, total }) => stage === "vae",
});
const { metadata, completeSlices } = await decoder.decodeWithDetails(new Blob(), { preview: true });
const icc: Uint8Array | null = metadata.icc;
const png: Blob = await pngOf({ image, metadata });
const element: RdcImg = document.createElement("rdc-img");
element.addEventListener("error", (event) => console.log(event, png));
RdcImg.options.bundle = element.complete && prefersReducedData() ? "engines/diffo-tiny/" : "engines/tiny-2/";
const info = await RdcDecoder.info(new ArrayBuffer(4));
const width: number = info.width + completeSlices + decoder.bundle.rates[0]!.stepChoices.length;
try { await decoder.preview(new ArrayBuffer(4)); } catch (error) {
    if (error instanceof RdcError && error.code === "not_rdc") decoder.close();
}
"""


def npm(*words: str, folder: Path = PACKAGE) -> str:
    if shutil.which("npm") is None:
        missing("npm")
    done = subprocess.run(["npm", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packed() -> dict[str, Any]:
    """What `npm pack` would put into the package."""
    found: list[dict[str, Any]] = json.loads(npm("pack", "--dry-run", "--json"))
    return found[0]


def test_contents(packed: dict[str, Any]) -> None:
    names = {file["path"] for file in packed["files"]}
    modules = {str(path.relative_to(SOURCE)) for path in (SOURCE / "src").rglob("*") if path.is_file()}
    assert names == modules | {"LICENSE", "README.md", "package.json", "wasm/rdeic.mjs", "wasm/rdeic.wasm"}
    assert {"src/index.js", "src/index.d.ts", "src/worker.js", "src/families/rdeic.js"} <= names


def test_only_the_built_package_can_be_published() -> None:
    assert json.loads((SOURCE / "package.json").read_text())["private"]
    assert "private" not in json.loads((PACKAGE / "package.json").read_text())


def test_licences(packed: dict[str, Any]) -> None:
    assert json.loads((PACKAGE / "package.json").read_text())["license"] == "Apache-2.0"
    assert (PACKAGE / "LICENSE").read_text() == (REPOSITORY / "LICENSE").read_text()
    names = {file["path"] for file in packed["files"]}
    for folder in (PACKAGE / "src" / "vendor").iterdir():
        assert f"src/vendor/{folder.name}/LICENSE" in names
        assert "MIT" in (folder / "LICENSE").read_text()


def test_version_is_that_of_the_repository() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads((PACKAGE / "package.json").read_text())["version"] == version.replace(".dev", "-dev.")


def loaded_by_pages() -> list[Path]:
    """Return every module that index.js and worker.js lead to, and the WebAssembly."""
    found: list[Path] = [PACKAGE / "src" / "index.js", PACKAGE / "src" / "worker.js"]
    for path in found:
        for name in re.findall(r"""(?:from|import)\s*\(?["'](\.\.?/[^"']+)["']""", path.read_text()):
            target = (path.parent / name).resolve()
            if target not in found:
                found.append(target)
    return [*found, PACKAGE / "wasm" / "rdeic.wasm"]


def test_size() -> None:
    sizes = {str(path.relative_to(PACKAGE)): len(gzip.compress(path.read_bytes(), 9)) for path in loaded_by_pages()}
    assert len(sizes) > 15
    assert sum(sizes.values()) <= MAX_GZIP_BYTES, sizes


def test_declarations(tmp_path: Path) -> None:
    """They are sound, and fit how the package is used."""
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "rdeic-web").symlink_to(PACKAGE)
    (tmp_path / "use.mts").write_text(USE)
    assert type_errors(tmp_path / "use.mts") == ""
    (tmp_path / "wrong.mts").write_text(USE.replace("sharpness: 1.2", 'sharpness: "much"'))
    assert "sharpness" in type_errors(tmp_path / "wrong.mts") or "not assignable" in type_errors(tmp_path / "wrong.mts")


def type_errors(path: Path) -> str:
    options = [
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom",
        "--module",
        "nodenext",
        "--types",
        "",
    ]
    command = ["node", str(SOURCE / "node_modules/typescript/bin/tsc"), *options, path.name]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True).stdout


def test_declarations_have_what_the_modules_export() -> None:
    """Every public name of the modules is declared, and nothing else."""
    declared = (PACKAGE / "src" / "index.d.ts").read_text()
    names = set(re.findall(r"^export (?:class|function|const) (\w+)", declared, re.M))
    script = 'import("./src/index.js").then((all) => console.log(JSON.stringify(Object.keys(all))))'
    done = subprocess.run(["node", "-e", script], cwd=PACKAGE, capture_output=True, text=True, check=True)
    assert names == set(json.loads(done.stdout))
