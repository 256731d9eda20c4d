"""Bundles that only decode: pushed, found, decoded with, and rejected where an image is to be encoded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import rdeic_rt
from rdeic_rt import bundle, bundle_search, bundle_store, user_cache
from rdeic_rt.bundle_search import SEARCH_VARIABLE
from rdeic_rt.codec import Codec
from rdeic_rt.errors import BundleDecodesOnlyError
from tests.conformance import damaged_bundles
from tests.conftest import REPOSITORY

GOLDEN = {name: REPOSITORY / "tests" / "golden" / name for name in ("v1", "v1-levels")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own bundles."""
    monkeypatch.delenv(SEARCH_VARIABLE, raising=False)
    monkeypatch.setattr(user_cache, "folder", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "bundles"


def half_of(source: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    bundle_store.push(bundle.load(source), str(target), decode_only=True)
    return target


def load(folder: Path) -> Codec:
    return rdeic_rt.load(folder, backend="cpu", threads=1)


@pytest.mark.parametrize("name", ["half", "half.tar", "half.tar.gz", "half.zip"])
def test_push_leaves_out_what_only_encodes_and_nothing_else(golden_bundle: Path, tmp_path: Path, name: str) -> None:
    source = half_of(golden_bundle, tmp_path / name)
    whole, half = bundle.load(golden_bundle), bundle_store.pull(str(source)).bundle

    assert (whole.encodes, half.encodes) == (True, False)
    assert whole.files.keys() - half.files.keys() == {"analysis_r0.onnx", "analysis_r1.onnx"}
    assert {path.name for path in half.folder.iterdir()} - {"README.md"} == {"bundle.json", *half.files}
    assert whole.graphs.keys() - half.graphs.keys() == {"analysis_r0", "analysis_r1"}
    assert {name: file.sha256 for name, file in half.files.items()}.items() <= {
        name: file.sha256 for name, file in whole.files.items()
    }.items()
    documents = [json.loads((each.folder / "bundle.json").read_bytes()) for each in (whole, half)]
    for document in documents:
        for rate in document["rates"]:
            rate["graphs"].pop("analysis", None)
        del document["files"], document["graphs"]
    assert documents[0] == documents[1]


def test_push_of_equal_bundles_gives_equal_archives(golden_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(golden_bundle, tmp_path / "other" / golden_bundle.name)
    archives = [half_of(source, tmp_path / f"{n}.tar") for n, source in enumerate((golden_bundle, copy))]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    again = half_of(bundle_store.pull(str(archives[0])).bundle.folder, tmp_path / "again")
    assert bundle_store.digest(again) == bundle_store.digest(bundle_search.find("micro"))


def outside(graph: str, location: str) -> Callable[[Path, dict[str, Any]], None]:
    """Return a change that moves an added weight of a graph to another file."""

    def change(folder: Path, document: dict[str, Any]) -> None:
        path = folder / document["graphs"][graph]["forms"]["fp32"]
        model = onnx.load(path)
        weight = numpy_helper.from_array(np.zeros(4, np.float32), f"weight of {graph}")
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "16")):
            weight.external_data.add(key=key, value=value)
        model.graph.initializer.append(weight)
        model.graph.node.append(helper.make_node("Identity", [weight.name], [f"{graph} unused"]))
        damaged_bundles.replace(path, model.SerializeToString())
        damaged_bundles.replace(folder / location, bytes(16))
        document["files"][location] = {}

    return change


def test_weights_in_other_files_stay_if_a_graph_that_decodes_has_them(golden_bundle: Path, tmp_path: Path) -> None:
    def change(folder: Path, document: dict[str, Any]) -> None:
        for graph, location in (
            ("analysis_r0", "encode.data"),
            ("analysis_r1", "both.data"),
            ("vae_decoder", "both.data"),
        ):
            outside(graph, location)(folder, document)

    source = damaged_bundles.copy(golden_bundle, tmp_path / "whole", change)
    half = bundle.load(half_of(source, tmp_path / "half"))
    assert bundle.load(source).files.keys() - half.files.keys() == {
        "analysis_r0.onnx",
        "analysis_r1.onnx",
        "encode.data",
    }


@pytest.mark.parametrize("which", GOLDEN)
def test_half_decodes_to_the_same_images_and_previews(tmp_path: Path, which: str) -> None:
    folder = GOLDEN[which] / "bundle"
    whole, half = load(folder), load(half_of(folder, tmp_path / "half"))
    data = (GOLDEN[which] / "coffee_r0.rdc").read_bytes()

    np.testing.assert_array_equal(half.decode(data), whole.decode(data))
    np.testing.assert_array_equal(half.preview(data), whole.preview(data))
    half.prepare(rdeic_rt.Size(64, 64))


def test_half_of_diffo_decodes_what_the_whole_has_encoded(
    diffo_codec: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    half = load(half_of(diffo_codec.bundle.folder, tmp_path / "half"))
    data = diffo_codec.encode(photo[:128, :128])
    np.testing.assert_array_equal(half.decode(data), load(diffo_codec.bundle.folder).decode(data))


def test_file_finds_the_half_of_its_bundle(
    golden_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SEARCH_VARIABLE, str(tmp_path / "installed"))
    half = half_of(golden_bundle, tmp_path / "installed" / "old")
    assert rdeic_rt.find_bundle((GOLDEN["v1"] / "coffee_r1.rdc").read_bytes()) == half


def test_encode_with_a_half_names_bundles_that_encode(
    golden_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SEARCH_VARIABLE, str(tmp_path / "installed"))
    half = load(half_of(golden_bundle, tmp_path / "installed" / "old"))
    image = np.zeros((64, 64, 3), np.uint8)

    with pytest.raises(BundleDecodesOnlyError) as caught:
        half.encode(image)
    assert str(caught.value) == (
        f"bundle 'micro' in {tmp_path / 'installed' / 'old'} only decodes. "
        "Use another one to encode: tiny-2, diffo-tiny"
    )
    with pytest.raises(BundleDecodesOnlyError):
        next(half.encode_many([image]))

    monkeypatch.setattr(bundle_search, "_embedded_folders", lambda: (tmp_path / "none", tmp_path / "none"))
    with pytest.raises(
        BundleDecodesOnlyError, match=r"only decodes\. Get one that encodes: rdeic-rt bundle pull SOURCE$"
    ):
        half.encode(image)
