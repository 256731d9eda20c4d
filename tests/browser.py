"""Debian's Chromium, as tests, screenshots and benchmarks launch it."""

from __future__ import annotations

import shutil
from typing import Any


def launch(playwright: Any, *arguments: str) -> Any:
    """Return a browser with further arguments; it runs as root and without shared memory, too."""
    everywhere = ["--no-sandbox", "--disable-dev-shm-usage"]
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*everywhere, *arguments])
