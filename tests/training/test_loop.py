"""The shared loop: an interrupted run continues exactly, and its outputs are whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed, multiprocessing, nn

from training import loop

HOW: Any = {"seed": 3, "device": "cpu", "precision": loop.FP32}


class Interrupted(Exception):
    pass


def train(out: Path, steps: int = 6, stop_at: int | None = None) -> None:
    torch.manual_seed(7)
    layer = nn.Linear(8, 8)

    def batch(step: int) -> Tensor:
        return torch.randn(16, 8, generator=torch.Generator().manual_seed(step)) * (step + 1)

    def loss(x: Tensor) -> tuple[Tensor, loop.Parts]:
        if stop_at is not None and torch.equal(x, batch(stop_at)):
            raise Interrupted
        x = x + torch.randn(16, 8)
        return (layer(x) - x).square().mean(), {"value": x.mean()}

    schedule = loop.TrainingSchedule(
        steps=steps, batch=1, lr=1e-2, warmup=2, checkpoint_minutes=0, log_every=1, sample_every=3
    )
    samples = (np.zeros((4, 4, 3), np.uint8), {"psnr": 1.0})
    loop.run(nn.ModuleDict({"m": layer}), batch, loss, lambda: samples, schedule, out, **HOW)


def test_run_interrupted_and_resumed_equals_unbroken(tmp_path: Path) -> None:
    train(tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", stop_at=4)
    assert not (tmp_path / "broken" / "weights.safetensors").exists()
    train(tmp_path / "broken")
    expected = load_file(tmp_path / "unbroken" / "weights.safetensors")
    actual = load_file(tmp_path / "broken" / "weights.safetensors")
    assert expected.keys() == actual.keys() == {"m.weight", "m.bias"}
    for key in expected:
        assert torch.equal(expected[key], actual[key]), key


def test_run_writes_metrics_and_samples(tmp_path: Path) -> None:
    train(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(6))
    assert {"loss", "norm", "value"} <= lines[0].keys()
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["000003.png", "000006.png"]
    validation = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [(line["step"], line["psnr"]) for line in validation] == [(3, 1.0), (6, 1.0)]


def test_faster_precision_times_both_and_takes_the_faster_one(caplog: pytest.LogCaptureFixture) -> None:
    weight = torch.ones(1, requires_grad=True)

    def slow_in(precision: str) -> Tensor:
        if torch.is_autocast_enabled("cpu") == (precision == loop.BF16):
            time.sleep(0.05)
        return weight.sum()

    with caplog.at_level("INFO", logger="training"):
        assert loop.faster_precision(lambda: slow_in(loop.BF16), "cpu") == loop.FP32
        assert loop.faster_precision(lambda: slow_in(loop.FP32), "cpu") == loop.BF16
    assert [record.getMessage().endswith(p) for record, p in zip(caplog.records, ("fp32", "bf16"), strict=True)]


def test_learning_rate_warms_up_stays_and_falls() -> None:
    schedule = loop.TrainingSchedule(steps=100, batch=1, lr=1.0, warmup=10, decay=0.2)
    factors = [loop.lr_factor(step, schedule.share(step, 0.0), schedule) for step in (0, 9, 50, 80, 90, 99)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.05])


def test_share_follows_the_clock_where_minutes_are_given() -> None:
    schedule = loop.TrainingSchedule(steps=100, batch=1, lr=1.0, minutes=2.0)
    assert [schedule.share(step, seconds) for step, seconds in ((99, 0.0), (0, 60.0), (500, 120.0))] == [0.0, 0.5, 1.0]


def run_on_ones(schedule: loop.TrainingSchedule, out: Path, after_step: Callable[[int, float], None]) -> None:
    """Train a layer to make little of ones."""
    layer = nn.Linear(2, 2)
    loop.run(
        nn.ModuleDict({"m": layer}),
        lambda step: torch.ones(1, 2),
        lambda x: (layer(x).square().mean(), {}),
        lambda: (np.zeros((4, 4, 3), np.uint8), {}),
        schedule,
        out,
        **HOW,
        after_step=after_step,
    )


def test_run_for_some_minutes_ends_by_the_clock_and_says_what_share_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    shares: list[float] = []
    schedule = loop.TrainingSchedule(steps=10**6, batch=1, lr=1e-2, minutes=1.0, checkpoint_minutes=10)
    run_on_ones(schedule, tmp_path, lambda step, share: shares.append(share))
    assert 3 < len(shares) < 30
    assert shares == sorted(shares) and 0 <= shares[0] < 0.2 and 0.7 < shares[-1] < 1
    assert (tmp_path / "weights.safetensors").exists()


def train_share(rank: int, folder: str) -> None:
    """Train on the whole batch, or as one of two processes on every second row of it."""
    if rank >= 0:
        store = distributed.FileStore(f"{folder}/store", 2)  # type: ignore[attr-defined]
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(7)
    layer = nn.Linear(8, 8)
    rows = torch.randn(16, 8)[max(rank, 0) :: loop.process_count()]
    schedule = loop.TrainingSchedule(steps=5, batch=1, lr=1e-2, warmup=2, sample_every=3)

    def loss(x: Tensor) -> tuple[Tensor, loop.Parts]:
        return (layer(x) - x).square().mean(), {}

    samples = (np.zeros((4, 4, 3), np.uint8), {"psnr": 1.0})
    out = Path(folder) / ("alone" if rank < 0 else f"rank_{rank}")
    loop.run(nn.ModuleDict({"m": layer}), lambda step: rows, loss, lambda: samples, schedule, out, **HOW)


def test_run_in_two_processes_learns_what_one_learns_from_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(train_share, args=(str(tmp_path),), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
    train_share(-1, str(tmp_path))
    assert not (tmp_path / "rank_1" / "weights.safetensors").exists()
    expected, actual = (load_file(tmp_path / name / "weights.safetensors") for name in ("alone", "rank_0"))
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-6)


def train_by_the_clock(rank: int, folder: str) -> None:
    """Train for a second and a half, by a clock that is twice as fast in the second of two processes."""
    store = distributed.FileStore(f"{folder}/store", 2)  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    clock = time.monotonic
    time.monotonic = lambda: (rank + 1) * clock()
    steps: list[int] = []
    schedule = loop.TrainingSchedule(steps=1, batch=1, lr=1e-2, minutes=0.025)
    run_on_ones(schedule, Path(folder) / f"rank_{rank}", lambda step, share: steps.append(step))
    (Path(folder) / f"steps_{rank}").write_text(str(len(steps)))


def test_run_for_some_minutes_ends_after_the_same_step_in_all_processes(tmp_path: Path) -> None:
    multiprocessing.spawn(train_by_the_clock, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined,no-untyped-call]
    first, second = (int((tmp_path / f"steps_{rank}").read_text()) for rank in (0, 1))
    assert first == second > 1


def test_load_weights_unknown_key_is_refused(tmp_path: Path) -> None:
    loop.save_weights(tmp_path / "w.safetensors", {"other": torch.zeros(2)})
    with pytest.raises(KeyError, match="other"):
        loop.load_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
