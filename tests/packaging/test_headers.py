"""The headers, in programs that are compiled without exceptions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Everything that a decode needs, in C++ without exceptions and RTTI.
PROGRAM = """
#include <rdeic/rdeic.h>
int decode(const unsigned char* data, size_t data_bytes) {
  rdeic_error error{};
  rdeic_bundle* bundle = nullptr;
  rdeic_decoder* decoder = nullptr;
  rdeic_image* image = nullptr;
  rdeic_decode_options options;
  rdeic_decode_options_init(&options, sizeof options);
  options.progress = [](void*, rdeic_stage, uint32_t done, uint32_t) -> int { return done > 3; };
  rdeic_result result = rdeic_bundle_open(nullptr, 0, &bundle, &error);
  if (result == RDEIC_RESULT_OK) result = rdeic_decoder_create(bundle, nullptr, &decoder, &error);
  if (result == RDEIC_RESULT_OK) result = rdeic_decode(decoder, data, data_bytes, &options, &image, &error);
  rdeic_image_destroy(image);
  rdeic_decoder_destroy(decoder);
  rdeic_bundle_destroy(bundle);
  return result == RDEIC_RESULT_OK ? 0 : 1;
}
"""

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def compiled(source: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = ["g++", "-x", "c++", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *flags]
    command += [f"-I{ROOT / 'runtime' / 'cpp' / 'include'}", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, timeout=120)


def test_c_header_needs_no_exceptions() -> None:
    done = compiled(PROGRAM, "-std=c++17", "-fno-exceptions", "-fno-rtti", "-pedantic-errors")

    assert done.returncode == 0, done.stderr


def test_cpp_header_says_that_it_needs_exceptions() -> None:
    source = "#include <rdeic/rdeic.hpp>\n"

    assert compiled(source, "-std=c++20").returncode == 0
    done = compiled(source, "-std=c++20", "-fno-exceptions")
    assert done.returncode != 0
    assert "use rdeic.h" in done.stderr
