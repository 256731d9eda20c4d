"""Every ceiling on untrusted input, each with its reason.

A file of thirty bytes can announce an image of any size. What it says is held against these limits, and against the
bytes that are there, before anything is allocated for it.
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
            8192 is more than most cameras give, and the decoded image alone takes 201 MB.
        max_side_px: height, and width. What JPEG can hold; and since an image is padded to a multiple of the model's,
            an image one pixel wide and very long would take many times the memory that its pixels say.
        max_file_bytes: of an .rdc file or an image, both of which are read whole. An image of ``max_pixels`` with 16
            bits a sample takes 403 MB uncompressed; .rdc files are a thousand times smaller.
        max_metadata_bytes: of an .rdc file's metadata section, inflated. A few kilobytes of zlib can become gigabytes;
            the largest RGB profiles in use take about 2 MB, and the EXIF of a JPEG 64 kB.
        max_memory_bytes: of what one decode or encode holds in proportion to the image, as `memory_estimate` counts it,
            before a model is run; None for no ceiling. Full-size models stay under 4 GiB at ``max_pixels``.
        max_seconds: that one decode, preview, `Codec.read_latents` or encode may take; None for no ceiling. How long an
            image takes depends on the machine, so there is none unless it is set.
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

# The ceilings below are fixed, as no honest bundle comes near them; how many rates, files and so on a bundle.json may
# list is said in bundle.schema.json. The C++ runtime has the same numbers in input_limits.h, and a test compares them.

# Of records in an .rdc file's metadata section, of which there are two. Two million empty ones fit in four megabytes,
# and inflate from four kilobytes.
MAX_METADATA_RECORDS = 1024
# Of a bundle.json. One of a full-size model has about 20 kB; a megabyte stops a wrong or hostile file before it is
# parsed.
MAX_MANIFEST_BYTES = 1 << 20
# Of a path in it (docs/bundle.md, "Checks"). Some systems follow four times as many; few files need a tenth.
MAX_PATH_BYTES = 1024
# Of objects and arrays within each other in a bundle.json. There are 5 levels, but for what is free.
MAX_JSON_DEPTH = 64
# Of an ONNX file: a protobuf message has less than 2 GiB.
MAX_ONNX_BYTES = (1 << 31) - 1
# Of fields of all messages in it that are walked: the largest graph of a full-size bundle has about 60,000. Bounds the
# time.
MAX_ONNX_FIELDS = 1 << 20
# Of messages within each other: a subgraph is three levels, and libraries stop at 100.
MAX_ONNX_DEPTH = 64
# Of dimensions of a weight that lies in another file.
MAX_ONNX_RANK = 8
# Of an .npz file's arrays together, unpacked. The entropy model of a full-size rate takes about 60 MB.
MAX_ARRAYS_BYTES = 1 << 30
# Of arrays in an .npz file. An entropy model of ten slices has about 400.
MAX_ARRAYS = 65_536
# Of the name of one; those of an entropy model have up to 30 characters.
MAX_ARRAY_NAME_BYTES = 256
# Of dimensions of an array: what the model id's canonical form needs at most is 4.
MAX_ARRAY_RANK = 8
# Of the text before an array's elements; numpy writes 118 bytes for the ones there are.
MAX_ARRAY_HEADER_BYTES = 4096
# Times that an array may be longer than it is compressed: no deflate stream grows more.
MAX_DEFLATE_RATIO = 1032
# Of the JSON beside a TensorRT plan, which the C++ runtime does not read; they have a few hundred kB at most.
MAX_PLAN_KEY_BYTES = 1 << 20
