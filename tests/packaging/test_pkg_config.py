"""`rdeic.pc` says where `cmake --install` puts library and headers, whatever kind of folder that is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.building import ROOT, configured

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("pkg-config") is None, reason="there is no cmake, or no pkg-config"
)


def flags(tmp_path: Path, libdir: str, includedir: str, prefix: str) -> list[str]:
    """What pkg-config says of the package, installed with these folders under a root that it is moved to."""
    options = ["-DRDEIC_BUILD_TESTS=OFF", "-DCMAKE_INSTALL_PREFIX=/opt/a"]
    options += [f"-DCMAKE_INSTALL_LIBDIR={libdir}", f"-DCMAKE_INSTALL_INCLUDEDIR={includedir}"]
    build, root = configured(ROOT, tmp_path / "build", *options), tmp_path / "root"
    install = ["cmake", "--install", str(build), "--component", "pkgconfig", "--prefix", prefix]
    subprocess.run(install, check=True, capture_output=True, env=dict(os.environ, DESTDIR=str(root)), timeout=300)
    (pc,) = root.rglob("rdeic.pc")
    environment = dict(os.environ, PKG_CONFIG_PATH=str(pc.parent))
    said = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "rdeic"], check=True, capture_output=True, text=True, env=environment
    ).stdout
    return [re.sub(r"^(-[IL])(.*)$", lambda m: m[1] + os.path.normpath(m[2]), flag) for flag in said.split()]


def test_absolute_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    assert flags(tmp_path, "/opt/b/lib", "/opt/c/include", "/opt/d") == ["-I/opt/c/include", "-L/opt/b/lib", "-lrdeic"]


def test_absolute_library_folder_finds_headers_under_the_prefix_of_the_installation(tmp_path: Path) -> None:
    assert flags(tmp_path, "/opt/b/lib", "include", "/opt/d") == ["-I/opt/d/include", "-L/opt/b/lib", "-lrdeic"]


def test_absolute_header_folder_leaves_the_library_relative(tmp_path: Path) -> None:
    assert flags(tmp_path, "lib", "/opt/c/include", "/opt/d") == [
        *("-I/opt/c/include", f"-L{tmp_path}/root/opt/d/lib", "-lrdeic")
    ]


def test_relative_folders_move_with_the_package(tmp_path: Path) -> None:
    root = tmp_path / "root" / "opt" / "d"
    assert flags(tmp_path, "lib/sub", "include", "/opt/d") == [f"-I{root}/include", f"-L{root}/lib/sub", "-lrdeic"]
