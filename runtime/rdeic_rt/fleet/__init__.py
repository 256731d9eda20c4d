"""Encoding and decoding on many machines, with Ray Data (docs/fleet.md).

    workers.py    Encoder and Decoder: callables over batches of columns, which need no Ray
    listing.py    the files of a job
    pool.py       how many workers, and whether a cluster has room for them
    on_ray.py     actors, and the source of files
    ledger.py     what is done, and the report
    job.py        MAIN PATH of `rdeic-rt batch`

With a pipeline of your own, `encode` and `decode` are one step of it::

    images = ray.data.read_binary_files("photos", include_paths=True)
    rows = rdeic_rt.fleet.encode(images, rdeic_rt.fleet.Encoding(rate=2))

`encode`, `decode` and what `rdeic-rt batch` does need the extra ``fleet``; the callables do not.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailableError
from .pool import JobError, Pool
from .workers import Decoder, Decoding, Encoder, Encoding, Model

__all__ = ["Decoder", "Decoding", "Encoder", "Encoding", "JobError", "Model", "Pool", "decode", "encode"]


def encode(
    dataset: Any, options: Encoding = Encoding(), *, pool: Pool = Pool(), folder: str | Path | None = None
) -> Any:
    """Return a dataset with a row for each image of this one: one step of a pipeline of Ray Data.

    Args:
        dataset: `ray.data.Dataset` with the columns that `Encoder` reads: ``path``, and ``bytes`` where it has them.
        options: how.
        pool: of workers.
        folder: where files go, which every machine sees; None: their bytes are the column ``data``.

    Returns:
        `ray.data.Dataset` with the columns of docs/fleet.md.

    Raises:
        BackendUnavailableError: Ray is not installed.
        JobError: the cluster has no room for the pool.
    """
    return on_ray_half("on_ray").transform(dataset, Encoder(options, folder), pool)


def decode(
    dataset: Any, options: Decoding = Decoding(), *, pool: Pool = Pool(), folder: str | Path | None = None
) -> Any:
    """Return a dataset with a row for each .rdc file of this one; arguments and errors as for `encode`."""
    return on_ray_half("on_ray").transform(dataset, Decoder(options, folder), pool)


def on_ray_half(module: str) -> Any:
    """Return a module of this package that needs Ray, imported.

    Raises:
        BackendUnavailableError: Ray, or what of it reads and writes data, is not installed; names the extra.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module(f".{module}", __name__)
    except ImportError as error:
        raise BackendUnavailableError(
            f"fleets need Ray Data, which cannot be imported ({error}): install it with `pip install 'rdeic-rt[fleet]'`"
        ) from None
