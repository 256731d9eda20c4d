from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt import bundle, bundle_search, container, find_bundle
from rdeic_rt.container import Header
from rdeic_rt.errors import (
    BundleCorruptError,
    BundleError,
    BundleMismatchError,
    BundleNotFoundError,
    LimitExceededError,
    NotRdcError,
    TruncatedError,
)
from rdeic_rt.limits import Limits, Size
from rdeic_rt.manifest import Bundle

Document = dict[str, Any]


def change(folder: Path, edit: Callable[[Document], object]) -> None:
    document = json.loads((folder / "bundle.json").read_text())
    edit(document)
    (folder / "bundle.json").write_text(json.dumps(document))


def test_read_good_bundle_returns_every_field(micro_folder: Path) -> None:
    found = bundle.read(micro_folder)
    rate = found.rates[0]
    assert (found.name, found.family, found.licence, found.folder) == (
        "micro",
        "rdeic",
        "Apache-2.0",
        micro_folder,
    )
    assert found.size_multiple_px == 64
    assert found.preferred["cpu"] == ("int8-cpu", "fp32")
    assert rate.model_id == bytes.fromhex("00c0ffee")
    assert found.graphs[rate.graphs["unet_step"]]["fp32"].path == micro_folder / "unet_step.onnx"
    assert found.reference("unet_step").input("step").shape == (1, 3)
    assert found.schedules["ddpm-2"].timesteps == (299, 0)
    assert rate.step_tables["ddpm-2"].path == micro_folder / "steps" / "ddpm-2.npz"
    assert found.files["entropy.npz"].size_bytes == (micro_folder / "entropy.npz").stat().st_size


def test_read_result_cannot_be_changed(micro_folder: Path) -> None:
    found = bundle.read(micro_folder)
    with pytest.raises(FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.graphs["x"] = found.graphs["control"]  # type: ignore[index]


def test_read_embedded_bundle_has_several_rates_that_share_all_but_their_level(embedded_bundle: Path) -> None:
    found = bundle.read(embedded_bundle)
    assert found.name == "tiny-2"
    assert len(found.rates) >= 3
    assert len({(rate.model_id, tuple(sorted(rate.graphs.items()))) for rate in found.rates}) == 1
    levels = [rate.number for rate in found.rates]
    assert levels == sorted(set(levels))
    assert found.levels is not None
    assert levels[-1] == found.levels.count - 1
    assert [found.n_steps(rate) for rate in found.rates] == [1] * len(levels)


def test_read_bundle_whose_rates_have_graphs_and_numbers_of_steps_of_their_own(golden_bundle: Path) -> None:
    found = bundle.read(golden_bundle)
    assert found.levels is None
    assert [rate.number for rate in found.rates] == [rate.index for rate in found.rates] == [0, 1]
    assert [found.n_steps(rate) for rate in found.rates] == [2, 5]
    first, second = found.rates
    assert first.model_id != second.model_id
    assert {role for role in first.graphs if first.graphs[role] == second.graphs[role]} == {"unet_step", "vae_decoder"}


def shape(name: str, dims: list[int | str]) -> Callable[[Document], object]:
    """Return an edit that gives one tensor another shape, wherever it is first named."""

    def edit(document: Document) -> None:
        tensors = (t for graph in document["graphs"].values() for side in ("inputs", "outputs") for t in graph[side])
        next(t for t in tensors if t["name"] == name)["shape"] = dims

    return edit


def _decoding(graphs: dict[str, str]) -> dict[str, str]:
    return {role: graph for role, graph in graphs.items() if role != "analysis"}


CORRUPT: dict[str, tuple[Callable[[Document], object], str]] = {
    "missing field": (lambda d: d.pop("family"), "family"),
    "unknown field": (lambda d: d.update(graph={}), "graph"),
    "wrong type": (lambda d: d.update(default_rate="0"), "default_rate"),
    "schema is a text": (lambda d: d.update(schema="2"), "schema"),
    "graph of another role": (lambda d: d["rates"][0]["graphs"].update(control="unet_step"), "as control it must map"),
    "graph not defined": (lambda d: d["rates"][0]["graphs"].update(control="other"), "'other' is not defined"),
    "schedule not defined": (lambda d: d["rates"][0].update(schedule="ddpm-9"), "'ddpm-9' is not defined"),
    "schedule without table": (lambda d: d["rates"][0]["step_tables"].pop("ddpm-2"), "no step table"),
    "schedule of two lengths": (lambda d: d["schedules"]["ddpm-2"]["a"].append(1.0), "one a step"),
    "rate index": (lambda d: d["rates"][0].update(index=1), "indices"),
    "default rate": (lambda d: d.update(default_rate=1), "default_rate is 1"),
    "model id": (lambda d: d["rates"][0].update(model_id="00C0FFEE"), "model_id"),
    "size multiple": (lambda d: d.update(size_multiple_px=0), "size_multiple_px"),
    "form that nobody has": (lambda d: d["graphs"]["control"]["forms"].update(int4="control.onnx"), "int4"),
    "graph without a form": (lambda d: d["graphs"]["control"].update(forms={}), "forms"),
    "preferred form that nobody has": (lambda d: d["preferred"].update(cpu=["int4"]), "preferred"),
    "role missing": (lambda d: d["rates"][0]["graphs"].pop("control"), "has the roles analysis, control"),
    "encoding role of one rate alone": (
        lambda d: d["rates"].append({**d["rates"][0], "index": 1, "graphs": _decoding(d["rates"][0]["graphs"])}),
        "some rates have the graphs that encode, and others have not",
    ),
    "role too many": (lambda d: d["rates"][0]["graphs"].update(other="control"), "has the roles analysis, control"),
    "guided by a number": (lambda d: d["rates"][0].update(guided=1), "guided"),
    "no schedule": (lambda d: d["rates"][0].pop("schedule"), "needs a schedule"),
    "dimension of no grammar": (shape("z_n", ["batch", 4, "8*h", "8*wz"]), "'h' is none of batch, hz and wz"),
    "dimension that is no name": (shape("z_n", ["batch", 4, "8 hz", "8*wz"]), "'8 hz' is none of"),
    "columns first": (shape("z_n", ["batch", 4, "8*wz", "8*hz"]), "in this order"),
    "rows alone": (shape("z_n", ["batch", 4, "8*hz", 8]), "come together"),
    "sides apart": (shape("z_n", ["batch", "8*hz", 4, "8*wz"]), "neighbours"),
    "sides of two factors": (shape("z_n", ["batch", 4, "8*hz", "4*wz"]), "one factor"),
    "factor of no pixels": (shape("z_n", ["batch", 4, "7*hz", "7*wz"]), "7 does not divide size_multiple_px, 64"),
    "batch twice": (shape("z_n", ["batch", "batch", "8*hz", "8*wz"]), "one batch"),
    "latents of two shapes": (shape("z_n", ["batch", 5, "8*hz", "8*wz"]), "z_n is float32 ['batch', 5"),
    "image of another size": (shape("image", ["batch", "32*hz", "32*wz", 3]), "should be uint8 [batch, 64*hz"),
    "file not listed": (lambda d: d["files"].pop("entropy.npz"), "'entropy.npz' is not among"),
    "file length": (lambda d: d["files"]["entropy.npz"].update(bytes=1), "should have 1"),
    "file hash": (lambda d: d["files"]["entropy.npz"].update(sha256="0" * 64), "SHA-256"),
    "file gone": (lambda d: d["files"].update({"x.npz": {"sha256": "0" * 64, "bytes": 1}}), "no such file"),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_read_manifest_with_a_fault_raises_corrupt_and_names_it(micro_folder: Path, name: str) -> None:
    edit, words = CORRUPT[name]
    change(micro_folder, edit)
    with pytest.raises(BundleCorruptError) as caught:
        bundle.read(micro_folder)
    assert words in str(caught.value)
    assert str(micro_folder) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"schema": NaN}',
        '{"schema": 2, "schema": 2}',
        '{"schema": 1e999}',
        '{"schema": 1' + 400 * "0" + "}",
        "\x00\xff",
        "{}\x00",
        "\xff\xfe{\x00}\x00",
        " " * (2 << 20),
    ],
)
def test_read_text_that_is_no_manifest_raises_corrupt(micro_folder: Path, text: str) -> None:
    (micro_folder / "bundle.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleCorruptError):
        bundle.read(micro_folder)


def test_read_newer_schema_says_to_upgrade(micro_folder: Path) -> None:
    change(micro_folder, lambda d: d.update(schema=3))
    with pytest.raises(BundleError, match=r"schema 3.*reads schema 2.*Upgrade") as caught:
        bundle.read(micro_folder)
    assert not isinstance(caught.value, BundleCorruptError)


def test_read_family_that_nobody_knows_names_those_that_are_known(micro_folder: Path) -> None:
    change(micro_folder, lambda d: d.update(family="jpeg"))
    with pytest.raises(BundleError, match=r"family 'jpeg' is not part of this version.*which has: rdeic") as caught:
        bundle.read(micro_folder)
    assert not isinstance(caught.value, BundleCorruptError)
    assert str(micro_folder) in str(caught.value)


def test_rate_without_guidance_refuses_sharpness_and_says_why(micro_folder: Path) -> None:
    change(micro_folder, lambda d: d["rates"][0].update(guided=False))
    change(micro_folder, lambda d: d["rates"][0].pop("lambda_r"))
    found = bundle.read(micro_folder)
    assert found.rates[0].lambda_r is None
    found.check_sharpness(found.rates[0], 1.0)
    with pytest.raises(ValueError, match=r"sharpness is 0\.5, but rate 0 of bundle 'micro' cannot be guided"):
        found.check_sharpness(found.rates[0], 0.5)


@pytest.mark.parametrize(
    "path",
    [
        "../outside.npz",
        "steps/../../outside.npz",
        "/etc/passwd",
        "C:/x.npz",
        "steps\\x.npz",
        "./x.npz",
        "steps//x.npz",
        "steps/",
        "",
        "..",
        "bundle.json",
        "x\n.npz",
        "x.npz\n",
    ],
)
def test_read_path_that_leaves_the_folder_is_refused(micro_folder: Path, path: str) -> None:
    (micro_folder.parent / "outside.npz").write_bytes(b"x")

    def redirect(document: Document) -> None:
        document["files"][path] = {"sha256": "0" * 64, "bytes": 1}
        document["rates"][0]["entropy"] = path

    change(micro_folder, redirect)
    with pytest.raises(BundleCorruptError, match="not a relative path"):
        bundle.read(micro_folder, verify=False)


@pytest.mark.parametrize(
    ("path", "words"),
    [("x" * 300, "no such file"), ("loop", "too long, or a link"), ("a/" * 500_000 + "a", "1024 are allowed")],
    ids=["name", "loop", "path"],
)
def test_read_path_that_no_system_follows_is_refused(micro_folder: Path, path: str, words: str) -> None:
    (micro_folder / "loop").symlink_to("loop")
    manifest = micro_folder / "bundle.json"
    document = json.loads(manifest.read_text())
    document["files"][path] = {"sha256": "0" * 64, "bytes": 1}
    manifest.write_text(json.dumps(document, separators=(",", ":")))
    with pytest.raises(BundleCorruptError, match=words):
        bundle.read(micro_folder, verify=False)


@pytest.mark.parametrize("through", ["file", "folder"])
def test_read_link_that_leaves_the_folder_is_refused(micro_folder: Path, through: str) -> None:
    outside = micro_folder.parent / "outside"
    if through == "file":
        (micro_folder / "entropy.npz").rename(outside)
        (micro_folder / "entropy.npz").symlink_to(outside)
    else:
        (micro_folder / "steps").rename(outside)
        (micro_folder / "steps").symlink_to(outside, target_is_directory=True)
    with pytest.raises(BundleCorruptError, match="leaves the bundle's folder"):
        bundle.read(micro_folder)


def test_read_bundle_behind_a_link_is_accepted(micro_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(micro_folder, target_is_directory=True)
    assert bundle.read(tmp_path / "link").folder == micro_folder


def test_read_changed_byte_raises_unless_not_verified(micro_folder: Path) -> None:
    path = micro_folder / "vae_decoder.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleCorruptError, match=r"vae_decoder\.onnx: SHA-256"):
        bundle.read(micro_folder)
    assert bundle.read(micro_folder, verify=False).name == "micro"


def test_find_name_takes_the_first_listed_folder(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("RDEIC_RT_BUNDLES", os.pathsep.join([str(empty), "", str(tmp_path)]))
    assert bundle_search.find("micro") == micro_folder
    assert micro_folder in bundle_search.installed()
    assert bundle_search.find(tmp_path / "micro") == micro_folder
    assert bundle_search.find(str(micro_folder)) == micro_folder


def test_find_relative_folder_is_a_path(micro_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(micro_folder.parent)
    assert bundle_search.find("micro") == micro_folder


def test_find_without_source_returns_the_embedded_one(embedded_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RDEIC_RT_BUNDLES", raising=False)
    assert bundle.load().name == "tiny-2"


def test_find_unknown_name_lists_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDEIC_RT_BUNDLES", str(tmp_path))
    with pytest.raises(BundleNotFoundError) as caught:
        bundle_search.find("nowhere")
    for place in (tmp_path, *bundle_search.search_folders()):
        assert str(place / "nowhere") in str(caught.value)
    assert "RDEIC_RT_BUNDLES" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "../tiny", "a/b"])
def test_find_path_is_never_searched_as_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleNotFoundError) as caught:
        bundle_search.find(name)
    assert str(bundle_search.search_folders()[0]) not in str(caught.value)


def file_of(model_id: str, rate: int = 0) -> bytes:
    return container.pack(Header(Size(64, 64), bytes.fromhex(model_id), rate, z_is_plain=True), b"z", b"yyyy")


@pytest.fixture
def installed(
    golden_bundle: Path, micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """The folders of the search variable, by name: bundles that are whole, and some that are not; no default one."""
    folder = tmp_path / "installed"
    folder.mkdir()
    for name in ("a-broken", "a-later-schema", "a-short"):
        shutil.copytree(micro_folder, folder / name)
    (folder / "a-broken" / "bundle.json").write_text("{")
    change(folder / "a-later-schema", lambda document: document.update(schema=3))
    (folder / "a-short" / "entropy.npz").write_bytes(b"PK")
    shutil.copytree(micro_folder, folder / "micro")
    shutil.copytree(micro_folder, folder / "second-micro")
    (folder / "levels").symlink_to(golden_bundle.parents[1] / "v1-levels" / "bundle")
    (folder / "rates").symlink_to(golden_bundle)
    monkeypatch.setattr(bundle_search, "search_folders", lambda: (tmp_path / "none", folder))
    return {path.name: path.resolve() for path in folder.iterdir()}


def test_find_bundle_returns_the_first_that_has_the_model_and_passes_over_broken_ones(
    installed: dict[str, Path], golden_bundle: Path
) -> None:
    assert find_bundle(file_of("00c0ffee")) == installed["micro"]
    golden = golden_bundle.parent
    for data in ((golden / f"coffee_r{rate}.rdc").read_bytes() for rate in (0, 1)):
        assert find_bundle(data) == find_bundle(memoryview(data)) == installed["rates"] == golden_bundle
    for rate in (0, 37, 128):  # levels between the bundle's own rates, too
        data = (golden.parent / "v1-levels" / f"coffee_r{rate}.rdc").read_bytes()
        assert find_bundle(data) == installed["levels"]


def test_find_bundle_takes_the_default_one_before_others_and_reads_no_other(
    installed: dict[str, Path], micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = shutil.copytree(micro_folder, installed["a-broken"].parent / bundle_search.DEFAULT_NAME)
    opened: list[Path] = []
    read = bundle.read

    def recorded(folder: Path, *, verify: bool) -> Bundle:
        opened.append(folder)
        return read(folder, verify=verify)

    monkeypatch.setattr(bundle, "read", recorded)
    assert find_bundle(file_of("00c0ffee")) == default
    assert opened == [default]


def test_find_bundle_of_no_installed_model_names_it_and_every_place(
    installed: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data, names in ((file_of("deadbeef"), "deadbeef at rate 0"), (file_of("00c0ffee", 1), "00c0ffee at rate 1")):
        with pytest.raises(BundleMismatchError, match=names) as caught:
            find_bundle(data)
        for name, folder in installed.items():
            assert f"{folder}{' (cannot be used)' if name.startswith('a-') else ''}" in str(caught.value)
        assert "RDEIC_RT_BUNDLES" in str(caught.value)
    monkeypatch.setattr(bundle_search, "search_folders", lambda: (tmp_path / "none",))
    monkeypatch.setattr(bundle, "search_folders", bundle_search.search_folders)
    with pytest.raises(BundleMismatchError, match="looked at .*/none"):
        find_bundle(file_of("00c0ffee"))


def test_find_bundle_compares_no_hashes(installed: dict[str, Path]) -> None:
    file = installed["micro"] / "entropy.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert find_bundle(file_of("00c0ffee")) == installed["micro"]


def test_find_bundle_raises_what_parsing_raises_but_for_files_cut_short(installed: dict[str, Path]) -> None:
    data = file_of("00c0ffee")
    assert find_bundle(data[:-6]) == installed["micro"]
    with pytest.raises(NotRdcError):
        find_bundle(b"GIF89a")
    with pytest.raises(TruncatedError):
        find_bundle(data[:8])
    with pytest.raises(LimitExceededError):
        find_bundle(data, Limits(max_pixels=100))


def test_rate_of_other_model_names_both(micro_folder: Path) -> None:
    found = bundle.read(micro_folder)
    assert found.rate_of(bytes.fromhex("00c0ffee"), 0) is found.rates[0]
    for model_id, rate in ((bytes.fromhex("deadbeef"), 0), (bytes.fromhex("00c0ffee"), 1)):
        with pytest.raises(BundleMismatchError) as caught:
            found.rate_of(model_id, rate)
        assert model_id.hex() in str(caught.value)
        assert "00c0ffee" in str(caught.value)


def test_rate_of_another_model_is_told_the_levels_where_rates_share_one(golden_bundle: Path) -> None:
    found = bundle.read(golden_bundle.parents[1] / "v1-levels" / "bundle")
    assert found.levels is not None
    last, own = found.levels.count - 1, found.rates[0].model_id
    for model_id, rate in ((b"none", 0), (own, last + 1)):
        with pytest.raises(
            BundleMismatchError, match=f"at rate {rate}; .* has {own.hex()} at levels 0 to {last}. Load"
        ):
            found.rate_of(model_id, rate)


def test_choose_rate_outside_the_bundle_lists_the_choices(micro_folder: Path) -> None:
    found = bundle.read(micro_folder)
    assert found.choose_rate(None) is found.choose_rate(0)
    for index in (1, -1, True, 0.0, "0"):
        with pytest.raises(ValueError, match=r"0 \(only\)"):
            found.choose_rate(index)


def test_choose_schedule_takes_the_same_sampler_only(micro_folder: Path) -> None:
    found = bundle.read(micro_folder)
    rate = found.rates[0]
    for asked, name in ((None, "ddpm-2"), (2, "ddpm-2"), (1, "ddpm-1")):
        assert found.choose_schedule(rate, asked) is found.schedules[name]
        assert found.n_steps(rate, asked) == len(found.schedules[name].timesteps)
    for n_steps in (3, 0, -2, True):
        with pytest.raises(ValueError, match="1 or 2 steps"):
            found.choose_schedule(rate, n_steps)
