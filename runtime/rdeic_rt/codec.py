"""MAIN PATH: `Codec.encode` and `Codec.decode`, one call per stage.

    encode   image ─ as_rgb ─ pad ─ analysis ─ entropy.encode_latents ─ container.pack ─▶ .rdc bytes
    decode   .rdc bytes ─ container.parse ─ entropy.decode_latents ─ y_hat
             y_hat, noise ─ reconstruct (synthesis ─ start ─ denoise ─ vae) ─ crop ─▶ image
    preview  .rdc bytes ─ as for decode ─ y_hat ─ synthesis ─ vae ─ crop ─▶ image

Everything up to y_hat is exact on every machine; what follows, in `reconstruct`, agrees between backends to a
tolerance. (More than 500 lines: what a caller can ask for, with its types and documentation, is written here in one
place.)
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
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from . import analysis, container, entropy, loading, pipeline, pixels, reconstruct, target_size, tiling, timing
from . import bundle as bundles
from .backends import select
from .backends.base import Backend, Buffer, Graph
from .bundle import Bundle, Rate
from .container import Header, Metadata
from .errors import RdeicError
from .limits import DEFAULT_LIMITS, Limits, Size

# y has one position for every 16 padded pixels along a side and the hyper latent one for every 64 (docs/format.md).
_HYPER_FACTOR_PX = 64

_log = logging.getLogger("rdeic_rt.codec")

_Analysed = tuple[NDArray[np.float32], NDArray[np.int32]]
"""y, float32 [M, h/16, w/16], and VQ indices, int32 [h/64, w/64]."""


@dataclass(frozen=True)
class Cut:
    """What is missing of a file that was cut short.

    Attributes:
        missing_bytes: of the file, 1 or more.
        complete_slices: how many slices of y_hat are as in the whole file, from the first on; all of them where only
            metadata or checksum are missing.
        n_slices: how many there are.
    """

    missing_bytes: int
    complete_slices: int
    n_slices: int


@dataclass(frozen=True)
class Latents:
    """A file after entropy decoding: all that is left to do is arithmetic.

    Attributes:
        size: of the source image.
        rate: the bundle's rate it was made with.
        y_hat: float32 [1, M, h/16, w/16], exact.
        crc: the file's checksum, or that of what is there of a file cut short; the default seed.
        metadata: ICC profile and EXIF that travel with the image.
        cut: what is missing; None for a whole file.
    """

    size: Size
    rate: Rate
    y_hat: NDArray[np.float32]
    crc: int
    metadata: Metadata
    cut: Cut | None = None


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
        self._analyses = loading.LoadOnce(partial(loading.graph, bundle, selection.encoder))
        self._entropy_models = loading.LoadOnce(partial(loading.entropy_model, bundle, threads))
        self._level_rows = loading.LoadOnce(partial(loading.level_rows, bundle))
        graphs = loading.LoadOnce(partial(loading.graph, bundle, selection.backend))
        self._decoders = loading.LoadOnce(partial(loading.decoder, bundle, selection.backend, precision, graphs))
        self._previewers = loading.LoadOnce(partial(loading.previewer, bundle, selection.backend, precision, graphs))

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

    def encode(
        self,
        image: object,
        rate: float | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        metadata: Metadata | None = None,
    ) -> bytes:
        """Return the image as an .rdc file; the same image, bundle and options give the same bytes.

        Args:
            image: a PIL image, a uint8 array [H, W, 3] (RGB), [H, W, 4] or [H, W], or anything with ``__array__`` or
                ``__dlpack__``; see `pixels.as_rgb`.
            rate: index into ``bundle.rates``, or where the bundle has levels a number between two; None for
                ``bundle.default_rate``.
            target_bytes: instead of a rate, the most bytes that the whole file may have: of the rates, or levels, with
                which it has no more, the one of most bits per pixel is taken.
            target_bpp: the same in bits per pixel of the image.
            metadata: ICC profile and EXIF to keep in the file; `pixels.read_image` returns a picture's own.

        Raises:
            ValueError: no such rate, not an image, more than one of rate and targets, or a target that is not over 0.
            ImageError: with no rate is the file as small as the target.
            LimitExceededError: the image is larger than ``limits`` allow a file to say.
            BackendError: the graph could not be run.
        """
        _check_targets(rate, target_bytes, target_bpp)
        chosen = self._bundle.choose_rate(rate)
        with timing.stage("pixels"):
            rgb = pixels.as_rgb(image)
            size = Size(height=rgb.shape[0], width=rgb.shape[1])
            self._limits.check_size(size)
            padded = pixels.pad(rgb, self._bundle.size_multiple_px)
        analysed: dict[tuple[str, int | None], _Analysed] = {}  # rates may share it

        def encode_at(candidate: Rate) -> bytes:
            key = candidate.graphs["analysis"], None if self._bundle.levels is None else candidate.number
            if key not in analysed:
                analysed[key] = self._analyse(candidate, padded, size)
            return self._code(candidate, size, *analysed[key], metadata or Metadata())

        if target_bytes is None and target_bpp is None:
            return encode_at(chosen)
        return target_size.best(self._bundle, encode_at, _most_bytes(size, target_bytes, target_bpp), size)

    def _analyse(self, rate: Rate, padded: NDArray[np.uint8], size: Size) -> _Analysed:
        """Return y and the VQ indices of a padded image of this size, as `analysis.run` does."""
        backend, graph = self._selection.encoder, self._analyses[rate.graphs["analysis"]]
        level = self._level(rate, "analysis")
        tiles = self._tiles(size, backend, graph)
        with timing.stage("analysis"):
            if tiles.is_single:
                return analysis.run(backend, graph, padded, level)
            return tiling.analyse(backend, graph, padded, tiles, level)

    def _level(self, rate: Rate, role: str) -> NDArray[np.float32] | None:
        """Return the row that a role's graph reads at a rate, float32 [1, D]; None where the bundle has no levels."""
        return None if self._bundle.levels is None else self._level_rows[role][rate.number][None]

    def _code(
        self, rate: Rate, size: Size, y: NDArray[np.float32], vq_indices: NDArray[np.int32], metadata: Metadata
    ) -> bytes:
        """Return the file that holds an image's latents at a rate."""
        model = self._entropy_models[rate.entropy]
        with timing.stage("entropy"):
            coded = entropy.encode_latents(model, y, vq_indices, bit_worth=rate.bit_worth)
        with timing.stage("container"):
            header = Header(size=size, model_id=rate.model_id, rate=rate.number, z_is_plain=coded.z_is_plain)
            return container.pack(header, coded.z, coded.y, metadata)

    @overload
    def decode(
        self,
        data: bytes | bytearray | memoryview,
        *,
        sharpness: float = ...,
        seed: int | None = ...,
        steps: int | None = ...,
        out: Literal["host"] = ...,
        allow_partial: bool = ...,
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
        allow_partial: bool = ...,
    ) -> Any: ...

    def decode(
        self,
        data: bytes | bytearray | memoryview,
        *,
        sharpness: float = 1.0,
        seed: int | None = None,
        steps: int | None = None,
        out: Literal["host", "device"] = "host",
        allow_partial: bool = False,
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
            allow_partial: make the best of a file that is cut short, as `read_latents` tells.

        Raises:
            FileFormatError: not an .rdc file, damaged, or beyond ``limits``.
            BundleMismatchError: made with another model than this bundle's.
            BundleCorruptError: a file of the bundle is not what it should be.
            ValueError: sharpness, seed, steps or out is out of range; steps lists the choices.
            BackendError: a graph could not be run.
        """
        _check_options(sharpness, seed, out)
        latents = self.read_latents(data, allow_partial=allow_partial)
        return self.reconstruct(latents, sharpness=sharpness, seed=seed, steps=steps, out=out)

    def read_latents(self, data: bytes | bytearray | memoryview, *, allow_partial: bool = False) -> Latents:
        """Return the exact half of `decode`: everything up to y_hat, on the CPU. Errors as there.

        Args:
            data: the file.
            allow_partial: of a file that is cut short after its z section, take what is certain and means for the rest
                (docs/format.md, "Truncated files"), and say so: in ``Latents.cut``, and in a warning in the log. There
                is no checksum then that could find a byte that has changed. A file of full length is treated as
                without it.
        """
        with timing.stage("container"):
            file = container.parse(data, self._limits, allow_partial=allow_partial)
            header = file.header
            rate = self._bundle.rate_of(header.model_id, header.rate)
        model = self._entropy_models[rate.entropy]
        with timing.stage("entropy"):
            z_size = _hyper_size(header.size, self._bundle.size_multiple_px)
            complete_slices = n_slices = len(model.slices)
            if file.missing_y_bytes:
                partial_y = entropy.decode_cut_latents(
                    model, file.z, header.z_is_plain, file.y, file.missing_y_bytes, z_size
                )
                y_hat, complete_slices = partial_y.y_hat, partial_y.complete_slices
            else:
                y_hat = entropy.decode_latents(model, file.z, header.z_is_plain, file.y, z_size)
        if not file.missing_bytes:
            return Latents(header.size, rate, y_hat, file.crc, file.metadata)
        _log.warning(
            "the file is cut short by %d bytes and could not be checked; %d of %d slices are complete",
            file.missing_bytes,
            complete_slices,
            n_slices,
        )
        cut = Cut(file.missing_bytes, complete_slices, n_slices)
        return Latents(header.size, rate, y_hat, file.crc, file.metadata, cut)

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
            inputs = reconstruct.inputs(decoder, latents.y_hat, self._level(rate, "synthesis"), seed, sharpness)
        key = (rate.index, schedule.name)
        tiles = self._tiles(latents.size, backend, *decoder.graphs)
        if not tiles.is_single:
            return _crop_tiled(backend, tiling.reconstruct(backend, decoder, inputs, tiles, key), latents.size, out)
        image = backend.execute(key, partial(reconstruct.run, backend, decoder), inputs)
        return _crop(backend, image, latents.size, out)

    @overload
    def preview(
        self,
        data: bytes | bytearray | memoryview | Latents,
        *,
        out: Literal["host"] = ...,
        allow_partial: bool = ...,
    ) -> NDArray[np.uint8]: ...

    @overload
    def preview(
        self,
        data: bytes | bytearray | memoryview | Latents,
        *,
        out: Literal["host", "device"],
        allow_partial: bool = ...,
    ) -> Any: ...

    def preview(
        self,
        data: bytes | bytearray | memoryview | Latents,
        *,
        out: Literal["host", "device"] = "host",
        allow_partial: bool = False,
    ) -> Any:
        """Return a quick look at the image in an .rdc file, uint8 [H, W, 3], RGB: what is in the file, not denoised.

        It is made of z_c, from which denoising starts, and loads neither the denoiser nor the control net.

        Args:
            data: the whole file, or what `read_latents` made of it.
            out, allow_partial: as for `decode`.

        Raises:
            As `decode`.
        """
        _check_out(out)
        latents = data if isinstance(data, Latents) else self.read_latents(data, allow_partial=allow_partial)
        rate, backend = latents.rate, self._selection.backend
        previewer = self._previewers[rate.index]
        key = ("preview", rate.index)
        tiles = self._tiles(latents.size, backend, *previewer.graphs)
        inputs = reconstruct.preview_inputs(latents.y_hat, self._level(rate, "synthesis"))
        if not tiles.is_single:
            return _crop_tiled(backend, tiling.preview(backend, previewer, inputs, tiles, key), latents.size, out)
        image = backend.execute(key, partial(reconstruct.preview, previewer), inputs)
        return _crop(backend, image, latents.size, out)

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
    loading.check_precision(selection.backend, found, precision)
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


def _hyper_size(size: Size, multiple_px: int) -> tuple[int, int]:
    """Return height and width of the hyper latent of an image, after padding its sides to a multiple."""
    padded = pixels.padded_size(size, multiple_px)
    return padded.height // _HYPER_FACTOR_PX, padded.width // _HYPER_FACTOR_PX


def _check_targets(rate: float | None, target_bytes: int | None, target_bpp: float | None) -> None:
    if sum(choice is not None for choice in (rate, target_bytes, target_bpp)) > 1:
        raise ValueError("give only one of rate, target_bytes and target_bpp")
    for name, target in (("target_bytes", target_bytes), ("target_bpp", target_bpp)):
        if target is not None and not (math.isfinite(target) and target > 0):
            raise ValueError(f"{name} is {target}; it must be a finite number over 0")


def _most_bytes(size: Size, target_bytes: int | None, target_bpp: float | None) -> float:
    """Return the length that a file of an image of this size may have; infinite without a target."""
    if target_bpp is not None:
        return target_bpp * size.height * size.width / 8
    return math.inf if target_bytes is None else target_bytes


def _crop(backend: Backend, padded: Buffer, size: Size, out: str) -> Any:
    """Return the image in the top left corner of a padded one, uint8 [1, h, w, 3], where it is wanted."""
    with timing.stage("pixels"):
        return backend.crop(padded, size) if out == "device" else pixels.crop(backend.get(padded)[0], size)


def _crop_tiled(backend: Backend, padded: NDArray[np.uint8], size: Size, out: str) -> Any:
    """Return the same of a padded image that tiles were put together to, which is on the host."""
    with timing.stage("pixels"):
        image = pixels.crop(padded[0], size)
        return backend.put(image) if out == "device" else image


def _check_out(out: Any) -> None:
    if out not in ("host", "device"):
        raise ValueError(f"out is {out!r}; it must be 'host' or 'device'")


def _check_options(sharpness: Any, seed: Any, out: Any) -> None:
    _check_out(out)
    if not math.isfinite(sharpness) or sharpness < 0:
        raise ValueError(f"sharpness is {sharpness}; it must be a finite number, 0 or more")
    if seed is not None and not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it must be from 0 to 2**64 - 1")
