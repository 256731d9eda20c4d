"""The wheel holds the runtime and the embedded bundles, and nothing that a user does not need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.building import ROOT, build

MAX_BUNDLES_BYTES = 40_000_000
MAX_CODE_BYTES = 500_000
HEAVY = ("torch", "diffusers", "onnx", "onnxscript", "safetensors", "tensorrt", "cuda", "scipy")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing of this project but what the wheel brings."""
    folder = tmp_path_factory.mktemp("installed")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=300)
    return folder


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return BytesParser().parsebytes(archive.read(name))


def copied_by_the_dockerfile() -> list[str]:
    """The paths of the build context that the stage ``wheel`` of the Dockerfile has, as .dockerignore leaves them."""
    stage = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition(" AS wheel\n")[2].partition("\nFROM ")[0]
    copied = [path for line in re.findall(r"^COPY (.*) \S+$", stage, re.MULTILINE) for path in line.split()]
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    return [path for path in let_in if any(path == top or path.startswith(f"{top}/") for top in copied)]


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_has_the_version_of_the_project(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert metadata_of(wheel)["Version"] == project["version"]


def test_wheel_holds_the_runtime_only(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names_in(wheel)}
    release = f"rdeic_rt-{metadata_of(wheel)['Version']}"

    assert tops == {"rdeic_rt", "rdeic_eval", f"{release}.dist-info", f"{release}.data"}
    assert not [name for name in names_in(wheel) if name.endswith((".pyc", ".ckpt", ".pt", ".plan"))]


def test_wheel_holds_what_the_package_reads(wheel: Path) -> None:
    names = set(names_in(wheel))
    sources = ROOT / "runtime"
    packages = [path for name in ("rdeic_rt", "rdeic_eval") for path in (sources / name).rglob("*") if path.is_file()]

    assert {path.relative_to(sources).as_posix() for path in packages if "__pycache__" not in path.parts} <= names
    assert {"rdeic_rt/py.typed", "rdeic_eval/py.typed", "rdeic_rt/bundle.schema.json"} <= names


@pytest.mark.parametrize("bundle", ["tiny-2", "diffo-tiny"])
def test_wheel_holds_every_file_of_the_embedded_bundles(bundle: str, wheel: Path) -> None:
    manifest = json.loads((ROOT / "engines" / bundle / "bundle.json").read_text(encoding="utf-8"))
    with zipfile.ZipFile(wheel) as archive:
        inside = {info.filename: info.file_size for info in archive.infolist()}

    assert f"rdeic_rt/engines/{bundle}/bundle.json" in inside
    for name, entry in manifest["files"].items():
        assert inside[f"rdeic_rt/engines/{bundle}/{name}"] == entry["bytes"]


def test_wheel_of_the_dockerfile_is_this_one(wheel: Path, tmp_path: Path) -> None:
    for name in copied_by_the_dockerfile():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / "context" / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / "context" / name)

    built = build("wheel", tmp_path / "context", tmp_path / "out")

    assert sorted(names_in(built)) == sorted(names_in(wheel))


def test_wheel_is_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        bundles = sum(entry.compress_size for entry in archive.infolist() if "/engines/" in entry.filename)
    assert bundles <= MAX_BUNDLES_BYTES
    assert wheel.stat().st_size - bundles <= MAX_CODE_BYTES


def test_wheel_requires_nothing_heavy_without_an_extra(wheel: Path) -> None:
    requirements = metadata_of(wheel).get_all("Requires-Dist") or []
    plain = {re.split(r"[^\w.-]", text)[0].lower() for text in requirements if "extra ==" not in text}

    assert not plain & set(HEAVY)
    assert plain == {
        "constriction",
        "fastjsonschema",
        "google-crc32c",
        "numpy",
        "onnxruntime",
        "pillow",
        "platformdirs",
    }


@pytest.mark.parametrize(
    ("sys_platform", "platform_machine", "expected"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", False),
        ("darwin", "arm64", True),
        ("darwin", "x86_64", True),
        ("win32", "AMD64", True),
        ("win32", "ARM64", False),
    ],
)
def test_wheel_requires_constriction_where_there_are_wheels_of_it(
    wheel: Path, sys_platform: str, platform_machine: str, expected: bool
) -> None:
    requirements = [Requirement(text) for text in metadata_of(wheel).get_all("Requires-Dist") or []]
    (constriction,) = [found for found in requirements if found.name == "constriction"]
    environment = {"sys_platform": sys_platform, "platform_machine": platform_machine}

    assert constriction.marker is not None
    assert constriction.marker.evaluate(environment) is expected


def test_wheel_has_the_extras_and_the_licence(wheel: Path) -> None:
    metadata = metadata_of(wheel)

    assert set(metadata.get_all("Provides-Extra") or []) == {
        *("tensorrt", "tensorrt-classic", "cuda", "openvino", "plot", "nvtx", "remote", "serve", "fleet", "eval"),
        *("docs", "export", "train", "dev"),
    }
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("/licenses/LICENSE") for name in names_in(wheel))


@pytest.mark.parametrize("constriction", ["with constriction", "without constriction"])
def test_installed_wheel_encodes_and_decodes_outside_the_checkout(
    installed: Path, photo_paths: list[Path], tmp_path: Path, constriction: str
) -> None:
    script = """
import sys
if sys.argv[3] == "without constriction": sys.modules["constriction"] = None
import rdeic_rt
from rdeic_rt.cli.main import main

assert rdeic_rt.__file__.startswith(sys.argv[1]), rdeic_rt.__file__
assert main(["encode", sys.argv[2], "-o", "photo.rdc"]) == 0
assert main(["decode", "photo.rdc"]) == 0
loaded = {name.partition(".")[0] for name in sys.modules} & {"torch", "onnx", "diffusers", "rdeic_export"}
assert not loaded, loaded
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RDEIC_RT_")}
    environment |= {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    arguments = [sys.executable, "-c", script, str(installed), str(photo_paths[0]), constriction]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "photo.png").stat().st_size > 0
