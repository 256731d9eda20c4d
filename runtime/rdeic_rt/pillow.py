"""A plug-in for Pillow: `Image.open` reads .rdc files and `save` writes them, once this module is imported::

    import rdeic_rt.pillow
    from PIL import Image

    image = Image.open("photo.rdc")        # reads the header; pixels are decoded on first use
    image.thumbnail((200, 200))            # thumbnails are decoded without denoising
    Image.open("photo.jpg").save("photo.rdc", rate="small")

Libraries that open images with Pillow, such as imageio, then read .rdc files too.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, ImageFile

from . import container
from .container import Header, Metadata
from .errors import NotRdcError, RdeicError, TruncatedError
from .limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from .codec import Codec

__all__ = ["MIME", "RdcImageFile", "register_rdc_opener"]

FORMAT = "RDC"
MIME = "image/x-rdc"
EXTENSION = ".rdc"
# Save options that are the codec's own.
_ENCODING = {"rate": "rate", "target_size": "target_bytes", "target_bpp": "target_bpp"}
_EXIF_PREFIX = b"Exif\0\0"  # as Pillow's formats have it in ``info``


@dataclass(frozen=True)
class _Options:
    """The options of `register_rdc_opener`."""

    bundle: str | Path | None = None
    backend: str = "auto"
    threads: int | None = None
    sharpness: float = 1.0
    seed: int | None = None
    limits: Limits = DEFAULT_LIMITS
    preview_thumbnails: bool = True


class _Codecs:
    """Codecs by bundle, each loaded when it is first needed, and shared by all images and threads."""

    def __init__(self, options: _Options) -> None:
        self.options = options
        self._codecs: dict[str | Path | None, Codec] = {}
        self._folders: dict[tuple[bytes, int], Path] = {}  # of bundles, by model and rate
        self._lock = threading.Lock()

    def reading(self, header: Header) -> Codec:
        """Return the codec for a file: of the selected bundle, or of the bundle that the file was encoded with."""
        from .bundle import find_for

        if self.options.bundle is not None:
            return self.of(self.options.bundle)
        key = header.model_id, header.rate
        if key not in self._folders:
            self._folders[key] = find_for(*key)
        return self.of(self._folders[key])

    def of(self, bundle: str | Path | None) -> Codec:
        """Return the codec of a bundle, None for the default one; errors as of `rdeic_rt.load`."""
        from .codec import load

        options = self.options
        with self._lock:
            if bundle not in self._codecs:
                self._codecs[bundle] = load(
                    bundle, backend=options.backend, threads=options.threads, limits=options.limits
                )
            return self._codecs[bundle]


_codecs = _Codecs(_Options())


def register_rdc_opener(
    *,
    bundle: str | Path | None = None,
    backend: str = "auto",
    threads: int | None = None,
    sharpness: float = 1.0,
    seed: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    preview_thumbnails: bool = True,
) -> None:
    """Make Pillow read and write .rdc files with these options; importing the module does so with the defaults.

    Images that are already open keep the options that they were opened with.

    Args:
        bundle: decodes files, and encodes them unless ``save`` names another; None for the installed bundle
            that a file was encoded with, and the default bundle to encode.
        backend, threads, limits: as of `rdeic_rt.load`.
        sharpness, seed: as of `rdeic_rt.DecodeOptions`.
        preview_thumbnails: decode images for thumbnails of half their size or less without denoising.
    """
    global _codecs
    _codecs = _Codecs(_Options(bundle, backend, threads, sharpness, seed, limits, preview_thumbnails))
    Image.register_open(FORMAT, RdcImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, EXTENSION)
    Image.register_mime(FORMAT, MIME)


class RdcImageFile(ImageFile.ImageFile):
    """An .rdc file as Pillow's image.

    ``info`` has ``rate`` (its number), ``model_id`` (in hexadecimal), ``bpp``, and ``icc_profile`` and ``exif`` where
    the file has them. A file that is damaged or needs a bundle that is not installed raises OSError, at the latest
    when pixels are needed; with ``ImageFile.LOAD_TRUNCATED_IMAGES`` the intact part of a truncated file is decoded.
    """

    format = FORMAT
    format_description = "RDEIC image"
    _data: bytes | None = None  # the file, until it is decoded
    _preview = False

    def _open(self) -> None:
        self._codecs = _codecs
        limits = self._codecs.options.limits
        assert self.fp is not None
        data = self.fp.read(limits.max_file_bytes + 1)
        try:
            file = container.parse(data, limits, allow_partial=bool(ImageFile.LOAD_TRUNCATED_IMAGES))
        except NotRdcError as error:
            raise SyntaxError(str(error)) from None  # what Pillow takes for "not mine"
        except RdeicError as error:
            raise OSError(str(error)) from error
        header = file.header
        self._size = header.size.width, header.size.height
        self._mode = "RGB"
        self._data, self._header = data, header
        self.custom_mimetype = MIME
        pixels = header.size.width * header.size.height
        self.info = {"rate": header.rate, "model_id": header.model_id.hex(), "bpp": 8 * len(data) / pixels}
        if file.metadata.icc:
            self.info["icc_profile"] = file.metadata.icc
        if file.metadata.exif:
            self.info["exif"] = _EXIF_PREFIX + file.metadata.exif

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode without denoising if the image is needed at half its size or less; see PIL's ``draft``."""
        if self._data is None or size is None or not self._codecs.options.preview_thumbnails:
            return None
        self._preview = 2 * size[0] <= self.size[0] or 2 * size[1] <= self.size[1]
        return (self.mode, (0, 0, *self.size)) if self._preview else None

    def load(self) -> Any:
        """Decode the file unless it is decoded already, and return Pillow's pixel access object.

        Raises:
            OSError: the file cannot be decoded.
        """
        if self._data is not None:
            self.im = Image.fromarray(self._decoded(self._data)).im
            self._data = None
            if self.fp is not None and getattr(self, "_exclusive_fp", False):
                self.fp.close()
            self.fp = None
        return super().load()

    def _decoded(self, data: bytes) -> Any:
        from .decode_options import DecodeOptions

        own = self._codecs.options
        partial = bool(ImageFile.LOAD_TRUNCATED_IMAGES)
        try:
            codec = self._codecs.reading(self._header)
            if self._preview:
                return codec.preview(data, DecodeOptions(allow_partial=partial))
            return codec.decode(data, DecodeOptions(sharpness=own.sharpness, seed=own.seed, allow_partial=partial))
        except TruncatedError as error:
            raise OSError(f"image file is truncated: {error}") from error
        except RdeicError as error:
            raise OSError(str(error)) from error


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.SIGNATURE)


def _save(image: Image.Image, stream: IO[bytes], filename: str | bytes) -> None:
    """Write an image for `Image.Image.save`.

    Options are ``rate``, ``target_size`` (bytes), ``target_bpp``, ``effort`` and ``fixed_size`` as for `Codec.encode`,
    ``bundle``, and ``icc_profile`` and ``exif``, by default those of the image; b"" and None omit them.

    Raises:
        OSError: the image cannot be encoded with these options.
    """
    from .pixels import rgb_and_metadata

    asked: dict[str, Any] = image.encoderinfo
    if "quality" in asked:
        warnings.warn(
            "rdeic-rt has no quality: choose the size of a file by rate, target_size or target_bpp", stacklevel=3
        )
    options = {name: asked[key] for key, name in _ENCODING.items() if key in asked}
    options |= {key: asked[key] for key in ("effort", "fixed_size") if key in asked}
    try:
        pixels, metadata = rgb_and_metadata(image)
        icc, exif = metadata.icc, metadata.exif
        if "icc_profile" in asked:
            icc = asked["icc_profile"] or None
        if "exif" in asked:
            given = asked["exif"]
            exif = (given.tobytes() if isinstance(given, Image.Exif) else given or b"").removeprefix(
                _EXIF_PREFIX
            ) or None
        codec = _codecs.of(asked.get("bundle", _codecs.options.bundle))
        stream.write(codec.encode(pixels, metadata=Metadata(icc, exif), **options))
    except RdeicError as error:
        raise OSError(str(error)) from error


register_rdc_opener()
