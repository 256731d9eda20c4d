"""What one worker of a fleet does: `Encoder` and `Decoder`, callables from columns to columns that need no Ray.

    {"path": [...], "bytes": [...]} ─ Encoder ─▶ {"path", "data" or "out", "width", ..., "error"}

What goes wrong with one file is its row's error, and does not stop the others. The codec is loaded with the first file,
so that a callable can be pickled and sent to where it works.
"""

from __future__ import annotations

import builtins
import logging
import os
import socket
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Generic, TypeVar

import google_crc32c
import numpy as np

from .. import address_space, bundle, container, errors, files, lazy, pixels, stopping
from ..codec import Codec, load
from ..decode_options import DecodeOptions
from ..errors import BackendError, DeviceMemoryError, RdeicError
from ..limits import DEFAULT_LIMITS, Limits
from ..manifest import AUTO
from ..progress import Progress
from ..tiles import DEFAULT_TILE_PX

REPORT = ("path", "out", "width", "height", "rate", "n_bytes", "crc32c", "seconds", "worker", "error_type", "error")
"""The columns that come out (docs/fleet.md); without a folder ``data`` stands in the place of ``out``."""

ENCODED_SUFFIX = ".rdc"
DIED = "WorkerDiedError"
"""``error_type`` of a file with which its worker's process has died, twice."""

# A property of the polynomial, whatever stands before it.
_CRC_OF_WHAT_ENDS_IN_ITS_CRC = 0x48674BC7

_log = logging.getLogger("rdeic_rt.fleet.workers")
_O = TypeVar("_O", "Encoding", "Decoding")


@dataclass(frozen=True)
class Model:
    """Which model, and how a worker runs it; fields as the arguments of `rdeic_rt.load`.

    Attributes:
        bundle: None for the default one to encode, and to decode for each file the one it was made with.
        threads: None for those that the pool gives a worker, and one for each core where there is no pool.
    """

    bundle: str | None = None
    backend: str = AUTO
    precision: str = AUTO
    threads: int | None = None
    verify: bool = True
    limits: Limits = DEFAULT_LIMITS
    tile_px: int = DEFAULT_TILE_PX
    max_vram: int | None = None

    def load(self, folder: Path | None = None) -> Codec:
        """Return the codec; ``folder``: of another bundle. Errors as `rdeic_rt.load`."""
        return load(
            folder or self.bundle,
            backend=self.backend,
            precision=self.precision,
            threads=self.threads,
            verify=self.verify,
            limits=self.limits,
            tile_px=self.tile_px,
            max_vram=self.max_vram,
        )


@dataclass(frozen=True)
class Encoding:
    """How a fleet encodes.

    Attributes:
        model: which, and where it runs.
        rate, target_bytes, target_bpp, fixed_size, effort: as for `Codec.encode`.
        strip: leave out ICC profile, by which the image is converted to sRGB, and EXIF.
    """

    model: Model = Model()
    rate: float | str | None = None
    target_bytes: int | None = None
    target_bpp: float | None = None
    fixed_size: bool = False
    effort: int = 0
    strip: bool = False

    @property
    def suffix(self) -> str:
        """Of the files that come out, with its dot."""
        return ENCODED_SUFFIX


@dataclass(frozen=True)
class Decoding:
    """How a fleet decodes.

    Attributes:
        model: which, and where it runs.
        options: as for `Codec.decode`.
        image_format: of what comes out, as for `write_image`.
        strip: leave out ICC profile, by which the image is converted to sRGB, and EXIF.
    """

    model: Model = Model()
    options: DecodeOptions = DecodeOptions()
    image_format: str = "png"
    strip: bool = False

    @property
    def suffix(self) -> str:
        """Of the files that come out, with its dot."""
        return f".{self.image_format}"


@dataclass(frozen=True)
class _Done:
    """What became of a file."""

    data: bytes
    width: int
    height: int
    rate: str


class _Worker(ABC, Generic[_O]):
    """What `Encoder` and `Decoder` share."""

    verb: ClassVar[str]

    def __init__(self, options: _O, folder: str | Path | None = None) -> None:
        self.options: _O = options
        self.folder = None if folder is None else Path(folder)
        self._name = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.options, self.folder)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that come out."""
        return REPORT if self.folder else tuple("data" if name == "out" else name for name in REPORT)

    def __call__(self, batch: Mapping[str, Iterable[Any]]) -> dict[str, Any]:
        """Return a column for each of `columns`, an array of objects [N], in the order of the batch.

        Args:
            batch: ``path`` (str [N], what a row is known by) and, where a file's content is at hand, ``bytes`` [N];
                else it is read from ``source`` [N], or where there is none from ``path``.

        Raises:
            RdeicError: the model cannot be loaded that all files need.
        """
        rows = [self.row(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True)]
        return {name: _column([row[name] for row in rows]) for name in self.columns}

    def row(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of one file, of which ``file`` has what a batch has of each."""
        self.prepare()
        path, content = str(file["path"]), file.get("bytes")
        source = str(file.get("source") or path)
        began = time.perf_counter()
        row = self.empty_row(path)
        try:
            done = self.work(source, None if content is None else bytes(content))
            if self.folder is None:
                row["data"] = done.data
            else:
                row["out"] = out_name(path, self.options.suffix)
                target = self.folder / row["out"]
                target.parent.mkdir(parents=True, exist_ok=True)
                files.atomic_write(target, done.data)
            row |= {"width": done.width, "height": done.height, "rate": done.rate, "n_bytes": len(done.data)}
            row["crc32c"] = checksum(done.data)
        except Exception as error:  # here a worker's program ends, and a file's row says what a command would
            row = self.empty_row(path) | failure(error)
        row["seconds"] = time.perf_counter() - began
        return row

    def empty_row(self, path: str) -> dict[str, Any]:
        """Return a row that says which worker it comes from, and nothing of the file but its path."""
        self._name = self._name or f"{socket.gethostname()}:{os.getpid()}"
        return dict.fromkeys(self.columns) | {"path": path, "worker": self._name}

    @abstractmethod
    def prepare(self) -> None:
        """Load the model that all files need, if there is one and it is not loaded.

        Raises:
            RdeicError: it cannot be loaded.
        """

    @abstractmethod
    def work(self, source: str, content: bytes | None) -> _Done:
        """Return what becomes of a file; ``content``: what is in it, None to read it from ``source``."""


class Encoder(_Worker[Encoding]):
    """Encodes images: a callable over batches of columns, for Ray, Daft or a loop."""

    verb = "encode"

    def __init__(self, options: Encoding = Encoding(), folder: str | Path | None = None) -> None:
        """Encode with these options.

        Args:
            options: as the command's.
            folder: where files go, named after ``path``; None: their bytes are a column.
        """
        super().__init__(options, folder)
        self._codec: Codec | None = None

    def prepare(self) -> None:
        """Load the codec with the first file."""
        if self._codec is None:
            self._codec = self.options.model.load()

    def work(self, source: str, content: bytes | None) -> _Done:
        """Return the .rdc file of an image; errors as `read_image` and `Codec.encode`."""
        self.prepare()
        codec, options = self._codec, self.options
        assert codec is not None
        image, metadata = pixels.read_image(source if content is None else BytesIO(content), options.model.limits)
        if options.strip:
            image, metadata = pixels.stripped(image, metadata)
        data = codec.encode(
            image,
            options.rate,
            target_bytes=options.target_bytes,
            target_bpp=options.target_bpp,
            fixed_size=options.fixed_size,
            effort=options.effort,
            metadata=metadata,
        )
        header = container.parse(data, options.model.limits).header
        return _Done(data, image.shape[1], image.shape[0], codec.bundle.rate_of(header.model_id, header.rate).label)


class Decoder(_Worker[Decoding]):
    """Decodes .rdc files to files of images: a callable over batches of columns, for Ray, Daft or a loop."""

    verb = "decode"

    def __init__(self, options: Decoding = Decoding(), folder: str | Path | None = None) -> None:
        """Decode with these options; ``folder``: as for `Encoder`."""
        super().__init__(options, folder)
        self._codecs = lazy.Cache(options.model.load)
        self._folders: lazy.Cache[tuple[bytes, int], Path] = lazy.Cache(lambda key: bundle.find_for(*key))

    def prepare(self) -> None:
        """Load the codec with the first file, where one is for all."""
        if self.options.model.bundle is not None:
            self._codecs[None]

    def work(self, source: str, content: bytes | None) -> _Done:
        """Return the image in an .rdc file, encoded; errors as `Codec.decode` and `write_image`."""
        options, limits = self.options, self.options.model.limits
        data = files.read_bytes(source, limits.max_file_bytes) if content is None else content
        with stopping.asked_by(Progress(max_seconds=limits.max_seconds).why_stop):
            decoded = self._codec_of(data).decode_with_metadata(data, options.options)
        image, metadata = decoded.image, decoded.metadata
        if options.strip:
            image, metadata = pixels.stripped(image, metadata)
        encoded = BytesIO()
        pixels.write_image(encoded, image, metadata, options.image_format)
        return _Done(encoded.getvalue(), image.shape[1], image.shape[0], decoded.rate.label)

    def _codec_of(self, data: bytes) -> Codec:
        if self.options.model.bundle is not None:
            return self._codecs[None]
        header = container.parse(data, self.options.model.limits, allow_partial=True).header
        return self._codecs[self._folders[header.model_id, header.rate]]


def out_name(path: str, suffix: str) -> str:
    """Return the path of what a file becomes, relative to a fleet's folder: the same with another suffix.

    An absolute path loses its root, and ``..`` is left out: nothing is written outside of the folder.
    """
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    return str(PurePosixPath(*parts).with_suffix(suffix))


def checksum(data: bytes) -> int:
    """Return the CRC-32C of a file's bytes; of an .rdc file the one it ends in, if it is right.

    With that one in it the CRC-32C of the whole file would be the same for every .rdc file.
    """
    whole: int = google_crc32c.value(data)
    return int.from_bytes(data[-4:], "little") if whole == _CRC_OF_WHAT_ENDS_IN_ITS_CRC else whole


def failure(error: Exception) -> dict[str, str]:
    """Return the columns that say what went wrong: the class that Python raised, and one line."""
    text = " ".join(str(error).split())
    if address_space.is_shortage(error):
        return {"error_type": DeviceMemoryError.__name__, "error": f"not enough memory: {text}"}
    if not isinstance(error, (RdeicError, OSError, ValueError)):
        _log.error("this is a bug in rdeic-rt; please report it", exc_info=error)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{text} ({Path(frame.filename).name}:{frame.lineno})"
    return {"error_type": type(error).__name__, "error": text}


def error_class(error_type: str) -> type[Exception]:
    """Return the class that stands for an ``error_type``: RuntimeError for what would be a bug."""
    if error_type == DIED:
        return BackendError
    for module in (errors, builtins):
        found = getattr(module, error_type, None)
        if isinstance(found, type) and issubclass(found, (RdeicError, OSError, ValueError)):
            return found
    return RuntimeError


def _column(values: list[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return values as an array of objects: numpy would drop zeros at the end of bytes."""
    column = np.empty(len(values), object)
    column[:] = values
    return column
