"""What is written of an evaluation: text, JSON, curves, images."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdeic_eval import Evaluation, plot, report, sheet
from rdeic_eval.metrics import FAULTS, METRICS
from rdeic_eval.results import OURS


def test_json_has_every_file_of_every_photo_and_survives_a_strict_parser(evaluation: Evaluation) -> None:
    found = json.loads(json.dumps(report.as_json(evaluation), allow_nan=False))

    assert found["bundle"] == evaluation.bundle
    assert found["judges"] == {
        "distance_st_lpips": {"network": "ST-LPIPS", "family": "AlexNet", "of_loss_family": False},
        "distance_resnet": {"network": "ResNet-50 of Open-NSFW", "family": "ResNet", "of_loss_family": True},
        "distance_lite1": {"network": "efficientnet-lite1", "family": "EfficientNet", "of_loss_family": True},
        "distance_lite2": {"network": "efficientnet-lite2", "family": "EfficientNet", "of_loss_family": True},
    }
    assert [rate["index"] for rate in found["rates"]] == [rate.index for rate in evaluation.rates]
    assert all(len(rate["model_id"]) == 8 for rate in found["rates"])
    assert set(found["codecs"]) == {"JPEG", "WebP"}
    assert [photo["name"] for photo in found["photos"]] == [photo.name for photo in evaluation.photos]
    for row, photo in zip(found["photos"], evaluation.photos, strict=True):
        assert [file["bytes"] for file in row["files"]] == [m.size_bytes for m in photo.measurements]
        assert len(row["sweep"]) == len(photo.sweep) > 0
        assert all({metric.key for metric in METRICS + FAULTS} < set(file) for file in row["files"])
        assert row["own"] == photo.own
    assert found["photos"][1]["own"]["lattice_4px_columns"] is None
    assert found["photos"][1]["files"][0]["ms_ssim"] is None
    first = found["summary"][0]
    assert first["codec"] == OURS
    assert first["means"]["psnr_db"]["low"] <= first["means"]["psnr_db"]["value"] <= first["means"]["psnr_db"]["high"]
    assert first["means"]["mse_16px"]["low"] <= first["means"]["mse_16px"]["high"]
    assert {"metric", "codec", "percent", "covered", "reason"} == set(found["bd_rate"][0])
    assert found["failures"] == [{"name": failure.name, "error": str(failure.error)} for failure in evaluation.failures]


def test_text_has_a_row_for_each_summary_and_says_what_is_missing(evaluation: Evaluation) -> None:
    text = report.as_text(replace(evaluation, left_out={"AVIF": "not built in"}))
    rows = re.findall(r"^\| (?:\d, L = \d+)? \| ([\w ,-]+) \| \d\.\d{4} \|", text, re.MULTILINE)

    # Once in the table of metrics, once in that of faults.
    assert rows == 2 * [summary.codec for summary in evaluation.summaries]
    assert text.startswith("2 photos, bundle tiny-2, backend cpu")
    assert "AVIF is left out: not built in" in text
    assert re.search(r"^missing for 1 of 2 photos: MS-SSIM", text, re.MULTILINE)
    assert "lower distances are better: ST-LPIPS\n" in text
    of_loss = r"^\* ResNet-50 of Open-NSFW and efficientnet-lite1 and efficientnet-lite2 belong to the families"
    assert re.search(of_loss, text, re.MULTILINE)
    header = " | ".join(["rate", "codec", "bpp", *(fault.label for fault in FAULTS)])
    assert f"| {header} |" in text
    assert len(
        re.findall(r"^rate \d: the full decode is better than the preview on \d+ % in PSNR", text, re.MULTILINE)
    ) == len(evaluation.rates)
    for metric in METRICS:
        assert re.search(rf"^\| {re.escape(metric.label)} \| ", text, re.MULTILINE)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_writes_every_format_with_every_codec(evaluation: Evaluation, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"curves.{suffix}"
    plot.write(target, evaluation)

    if suffix == "png":
        with Image.open(target) as drawn:
            assert len(np.unique(np.asarray(drawn.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    elif suffix == "svg":
        text = target.read_text()
        assert all(f"<!-- {name} -->" in text for name in ("JPEG", "WebP", OURS))
    assert target.stat().st_size > 1000


def test_plot_without_curves_or_of_another_format_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curves"):
        plot.write(tmp_path / "curves.png", replace(evaluation, curve=()))
    with pytest.raises(ValueError, match="must be .png, .svg or .pdf"):
        plot.write(tmp_path / "curves.gif", evaluation)
    assert not list(tmp_path.iterdir())


def test_sheet_shows_the_photo_ours_and_the_others_pixel_by_pixel(evaluation: Evaluation) -> None:
    drawn = sheet.draw(evaluation)
    photo = evaluation.photos[0]
    assert photo.image is not None
    height, width = photo.image.shape[:2]
    column = (drawn.shape[1] - 8) // 4 - 8
    row = (drawn.shape[0] - 8) // len(evaluation.rates)

    for number, rate in enumerate(evaluation.rates):
        top = 8 + 3 * 18 + number * row
        shown = [photo, photo.find(OURS, rate.index)]
        shown += [photo.find(f"{name}, downscaled", rate.index) for name in ("JPEG", "WebP")]
        for index, one in enumerate(shown):
            left = 8 + index * (column + 8)
            assert one is not None
            assert one.image is not None
            np.testing.assert_array_equal(drawn[top : top + height, left : left + width], one.image)
            # There is text over it, and a gap before the next.
            assert drawn[top - 3 * 18 : top, left : left + column].min() < 100
            assert (drawn[:, left - 8 : left] == 255).all()


def test_sheet_without_kept_images_is_refused(evaluation: Evaluation) -> None:
    with pytest.raises(ValueError, match="none were kept"):
        sheet.draw(replace(evaluation, photos=evaluation.photos[1:]))
