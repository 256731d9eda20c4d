"""`rdeic-rt doctor`: what is installed, what can run here and why the rest cannot, and whether the codec works."""

from __future__ import annotations

import argparse
import platform
import time
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, BundleError, RdeicError
from . import cpu, options
from .console import Console, write_output
from .failures import describe, exit_code
from .info import write_facts

if TYPE_CHECKING:
    from ..manifest import Bundle

_PACKAGES = (
    "rdeic-rt",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "constriction",
    "Pillow",
    "google-crc32c",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-python",
    "nvidia-cuda-nvrtc",
)


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb and its options."""
    parser = options.add_verb(
        commands,
        "doctor",
        arguments="",
        summary="show what can run here, and test it",
        description="""\
Show the CPU and its vector instructions, what is installed, the GPU, which backends
can run here and why the others cannot, and which bundles are found with which plans;
then encode and decode a small image. The last line is the verdict, and the exit code
is 0 only when that works. -v shows every fact.

With --gpu: put every GPU backend through what programs do with it, and compare its
images with those of the cpu. One line a step: passed, failed, or not run and why.
The exit code is 0 if a GPU backend ran and no step failed, else 6.""",
        epilog="""\
examples:
  rdeic-rt doctor
  rdeic-rt doctor -v                           every fact
  rdeic-rt doctor --gpu > report.txt
  rdeic-rt doctor --gpu --backend cuda --precision fp16 --json""",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--gpu", action="store_true", help="test the GPU backends instead; takes about a minute")
    group.add_argument("--json", action="store_true", help="one JSON object, for machines. Default: text")
    options.add_model(parser)
    options.add_device(parser)
    options.add_messages(parser)
    parser.set_defaults(run=run, max_pixels=None)
    return parser


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the findings to standard output; return the exit code of what is wrong, the highest first."""
    if args.gpu:
        return _run_gpu(args, console)
    from ..entropy import coder

    self_test, status = _self_test(args)
    facts: dict[str, Any] = {
        "system": system_facts(),
        "versions": package_versions(),
        "range_coder": coder.implementation().NAME,
        "gpu": _gpu(),
        "backends": _backends(),
        "bundles": _bundles(),
        "self_test": self_test,
    }
    if args.json:
        write_facts(facts, as_json=True)
    elif args.verbose:
        features = facts["system"]["cpu_features"].items()
        facts["system"]["cpu_features"] = {name: cpu.UNKNOWN if has is None else has for name, has in features}
        write_facts(facts, as_json=False)
        write_output(f"{_verdict(self_test)}\n")
    else:
        write_output("\n".join((*_summary(facts), _verdict(self_test))) + "\n")
    return status


def _summary(facts: dict[str, Any]) -> list[str]:
    """Return what most people want to know, in some 20 lines."""
    system, versions, gpu = facts["system"], facts["versions"], facts["gpu"]
    features = [name for name, has in system["cpu_features"].items() if has]
    known = None not in system["cpu_features"].values()
    installed = (f"{name} {version}" for name, version in versions.items() if version and name != "rdeic-rt")
    lines = [
        f"rdeic-rt {versions['rdeic-rt']}, Python {system['python']}, {system['platform']}",
        f"cpu: {system['cpu']}, {system['cores']} cores; {', '.join(features) or 'no vector instructions known'}"
        + ("" if known else f" ({cpu.UNKNOWN} for the others)"),
        f"packages: {', '.join(installed)}",
        f"range coder: {facts['range_coder']}",
        f"gpu: {_first_sentence(gpu['gpu'])}{', ' + gpu['free'] + ' free' if 'free' in gpu else ''}",
        "backends:",
        *(f"  {name}: {_first_sentence(state)}" for name, state in facts["backends"].items()),
        "bundles:",
        *(f"  {folder}: {text}" for folder, text in facts["bundles"]["found"].items()),
    ]
    if not facts["bundles"]["found"]:
        lines.append(f"  none in {', '.join(facts['bundles']['searched'])}")
    return lines


def _first_sentence(text: str) -> str:
    """Return what a message says, without the advice and the details in brackets that follow."""
    return text.partition(" (")[0].partition(". ")[0].removesuffix(".")


def _verdict(self_test: dict[str, Any]) -> str:
    """Return in a line whether the codec works here, and where it runs."""
    if self_test["result"] != "passed":
        return f"not ready: the self-test {self_test['result']}"
    facts = ", ".join(f"{name} {value}" for name, value in self_test["runs_on"].items())
    return f"ready: {self_test['backend']} ({facts}), self-test passed in {self_test['seconds']:.1f} s"


def _run_gpu(args: argparse.Namespace, console: Console) -> int:
    from .gpu_check import report

    facts, table, status = report(args, console)
    system = system_facts()
    if args.json:
        write_facts({"system": system, **facts}, as_json=True)
    else:
        write_output(f"Python {system['python']}, {system['platform']}, {system['cpu']}, {system['cores']} cores\n")
        write_output(table)
    return status


def system_facts() -> dict[str, Any]:
    """Return the Python, the platform and the CPU with its vector instructions (None: not known)."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu.model_name(),
        "cpu_features": cpu.features(),
        "cores": cpu.n_cores(),
    }


def package_versions() -> dict[str, str | None]:
    """Return the version of every package that matters here, None for one that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _gpu() -> dict[str, str]:
    """Return the GPU and each TensorRT library, or why there is none."""
    from ..backends.gpu import cuda
    from ..backends.tensorrt import library as trt_library
    from ..backends.tensorrt import plans

    facts = {}
    try:
        device = cuda.device_facts()
        facts = {**device.description(), "free": f"{device.free_bytes() / 2**30:.1f} GiB"}
    except BackendError as error:
        facts["gpu"] = describe(error)
    for name in plans.LIBRARIES:
        try:
            facts[name] = f"can be used, {trt_library.open_library(name).version}"
        except BackendError as error:
            facts[name] = describe(error)
    return facts


def _backends() -> dict[str, str]:
    from ..backends import select

    return {
        name: "can run" if why is None else f"cannot run: {why.removeprefix(name + ': ')}"
        for name, why in select.availability().items()
    }


def _bundles() -> dict[str, Any]:
    from .. import bundle as bundles
    from .. import bundle_search

    found = {}
    for folder in bundle_search.installed():
        try:
            bundle = bundles.read(folder, verify=False)
            text = f"{bundle.name}, with rates {', '.join(str(rate.index) for rate in bundle.rates)}"
            found[str(folder)] = f"{text}; {_plans(bundle)}"
        except BundleError as error:
            found[str(folder)] = f"cannot be used: {describe(error)}"
    return {"searched": [str(folder) for folder in bundle_search.search_folders()], "found": found}


def _plans(bundle: Bundle) -> str:
    """Return which of a bundle's folders of plans is used here, or why none is."""
    from ..backends.base import Options
    from ..backends.tensorrt import backend as trt
    from ..backends.tensorrt import plans

    folders = sorted({plan.path.parent.name for plan in plans.installed(bundle.folder)})
    if not folders:
        return "no plans"
    try:
        used = trt.open_backend(Options(bundle=bundle, capture=False))
        why = f"tensorrt uses those of {used.library.name} {used.library.version} in {used.precision}"
    except BackendError as error:
        why = f"not used: {describe(error)}"
    return f"plans {', '.join(folders)}: {why}"


def _self_test(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Send a small drawn image through the codec; return the facts and the exit code."""
    import numpy as np

    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, 96)
    image[..., 1] = 128
    began = time.perf_counter()
    try:
        codec = options.codec_from(args, options.limits_from(args))
        data = codec.encode(image)
        decoded = codec.decode(data)
    except (RdeicError, OSError) as error:
        return {"result": f"failed: {describe(error)}"}, exit_code(error)
    if decoded.shape != image.shape:
        return {"result": f"failed: {image.shape} came back as {decoded.shape}"}, BackendError.exit_code
    return {
        "result": "passed",
        "bundle": str(codec.bundle.folder),
        "backend": codec.backend,
        "runs_on": codec.description(),
        "passed_over": {name: why.removeprefix(f"{name}: ") for name, why in codec.skipped_backends.items()},
        "bytes": len(data),
        "seconds": round(time.perf_counter() - began, 3),
    }, 0
