"""Every limit on untrusted input, each with its reason.

A file of thirty bytes can declare an image of any size. Declared sizes are checked against these limits, and against
the bytes that are present, before anything is allocated for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LimitExceededError


@dataclass(frozen=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Limits:
    """Ceilings; raise one with ``Limits(max_pixels=...)`` where the input is trusted.

    Attributes:
        max_pixels: height times width. Decoding takes memory in proportion, whatever the length of the file; 8192 x
            8192 is more than most cameras have, and the decoded image alone takes 201 MB.
        max_side_px: height, and width. The limit of JPEG; padding to a multiple of the model's unit would make
            an image one pixel wide and very long take many times the memory of its pixels.
        max_file_bytes: of an .rdc file or an image, both of which are read whole. An image of ``max_pixels`` with 16
            bits per sample takes 403 MB uncompressed; .rdc files are a thousand times smaller.
        max_metadata_bytes: of an .rdc file's metadata section, inflated. A few kilobytes of zlib can become gigabytes;
            the largest RGB profiles in use take about 2 MB, and the EXIF of a JPEG 64 kB.
        max_memory_bytes: memory that one decode or encode holds in proportion to the image, as computed by
            `memory_estimate` before anything is allocated; None for no limit. Full-size models stay under 4 GiB at
            ``max_pixels``.
        max_seconds: wall time of one decode, preview, `Codec.read_latents` or encode; None, the default, for no limit,
            because the time depends on the machine.
    """

    max_pixels: int = 2**26
    max_side_px: int = 65_535
    max_file_bytes: int = 2**29
    max_metadata_bytes: int = 2**22
    max_memory_bytes: int | None = 2**32
    max_seconds: float | None = None

    def check_size(self, size: Size) -> None:
        """Check an image's size.

        Raises:
            LimitExceededError: a side or the number of pixels is over its limit.
        """
        if max(size.height, size.width) > self.max_side_px:
            raise LimitExceededError(
                f"{size.width}x{size.height} pixels: a side may have {self.max_side_px} (limit max_side_px). "
                "Scale the image down, or raise the limit"
            )
        if size.height * size.width > self.max_pixels:
            raise LimitExceededError(
                f"{size.width}x{size.height} is {size.height * size.width} pixels: {self.max_pixels} are allowed "
                "(limit max_pixels). Scale the image down, or raise the limit"
            )


DEFAULT_LIMITS = Limits()

# The limits below are fixed, because no valid bundle reaches them; bundle.schema.json limits the number of rates, files
# and so on in a bundle.json. The C++ runtime has the same numbers in input_limits.h, and a test compares them; it has
# none of those at the end, because it does not download bundles.

# Records in an .rdc file's metadata section; encoders write at most two. Two million empty ones fit in four megabytes,
# and inflate from four kilobytes.
MAX_METADATA_RECORDS = 1024
# Length of a bundle.json. That of a full-size model has about 20 kB; the limit stops a wrong or hostile file before it
# is parsed.
MAX_MANIFEST_BYTES = 1 << 20
# Length of a path in it (docs/bundle.md, "Checks"). Some systems allow four times as much; few files need a tenth.
MAX_PATH_BYTES = 1024
# Nesting of objects and arrays in a bundle.json. There are 5 levels, except in free-form fields.
MAX_JSON_DEPTH = 64
# Length of an ONNX file: a protobuf message has less than 2 GiB.
MAX_ONNX_BYTES = (1 << 31) - 1
# Fields of all its messages that are scanned: the largest graph of a full-size bundle has about 60,000. Bounds the
# time.
MAX_ONNX_FIELDS = 1 << 20
# Nesting of messages: a subgraph takes three levels, and libraries stop at 100.
MAX_ONNX_DEPTH = 64
# Dimensions of an external weight.
MAX_ONNX_RANK = 8
# All arrays of an .npz file together, unpacked. The entropy model of a full-size rate takes about 60 MB.
MAX_ARRAYS_BYTES = 1 << 30
# Number of arrays in an .npz file. An entropy model of ten slices has about 400.
MAX_ARRAYS = 65_536
# Length of an array's name; those of an entropy model have up to 30 characters.
MAX_ARRAY_NAME_BYTES = 256
# Dimensions of an array: the model id's canonical form needs at most 4.
MAX_ARRAY_RANK = 8
# Length of the header before an array's elements; numpy writes 118 bytes for those of a bundle.
MAX_ARRAY_HEADER_BYTES = 4096
# Largest ratio of unpacked to compressed length of an array: deflate cannot exceed it.
MAX_DEFLATE_RATIO = 1032
# Length of the JSON file of a TensorRT plan, which the C++ runtime does not read; at most a few hundred kB in practice.
MAX_PLAN_KEY_BYTES = 1 << 20
# Of a bundle that `rdeic-rt bundle pull` gets, packed or not, unless --max-bytes says otherwise: one of a full-size
# model in all forms takes half of it.
MAX_BUNDLE_BYTES = 1 << 34
# Of the model card beside it, which no hash speaks for.
MAX_CARD_BYTES = 1 << 20
# Of entries of an archive; a bundle.json lists at most 4096 files.
MAX_ARCHIVE_ENTRIES = 16_384
# Of what is read of an archive beside the content of its files, and of one read of it: a name or an attribute of a tar
# archive may say that it has gigabytes, and some hundred bytes are the most that honest ones have.
MAX_ARCHIVE_HEADER_BYTES = 1 << 26
MAX_ARCHIVE_READ_BYTES = 1 << 24
