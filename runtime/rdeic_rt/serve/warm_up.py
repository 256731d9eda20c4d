"""What a server does with a codec before it takes requests."""

from __future__ import annotations

import numpy as np

from ..codec import Codec
from ..limits import Size


def warm_up(codec: Codec) -> None:
    """Decode a small image that the codec has encoded, or empty latents if its bundle only decodes.

    Raises:
        RdeicError: the bundle or the backend does not work.
    """
    if codec.bundle.encodes:
        codec.decode(codec.encode(np.full((64, 64, 3), 128, np.uint8)))
    else:
        codec.prepare(Size(64, 64))
