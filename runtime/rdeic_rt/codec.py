"""MAIN PATH: `Codec.encode` and `Codec.decode`, one call per stage.

    encode   image ─ as_rgb ─ pad ─ analysis ─ entropy.encode_latents ─ container.pack ─▶ .rdc bytes
    decode   .rdc bytes ─ container.parse ─ entropy.decode_latents ─ y_hat
             y_hat, noise ─ reconstruct (synthesis ─ start ─ denoise ─ vae) ─ crop ─▶ image

Everything up to y_hat is exact on every machine; what follows, in `reconstruct`, agrees between backends to a
tolerance.
"""

from __future__ import annotations

import logging
import math
import operator
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from . import analysis, container, denoise, entropy, pipeline, pixels, reconstruct, tiling, timing
from . import bundle as bundles
from .backends import select
from .backends.base import Backend, Graph
from .bundle import Bundle, Rate
from .container import Header, Metadata
from .errors import BackendUnavailableError, BundleCorruptError, RdeicError
from .limits import DEFAULT_LIMITS, Limits, Size
from .reconstruct import Decoder
from .schedule import load_arrays, load_step_rows

# y has one position for every 16 padded pixels along a side and the hyper latent one for every 64 (docs/format.md).
_HYPER_FACTOR_PX = 64

_K = TypeVar("_K")
_V = TypeVar("_V")
_log = logging.getLogger("rdeic_rt.codec")


@dataclass(frozen=True)
class Latents:
    """A file after entropy decoding: all that is left to do is arithmetic.

    Attributes:
        size: of the source image.
        rate: the bundle's rate it was made with.
        y_hat: float32 [1, M, h/16, w/16], exact.
        crc: the file's checksum, the default seed.
        metadata: ICC profile and EXIF that travel with the image.
    """

    size: Size
    rate: Rate
    y_hat: NDArray[np.float32]
    crc: int
    metadata: Metadata


class Codec:
    """Encodes and decodes with one bundle on one backend; made by `load`.

    Graphs and tables are loaded when first needed, so encoding never loads the denoiser. One codec may be used from
    many threads at once.
    """

    def __init__(
        self,
        bundle: Bundle,
        selection: select.Selection,
        *,
        precision: str,
        threads: int | None,
        limits: Limits,
        tile_px: int = tiling.DEFAULT_TILE_PX,
    ) -> None:
        tiling.check_tile_px(tile_px)
        self._bundle = bundle
        self._selection = selection
        self._threads = threads
        self._limits = limits
        self._tile_px = tile_px
        # None of these refers to the codec, so that its memory is given back with the last reference to it.
        self._analyses = _LoadOnce(partial(_load_graph, bundle, selection.encoder))
        self._entropy_models = _LoadOnce(partial(_load_entropy_model, bundle, threads))
        graphs = _LoadOnce(partial(_load_graph, bundle, selection.backend))
        self._decoders = _LoadOnce(partial(_load_decoder, bundle, selection.backend, precision, graphs))

    def __repr__(self) -> str:
        return f"<rdeic_rt.Codec {self._bundle.name!r} on {self.backend}>"

    @property
    def bundle(self) -> Bundle:
        """The model: rates, graphs, provenance."""
        return self._bundle

    @property
    def backend(self) -> str:
        """Name of the backend that runs the graphs."""
        return self._selection.backend.name

    @property
    def skipped_backends(self) -> dict[str, str]:
        """Why the backends that ``auto`` prefers to this one could not be taken, by name."""
        return dict(self._selection.skipped)

    def facts(self) -> dict[str, str]:
        """Return versions, device and threads of the backend, by name."""
        return self._selection.backend.facts()

    def peak_device_bytes(self) -> int | None:
        """Return the most device memory that the backend has had in use; None where it works in the host's."""
        return self._selection.backend.peak_bytes()

    def synchronize(self) -> None:
        """Wait for all work that was queued on the backend's device; at once where there is none."""
        self._selection.backend.synchronize()

    @property
    def limits(self) -> Limits:
        """The ceilings on what is read."""
        return self._limits

    def encode(self, image: object, rate: int | None = None, *, metadata: Metadata | None = None) -> bytes:
        """Return the image as an .rdc file; the same image, bundle and options give the same bytes.

        Args:
            image: a PIL image, a uint8 array [H, W, 3] (RGB), [H, W, 4] or [H, W], or anything with ``__array__`` or
                ``__dlpack__``; see `pixels.as_rgb`.
            rate: index into ``bundle.rates``; None for ``bundle.default_rate``.
            metadata: ICC profile and EXIF to keep in the file; `pixels.read_image` returns a picture's own.

        Raises:
            ValueError: no such rate, or not an image.
            LimitExceededError: the image is larger than ``limits`` allow a file to say.
            BackendError: the graph could not be run.
        """
        chosen = self._bundle.choose_rate(rate)
        backend = self._selection.encoder
        with timing.stage("pixels"):
            rgb = pixels.as_rgb(image)
            size = Size(height=rgb.shape[0], width=rgb.shape[1])
            self._limits.check_size(size)
            padded = pixels.pad(rgb, self._bundle.size_multiple_px)
        model, graph = self._entropy_models[chosen.entropy], self._analyses[chosen.graphs["analysis"]]
        tiles = self._tiles(size, backend, graph)
        with timing.stage("analysis"):
            if tiles.is_single:
                y, vq_indices = analysis.run(backend, graph, padded)
            else:
                y, vq_indices = tiling.analyse(backend, graph, padded, tiles)
        with timing.stage("entropy"):
            coded = entropy.encode_latents(model, y, vq_indices)
        with timing.stage("container"):
            header = Header(size=size, model_id=chosen.model_id, rate=chosen.index, z_is_plain=coded.z_is_plain)
            return container.pack(header, coded.z, coded.y, metadata or Metadata())

    @overload
    def decode(
        self,
        data: bytes | bytearray | memoryview,
        *,
        sharpness: float = ...,
        seed: int | None = ...,
        steps: int | None = ...,
        out: Literal["host"] = ...,
    ) -> NDArray[np.uint8]: ...

    @overload
    def decode(
        self,
        data: bytes | bytearray | memoryview,
        *,
        sharpness: float = ...,
        seed: int | None = ...,
        steps: int | None = ...,
        out: Literal["device"],
    ) -> Any: ...

    def decode(
        self,
        data: bytes | bytearray | memoryview,
        *,
        sharpness: float = 1.0,
        seed: int | None = None,
        steps: int | None = None,
        out: Literal["host", "device"] = "host",
    ) -> Any:
        """Return the image in an .rdc file, uint8 [H, W, 3], RGB.

        Args:
            data: the whole file.
            sharpness: lambda_s >= 0: 1 is what the model was trained for, less is smoother, more is sharper; anything
                but 1 takes up to twice the time.
            seed: 0 <= seed < 2**64, of the noise; None for the file's checksum, so that decoding is reproducible.
            steps: denoising steps; None for the rate's own number.
            out: ``host`` for a C-contiguous numpy array. ``device`` for the image where it was decoded, as soon as it
                is queued: on a GPU a `buffers.DeviceBuffer`, with ``__dlpack__`` and ``__cuda_array_interface__``, its
                rows apart by the padded width; it is valid as long as it, or what a consumer made of it, is referred
                to, and consumers wait for the codec's stream by themselves. Elsewhere it is the numpy array.

        Raises:
            FileFormatError: not an .rdc file, damaged, or beyond ``limits``.
            BundleMismatchError: made with another model than this bundle's.
            BundleCorruptError: a file of the bundle is not what it should be.
            ValueError: sharpness, seed, steps or out is out of range; steps lists the choices.
            BackendError: a graph could not be run.
        """
        _check_options(sharpness, seed, out)
        latents = self.read_latents(data)
        return self.reconstruct(latents, sharpness=sharpness, seed=seed, steps=steps, out=out)

    def read_latents(self, data: bytes | bytearray | memoryview) -> Latents:
        """Return the exact half of `decode`: everything up to y_hat, on the CPU. Errors as there."""
        with timing.stage("container"):
            file = container.parse(data, self._limits)
            header = file.header
            rate = self._bundle.rate_of(header.model_id, header.rate)
        model = self._entropy_models[rate.entropy]
        with timing.stage("entropy"):
            z_size = _hyper_size(header.size, self._bundle.size_multiple_px)
            y_hat = entropy.decode_latents(model, file.z, header.z_is_plain, file.y, z_size)
        return Latents(header.size, rate, y_hat, file.crc, file.metadata)

    @overload
    def reconstruct(
        self,
        latents: Latents,
        *,
        sharpness: float = ...,
        seed: int | None = ...,
        steps: int | None = ...,
        out: Literal["host"] = ...,
    ) -> NDArray[np.uint8]: ...

    @overload
    def reconstruct(
        self,
        latents: Latents,
        *,
        sharpness: float = ...,
        seed: int | None = ...,
        steps: int | None = ...,
        out: Literal["host", "device"],
    ) -> Any: ...

    def reconstruct(
        self,
        latents: Latents,
        *,
        sharpness: float = 1.0,
        seed: int | None = None,
        steps: int | None = None,
        out: Literal["host", "device"] = "host",
    ) -> Any:
        """Return the other half of `decode`: the image for latents of `read_latents`. Arguments and errors as there."""
        _check_options(sharpness, seed, out)
        seed = latents.crc if seed is None else operator.index(seed)
        rate, backend = latents.rate, self._selection.backend
        schedule = self._bundle.choose_schedule(rate, steps)
        decoder = self._decoders[rate.index, schedule.name]
        with timing.stage("noise"):
            inputs = reconstruct.inputs(decoder, latents.y_hat, seed, sharpness)
        key = (rate.index, schedule.name)
        tiles = self._tiles(latents.size, backend, *decoder.graphs)
        if not tiles.is_single:
            padded = tiling.reconstruct(backend, decoder, inputs, tiles, key)
            with timing.stage("pixels"):
                tiled = pixels.crop(padded[0], latents.size)
                return backend.put(tiled) if out == "device" else tiled
        image = backend.execute(key, partial(reconstruct.run, backend, decoder), inputs)
        with timing.stage("pixels"):
            if out == "device":
                return backend.crop(image, latents.size)
            return pixels.crop(backend.get(image)[0], latents.size)

    def decode_many(
        self,
        paths: Iterable[str | Path],
        *,
        sharpness: float = 1.0,
        seed: int | None = None,
        steps: int | None = None,
        on_error: Callable[[str | Path, RdeicError | OSError], None] | None = None,
    ) -> Iterator[tuple[str | Path, NDArray[np.uint8]]]:
        """Yield (path, image) for each file in order; the next file is read while this one is denoised.

        Args:
            paths: .rdc files; taken one ahead of what was yielded.
            sharpness, seed, steps: as for `decode`.
            on_error: called with the path and what is wrong with the file, which is then left out; without it the error
                is raised and ends the iteration.

        Raises:
            ValueError: an option is out of range. OSError: a file cannot be read. RdeicError: as for `decode`.
        """
        _check_options(sharpness, seed, "host")
        return pipeline.decode_many(self, paths, sharpness=sharpness, seed=seed, steps=steps, on_error=on_error)

    def _tiles(self, size: Size, backend: Backend, *graphs: Graph) -> tiling.Grid:
        """Return the tiles that the graphs work on an image in: one, unless it is above a bound."""
        multiple = self._bundle.size_multiple_px
        return tiling.grid(pixels.padded_size(size, multiple), self._tile_px, backend.largest_size(graphs), multiple)


def load(
    bundle: str | Path | None = None,
    *,
    backend: str = select.AUTO,
    precision: str = select.AUTO,
    threads: int | None = None,
    verify: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    tile_px: int = tiling.DEFAULT_TILE_PX,
    max_vram: int | None = None,
    capture: bool = True,
    stream: object | None = None,
) -> Codec:
    """Return a codec, ready to use.

    Args:
        bundle: a bundle's folder, or its name (see `bundle.find`); None for the embedded ``tiny``.
        backend: ``auto`` for the fastest that can run here, or one of ``tensorrt``, ``cuda``, ``openvino``, ``cpu``.
        precision: ``fp32``, ``fp16`` or ``int8``; ``auto`` for what the bundle has.
        threads: CPU threads of one graph run; None for one per physical core.
        verify: check the SHA-256 of every file of the bundle.
        limits: ceilings on what is read from files.
        tile_px: images of more than tile_px squared pixels are worked on in overlapping tiles, each at most that large,
            so that memory stays bounded; at least 256. See docs/tiling.md.
        max_vram: bytes of GPU memory to stay within, by smaller tiles where it must be; None for all there is.
        capture: record the GPU work of an image size that comes again as a CUDA graph, and replay it.
        stream: CUDA stream that all GPU work is queued on: a handle, or torch's or CuPy's stream object, see
            `backends.base.Options`; None for one of the codec's own. It must outlive the codec and its images.

    Raises:
        BundleError: the bundle is not found, damaged, or of a schema this version does not read.
        BackendUnavailableError: the backend cannot run here, or not in this precision.
        ValueError: no such backend or precision, threads < 1, tile_px < 256 or max_vram < 1.
        TypeError: stream is no stream.
    """
    found = bundles.load(bundle, verify=verify)
    selection = select.open_backend(
        backend,
        threads=threads,
        bundle=found,
        precision=precision,
        max_vram=max_vram,
        capture=capture,
        stream=stream,
    )
    _check_precision(selection.backend, found, precision)
    facts = ", ".join(f"{name} {value}" for name, value in selection.backend.facts().items())
    _log.info(
        "bundle %s in %s on %s (%s), Python %s, %s",
        found.name,
        found.folder,
        selection.backend.name,
        facts,
        platform.python_version(),
        platform.platform(),
    )
    return Codec(found, selection, precision=precision, threads=threads, limits=limits, tile_px=tile_px)


def _load_graph(bundle: Bundle, backend: Backend, graph_id: str) -> Graph:
    with timing.stage("load"):
        return backend.load(bundle.graphs[graph_id])


def _load_entropy_model(bundle: Bundle, threads: int | None, path: Path) -> entropy.EntropyModel:
    with timing.stage("load"):
        model = entropy.EntropyModel.load(load_arrays(path), threads)
    wanted = {rate.model_id for rate in bundle.rates if rate.entropy == path}
    if wanted != {model.model_id}:
        raise BundleCorruptError(
            f"{path}: this is model {model.model_id.hex()}, bundle.json says "
            f"{' and '.join(m.hex() for m in wanted)}. Get the bundle again, or export it again."
        )
    return model


def _load_decoder(
    bundle: Bundle, backend: Backend, precision: str, graphs: _LoadOnce[str, Graph], key: tuple[int, str]
) -> Decoder:
    """Return what decodes a rate, by its index and the name of a schedule."""
    rate, schedule = bundle.rates[key[0]], bundle.schedules[key[1]]

    def graph(role: str) -> Graph:
        return graphs[select.choose_form(backend, bundle, rate.graphs[role], precision).id]

    control, unet_step = graph("control"), graph("unet_step")
    widths = [int(step_graph.spec.input("step").shape[-1]) for step_graph in (control, unet_step)]
    rows = load_step_rows(rate.step_tables[schedule.name], schedule.n_steps, *widths)
    return Decoder(
        synthesis=graph("synthesis"),
        denoiser=denoise.prepare(backend, control, unet_step, schedule, rows),
        vae_decoder=graph("vae_decoder"),
        start_weights=backend.put(schedule.start_weights()),
    )


def _check_precision(backend: Backend, bundle: Bundle, precision: str) -> None:
    """Raise unless some rate has all its graphs in this precision for the backend; errors as for `choose_form`."""
    failures = []
    for rate in bundle.rates:
        try:
            for role in bundles.DECODING_ROLES:
                select.choose_form(backend, bundle, rate.graphs[role], precision)
        except BackendUnavailableError as error:
            failures.append(error)
    if len(failures) == len(bundle.rates):
        raise failures[0]


class _LoadOnce(Generic[_K, _V]):
    """Values made on first use, each once, whichever thread comes first; a failure is not kept."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        self._make = make
        self._values: dict[_K, _V] = {}
        self._locks: dict[_K, Lock] = {}
        self._lock = Lock()

    def __getitem__(self, key: _K) -> _V:
        if key not in self._values:
            with self._lock:
                lock = self._locks.setdefault(key, Lock())
            with lock:
                if key not in self._values:
                    self._values[key] = self._make(key)
        return self._values[key]


def _hyper_size(size: Size, multiple_px: int) -> tuple[int, int]:
    """Return height and width of the hyper latent of an image, after padding its sides to a multiple."""
    padded = pixels.padded_size(size, multiple_px)
    return padded.height // _HYPER_FACTOR_PX, padded.width // _HYPER_FACTOR_PX


def _check_options(sharpness: Any, seed: Any, out: Any) -> None:
    if out not in ("host", "device"):
        raise ValueError(f"out is {out!r}; it must be 'host' or 'device'")
    if not math.isfinite(sharpness) or sharpness < 0:
        raise ValueError(f"sharpness is {sharpness}; it must be a finite number, 0 or more")
    if seed is not None and not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it must be from 0 to 2**64 - 1")
