"""Plans built for real with TensorRT for RTX, which needs no GPU to build; and their keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import build_engines
from rdeic_export.forms import half
from rdeic_export.forms.derive import Derivation, Derived, DerivedGraph
from rdeic_export.plans import build as plans
from rdeic_export.plans import target as targets
from rdeic_export.plans.target import Target
from rdeic_rt import bundle as bundles
from rdeic_rt.backends.tensorrt import plans as stored
from rdeic_rt.backends.tensorrt.plans import Plan, Profile
from rdeic_rt.errors import BackendUnavailableError, BundleCorruptError, ExportError
from rdeic_rt.limits import Size
from rdeic_rt.manifest import Bundle

PROFILE = Profile(Size(64, 64), Size(128, 192), Size(256, 256), max_batch=2)
GRAPHS = ("control", "vae_decoder")


def copy_of(bundle: Path, target: Path) -> Path:
    shutil.copytree(bundle, target, ignore=shutil.ignore_patterns("plans"))
    return target


@pytest.fixture(scope="module")
def target() -> Target:
    library, version = targets.installed_library("tensorrt-rtx")
    return Target(library, version, targets.PORTABLE, PROFILE)


def derived(bundle: Bundle, graph_ids: tuple[str, ...], folder: Path, form: str = "fp16") -> Derived:
    folder.mkdir(exist_ok=True)
    return Derivation(bundle, graph_ids, None, folder).derive(form)


@pytest.fixture(scope="module")
def folder(embedded_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the embedded bundle; plans are added beside it."""
    return copy_of(embedded_bundle, tmp_path_factory.mktemp("engines") / "tiny-2")


@pytest.fixture(scope="module")
def built(folder: Path, target: Target) -> list[Plan]:
    bundle = bundles.read(folder)
    return plans.build(bundle, derived(bundle, GRAPHS, folder.parent / "derived"), target, resume=False)


@pytest.fixture
def copied(folder: Path, built: list[Plan], tmp_path: Path) -> Bundle:
    """A copy with its plans, to be damaged."""
    shutil.copytree(folder, tmp_path / "tiny-2")
    return bundles.read(tmp_path / "tiny-2")


def wanted(target: Target) -> dict[str, Any]:
    return {"library": target.library, "version": target.version, "capability": 89, "precision": "fp16"}


def test_build_writes_plans_that_the_runtime_finds_by_their_key(
    folder: Path, built: list[Plan], target: Target
) -> None:
    assert [plan.key.graph for plan in built] == [*GRAPHS, "weighted_sum"]
    bundle = bundles.read(folder)
    for plan in built:
        assert plan.read()[:4] == b"vtrt"
    found = stored.find(bundle, bundle.reference("vae_decoder"), **wanted(target))
    assert found == built[1]
    assert found.path.parent.name == f"tensorrt-rtx-{target.version}-sm_80+86+89+120-fp16"
    assert found.key.profile == dataclasses.replace(PROFILE, max_batch=1)
    assert not list(found.path.parent.glob(".building*"))


def test_build_report_says_that_layers_run_in_float16(built: list[Plan]) -> None:
    layers = built[0].report["layers"]
    assert layers["conv"].get("fp16", 0) > 0
    assert set(layers["conv"]) == {"fp16"}
    assert built[0].report["scratch_bytes"] >= 0
    assert built[0].report["build_peak_bytes"] > 10**7


def test_build_report_says_what_the_builder_took_not_what_called_it(copied: Bundle, target: Target) -> None:
    held = np.ones(2**27)
    (plan,) = plans.build(copied, Derived("fp16", {}), target, resume=False)
    assert 10**7 < plan.report["build_peak_bytes"] < held.nbytes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "10.3.0"}, r"version .* instead of 10\.3\.0"),
        ({"capability": 90}, r"target sm_80\+86\+89\+120 instead of sm_90"),
        ({"precision": "int8"}, "precision fp16 instead of int8"),
        ({"library": "tensorrt"}, "library tensorrt-rtx instead of tensorrt"),
    ],
)
def test_find_with_another_wish_names_the_field_and_the_command(
    folder: Path, built: list[Plan], target: Target, change: dict[str, Any], message: str
) -> None:
    bundle = bundles.read(folder)
    with pytest.raises(BackendUnavailableError, match=rf"{message}.*python export/build_engines\.py --bundle"):
        stored.find(bundle, bundle.reference("control"), **{**wanted(target), **change})


def test_find_after_the_graph_changed_does_not_take_the_old_plan(copied: Bundle, target: Target) -> None:
    file = dataclasses.replace(copied.files["control.onnx"], sha256="0" * 64)
    changed = dataclasses.replace(copied.reference("control"), file=file)
    with pytest.raises(BackendUnavailableError, match="onnx_sha256 .* instead of 000000000000"):
        stored.find(copied, changed, **wanted(target))


def test_find_without_any_plan_says_what_builds_one(golden_bundle: Path, target: Target) -> None:
    bundle = bundles.read(golden_bundle)
    with pytest.raises(BackendUnavailableError, match=r"no plan of graph 'control_r0' in .*plans.*--precision fp16"):
        stored.find(bundle, bundle.reference("control_r0"), **wanted(target))


def test_read_plan_with_its_last_byte_changed_raises_corrupt(copied: Bundle, target: Target) -> None:
    plan = stored.find(copied, copied.reference("control"), **wanted(target))
    data = bytearray(plan.path.read_bytes())
    data[-1] ^= 1
    plan.path.write_bytes(data)
    with pytest.raises(BundleCorruptError, match=r"control\.plan: .*build_engines\.py"):
        plan.read()


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1}', '{"schema": 2, "key": []}', "\ud800"])
def test_find_among_damaged_keys_raises_corrupt(copied: Bundle, target: Target, text: str) -> None:
    path = next((copied.folder / stored.FOLDER).glob("*/control.json"))
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleCorruptError, match=r"control\.json: not the key of a plan"):
        stored.find(copied, copied.reference("control"), **wanted(target))


@pytest.fixture
def built_now(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the graphs whose plans are built from now on."""
    ids: list[str] = []
    original = plans._build_one

    def counting(bundle: Bundle, graph: DerivedGraph, *rest: object) -> object:
        ids.append(graph.spec.id)
        return original(bundle, graph, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(plans, "_build_one", counting)
    return ids


def test_build_resumed_builds_only_what_is_missing_or_damaged(
    copied: Bundle, target: Target, tmp_path: Path, built_now: list[str]
) -> None:
    next((copied.folder / stored.FOLDER).glob("*/weighted_sum.plan")).write_bytes(b"cut short")
    result = plans.build(copied, derived(copied, ("control",), tmp_path / "derived"), target, resume=True)
    assert built_now == ["weighted_sum"]
    assert [len(plan.read()) > 1000 for plan in result] == [True, True]


def test_build_resumed_after_the_derivation_changed_builds_anew(
    copied: Bundle, target: Target, tmp_path: Path, built_now: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "_tail", lambda model: {node.output[0] for node in model.graph.node[-5:]})
    changed = derived(copied, ("control",), tmp_path / "derived")
    (plan, _) = plans.build(copied, changed, target, resume=True)
    assert built_now == ["control"]
    assert plan.key.derived_sha256 == changed.graphs["control"].sha256 != plan.key.onnx_sha256
    assert stored.find(copied, copied.reference("control"), **wanted(target)) == plan


def test_build_of_a_graph_the_library_refuses_is_one_line_and_leaves_no_key(
    copied: Bundle, target: Target, tmp_path: Path
) -> None:
    copied.reference("synthesis").path.write_bytes(b"not a graph")
    with pytest.raises(ExportError, match="graph 'synthesis': tensorrt-rtx cannot build synthesis") as caught:
        plans.build(copied, derived(copied, ("synthesis",), tmp_path / "derived", "fp32"), target, resume=False)
    assert "\n" not in str(caught.value)
    assert not list((copied.folder / stored.FOLDER).rglob("synthesis.*"))
    assert not list((copied.folder / stored.FOLDER).rglob(".building*"))


def test_build_where_the_disk_is_full_says_how_much_is_missing(
    copied: Bundle, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = derived(copied, ("synthesis",), tmp_path / "derived")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9, free=1000))
    with pytest.raises(ExportError, match=r"plans need about .* GB, and 0\.0 GB are free"):
        plans.build(copied, graphs, target, resume=False)


def test_installed_library_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "MODULES", {"tensorrt": "no_such_module", "tensorrt-rtx": "no_such_module"})
    with pytest.raises(ExportError, match=r"no TensorRT .*pip install -e '\.\[export,tensorrt\]'.*--library onnx"):
        targets.installed_library("auto")


SHARED = {"weighted_sum", "unet_step", "vae_decoder"}


def convert_pixels_last(folder: Path) -> None:
    """Make a decoder's end that of those exported today: the golden one turns bytes, which TensorRT does not."""
    path = folder / "vae_decoder.onnx"
    model = onnx.load(path)
    convert, turn = model.graph.node[-2:]
    assert (convert.op_type, turn.op_type) == ("Cast", "Transpose")
    turn.input[0], turn.output[0], convert.input[0], convert.output[0] = (
        convert.input[0],
        "turned",
        "turned",
        turn.output[0],
    )
    nodes = [*model.graph.node[:-2], turn, convert]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    document = json.loads((folder / "bundle.json").read_text())
    data = path.read_bytes()
    document["files"][path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "bundle.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("bundle", "own"),
    [
        ("golden_bundle", {f"{role}_r{rate}" for role in ("control", "synthesis") for rate in (0, 1)}),
        ("embedded_bundle", {"control", "synthesis"}),  # of all rates, which share them
    ],
)
def test_main_steps_2_builds_plans_of_every_rate_that_decodes_in_two_steps(
    bundle: str, own: set[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = copy_of(request.getfixturevalue(bundle), tmp_path / "copy")
    if bundle == "golden_bundle":
        convert_pixels_last(folder)
    small = ["--sizes", "64x64", "64x64", "128x128", "--batch", "1", "--no-verify"]
    assert build_engines.main(["--bundle", str(folder), "--steps", "2", "--precision", "fp32", *small]) == 0
    keys = [json.loads(path.read_text())["key"] for path in (folder / stored.FOLDER).rglob("*.json")]
    assert {key["graph"] for key in keys} == SHARED | own
    assert {key["profile"]["max_batch"] for key in keys} == {1}
    assert {key["precision"] for key in keys} == {"fp32"}


def test_main_int8_convolutions_of_tensorrt_for_rtx_write_half_precision(embedded_bundle: Path, tmp_path: Path) -> None:
    folder = copy_of(embedded_bundle, tmp_path / "tiny-2")
    small = ["--sizes", "64x64", "64x64", "128x128", "--library", "tensorrt-rtx", "--target", "89", "--no-verify"]
    assert build_engines.main(["--bundle", str(folder), "--precision", "int8", *small]) == 0
    reports = [json.loads(path.read_text())["report"] for path in (folder / stored.FOLDER).rglob("*.json")]
    layers = [report["layers"] for report in reports]
    assert sum(found["conv"].get("int8", 0) for found in layers) > 30
    assert set().union(*(found["conv_output"] for found in layers)) <= {"fp16", "int8"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "4"], "no rate for 4 steps"),
        (["--precision", "int8"], "no activation ranges of bundle 'micro'"),
        (["--library", "onnx"], "--output"),
        (["--drop-fp32"], "give --library onnx too"),
        (["--library", "onnx", "--drop-fp32", "--precision", "fp32,fp16", "--output", "/nowhere"], "and not fp32"),
        (["--sizes", "128x128", "64x64", "256x256"], "--sizes"),
    ],
)
def test_main_wrong_wish_is_one_line(
    golden_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert build_engines.main(["--bundle", str(golden_bundle), *arguments]) == ExportError.exit_code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
