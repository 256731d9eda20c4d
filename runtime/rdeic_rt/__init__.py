"""rdeic-rt: encodes images to very small .rdc files and decodes them with a diffusion model in a few steps::

    import rdeic_rt

    codec = rdeic_rt.load()
    data = codec.encode(image)
    image = codec.decode(data)

Importing this package imports none of its modules: each name below is imported when it is first used. This also keeps
the start of the command short, during which Ctrl-C would show a traceback.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers treat it like typing.TYPE_CHECKING
if TYPE_CHECKING:
    from typing import Any

    from .bundle import find_bundle
    from .codec import Codec, load
    from .container import Header, Metadata, RdcFile
    from .container import parse as read_header
    from .decode_options import DecodeOptions
    from .errors import (
        BackendError,
        BackendUnavailableError,
        BitstreamError,
        BundleCorruptError,
        BundleDecodesOnlyError,
        BundleError,
        BundleMismatchError,
        BundleNotFoundError,
        CancelledError,
        ChecksumError,
        DeviceMemoryError,
        FileFormatError,
        ImageError,
        ImageTooLargeError,
        LimitExceededError,
        NotRdcError,
        RdeicError,
        TruncatedError,
        UnsupportedVersionError,
    )
    from .latents import Cut, Decoded, Latents
    from .limits import DEFAULT_LIMITS, Limits, Size
    from .manifest import Bundle, Rate
    from .pixels import read_image, write_image

    __version__: str

__all__ = [
    "DEFAULT_LIMITS",
    "BackendError",
    "BackendUnavailableError",
    "BitstreamError",
    "Bundle",
    "BundleCorruptError",
    "BundleDecodesOnlyError",
    "BundleError",
    "BundleMismatchError",
    "BundleNotFoundError",
    "CancelledError",
    "ChecksumError",
    "Codec",
    "Cut",
    "DecodeOptions",
    "Decoded",
    "DeviceMemoryError",
    "FileFormatError",
    "Header",
    "ImageError",
    "ImageTooLargeError",
    "Latents",
    "LimitExceededError",
    "Limits",
    "Metadata",
    "NotRdcError",
    "Rate",
    "RdcFile",
    "RdeicError",
    "Size",
    "TruncatedError",
    "UnsupportedVersionError",
    "__version__",
    "find_bundle",
    "load",
    "read_header",
    "read_image",
    "rgb_and_metadata",
    "timing",
    "write_image",
]

# Where each public name lives; those not listed are errors.
_HOME = {
    "DEFAULT_LIMITS": "limits",
    "Bundle": "manifest",
    "Codec": "codec",
    "Cut": "latents",
    "DecodeOptions": "decode_options",
    "Decoded": "latents",
    "Header": "container",
    "Latents": "latents",
    "Limits": "limits",
    "Metadata": "container",
    "Rate": "manifest",
    "RdcFile": "container",
    "Size": "limits",
    "find_bundle": "bundle",
    "load": "codec",
    "read_header": "container",
    "read_image": "pixels",
    "rgb_and_metadata": "pixels",
    "write_image": "pixels",
}

# Hidden from type checkers, to which any name would seem to exist otherwise.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version("rdeic-rt")
        elif name == "timing":
            import_module(".log", __name__)
            value = import_module(".timing", __name__)
        elif name in __all__:
            import_module(".log", __name__)
            module = import_module(f".{_HOME.get(name, 'errors')}", __name__)
            value = getattr(module, "parse" if name == "read_header" else name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
