"""MAIN PATH: `Codec.encode` and `Codec.decode`, one call per stage.

    encode   image ─ as_rgb ─ pad ─ family.encode ─ entropy model ─ container.pack ─▶ .rdc bytes
    decode   .rdc bytes ─ container.parse ─ entropy model ─ latents ─ family.decode ─ crop ─▶ image
    preview  .rdc bytes ─ as for decode ─ latents ─ family.preview ─ crop ─▶ image

Everything up to the latents is exact on every machine; everything after agrees between backends to a tolerance. The
stages of a family are in `families`; `placement` runs them. The module is long because it holds every method of a codec
and the code that they share.
"""

from __future__ import annotations

import logging
import math
import operator
import platform
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import bundle as bundles
from . import (
    closed_loop,
    container,
    families,
    lazy,
    loading,
    memory_estimate,
    pipeline,
    pixels,
    processes,
    stopping,
    target_size,
    tiles,
    timing,
)
from . import log as log
from .backends import select
from .backends.base import Backend, Recordings
from .container import Header, Metadata, RdcFile
from .decode_options import DecodeOptions
from .errors import BundleCorruptError
from .families.base import Stages, level_input
from .latents import Cut, Decoded, Latents
from .lazy import Cache
from .limits import DEFAULT_LIMITS, Limits, Size
from .manifest import AUTO, Bundle, Rate
from .pipeline import ImageSource, OnError, Source
from .placement import Placement, Stage, StageList, Tiled, Value, Whole
from .progress import Progress

_EARLY_NOISE_PX = 2**20  # of an image; that of larger ones takes memory that symbols may still need

_log = logging.getLogger("rdeic_rt.codec")

_Draw = Callable[[], dict[str, NDArray[Any]]]

_Coded = dict[str, NDArray[Any]]
"""The tensors that are coded, by name, each with the batch as its first dimension."""


@dataclass(frozen=True)
class _Ready:
    """An entropy-decoded file with everything that the backend needs to reconstruct the image.

    Attributes:
        latents: of the file.
        padded: size of the padded image.
        key: identifies the work, apart from shapes.
        stages: loaded.
        run: the list of stages, as called by `Placement.run`.
        given: its inputs.
        progress: of the decode.
    """

    latents: Latents
    padded: Size
    key: Hashable
    stages: Stages
    run: StageList
    given: Mapping[str, NDArray[Any]]
    progress: Progress


class Codec:
    """Encodes and decodes with one bundle on one backend; made by `load`.

    Graphs and tables are loaded when first needed, so encoding never loads the denoiser. One codec may be used from
    many threads at once, in the process that has loaded it: in a child of ``fork()`` it raises BackendError.
    """

    def __init__(
        self,
        bundle: Bundle,
        selection: select.Selection,
        *,
        precision: str,
        threads: int | None,
        limits: Limits,
        tile_px: int = tiles.DEFAULT_TILE_PX,
    ) -> None:
        tiles.check_tile_px(tile_px)
        self._bundle = bundle
        self._family = families.family(bundle.family)
        self._selection = selection
        self._limits = limits
        self._tile_px = tile_px
        self._of_process = loading.Loaded(bundle, self._family, selection, precision, threads)
        self._owner = processes.own(self)

    @property
    def _loaded(self) -> loading.Loaded:
        """What is loaded so far; BackendError in a forked child of the codec's process."""
        processes.check(self._owner)
        return self._of_process

    def __reduce__(self) -> NoReturn:
        raise processes.refuse_pickling()

    def __repr__(self) -> str:
        return f"<rdeic_rt.Codec {self._bundle.name!r} on {self.backend}>"

    @property
    def bundle(self) -> Bundle:
        """The model, with its rates, graphs and provenance."""
        return self._bundle

    @property
    def backend(self) -> str:
        """Name of the backend that runs the graphs."""
        return self._selection.backend.name

    @property
    def skipped_backends(self) -> dict[str, str]:
        """Why the backends that ``auto`` prefers to this one cannot run, by name."""
        return dict(self._selection.skipped)

    def description(self) -> dict[str, str]:
        """Return versions, device and threads of the backend, by name."""
        return self._selection.backend.description()

    def peak_device_bytes(self) -> int | None:
        """Return the backend's peak device memory; None if it works in host memory."""
        return self._selection.backend.peak_bytes()

    def recordings(self) -> Recordings | None:
        """Return what the backend has recorded for replay, and what it failed to record; None if it does not record."""
        return self._selection.backend.recordings()

    def trim(self) -> None:
        """Free what the backend keeps for future images: idle GPU memory and recordings.

        For a program that has finished decoding for now and needs the memory. Weights stay loaded.
        """
        self._selection.backend.trim()

    def synchronize(self) -> None:
        """Wait for all work queued on the backend's device; return at once if there is no device."""
        self._selection.backend.synchronize()

    @property
    def limits(self) -> Limits:
        """The limits on what is read."""
        return self._limits

    def encode(
        self,
        image: object,
        rate: float | str | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        fixed_size: bool = False,
        effort: int = 0,
        metadata: Metadata | None = None,
    ) -> bytes:
        """Return the image as an .rdc file; the same image, bundle and options give the same bytes.

        Args:
            image: a PIL image, a uint8 array [H, W, 3] (RGB), [H, W, 4] or [H, W], or anything with ``__array__`` or
                ``__dlpack__``; see `pixels.as_rgb`.
            rate: index or label of a rate in ``bundle.rates`` or, if the bundle has levels, a number between two
                indices; None for ``bundle.default_rate``.
            target_bytes: instead of a rate, the maximum length of the whole file: of the rates, or levels, that meet
                it, the one with the most bits per pixel is used.
            target_bpp: the same in bits per pixel of the image.
            fixed_size: make a file whose length depends only on rate, image size and metadata (`fixed_size_bytes`),
                even where it could be shorter.
            effort: how many additional files to try, 0 to `closed_loop.MAX_EFFORT`, each of which corrects the error
                of the previous one. Of those no larger than the first, or than the target, the one that decodes with
                the least squared error is returned.
            metadata: ICC profile and EXIF to keep in the file; `pixels.read_image` returns those of an image file. An
                orientation in EXIF is set to 1: the image is assumed to be upright.

        Raises:
            ValueError: no such rate, not an image, more than one of rate and targets, a target that is not over 0,
                fixed_size for a rate without files of a fixed size, or an effort out of range.
            ImageError: no rate meets the target.
            LimitExceededError: the image is larger than ``limits`` allow, or takes more memory.
            BundleDecodesOnlyError: the bundle is the decoding half of one.
            BackendError: the graph could not be run.
        """
        bundles.check_encodes(self._bundle)
        target_size.check(rate, target_bytes, target_bpp)
        closed_loop.check_effort(effort)
        with stopping.asked_by(Progress(max_seconds=self._limits.max_seconds).why_stop):
            return self._encoded(image, rate, target_bytes, target_bpp, fixed_size, effort, metadata)

    def _encoded(
        self,
        image: object,
        rate: float | str | None,
        target_bytes: int | None,
        target_bpp: float | None,
        fixed_size: bool,
        effort: int,
        metadata: Metadata | None,
    ) -> bytes:
        chosen = self._bundle.choose_rate(rate)
        if fixed_size:
            self.fixed_size_bytes(Size(1, 1), rate)
        with timing.stage("pixels"):
            rgb = pixels.as_rgb(image)
            size = Size(height=rgb.shape[0], width=rgb.shape[1])
        self._check_encoding(size, chosen)
        kept = pixels.for_upright_image(metadata or Metadata())
        encode = partial(self._encoder, metadata=kept, fixed_size=fixed_size)
        most_bytes = target_size.most_bytes(size, target_bytes, target_bpp)
        if most_bytes == math.inf:
            data = encode(rgb)(chosen)
            most_bytes = len(data)
        else:
            data = target_size.best(self._bundle, encode(rgb), most_bytes, size, container.metadata_bytes(kept))
        if not effort:
            return data
        finest = self._parsed(data, allow_partial=False)[1]

        def encode_again(corrected: NDArray[np.uint8]) -> bytes | None:
            return target_size.best_from(self._bundle, finest, encode(corrected), most_bytes)

        return closed_loop.improved(rgb, data, effort, encode_again, self.decode)

    def _check_encoding(self, size: Size, rate: Rate) -> None:
        """Raise LimitExceededError if an image is too large, or its encoding holds more memory than is allowed."""
        self._limits.check_size(size)
        tensors = [t for s in self._loaded.encoders[rate.index].stages for t in (*s.inputs.values(), *s.outputs)]
        wanted = memory_estimate.encode_bytes(
            tensors, self._latent_shapes(rate, size), self._bundle.free_sizes(size), size
        )
        memory_estimate.check(wanted, size, self._limits)

    def _encoder(self, rgb: NDArray[np.uint8], *, metadata: Metadata, fixed_size: bool) -> Callable[[Rate], bytes]:
        """Return what makes the file of an image at a rate."""
        size = Size(height=rgb.shape[0], width=rgb.shape[1])
        padded = pixels.pad(rgb, self._bundle.size_multiple_px)
        coded: dict[tuple[str, ...], _Coded] = {}  # of the last rate: the next one may share it

        def encode_at(rate: Rate) -> bytes:
            graphs = [rate.graphs[role] for role in sorted(self._family.encoding)]
            key = (*graphs, "" if self._bundle.levels is None else str(rate.number))
            if key not in coded:
                coded.clear()
                coded[key] = self._analyse(rate, padded)
            return self._code(rate, size, coded[key], metadata, fixed_size)

        return encode_at

    def fixed_size_bytes(self, size: Size, rate: float | str | None = None) -> int:
        """Return the length of the file that `encode` makes with ``fixed_size`` for an image of this size.

        Without metadata, which adds its own length. ``rate``: as for `encode`.

        Raises:
            ValueError: no such rate, or the length of its files depends on the contents of the image.
        """
        chosen = self._bundle.choose_rate(rate)
        n_bytes = self._loaded.entropy_models[chosen.entropy].fixed_bytes(self._latent_shapes(chosen, size))
        if n_bytes is None:
            raise ValueError(
                f"rate {chosen.index} of bundle {self._bundle.name!r} has no files of a fixed size: their length "
                "depends on the contents of the image. Give a target instead"
            )
        header = Header(size=size, model_id=chosen.model_id, rate=chosen.number, z_is_plain=True)
        return len(container.pack(header, bytes(n_bytes), b""))

    def _analyse(self, rate: Rate, padded: NDArray[np.uint8]) -> _Coded:
        """Return the tensors that are to be coded of a padded image."""
        family, encoder = self._family, self._loaded.encoders[rate.index]
        at = self._placement(self._selection.encoder, encoder, Size(*padded.shape[:2]), Progress())
        given: dict[str, NDArray[Any]] = {"image": padded[None], **self._level_rows(rate, family.encoding)}
        with timing.stage("analysis"):
            values = at.run(("encode", rate.index), partial(_call, family.encode, encoder), given)
            coded = {name: at.get(value) for name, value in zip(family.coded, values, strict=True)}
        if not all(np.isfinite(array).all() for array in coded.values()):
            raise BundleCorruptError("analysis returned values that are not finite: the bundle's weights are unusable")
        return coded

    def _code(self, rate: Rate, size: Size, coded: _Coded, metadata: Metadata, fixed_size: bool) -> bytes:
        """Return the file that holds these tensors at a rate."""
        model = self._loaded.entropy_models[rate.entropy]
        with timing.stage("entropy"):
            encoded = model.encode(coded, bit_worth=rate.bit_worth, fixed_size=fixed_size)
        with timing.stage("container"):
            header = Header(size=size, model_id=rate.model_id, rate=rate.number, z_is_plain=encoded.z_is_plain)
            return container.pack(header, encoded.z, encoded.y, metadata)

    def decode(
        self, source: bytes | bytearray | memoryview | Latents, options: DecodeOptions = DecodeOptions()
    ) -> NDArray[np.uint8]:
        """Return the image in an .rdc file, C-contiguous uint8 [H, W, 3], RGB.

        Args:
            source: the whole file, or its latents from `read_latents`.
            options: see `DecodeOptions`.

        Raises:
            FileFormatError: not an .rdc file, damaged, or beyond ``limits``.
            BundleMismatchError: encoded with another model than this bundle's.
            BundleCorruptError: a file of the bundle is damaged or invalid.
            ValueError: sharpness, seed or steps is out of range; for steps, the message lists the choices.
            BackendError: a graph could not be run.
            CancelledError: ``options.cancel`` was set.
        """
        return self.decode_with_metadata(source, options).image

    def decode_with_metadata(
        self, source: bytes | bytearray | memoryview | Latents, options: DecodeOptions = DecodeOptions()
    ) -> Decoded:
        """Return the image in an .rdc file with what else the file holds; arguments and errors as of `decode`."""
        at, image, latents = self._decoded(source, options)
        with timing.stage("pixels"):
            return Decoded(at.crop(image, latents.size), latents.rate, latents.metadata, latents.cut)

    def decode_on_device(
        self, source: bytes | bytearray | memoryview | Latents, options: DecodeOptions = DecodeOptions()
    ) -> Any:
        """Return the image on the device that decodes it, as soon as the work is queued; otherwise as `decode`.

        On a GPU it is a `buffers.DeviceBuffer` with ``__dlpack__`` and ``__cuda_array_interface__``, whose row stride
        is the padded width. It stays valid as long as it, or a tensor that a consumer made from it, is referenced, and
        consumers synchronise with the codec's stream. On a CPU it is a numpy array.
        """
        at, image, latents = self._decoded(source, options)
        with timing.stage("pixels"):
            return at.crop_on_device(image, latents.size)

    def prepare(self, size: Size, rate: float | str | None = None, options: DecodeOptions = DecodeOptions()) -> None:
        """Warm up for images of a size, by decoding empty latents of that size.

        Tables and graphs are loaded; on a GPU, kernels are compiled, memory is allocated, and the work is recorded.

        Args:
            size: of the image. Sizes that are padded to the same size (to multiples of ``bundle.size_multiple_px``) are
                prepared together.
            rate: as for `encode`.
            options: as for `decode`; other options may need other work.

        Raises:
            ValueError: no such rate, or an option is out of range.
            LimitExceededError: the image is larger than ``limits`` allow.
            BackendError: a graph could not be run.
        """
        chosen = self._bundle.choose_rate(rate)
        self._limits.check_size(size)
        shapes = self._latent_shapes(chosen, size)
        self._check_memory(shapes, size, ())
        graphs = {name: self._bundle.reference(chosen.graphs[role]) for name, role in self._family.latents.items()}
        tensors = {name: np.zeros(shape, graphs[name].input(name).dtype) for name, shape in shapes.items()}
        _ = self._loaded.entropy_models[chosen.entropy]
        for _ in range(1 if self.recordings() is None else 2):  # the second run is recorded
            self.decode(Latents(size, chosen, tensors, 0, Metadata()), options)

    def preview(
        self, source: bytes | bytearray | memoryview | Latents, options: DecodeOptions = DecodeOptions()
    ) -> NDArray[np.uint8]:
        """Return a preview of the image in an .rdc file, decoded without denoising.

        The same as `decode` with ``options.preview``: it loads neither the denoiser nor the control net.
        """
        return self.decode(source, replace(options, preview=True))

    def read_latents(self, data: bytes | bytearray | memoryview, *, allow_partial: bool = False) -> Latents:
        """Return the exact half of `decode`: everything up to the latents. Errors as for `decode`.

        Args:
            data: the file.
            allow_partial: if the file is truncated after its z section, decode what is certain and use means for the
                rest (docs/format.md, "Truncated files"); ``Latents.cut`` and a warning in the log report this. There
                is then no checksum to detect damage. A file of full length is handled as usual.
        """
        with stopping.asked_by(Progress(max_seconds=self._limits.max_seconds).why_stop):
            return self._entropy_decoded(*self._parsed(data, allow_partial=allow_partial))

    def decode_many(
        self,
        sources: Iterable[Source],
        options: DecodeOptions = DecodeOptions(),
        *,
        workers: int = 1,
        on_error: OnError | None = None,
    ) -> Iterator[tuple[Source, NDArray[np.uint8]]]:
        """Yield (source, image) for each file in order; the next files are read while this one is denoised.

        Args:
            sources: .rdc files: paths, bytes, or binary streams; read up to ``workers`` files ahead.
            options: for every file.
            workers: threads that read and entropy-decode; one keeps up with a CPU, a GPU may need more.
            on_error: called with the source and the error of a file that cannot be decoded, which is then skipped;
                without it the error is raised and ends the iteration.

        Raises:
            ValueError: an option is out of range. OSError: a file cannot be read. RdeicError: as for `decode`.
        """
        options.check()

        def read(source: Source) -> _Ready:
            data = pipeline.content_of(source, self._limits.max_file_bytes)
            with stopping.asked_by(Progress(0, None, options.cancel, self._limits.max_seconds).why_stop):
                file, rate = self._parsed(data, allow_partial=options.allow_partial)
                stages, key = self._stages_of(rate, options)
                self._check_memory(self._latent_shapes(rate, file.header.size), file.header.size, stages[key].stages)
                latents = self._entropy_decoded(file, rate)
                progress = self._progress(rate, options, before=0)
                return self._ready(latents, options, progress)

        def denoise(ready: _Ready) -> NDArray[np.uint8]:
            ready.progress.restart_clock()  # time spent waiting for the consumer does not count
            at, image = self._reconstructed(ready)
            with timing.stage("pixels"):
                return at.crop(image, ready.latents.size)

        return pipeline.in_order(sources, read, denoise, workers, on_error)

    def encode_many(
        self,
        sources: Iterable[ImageSource],
        rate: float | str | None = None,
        *,
        target_bytes: int | None = None,
        target_bpp: float | None = None,
        fixed_size: bool = False,
        effort: int = 0,
        workers: int = 1,
        on_error: OnError | None = None,
    ) -> Iterator[tuple[ImageSource, bytes]]:
        """Yield (source, .rdc file) for each image in order; the next images are read and encoded in the meantime.

        Args:
            sources: images: paths, bytes of image files, or binary streams, whose metadata is kept; or anything that
                `encode` accepts. Read up to ``workers`` images ahead.
            rate, target_bytes, target_bpp, fixed_size, effort: as for `encode`.
            workers: threads that read and encode.
            on_error: as for `decode_many`.

        Raises:
            ValueError: an option is out of range. OSError: a file cannot be read. RdeicError: as for `encode`.
        """
        target_size.check(rate, target_bytes, target_bpp)
        closed_loop.check_effort(effort)
        encode = partial(
            self.encode,
            rate=rate,
            target_bytes=target_bytes,
            target_bpp=target_bpp,
            fixed_size=fixed_size,
            effort=effort,
        )

        def read(source: ImageSource) -> bytes:
            if isinstance(source, bytes | bytearray | memoryview):
                source = BytesIO(source)
            if not isinstance(source, str | Path) and not hasattr(source, "read"):
                return encode(source)
            image, metadata = pixels.read_image(source, self._limits)
            return encode(image, metadata=metadata)

        return pipeline.in_order(sources, read, lambda data: data, workers, on_error)

    def _decoded(
        self, source: bytes | bytearray | memoryview | Latents, options: DecodeOptions
    ) -> tuple[Placement, Value, Latents]:
        """Return a file's padded image, its placement, and what the image was made of."""
        options.check()
        if isinstance(source, Latents):
            progress = self._progress(source.rate, options, before=0)
            stages, key = self._stages_of(source.rate, options)
            with stopping.asked_by(progress.why_stop):
                shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
                self._check_memory(shapes, source.size, stages[key].stages)
                return *self._reconstructed(self._ready(source, options, progress)), source
        file, rate = self._parsed(source, allow_partial=options.allow_partial)
        progress = self._progress(rate, options, before=1)
        stages, key = self._stages_of(rate, options)
        with stopping.asked_by(progress.why_stop):
            progress.begin("entropy")
            stages.begin(key)  # graphs are loaded, and noise is drawn, while symbols are decoded
            draw: _Draw = partial(self._noise, rate, file.header.size, file.crc, options)
            if file.header.size.height * file.header.size.width <= _EARLY_NOISE_PX:
                draw = lazy.begun(draw)
            latents = self._entropy_decoded(file, rate)
            self._check_memory(self._latent_shapes(rate, latents.size), latents.size, stages[key].stages)
            return *self._reconstructed(self._ready(latents, options, progress, draw)), latents

    def _check_memory(self, latents: Mapping[str, tuple[int, ...]], size: Size, stages: tuple[Stage, ...]) -> None:
        """Raise LimitExceededError if entropy decoding to such latents, and these stages, hold more than is allowed."""
        outputs = [output for stage in stages for output in stage.outputs]
        wanted = memory_estimate.decode_bytes(outputs, latents, self._bundle.free_sizes(size), size)
        memory_estimate.check(wanted, size, self._limits)

    def _stages_of(self, rate: Rate, options: DecodeOptions) -> tuple[Cache[Any, Stages], Hashable]:
        """Return where the stages of a decode are loaded, and their key."""
        if options.preview:
            return self._loaded.previews, rate.index
        schedule = self._bundle.choose_schedule(rate, options.steps)
        return self._loaded.decoders, (rate.index, None if schedule is None else schedule.name)

    def _progress(self, rate: Rate, options: DecodeOptions, *, before: int) -> Progress:
        """Return the count of a decode's parts, ``before`` of them before the family's.

        Raises:
            ValueError: the options do not fit the rate.
        """
        self._bundle.check_sharpness(rate, options.sharpness)
        schedule = self._bundle.choose_schedule(rate, options.steps)
        parts = self._family.n_parts(schedule, preview=options.preview)
        return Progress(before + parts, options.on_progress, options.cancel, self._limits.max_seconds)

    def _parsed(self, data: bytes | bytearray | memoryview, *, allow_partial: bool) -> tuple[RdcFile, Rate]:
        """Return the container, and the rate that it was encoded with."""
        with timing.stage("container"):
            file = container.parse(data, self._limits, allow_partial=allow_partial)
            rate = self._bundle.rate_of(file.header.model_id, file.header.rate)
        self._check_memory(self._latent_shapes(rate, file.header.size), file.header.size, ())
        return file, rate

    def _entropy_decoded(self, file: RdcFile, rate: Rate) -> Latents:
        """Return the latents in the sections of a file."""
        header = file.header
        model = self._loaded.entropy_models[rate.entropy]
        with timing.stage("entropy"):
            shapes = self._latent_shapes(rate, header.size)
            decoded = model.decode(file.z, header.z_is_plain, file.y, shapes, missing_bytes=file.missing_y_bytes)
        metadata = pixels.for_upright_image(file.metadata)
        if not file.missing_bytes:
            return Latents(header.size, rate, decoded.tensors, file.crc, metadata)
        _log.warning(
            "the file is cut short by %d bytes and could not be checked; %d of %d slices are complete",
            file.missing_bytes,
            decoded.complete_slices,
            decoded.n_slices,
        )
        cut = Cut(file.missing_bytes, decoded.complete_slices, decoded.n_slices)
        return Latents(header.size, rate, decoded.tensors, file.crc, metadata, cut)

    def _noise(self, rate: Rate, size: Size, crc: int, options: DecodeOptions) -> dict[str, NDArray[Any]]:
        """Return the noise that a decode of an image adds; none for a preview."""
        if options.preview:
            return {}
        loaded, key = self._stages_of(rate, options)
        seed = crc if options.seed is None else operator.index(options.seed)
        return self._family.noise(loaded[key], self._bundle.free_sizes(size), seed)

    def _ready(self, latents: Latents, options: DecodeOptions, progress: Progress, draw: _Draw | None = None) -> _Ready:
        """Return the inputs and loaded graphs of the inexact half of `decode`; ``draw`` returns the noise."""
        rate, family = latents.rate, self._family
        loaded, key = self._stages_of(rate, options)
        stages = loaded[key]
        run = partial(_call, family.preview if options.preview else family.decode, stages)
        with timing.stage("noise"):
            drawn = draw() if draw else self._noise(rate, latents.size, latents.crc, options)
        rows = self._level_rows(rate, family.latents.values())
        given = {**latents.tensors, **rows, **drawn, **family.guidance(options.sharpness)}
        padded = pixels.padded_size(latents.size, self._bundle.size_multiple_px)
        return _Ready(latents, padded, (options.preview, key), stages, run, given, progress)

    def _reconstructed(self, ready: _Ready) -> tuple[Placement, Value]:
        """Return the padded image and its placement: the inexact half of `decode`."""
        at = self._placement(self._selection.backend, ready.stages, ready.padded, ready.progress)
        with stopping.asked_by(ready.progress.why_stop):
            image = at.run(ready.key, ready.run, ready.given)
            stopping.go_on()
        ready.progress.end()
        return at, image

    def _placement(self, backend: Backend, stages: Stages, padded: Size, progress: Progress) -> Placement:
        """Return where stages process an image of this size: as a whole, unless it is above a bound."""
        graphs = [graph for stage in stages.stages for graph in stage.graphs]
        largest, unit_px = backend.largest_size(graphs), self._bundle.size_multiple_px
        tiling = tiles.tiles_of(padded, self._tile_px, largest, unit_px)
        return Whole(backend, progress) if tiling.is_single else Tiled(backend, tiling, progress)

    def _level_rows(self, rate: Rate, roles: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the rows that graphs of these roles read at a rate, float32 [1, D]; none without levels."""
        if self._bundle.levels is None:
            return {}
        at_a_level = [role for role in roles if self._family.roles[role].at_a_level]
        return {level_input(role): self._loaded.level_rows[role][rate.number][None] for role in at_a_level}

    def _latent_shapes(self, rate: Rate, size: Size) -> dict[str, tuple[int, ...]]:
        """Return the shapes of an image's latents, by name."""
        sizes = self._bundle.free_sizes(size)
        graphs = {name: self._bundle.reference(rate.graphs[role]) for name, role in self._family.latents.items()}
        return {name: graph.input(name).resolve(sizes) for name, graph in graphs.items()}


def load(
    bundle: str | Path | None = None,
    *,
    backend: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    verify: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    tile_px: int = tiles.DEFAULT_TILE_PX,
    max_vram: int | None = None,
    capture: bool = True,
    stream: object | None = None,
) -> Codec:
    """Return a codec for a bundle on a backend.

    Args:
        bundle: a bundle's folder, or its name (see `bundle.find`); None for the embedded ``tiny-2``.
        backend: ``auto`` for the fastest that can run here, or one of ``tensorrt``, ``cuda``, ``openvino``, ``cpu``.
        precision: ``fp32``, ``fp16`` or ``int8``; ``auto`` for the fastest form that the bundle has.
        threads: CPU threads of one graph run; None for one per physical core.
        verify: check the SHA-256 of every file of the bundle.
        limits: limits on what is read from files.
        tile_px: images of more than tile_px squared pixels are processed in overlapping tiles of at most that size,
            which bounds memory; at least 256. See docs/tiling.md.
        max_vram: limit of GPU memory in bytes, kept by smaller tiles if necessary; None for all memory.
        capture: record the GPU work for an image size that occurs again as a CUDA graph, and replay it.
        stream: CUDA stream for all GPU work: a handle, or torch's or CuPy's stream object, see
            `backends.base.Options`; None for the codec's own stream. It must outlive the codec and its images.

    Raises:
        BundleError: the bundle is not found, damaged, or of a schema that this version does not support.
        BackendUnavailableError: the backend cannot run here, or not in this precision.
        ValueError: no such backend or precision, threads < 1, tile_px < 256 or max_vram < 1.
        TypeError: stream is not a stream.
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
    facts = ", ".join(f"{name} {value}" for name, value in selection.backend.description().items())
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


def _call(stages: Callable[..., Any], loaded: Stages, at: Placement, given: Mapping[str, Any]) -> Any:
    """Call a family's list of stages as `Placement.run` does."""
    return stages(at, loaded, given)
