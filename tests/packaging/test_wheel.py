"""The wheel holds the runtime and the embedded bundles, and nothing that a user does not need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.building import ROOT, build

MAX_WHEEL_BYTES = 40_000_000
HEAVY = ("torch", "diffusers", "onnx", "onnxscript", "safetensors", "tensorrt", "cuda", "scipy")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


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


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_the_runtime_only(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names_in(wheel)}

    assert tops == {"rdeic_rt", "rdeic_eval", f"rdeic_rt-{metadata_of(wheel)['Version']}.dist-info"}
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


def test_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES


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
        *("tensorrt", "tensorrt-classic", "cuda", "openvino", "plot", "nvtx", "serve", "fleet", "eval"),
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
