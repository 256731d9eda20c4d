from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident

import numpy as np
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import Codec, DecodeOptions, pipeline

N_THREADS = 8


def test_eight_threads_on_one_fresh_codec_agree_with_one_thread(codec: Codec, photo: NDArray[np.uint8]) -> None:
    """Each thread has its own photo, size and rate; all of them start by loading the same graphs."""
    rates = len(codec.bundle.rates)
    photos = [np.ascontiguousarray(photo[10 * n : 10 * n + 64 + 5 * n, 20 * n :][:, : 64 + 9 * n]) for n in range(8)]
    files = [codec.encode(photo, n % rates) for n, photo in enumerate(photos)]
    images = [codec.decode(file, DecodeOptions(sharpness=1.0 if n % 3 else 0.7)) for n, file in enumerate(files)]

    fresh = rdeic_rt.load(codec.bundle.folder, backend="cpu")
    start = Barrier(N_THREADS)

    def work(n: int) -> None:
        start.wait()
        for _ in range(3):
            assert fresh.encode(photos[n], n % rates) == files[n]
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


def test_absurd_number_of_workers_takes_few_threads_and_reads_little_ahead() -> None:
    taken: list[int] = []
    threads: set[int] = set()

    def sources() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    def ahead(number: int) -> int:
        threads.add(get_ident())
        return number

    for expected, (source, made) in enumerate(pipeline.in_order(sources(), ahead, lambda n: 2 * n, 10**9, None)):
        assert (source, made) == (expected, 2 * expected)
        assert len(taken) <= expected + 1 + pipeline.MAX_WORKERS
    assert len(threads) <= pipeline.MAX_WORKERS
