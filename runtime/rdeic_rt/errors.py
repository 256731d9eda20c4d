"""Every error that bad input, a bad bundle or a missing device can cause; anything else that is raised is a bug.

    RdeicError
      FileFormatError    4    NotRdcError, TruncatedError, UnsupportedVersionError, LimitExceededError, ChecksumError,
                              BitstreamError
      ImageError         4    ImageTooLargeError
      BundleError        5    BundleNotFoundError, BundleCorruptError, BundleMismatchError, BundleDecodesOnlyError
      BackendError       6    BackendUnavailableError, DeviceMemoryError
      ExportError        7

The number is ``exit_code``, what the command line returns for that family. Errors of the operating system stay
`OSError` (3), and a caller's mistakes `ValueError` or `TypeError`. A message states what was read, where, what was
expected, what was found and how to fix it.
"""

from __future__ import annotations

from typing import ClassVar


class RdeicError(Exception):
    """Base of all errors of this package; the command line prints one line for it, and no traceback."""

    exit_code: ClassVar[int] = 1


class FileFormatError(RdeicError):
    """The file is not a valid .rdc file; docs/format.md specifies which check raises which subclass."""

    exit_code = 4


class NotRdcError(FileFormatError):
    """The signature is wrong: not an .rdc file."""


class TruncatedError(FileFormatError):
    """The file is shorter than its header declares."""


class UnsupportedVersionError(FileFormatError):
    """Written in a later version of the format, or with a feature that this reader does not know."""


class LimitExceededError(FileFormatError):
    """Something is larger than `limits.Limits` allows, and nothing was allocated for it; or it took longer."""


class ChecksumError(FileFormatError):
    """The CRC-32C at the end does not match: the file is damaged."""


class BitstreamError(FileFormatError):
    """The file is complete and perhaps undamaged, but holds what no encoder writes."""


class ImageError(RdeicError):
    """An image cannot be encoded (damaged, of an unsupported kind, no rate small enough), or cannot be written."""

    exit_code = 4


class ImageTooLargeError(ImageError):
    """An image to encode is larger than `limits.Limits` allows."""


class BundleError(RdeicError):
    """A bundle cannot be used."""

    exit_code = 5


class BundleNotFoundError(BundleError):
    """No bundle of that name or path; the message lists the places that were searched."""


class BundleCorruptError(BundleError):
    """A file of the bundle is missing, has another hash or has invalid contents."""


class BundleMismatchError(BundleError):
    """The file was encoded with another entropy model, or a rate that the bundle does not have."""


class BundleDecodesOnlyError(BundleError):
    """An image cannot be encoded: the bundle is the decoding half of one; the message names others."""


class BackendError(RdeicError):
    """A call of an inference library failed; the message names the call and its code."""

    exit_code = 6


class BackendUnavailableError(BackendError):
    """The backend cannot run here; the message states the reason."""


class DeviceMemoryError(BackendError):
    """Not enough memory; the message states how much was needed, how much is free and what to lower."""


class ExportError(RdeicError):
    """A checkpoint cannot be converted to a bundle; the message names graph and pass, and lists all problems."""

    exit_code = 7


class CancelledError(RdeicError):
    """The caller cancelled the work; nothing was written."""

    exit_code = 130
