"""What the build compares, and that it fails: a check that passes everything would be none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from rdeic_export import fidelity, forms, verify
from rdeic_rt import bundle as bundles
from rdeic_rt.bundle import GraphSpec
from rdeic_rt.errors import ExportError


class Damaging(forms.Derive):
    """Derives forms, and then changes the weights of one graph's."""

    def onnx(self, graph: GraphSpec, form: str, folder: Path) -> tuple[Path, dict[str, object]]:
        path, facts = super().onnx(graph, form, folder)
        if graph.id == "vae_decoder":
            model = onnx.load(path)
            largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
            damaged = numpy_helper.to_array(largest) * np.float16(0.5)
            largest.CopyFrom(numpy_helper.from_array(damaged, largest.name))
            onnx.save(model, path)
        return path, facts


def test_derived_forms_of_fp16_pass_on_the_golden_bundle(golden_bundle: Path, photo_paths: list[Path]) -> None:
    before = sorted(golden_bundle.parent.iterdir())
    reports = verify.derived_forms(golden_bundle, ("fp16",), (2,), forms.Derive(), photo_paths[:1])
    assert reports["fp16"].photos == 1
    assert 45 < reports["fp16"].least_db < 100
    assert sorted(golden_bundle.parent.iterdir()) == before, "it left something behind"


def test_derived_forms_with_a_damaged_graph_fail_the_build(golden_bundle: Path, photo_paths: list[Path]) -> None:
    with pytest.raises(ExportError, match="vae_decoder") as caught:
        verify.derived_forms(golden_bundle, ("fp16",), (2,), Damaging(), photo_paths[:1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("levels", "passes"), [(1, True), (255, False)])
def test_compare_sees_a_difference_in_the_last_image_alone(levels: int, passes: bool) -> None:
    files = [fidelity.Encoded(name, 0, b"") for name in ("first.png", "second.png", "last.png")]
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


def test_check_half_of_a_graph_that_is_off_names_graph_and_output(golden_bundle: Path, tmp_path: Path) -> None:
    forms.write_variants(golden_bundle, tmp_path / "out", ("fp16",), (2,), Damaging(), quiet=True)
    with pytest.raises(ExportError, match="graph 'vae_decoder' in fp16: output image"):
        verify._check_half(bundles.read(tmp_path / "out", verify=False))
