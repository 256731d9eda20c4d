"""Jobs on a Ray cluster of this machine."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import rdeic_rt
from rdeic_rt import Size
from rdeic_rt.cli.main import main
from rdeic_rt.fleet import Encoding, Model, Pool

from . import troubled

pytestmark = pytest.mark.fleet


@pytest.fixture(scope="module")
def expected(folder: Path, embedded_bundle: Path) -> dict[str, bytes]:
    """What a plain loop makes of the images, by path."""
    codec = rdeic_rt.load(embedded_bundle, backend="cpu", threads=1)
    paths = sorted(folder.rglob("*.png"))
    files = dict(codec.encode_many(paths))
    return {path.relative_to(folder).as_posix(): files[path] for path in paths}


@pytest.fixture
def options(embedded_bundle: Path) -> Encoding:
    return Encoding(Model(str(embedded_bundle), backend="cpu"))


def report(output: Path) -> dict[str, dict[str, Any]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(output / "report.parquet").to_pylist()
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def written(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.rdc")}


def calls(output: Path) -> Counter[str]:
    return Counter((output.parent / troubled.CALLS).read_text(encoding="utf-8").split())


def test_files_are_those_of_a_plain_loop_and_bad_ones_are_rows(
    ray: Any, folder: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    output = tmp_path / "out"
    words = ["batch", "encode", str(folder), str(tmp_path / "bad.png"), "-o", str(output), "--workers", "2"]

    assert main([*words, "--backend", "cpu"]) == 4

    assert written(output) == {str(Path(path).with_suffix(".rdc")): data for path, data in expected.items()}
    rows = report(output)
    assert rows.keys() == {"bad.png", *expected}
    assert {row["error_type"] for row in rows.values()} == {"ImageError", None}
    for path, data in expected.items():
        header = rdeic_rt.read_header(data).header
        assert Size(rows[path]["height"], rows[path]["width"]) == header.size
        assert (output / rows[path]["out"]).read_bytes() == data and rows[path]["n_bytes"] == len(data)
    said = capsys.readouterr().err
    assert "bad.png: not an image" in said and "13 files, 1 failed" in said
    assert ray.is_initialized()  # it was there before

    assert main([*words, "--backend", "cpu"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--backend", "cpu", "--resume", "--rate", "0"]) == 2
    assert "differs in rate (rate was None and is 0)" in capsys.readouterr().err
    assert main([*words[:-1], "3", "--backend", "cpu", "--resume"]) == 2
    assert "3 worker(s) of 1 CPU each take 3 of 4 CPUs" in capsys.readouterr().err


def test_a_job_that_was_cut_off_is_resumed_and_damaged_outputs_are_made_again(
    ray: Any,
    folder: Path,
    expected: dict[str, bytes],
    options: Encoding,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rdeic_rt.fleet import job

    output, checkpoints = tmp_path / "out", tmp_path / "out" / ".rdeic-batch" / "checkpoints"
    (tmp_path / troubled.SLOW).touch()
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", troubled.__name__, str(folder), str(output), str(options.model.bundle), address]
    with open(tmp_path / "said", "wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as driver:
        while len([path for path in checkpoints.glob("*.parquet") if "pending" not in path.name]) < 3:
            assert driver.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    (tmp_path / troubled.SLOW).unlink()
    committed = [path for path in checkpoints.glob("*.parquet") if "pending" not in path.name]
    done = {path for checkpoint in committed for path in _paths(checkpoint)}
    assert 3 <= len(done) < len(expected)
    first, second = sorted(done)[:2]
    _out(output, first).write_bytes(expected[first] + b"more")
    _out(output, second).write_bytes(b"")

    monkeypatch.setattr(job, "Encoder", troubled.TroubledEncoder)
    summary = job.run(job.Job(options, [str(folder)], output, pool=Pool(2), resume=True))

    assert (summary.n_files, summary.error_types) == (len(expected), Counter())
    assert {_out(output, path).read_bytes() for path in expected} == set(expected.values())
    assert len(written(output)) == len(report(output)) == len(expected)
    times = calls(output)
    assert times.keys() == expected.keys()
    assert {path for path in done if times[path] != 1} == {first, second}


def test_a_file_that_kills_its_worker_is_a_row_and_the_others_are_done(
    ray: Any,
    folder: Path,
    expected: dict[str, bytes],
    options: Encoding,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rdeic_rt.fleet import job

    (tmp_path / "in").mkdir()
    for name in ("00", "01", "02", "kill", "03"):
        (tmp_path / "in" / f"{name}.png").write_bytes((folder / f"{name.replace('kill', '04')}.png").read_bytes())
    monkeypatch.setattr(job, "Encoder", troubled.TroubledEncoder)
    output = tmp_path / "out"

    summary = job.run(job.Job(options, [str(tmp_path / "in")], output, pool=Pool(1)))

    assert summary.error_types == Counter({"WorkerDiedError": 1})
    assert calls(output)["kill.png"] == 2
    rows = report(output)
    assert "worker died 2 times" in rows["kill.png"]["error"] and rows["kill.png"]["out"] is None
    assert written(output) == {f"{n:02d}.rdc": expected[f"{n:02d}.png"] for n in range(4)}


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_bytes_go_into_rows_or_samples_and_damaged_ones_are_made_again(
    ray: Any, folder: Path, expected: dict[str, bytes], options: Encoding, tmp_path: Path, form: str
) -> None:
    from rdeic_rt.fleet import job

    output = tmp_path / "out"
    (tmp_path / "bad.png").write_bytes(b"no image")
    this = job.Job(options, [str(folder), str(tmp_path / "bad.png")], output, form=form, pool=Pool(2))
    assert job.run(this).error_types == Counter({"ImageError": 1})
    assert _data(output, form) == expected
    for part in sorted((output / "data").iterdir())[:2]:
        part.write_bytes(part.read_bytes()[:300])
    (tmp_path / "bad.png").write_bytes((folder / "00.png").read_bytes())

    summary = job.run(job.Job(this.options, this.inputs, output, form=form, pool=Pool(2), resume=True))

    assert summary.n_files == len(expected) + 1 and not summary.errors
    assert _data(output, form) == {**expected, "bad.png": expected["00.png"]}
    assert all((output / row["out"]).is_file() for row in report(output).values())


def test_the_first_error_can_end_the_job(ray: Any, options: Encoding, tmp_path: Path) -> None:
    from rdeic_rt.fleet import job

    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(rdeic_rt.ImageError, match="bad.png: not an image"):
        job.run(job.Job(options, [str(tmp_path)], tmp_path / "out", pool=Pool(1), stop_at_error=True))


def test_a_step_of_somebody_elses_pipeline(
    ray: Any, folder: Path, expected: dict[str, bytes], options: Encoding
) -> None:
    from rdeic_rt import fleet

    images = ray.data.read_binary_files([str(folder / f"{n:02d}.png") for n in range(3)], include_paths=True)
    rows = fleet.encode(images, options, pool=Pool(1)).take_all()
    assert {Path(row["path"]).name: row["data"] for row in rows} == {
        f"{n:02d}.png": expected[f"{n:02d}.png"] for n in range(3)
    }


def _paths(checkpoint: Path) -> list[str]:
    import pyarrow.parquet as pq

    paths: list[str] = pq.read_table(checkpoint).column("path").to_pylist()
    return paths


def _out(output: Path, path: str) -> Path:
    return (output / path).with_suffix(".rdc")


def _data(output: Path, form: str) -> dict[str, bytes]:
    """Return the bytes in the output by path."""
    import pyarrow.parquet as pq

    if form == "parquet":
        rows = pq.read_table(output / "data").to_pylist()
        return {row["path"]: row["data"] for row in rows if row["error_type"] is None}
    found = {}
    for shard in (output / "data").glob("*.tar"):
        with tarfile.open(fileobj=io.BytesIO(shard.read_bytes())) as members:
            samples = {member.name: members.extractfile(member).read() for member in members}  # type: ignore[union-attr]
        for name, data in samples.items():
            if name.endswith(".rdc"):
                found[json.loads(samples[f"{os.path.splitext(name)[0]}.json"])["path"]] = data
    return found
