"""The web package in Chromium against the Python runtime on one thread, in one run: downloads, start, stages, sizes.

    python -m tests.bench.bench_web [--bundle tiny-2] [--size 768x512] [--runs 7] [--threads 1,2] [--precision auto]

Needs web/rdeic-web built (docs/web.md) and Chromium. Decodes of all sides alternate; medians are printed, with each
side's ratio to Python. Downloads are counted by the server: as stored, and as it sends them with gzip.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright import sync_api
from tests.browser import launch
from tests.web.conftest import Page, opening, site
from tests.web.server import CSP, ISOLATION, Site, serving

import rdeic_rt
from rdeic_rt import DecodeOptions, timing
from rdeic_rt.cli import cpu

ROOT = Path(__file__).parents[2]
STAGES = ("entropy", "synthesis", "denoise", "vae")


@dataclass
class Side:
    """One way to decode, and what was measured of it.

    Attributes:
        decode: decodes the file, or previews it; returns seconds by stage.
        cpu: returns the processor time of the side's processes so far, in seconds, all threads.
        totals, previews, cpu_totals: seconds of each decode and preview, and processor time of each decode.
        stages: stage -> seconds of each decode.
    """

    decode: Callable[[bool], dict[str, float]]
    cpu: Callable[[], float]
    totals: list[float] = field(default_factory=list)
    previews: list[float] = field(default_factory=list)
    cpu_totals: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)

    def measure(self) -> None:
        """Decode once, and preview once."""
        start, cpu_start = time.perf_counter(), self.cpu()
        found = self.decode(False)
        self.totals.append(time.perf_counter() - start)
        self.cpu_totals.append(self.cpu() - cpu_start)
        for stage in STAGES:
            self.stages.setdefault(stage, []).append(found.get(stage, 0.0))
        start = time.perf_counter()
        self.decode(True)
        self.previews.append(time.perf_counter() - start)


def main() -> None:
    """Print the tables."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="tiny-2", help="name of an embedded bundle")
    p.add_argument("--size", default="768x512", help="width x height of the photo")
    p.add_argument("--rate", type=float, help="of the file; the bundle's default unless given")
    p.add_argument("--runs", type=int, default=7, help="decodes and previews of each side")
    p.add_argument("--threads", default="1,2", help="of the browser, with commas")
    p.add_argument("--precision", default="auto", help="of all sides")
    args = p.parse_args()
    width, height = map(int, args.size.split("x"))
    photo = Image.open(ROOT / "tests/data/photos/coffee.jpg").convert("RGB").resize((width, height))
    codec = rdeic_rt.load(ROOT / "engines" / args.bundle, backend="cpu", threads=1, precision=args.precision)
    data = codec.encode(np.asarray(photo), rate=args.rate)
    with sync_api.sync_playwright() as playwright, contextlib.ExitStack() as stack:
        browser = launch(playwright)
        print(f"Chromium {browser.version}, rdeic-rt {version('rdeic-rt')}, onnxruntime {version('onnxruntime')}")
        print(f"{cpu.summary()}, {platform.machine()}; {args.bundle}, {args.size}, {len(data)} bytes\n")
        print_downloads(browser, args, data)
        browser.close()
        sides = {"Python, 1 thread": Side(lambda preview: native(codec, data, preview), time.process_time)}
        for threads in map(int, args.threads.split(",")):
            browser = launch(playwright)  # one for each, whose processor time is its own
            page = stack.enter_context(loaded(browser, args, threads, data))
            name = f"browser, {threads} thread{'s' * (threads > 1)}"
            sides[name] = Side(partial(decode, page), partial(renderer_seconds, browser))
        for side in sides.values():
            side.decode(False)
        for _ in range(args.runs):
            for side in sides.values():
                side.measure()
    print_times(sides, args.runs)


def native(codec: rdeic_rt.Codec, data: bytes, preview: bool) -> dict[str, float]:
    """Decode in Python and return the seconds of each stage."""
    with timing.collect() as times:
        codec.decode(data, DecodeOptions(preview=preview))
    return {stage: ms / 1e3 for stage, ms in times.total_ms().items()}


def decode(page: Page, preview: bool) -> dict[str, float]:
    """Decode in a page and return the seconds of each stage, without what it costs to get pixels out of the page."""
    seconds: dict[str, float] = page.raw.evaluate(
        """async (preview) => {
            const { decoder } = globalThis.page.decoders;
            globalThis.file ??= await (await fetch("/photo.rdc")).arrayBuffer();
            await decoder.decodeWithDetails(globalThis.file, { preview });
            return decoder.stats.seconds;
        }""",
        preview,
    )
    return seconds


@contextlib.contextmanager
def loaded(browser: Any, args: argparse.Namespace, threads: int, data: bytes) -> Any:
    """Yield a page with a decoder, and print what its start took."""
    made = site(headers={"Content-Security-Policy": CSP, **ISOLATION})
    made.contents["/photo.rdc"] = data
    with serving(made) as served, opening(browser) as opened:
        page = opened(served)
        start = time.perf_counter()
        page.load(f"/bundles/{args.bundle}", threads=threads, precision=args.precision)
        opened_in = time.perf_counter() - start
        first = decode(page, True)
        previewed_in = time.perf_counter() - start
        second = decode(page, False)
        print(
            f"{threads} thread{'s' * (threads > 1)}, from an empty cache: bundle open {opened_in:.2f} s, first preview "
            f"{previewed_in:.2f} s, of which runtime and sessions {first['load']:.2f} s; sessions of the denoiser "
            f"{second['load']:.2f} s; peak memory of the page {peak_mb(browser):.0f} MB"
        )
        yield page


def renderers(browser: Any) -> list[dict[str, Any]]:
    """Return what Chromium says of the processes of its pages, which have the pages' workers too."""
    found: list[dict[str, Any]]
    found = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    return [process for process in found if process["type"] == "renderer"]


def renderer_seconds(browser: Any) -> float:
    """Return the processor time of a browser's pages so far."""
    return float(sum(process["cpuTime"] for process in renderers(browser)))


def peak_mb(browser: Any) -> float:
    """Return the largest resident set that one of a browser's pages has had."""
    peaks = []
    for process in renderers(browser):
        status = Path(f"/proc/{process['id']}/status").read_text().splitlines()
        peaks.append(int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) / 1024)
    return max(peaks)


def print_downloads(browser: Any, args: argparse.Namespace, data: bytes) -> None:
    """Print how many bytes a first preview and a first decode load, as stored and with gzip."""
    print(f"{'kB loaded before the first':34s}{'preview':>10s}{'gzip':>10s}{'decode':>10s}{'gzip':>10s}")
    columns: list[dict[str, int]] = []
    for preview in (True, False):
        for compress in (False, True):
            made = site(compress=compress)
            made.contents["/photo.rdc"] = data
            with serving(made) as served, opening(browser) as opened:
                page = opened(served)
                page.load(f"/bundles/{args.bundle}", precision=args.precision)
                decode(page, preview)
                columns.append(counted(served))
    for name in columns[0]:
        print(f"{name:34s}" + "".join(f"{column[name] / 1e3:10.0f}" for column in columns))
    print()


def counted(served: Site) -> dict[str, int]:
    """Return the bytes of the bundle, of the package and of onnxruntime-web that a page has loaded, each file once."""
    sizes = dict(served.sent)
    parts = {
        "bundle": "/bundles/",
        "rdeic-web": "/modules/rdeic-web/",
        "onnxruntime-web": "/modules/onnxruntime-web/",
    }
    found = {name: sum(size for path, size in sizes.items() if path.startswith(at)) for name, at in parts.items()}
    return {
        "bundle": found["bundle"],
        "rdeic-web": found["rdeic-web"],
        "both": found["bundle"] + found["rdeic-web"],
        "onnxruntime-web": found["onnxruntime-web"],
        "all": sum(found.values()),
    }


def print_times(sides: dict[str, Side], runs: int) -> None:
    """Print the medians of all sides, in ms and as ratios to the first."""
    names = list(sides)
    print(f"\n{f'ms, medians of {runs}':18s}" + "".join(f"{name:>26s}" for name in names))
    for stage in STAGES:
        row(stage, [side.stages[stage] for side in sides.values()])
    row("decode", [side.totals for side in sides.values()])
    row("decode, CPU", [side.cpu_totals for side in sides.values()])
    row("preview", [side.previews for side in sides.values()])


def row(name: str, values: Sequence[Sequence[float]]) -> None:
    """Print one line."""
    first, *others = (1e3 * statistics.median(of_side) for of_side in values)
    print(f"{name:18s}{first:26.0f}" + "".join(f"{f'{ms:.0f} ({ms / first:.1f}x)':>26s}" for ms in others))


if __name__ == "__main__":
    main()
