from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import Codec, DecodeOptions

N_THREADS = 8


def test_eight_threads_on_one_fresh_codec_agree_with_one_thread(codec: Codec, photo: NDArray[np.uint8]) -> None:
    """Each thread has its own picture, size and rate; all of them start by loading the same graphs."""
    rates = len(codec.bundle.rates)
    pictures = [np.ascontiguousarray(photo[10 * n : 10 * n + 64 + 5 * n, 20 * n :][:, : 64 + 9 * n]) for n in range(8)]
    files = [codec.encode(picture, n % rates) for n, picture in enumerate(pictures)]
    images = [codec.decode(file, DecodeOptions(sharpness=1.0 if n % 3 else 0.7)) for n, file in enumerate(files)]

    fresh = rdeic_rt.load(codec.bundle.folder, backend="cpu")
    start = Barrier(N_THREADS)

    def work(n: int) -> None:
        start.wait()
        for _ in range(3):
            assert fresh.encode(pictures[n], n % rates) == files[n]
            decoded = fresh.decode(files[n], DecodeOptions(sharpness=1.0 if n % 3 else 0.7))
            np.testing.assert_array_equal(decoded, images[n])

    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(work, range(N_THREADS)))


def test_eight_threads_on_one_file_agree(codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = codec.encode(photo[:90, :120])
    image = codec.decode(data)
    with ThreadPoolExecutor(N_THREADS) as pool:
        for decoded in pool.map(lambda _: codec.decode(data), range(2 * N_THREADS)):
            np.testing.assert_array_equal(decoded, image)
