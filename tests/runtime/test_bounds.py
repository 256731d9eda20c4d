"""Memory, time, progress and cancelling of a decode: what a server bounds, and how soon it is answered."""

from __future__ import annotations

import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import container, limits, memory_estimate, noise, stopping, tiles
from rdeic_rt.codec import Codec
from rdeic_rt.container import Header
from rdeic_rt.decode_options import DecodeOptions
from rdeic_rt.entropy import coder, range_coder
from rdeic_rt.entropy.coder import Distribution, SymbolDecoder
from rdeic_rt.errors import BitstreamError, CancelledError, LimitExceededError, RdeicError
from rdeic_rt.limits import DEFAULT_LIMITS, Limits, Size
from rdeic_rt.progress import Progress
from rdeic_rt.tensor_spec import TensorSpec

from .entropy import random_model

# Generous: a fifth of a second is meant, on a machine with nothing else to do.
SOON_S = 5.0


def empty_file(codec: Codec, size: Size) -> bytes:
    """A file of no more than a header: all symbols are the first, or the mean."""
    rate = codec.bundle.choose_rate(None)
    header = Header(size=size, model_id=rate.model_id, rate=rate.number, z_is_plain=False)
    return container.pack(header, b"", b"")


class Asked:
    """A token that counts how often it is asked, and is set from the n-th time on."""

    def __init__(self, after: int | None = None) -> None:
        self.count, self.after = 0, after

    def is_set(self) -> bool:
        self.count += 1
        return self.after is not None and self.count > self.after


def loaded(**given: object) -> Codec:
    return rdeic_rt.load(backend="cpu", threads=1, limits=Limits(**given))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cpu() -> Codec:
    return rdeic_rt.load(backend="cpu", threads=1)


def test_file_of_21_bytes_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = loaded(max_memory_bytes=500 << 20)
    data = empty_file(codec, Size(8192, 8192))
    monkeypatch.setattr(codec._loaded, "entropy_models", {})  # a look at one would fail

    assert len(data) == 21
    for read in (codec.read_latents, codec.decode, codec.preview, lambda data: list(codec.decode_many([data]))):
        with pytest.raises(LimitExceededError, match="8192x8192 pixels take .* are allowed .limit max_memory_bytes"):
            read(data)
    with pytest.raises(LimitExceededError, match="max_memory_bytes"):
        codec.prepare(Size(8192, 8192))


def test_encode_that_would_hold_too_much_is_refused(photo: NDArray[np.uint8]) -> None:
    wanted = 2 * 3 * 320 * 512  # the image and the padded one alone
    with pytest.raises(LimitExceededError, match="451x300 pixels take .* are allowed .limit max_memory_bytes"):
        loaded(max_memory_bytes=wanted).encode(photo)
    for target in ({"target_bytes": 400}, {"target_bpp": 0.02}):
        with pytest.raises(LimitExceededError, match="max_memory_bytes"):
            loaded(max_memory_bytes=wanted).encode(photo, **target)
    assert loaded(max_memory_bytes=8 * wanted).encode(photo)


def test_default_limits_bound_memory_and_allow_the_largest_image(cpu: Codec) -> None:
    assert DEFAULT_LIMITS.max_memory_bytes is not None
    rate = cpu.bundle.choose_rate(None)
    stages, key = cpu._stages_of(rate, DecodeOptions())
    size = Size(8192, 8192)
    cpu._check_memory(cpu._latent_shapes(rate, size), size, stages[key].stages)


def test_memory_of_a_preview_is_less_where_the_hint_is_not_handed_on(cpu: Codec) -> None:
    data = empty_file(cpu, Size(64, 64))
    wanted = memory_estimate.decode_bytes(
        [TensorSpec("image", "uint8", ("batch", "64*hz", "64*wz", 3))],
        {"y_hat": (1, 256, 4, 4)},
        {"batch": 1, "hz": 1, "wz": 1},
        Size(64, 64),
    )

    assert wanted == max(22 * 256 * 16, 4 * 256 * 16 + 3 * 3 * 64 * 64)  # as tests/cpp/memory_estimate_test.cc counts
    loaded(max_memory_bytes=None).decode(data)
    with pytest.raises(LimitExceededError, match="max_memory_bytes"):
        loaded(max_memory_bytes=1000).decode(data)


def test_encoding_is_bounded_by_what_it_really_holds(cpu: Codec, photo: NDArray[np.uint8]) -> None:
    """The estimate is that of its largest arrays, and lies over the peak, but for the work on a tile."""
    image = np.ascontiguousarray(np.tile(photo, (5, 4, 1))[:1280, :1536])
    cpu.encode(image[:64, :64])
    with pytest.raises(LimitExceededError, match="1536x1280 pixels take .* bytes") as refused:
        loaded(max_memory_bytes=1 << 20).encode(image)
    wanted = int(str(refused.value).split(" take ")[1].split()[0])
    loaded(max_memory_bytes=wanted).encode(image)
    tracemalloc.start()
    try:
        cpu.encode(image)
        held = tracemalloc.get_traced_memory()[1] + image.nbytes
    finally:
        tracemalloc.stop()
    tile_bytes = 16 << 20
    assert held - tile_bytes < wanted < 2 * held


def test_decode_that_takes_too_long_is_ended() -> None:
    codec = loaded(max_seconds=1e-9)
    data = empty_file(codec, Size(64, 64))

    for read in (codec.read_latents, codec.decode, codec.preview, lambda data: list(codec.decode_many([data]))):
        with pytest.raises(LimitExceededError, match="not done after 1e-09 s .limit max_seconds"):
            read(data)
    with pytest.raises(LimitExceededError, match="max_seconds"):
        codec.encode(np.zeros((64, 64, 3), np.uint8))


def test_decode_with_time_enough_gives_the_same_image(cpu: Codec, photo: NDArray[np.uint8]) -> None:
    data = cpu.encode(photo)
    bounded = loaded(max_seconds=3600.0, max_memory_bytes=1 << 30)

    assert np.array_equal(bounded.decode(data, DecodeOptions(cancel=threading.Event())), cpu.decode(data))


def test_every_stage_asks_many_times_whether_to_go_on(cpu: Codec) -> None:
    data, seen = empty_file(cpu, Size(512, 512)), dict[str, int]()
    token, stage = Asked(), "begin"

    def progress(name: str, done: int, total: int) -> None:
        nonlocal stage
        seen[stage], stage, token.count = token.count, name, 0

    cpu.decode(data, DecodeOptions(on_progress=progress, cancel=token))

    # Each layer of each slice in several bands, for both passes.
    assert seen["entropy"] > 100


@pytest.mark.parametrize("after", [0, 1, 5, 50, 100])
def test_entropy_decoding_is_cancelled_wherever_it_is(cpu: Codec, after: int) -> None:
    token = Asked(after)

    with pytest.raises(CancelledError, match="cancelled"):
        cpu.decode(empty_file(cpu, Size(512, 512)), DecodeOptions(cancel=token))

    assert after < token.count <= after + 2  # noise is drawn meanwhile, which asks once


def cancelled_while(codec: Codec, stage: str, size: Size) -> float:
    """How long it takes from when the event is set, a little after a stage has begun, until the decode has ended."""
    event, begun = threading.Event(), threading.Event()
    set_at = 0.0

    def cancel() -> None:
        nonlocal set_at
        begun.wait(60)
        time.sleep(0.02)
        set_at = time.monotonic()
        event.set()

    thread = threading.Thread(target=cancel)
    thread.start()

    def progress(name: str, done: int, total: int) -> None:
        if name == stage:
            begun.set()

    with pytest.raises(CancelledError):
        codec.decode(empty_file(codec, size), DecodeOptions(on_progress=progress, cancel=event))
    ended = time.monotonic()
    thread.join()
    return ended - set_at


@pytest.mark.parametrize("stage", ["entropy", "denoise", "vae"])
def test_cancelling_is_answered_soon_in_every_stage(cpu: Codec, stage: str) -> None:
    assert cancelled_while(cpu, stage, Size(1024, 1024)) < SOON_S


def test_cancelling_is_answered_soon_between_tiles() -> None:
    codec = rdeic_rt.load(backend="cpu", threads=1, tile_px=256)

    assert cancelled_while(codec, "denoise", Size(1024, 1024)) < SOON_S


def test_codec_works_after_a_decode_that_was_cancelled_in_a_graph(cpu: Codec, photo: NDArray[np.uint8]) -> None:
    data = cpu.encode(photo)
    before = cpu.decode(data)
    cancelled_while(cpu, "vae", Size(512, 512))

    assert np.array_equal(cpu.decode(data), before)


def test_openvino_leaves_a_graph_that_is_cancelled() -> None:
    pytest.importorskip("openvino")
    codec = rdeic_rt.load(backend="openvino", threads=1)

    assert cancelled_while(codec, "vae", Size(1024, 1024)) < SOON_S


def test_time_runs_out_in_a_graph(cpu: Codec) -> None:
    whole = cpu._limits
    cpu.decode(empty_file(cpu, Size(512, 512)))
    began = time.monotonic()
    cpu.decode(empty_file(cpu, Size(512, 512)))
    cpu._limits = replace(whole, max_seconds=(time.monotonic() - began) / 2)
    try:
        with pytest.raises(LimitExceededError, match="max_seconds"):
            cpu.decode(empty_file(cpu, Size(2048, 2048)))
    finally:
        cpu._limits = whole


def test_decode_many_is_cancelled_while_a_worker_reads_ahead(cpu: Codec) -> None:
    with pytest.raises(CancelledError):
        list(cpu.decode_many([empty_file(cpu, Size(512, 512))] * 3, DecodeOptions(cancel=Asked(50))))


def test_time_is_counted_anew_for_what_decode_many_has_read_ahead(cpu: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("rdeic_rt.progress.time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress(max_seconds=10.0)
    assert progress.why_stop is not None
    now = 11.0
    assert isinstance(progress.why_stop(), LimitExceededError)
    progress.restart_clock()
    assert progress.why_stop() is None

    restarted: list[Progress] = []
    monkeypatch.setattr(Progress, "restart_clock", lambda self: restarted.append(self))
    assert len(list(cpu.decode_many([empty_file(cpu, Size(64, 64))] * 3))) == 3
    assert len(restarted) == 3


def raised_by(after: int) -> tuple[list[int], Callable[[], RdeicError | None]]:
    asked = [0]

    def why() -> RdeicError | None:
        asked[0] += 1
        return CancelledError("enough") if asked[0] > after else None

    return asked, why


def test_noise_asks_and_is_the_same_in_blocks() -> None:
    asked, why = raised_by(2)
    with stopping.asked_by(why), pytest.raises(CancelledError):
        noise.gaussian((1, 4, 1024, 1024), 1, 0)
    assert asked[0] == 3
    # The numbers of one draw do not depend on how many there are.
    many = noise.gaussian((3 * noise._BLOCK_PAIRS + 5,), 7, 1)
    few = noise.gaussian((noise._BLOCK_PAIRS + 1,), 7, 1)
    assert np.array_equal(many[: few.size - 1], few[:-1])


def test_long_groups_of_symbols_ask_in_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coder, "implementation", lambda: range_coder)
    table = Distribution(np.array([1 << 23, 1 << 23], np.int32))
    asked, why = raised_by(3)

    with stopping.asked_by(why), pytest.raises(CancelledError):
        SymbolDecoder(b"\x12\x34", "section").get(table, 1 << 20)
    assert asked[0] == 4


@pytest.mark.parametrize(("axes", "parts"), [((1, 7, "64*hz", "64*wz"), 7), (("batch", "64*hz", "64*wz", 3), 5)])
def test_a_row_of_tiles_is_put_away_in_parts(axes: tuple[int | str, ...], parts: int) -> None:
    """By channels where each is a plane, else by columns of tiles: what is touched first costs time by the page."""
    tiling = tiles.tiles_of(Size(height=64, width=4096), 256, None, 64)
    columns = list(tiling.tiles())
    spec = TensorSpec("image", "float32", axes)
    canvas = tiles.Canvas(tiling, spec)
    shape = spec.resolve({"batch": 1, "hz": 1, "wz": tiling.columns.tile // 64})
    asked, why = raised_by(1000)
    for tile in columns:
        assert asked[0] == 0
        with stopping.asked_by(why):
            canvas.add(tile, np.zeros(shape, np.float32))
    assert asked[0] == parts


def test_encoding_asks_in_each_row_of_y() -> None:
    model = random_model.model()
    asked, why = raised_by(10)
    y = np.zeros((1, model.y_channels, 16 * model.hyper.scale, model.hyper.scale), np.float32)
    with stopping.asked_by(why), pytest.raises(CancelledError):
        model.encode({"y": y, "vq_indices": np.zeros((1, 16, 1), np.int32)})
    assert asked[0] == 11


def test_two_that_ask_are_both_heard() -> None:
    outer, inner = raised_by(0)[1], raised_by(1000)[1]

    for first, second in ((outer, inner), (inner, outer), (None, outer), (outer, None)):
        with stopping.asked_by(first), stopping.asked_by(second), pytest.raises(CancelledError):
            stopping.go_on()
    stopping.go_on()
    assert stopping.current() is None


def test_what_fails_while_it_is_watched_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"), stopping.asked_by(lambda: None), stopping.watch(lambda: None):
        raise ValueError("mine")


def metadata_file(records: int) -> bytes:
    """A file with so many empty records of tag 0."""
    section = zlib.compress(bytes(2 * records), 9)
    header = Header(size=Size(1, 1), model_id=b"abcd", rate=0, z_is_plain=False)
    bare = container.pack(header, b"", b"")[:-4]
    body = bare[:5] + b"\x01" + bare[6:] + container._varint(len(section)) + section
    return body + container._crc32c(body).to_bytes(4, "little")


def test_records_of_metadata_are_bounded() -> None:
    container.parse(metadata_file(limits.MAX_METADATA_RECORDS))

    for records in (limits.MAX_METADATA_RECORDS + 1, 2**21):
        began = time.process_time()
        with pytest.raises(LimitExceededError, match="more than 1024"):
            container.parse(metadata_file(records))
        assert time.process_time() - began < 1.0  # it was five seconds


def test_record_that_is_cut_off_is_what_it_was() -> None:
    header = Header(size=Size(1, 1), model_id=b"abcd", rate=0, z_is_plain=False)
    bare = container.pack(header, b"", b"")[:-4]
    section = zlib.compress(b"\x00\x05ab")
    body = bare[:5] + b"\x01" + bare[6:] + container._varint(len(section)) + section

    with pytest.raises(BitstreamError, match="record"):
        container.parse(body + container._crc32c(body).to_bytes(4, "little"))


def test_golden_bundle_says_how_much_a_decode_takes() -> None:
    codec = rdeic_rt.load(Path(__file__).resolve().parents[1] / "golden" / "v1" / "bundle", backend="cpu")
    rate = codec.bundle.choose_rate(0)
    sizes = []
    for preview in (False, True):
        stages, key = codec._stages_of(rate, DecodeOptions(preview=preview))
        outputs = [output for stage in stages[key].stages for output in stage.outputs]
        shapes = codec._latent_shapes(rate, Size(512, 512))
        units = {"batch": 1, "hz": 8, "wz": 8}
        sizes.append(memory_estimate.decode_bytes(outputs, shapes, units, Size(512, 512)))
    assert sizes[0] >= sizes[1] > 3 * 512 * 512
