"""Store an image for a page of the documentation: WebP of at most 200 kB.

    python tests/bench/page_image.py sheet.png docs/images/sheet.webp

Without loss if that fits, otherwise with the highest quality that does. Exit code 1 where no quality of at least 80
fits: show less in one image then.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from PIL import Image

LIMIT_BYTES = 200_000  # tests/packaging/test_repository.py holds every image of docs to it
QUALITIES = range(95, 79, -1)


def main() -> None:
    """Read one image and write it."""
    source, target = sys.argv[1:]
    with Image.open(source) as image:
        pixels = image.convert("RGB")
    tries: list[dict[str, Any]] = [{"lossless": True}, *({"quality": quality} for quality in QUALITIES)]
    for options in tries:
        stored = io.BytesIO()
        pixels.save(stored, "WEBP", method=6, **options)
        if stored.tell() <= LIMIT_BYTES:
            break
    else:
        sys.exit(f"{source}: {stored.tell()} bytes at quality {QUALITIES[-1]}, more than {LIMIT_BYTES}")
    with open(target, "wb") as file:
        file.write(stored.getvalue())
    print(f"{target}: {stored.tell()} bytes, {options}")


if __name__ == "__main__":
    main()
