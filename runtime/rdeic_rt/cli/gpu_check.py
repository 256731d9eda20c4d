"""`rdeic-rt doctor --gpu`: every GPU backend is put through what programs do with it, and compared with `cpu`.

A step that cannot run says why not, and one that fails does not stop the others: what is printed is a report.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, BackendUnavailableError
from .console import Console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..codec import Codec
    from ..limits import Size

BACKENDS = ("tensorrt", "cuda")
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
# Width and height: a common one, and one that is a multiple of nothing.
SIZES = ((768, 512), (451, 300))
# Decodes of a size: the first finds nothing loaded, the second records, the others replay.
RUNS = 10
# What fp16 promises (docs/engines.md); fp32 is computed in TF32 by some libraries.
LEAST_PSNR_DB = {"fp16": 45.0, "fp32": 50.0}

_log = logging.getLogger("rdeic_rt.cli.gpu_check")

_NAMED = ("cuda-", "numpy", "nvidia-", "onnxruntime", "rdeic-rt", "tensorrt", "torch")


@dataclass
class Step:
    """One line of the report.

    Attributes:
        name: what was tried.
        result: `PASSED`, `FAILED` or `NOT_RUN`.
        why: why it failed or was not run.
        seconds: what it took.
        facts: what was found, by name.
    """

    name: str
    result: str
    why: str | None = None
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class NotRun(Exception):
    """A step cannot run here; says why."""


class Check:
    """The steps of one report, in order.

    Attributes:
        steps: those that are done.
    """

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        from ..limits import Size

        self.steps: list[Step] = []
        self.sizes = [Size(height, width) for width, height in SIZES]
        self._args, self._console = args, console
        self._files: dict[Size, bytes] = {}
        self._expected: dict[Size, NDArray[np.uint8]] = {}

    def run(self) -> None:
        """Take every step."""
        self._step("device", self._device)
        self._step("cpu", self._reference)
        for backend in BACKENDS if self._args.backend not in BACKENDS else (self._args.backend,):
            self._backend(backend)

    def exit_code(self) -> int:
        """Return 0 if a GPU backend ran and no step failed."""
        failed = any(step.result == FAILED for step in self.steps)
        ran = any(step.name in BACKENDS and step.result == PASSED for step in self.steps)
        return 0 if ran and not failed else BackendError.exit_code

    def _step(self, name: str, function: Callable[[], dict[str, Any]]) -> Step:
        began = time.perf_counter()
        step = Step(name, PASSED)
        try:
            step.facts = function()
        except (NotRun, BackendUnavailableError) as error:
            step.result, step.why = NOT_RUN, _one_line(error)
        except Exception as error:  # whatever it is, the others are still worth knowing
            step.result, step.why = FAILED, f"{type(error).__name__}: {_one_line(error)}"
            self._console.error(f"{name}: {step.why}", error)
        step.seconds = round(time.perf_counter() - began, 3)
        self.steps.append(step)
        # For whoever waits, and for a process that does not come back from a step.
        _log.info("%s: %s, %.2f s, %s", name, step.result, step.seconds, step.why or _listed(step.facts))
        return step

    def _device(self) -> dict[str, Any]:
        from ..backends.gpu import cuda

        device = cuda.device_facts()
        return {**device.description(), "free_gib": round(device.free_bytes() / 2**30, 1)}

    def _reference(self) -> dict[str, Any]:
        from . import measure

        # What the networks say: 8-bit forms, which the cpu prefers, are further from it than any GPU.
        try:
            codec = self._load("cpu", precision="fp32")
        except BackendUnavailableError:  # the bundle has none
            codec = self._load("cpu")
        for size in self.sizes:
            self._files[size] = codec.encode(measure.drawn_image(size))
            self._expected[size] = codec.decode(self._files[size])
        return {"bundle": codec.bundle.name, **codec.description()}

    def _backend(self, name: str) -> None:
        """Take the steps of one backend; those after the first share its codec."""
        codecs: list[Codec] = []

        def opened() -> dict[str, Any]:
            if len(self._expected) < len(self.sizes):
                raise NotRun("nothing to compare with, see cpu")
            codecs.append(self._load(name))
            return self._decode_often(codecs[0])

        def first() -> Codec:
            if not codecs:
                raise NotRun(f"see {name}")
            return codecs[0]

        def again(**how: Any) -> dict[str, Any]:
            first()
            return self._decode(self._load(name, **how), how.get("precision", self._args.precision))

        def without_capture() -> dict[str, Any]:
            if first().recordings() is None:
                raise NotRun(f"{name} records nothing")
            return again(capture=False)

        def in_precision(precision: str) -> Callable[[], dict[str, Any]]:
            return lambda: again(precision=precision)

        self._step(name, opened)
        self._step(f"{name}, another thread", lambda: self._decode_in_another_thread(first()))
        self._step(f"{name}, image to torch", lambda: self._to_torch(first()))
        self._step(f"{name}, stream 0", lambda: again(stream=0))
        self._step(f"{name}, no capture", without_capture)
        for precision in LEAST_PSNR_DB:
            self._step(f"{name}, {precision}", in_precision(precision))
        self._step(f"{name}, encode", lambda: self._encode(first()))

    def _load(self, backend: str, **how: Any) -> Codec:
        from ..codec import load
        from ..tiles import DEFAULT_TILE_PX

        args = self._args
        precision = "auto" if backend == "cpu" else args.precision
        max_vram = None if backend == "cpu" else args.max_vram
        given: dict[str, Any] = {"precision": precision, "max_vram": max_vram, **how}
        return load(
            args.bundle,
            backend=backend,
            threads=args.threads,
            verify=args.verify,
            tile_px=args.tile or DEFAULT_TILE_PX,
            **given,
        )

    def _decode_often(self, codec: Codec) -> dict[str, Any]:
        """Decode each size `RUNS` times; return the times, the worst PSNR, and what the codec tells of itself."""
        from .. import timing

        ms: dict[str, list[float]] = {}
        least = float("inf")
        for size, data in self._files.items():
            times = ms[f"{size.width}x{size.height}"] = []
            for _ in range(RUNS):
                began = time.perf_counter()
                image = codec.decode(data)
                times.append(round(1e3 * (time.perf_counter() - began), 2))
                least = min(least, _psnr_db(image, self._expected[size]))
        with timing.collect(wait=codec.synchronize) as collected:
            codec.decode(self._files[self.sizes[0]])
        peak = codec.peak_device_bytes()
        facts = {
            "ms": ms,
            "psnr_db": round(least, 1),
            **self._recordings(codec),
            "stages_ms": {name: round(value, 2) for name, value in collected.total_ms().items()},
            "peak_mb": None if peak is None else round(peak / 1e6, 1),
            **codec.description(),
        }
        return _checked(facts, codec, self._args.precision)

    def _decode(self, codec: Codec, precision: str) -> dict[str, Any]:
        """Decode each size three times."""
        return self._compared(codec, lambda size: codec.decode(self._files[size]), precision)

    def _compared(self, codec: Codec, decode: Callable[[Size], NDArray[np.uint8]], precision: str) -> dict[str, Any]:
        began = time.perf_counter()
        least = min(_psnr_db(decode(size), self._expected[size]) for size in self.sizes for _ in range(3))
        each = 1e3 * (time.perf_counter() - began) / (3 * len(self.sizes))
        facts = {"psnr_db": round(least, 1), "mean_ms": round(each, 2), **self._recordings(codec)}
        return _checked(facts, codec, precision)

    def _decode_in_another_thread(self, codec: Codec) -> dict[str, Any]:
        results: list[dict[str, Any] | Exception] = []

        def work() -> None:
            try:
                results.append(self._decode(codec, self._args.precision))
            except Exception as error:
                results.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def _to_torch(self, codec: Codec) -> dict[str, Any]:
        try:
            torch = import_module("torch")
        except ImportError as error:
            raise NotRun(f"torch cannot be imported ({error})") from None
        if not torch.cuda.is_available():
            raise NotRun(f"torch {torch.__version__} has no CUDA device")

        def decode(size: Size) -> NDArray[np.uint8]:
            image: NDArray[np.uint8] = torch.from_dlpack(codec.decode_on_device(self._files[size])).cpu().numpy()
            return image

        return {"torch": str(torch.__version__), **self._compared(codec, decode, self._args.precision)}

    def _encode(self, codec: Codec) -> dict[str, Any]:
        """Encode each size; the file may differ in a few symbols from that of the cpu, as sums are in another order."""
        from . import measure

        least, same = float("inf"), True
        for size in self.sizes:
            data = codec.encode(measure.drawn_image(size))
            same &= data == self._files[size]
            least = min(least, _psnr_db(codec.decode(data), self._expected[size]))
        return {"same_file_as_cpu": same, "psnr_db": round(least, 1)}

    @staticmethod
    def _recordings(codec: Codec) -> dict[str, Any]:
        found = codec.recordings()
        return {} if found is None else {"recorded": found.kept, "given_up": list(found.given_up)}


def report(args: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str, int]:
    """Return the report for machines, its table for people, and the exit code."""
    check = Check(args, console)
    check.run()
    versions = _versions()
    facts = {"versions": versions, "steps": [_for_machines(step) for step in check.steps]}
    return facts, _table(versions, check.steps), check.exit_code()


def _versions() -> dict[str, str]:
    """Return the version of each installed distribution that a GPU backend may use, by name."""
    found = {dist.name: dist.version for dist in distributions() if dist.name}
    return {name: found[name] for name in sorted(found, key=str.lower) if name.startswith(_NAMED)}


def _checked(facts: dict[str, Any], codec: Codec, precision: str) -> dict[str, Any]:
    """Return the facts; raise BackendError if the images are too far from those of the cpu."""
    least = LEAST_PSNR_DB.get(precision, LEAST_PSNR_DB["fp16"])
    if facts["psnr_db"] < least:
        raise BackendError(f"{codec.backend} is at {facts['psnr_db']} dB from cpu; {least:g} are the least: {facts}")
    return facts


def _psnr_db(image: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Return the PSNR, 99 dB for equal images."""
    import numpy as np

    if image.shape != expected.shape:
        raise BackendError(f"an image is {list(image.shape)}, not {list(expected.shape)}")
    error = float(np.mean((image.astype(np.float64) - expected) ** 2))
    return min(99.0, 10 * float(np.log10(255**2 / max(error, 1e-9))))


def _for_machines(step: Step) -> dict[str, Any]:
    return {"step": step.name, "result": step.result, "why": step.why, "seconds": step.seconds, **step.facts}


def _table(versions: dict[str, str], steps: list[Step]) -> str:
    width = max(len(step.name) for step in steps)
    lines = [", ".join(f"{name} {number}" for name, number in versions.items()), ""]
    lines += [
        f"{step.name:{width}s}  {step.result:7s} {step.seconds:7.2f} s  {step.why or _listed(step.facts)}".rstrip()
        for step in steps
    ]
    return "\n".join(lines) + "\n"


def _listed(facts: dict[str, Any]) -> str:
    """Return facts as one line; of many times the first two, and the median of the others."""
    parts = []
    for name, value in facts.items():
        if name == "ms":
            parts += [f"{size} {_times(times)}" for size, times in value.items()]
        elif name == "stages_ms":
            parts.append("stages " + ", ".join(f"{stage} {ms:g}" for stage, ms in value.items()))
        elif value not in (None, []):
            parts.append(f"{name} {', '.join(value) if isinstance(value, list) else value}")
    return "; ".join(parts)


def _times(ms: list[float]) -> str:
    rest = sorted(ms[2:])
    return f"{ms[0]:g}, {ms[1]:g}, then {rest[len(rest) // 2]:g} ms"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
