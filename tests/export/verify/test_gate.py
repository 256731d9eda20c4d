"""What the build compares, and that it fails: a check that passes everything would be none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from rdeic_export.forms import selection
from rdeic_export.forms.derive import Derivation, Derived
from rdeic_export.verify import fidelity, gate
from rdeic_rt import bundle as bundles
from rdeic_rt.bundle_file import OwnFile
from rdeic_rt.errors import ExportError
from rdeic_rt.manifest import Bundle


@pytest.fixture(scope="module")
def micro(golden_bundle: Path) -> Bundle:
    return bundles.read(golden_bundle)


def in_half(bundle: Bundle, folder: Path) -> Derived:
    return Derivation(bundle, selection.decoding_graphs(bundle, (2,)), None, folder).derive("fp16")


def damaged(derived: Derived) -> Derived:
    """Return the same with the weights of one graph changed."""
    graph = derived.graphs["vae_decoder"]
    model = onnx.load(graph.spec.path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float16(0.5), largest.name))
    onnx.save(model, graph.spec.path)
    spec = dataclasses.replace(graph.spec, file=OwnFile(graph.spec.path))
    return Derived(derived.form, {**derived.graphs, "vae_decoder": dataclasses.replace(graph, spec=spec)})


def test_derived_in_fp16_passes_and_the_reference_is_decoded_once(
    micro: Bundle, tmp_path: Path, photo_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        original = getattr(fidelity, name)

        def call(*args: object) -> object:
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(fidelity, name, call)

    counted("decode")
    counted("encode")
    reference, candidate = gate.Reference(micro, (2,), photo_paths[:1]), in_half(micro, tmp_path)
    report = gate.derived(reference, candidate)
    assert report.photos == 1
    assert 45 < report.least_db < 100
    assert gate.derived(reference, candidate) == report
    assert (calls.count("encode"), calls.count("decode")) == (1, 3)  # float32, and the form twice


def test_derived_with_a_damaged_graph_fails_the_build(micro: Bundle, tmp_path: Path, photo_paths: list[Path]) -> None:
    reference = gate.Reference(micro, (2,), photo_paths[:1])
    with pytest.raises(ExportError, match="graph 'vae_decoder' in fp16: output image") as caught:
        gate.derived(reference, damaged(in_half(micro, tmp_path)))
    assert "\n" not in str(caught.value)


def test_derived_whose_images_are_off_fails_the_build(
    micro: Bundle, tmp_path: Path, photo_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_check_half", lambda single, half: None)
    reference = gate.Reference(micro, (2,), photo_paths[:1])
    with pytest.raises(ExportError, match="fp16: images differ from float32 by more than the limit of 45 dB"):
        gate.derived(reference, damaged(in_half(micro, tmp_path)))


@pytest.mark.parametrize(("levels", "passes"), [(1, True), (255, False)])
def test_compare_sees_a_difference_in_the_last_image_alone(levels: int, passes: bool) -> None:
    files = [fidelity.EncodedPhoto(name, 0, b"") for name in ("first.png", "second.png", "last.png")]
    images: list[NDArray[np.uint8]] = [np.zeros((16, 16, 3), np.uint8) for _ in files]
    changed = [image.copy() for image in images]
    changed[-1][-1, -1, -2:] = levels
    if passes:
        assert fidelity.compare("fp16", files, images, changed, 45.0).rates[0].worst == "last.png"
    else:
        with pytest.raises(
            ExportError, match=r"the limit of 45 dB PSNR \(rate 0: 1 of 3, mean .*, last\.png 25\.84 dB"
        ):
            fidelity.compare("fp16", files, images, changed, 45.0)
