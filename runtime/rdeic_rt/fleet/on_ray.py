"""The half of a fleet that needs Ray: the list of files as a source of Ray Data, and workers as its actors.

    Listing ─ read tasks ─▶ blocks of files ─ actors, each with an Encoder or Decoder ─▶ rows ─▶ whoever takes them
                                                       │
                                                     Watch: which files are in work

Ray restarts an actor whose process dies and gives it the same files again, without end. So each file is told to `Watch`
before it is begun and when it is done; one that was begun twice and never done is not begun again.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Datasource, ReadTask
from ray.data.block import BlockMetadata

from .listing import File
from .pool import READING_CPUS, RESUMING_CPUS, Pool, sized
from .workers import DIED, Decoder, Encoder

MOST_DEATHS = 2
KEY = "__key__"
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "out": pa.string(),
        "data": pa.large_binary(),
        "width": pa.int32(),
        "height": pa.int32(),
        "rate": pa.string(),
        "n_bytes": pa.int64(),
        "crc32c": pa.uint32(),
        "seconds": pa.float64(),
        "worker": pa.string(),
        "error_type": pa.string(),
        "error": pa.string(),
    }
)
"""Types of the columns; each table has ``out`` or ``data``."""

# Each calls it twice a file, and one has answered 1,900 calls a second with its callers on the same two cores.
_WORKERS_A_WATCH = 100
_OBJECT_STORE_BYTES = 2**28
_CONNECT_S = 10.0
_LOCAL = "local"
_AUTO = "auto"


@dataclass(frozen=True)
class How:
    """What the workers of a job do beside their work.

    Attributes:
        samples: rows become samples of a WebDataset.
        stop_at_error: end the job with the first file that fails.
    """

    samples: bool = False
    stop_at_error: bool = False


class _Watch:
    """Counts how often each file was begun without being done, and keeps what a job was stopped by."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}
        self._stopped_by: tuple[str | None, str, str] | None = None

    def begin(self, path: str) -> int:
        """Note that a file is begun; return how often it was before, without being done."""
        before = self._begun.get(path, 0)
        self._begun[path] = before + 1
        return before

    def end(self, path: str) -> None:
        """Note that a file is done."""
        self._begun.pop(path, None)

    def stop(self, path: str | None, error_type: str, error: str) -> None:
        """Note why the job cannot go on; the first reason counts."""
        self._stopped_by = self._stopped_by or (path, error_type, error)

    def stopped_by(self) -> tuple[str | None, str, str] | None:
        """Return path, class and text of the error that the job was stopped by; None for none."""
        return self._stopped_by


Watch: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Watch)
"""An actor that watches: ``Watch.remote()`` makes one."""


class Watches:
    """As many of `Watch` as so many workers keep busy, each for its share of the files."""

    def __init__(self, n_workers: int) -> None:
        self._all = [Watch.remote() for _ in range(1 + n_workers // _WORKERS_A_WATCH)]

    def begin(self, path: str) -> int:
        """Note that a file is begun; return how often it was before, without being done."""
        before: int = ray.get(self._of(path).begin.remote(path))
        return before

    def end(self, path: str) -> None:
        """Note that a file is done."""
        self._of(path).end.remote(path)

    def stop(self, path: str | None, error_type: str, error: str) -> None:
        """Note why the job cannot go on; the first reason counts."""
        ray.get(self._all[0].stop.remote(path, error_type, error))

    def stopped_by(self) -> tuple[str | None, str, str] | None:
        """Return path, class and text of the error that the job was stopped by; None for none."""
        why: tuple[str | None, str, str] | None = ray.get(self._all[0].stopped_by.remote())
        return why

    def _of(self, path: str) -> Any:
        return self._all[zlib.crc32(path.encode()) % len(self._all)]


class StoppedError(Exception):
    """A job was stopped; `Watch` knows by what."""


class Listing(Datasource):  # type: ignore[misc]
    """The files of a job, in blocks of so many: columns ``path``, ``source`` and ``__key__``."""

    def __init__(self, files: Sequence[File], files_a_block: int) -> None:
        super().__init__()
        self._blocks = [files[at : at + files_a_block] for at in range(0, len(files), files_a_block)]

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    def estimate_inmemory_data_size(self) -> int:
        """Return about how many bytes the list has."""
        return sum(self._bytes(block) for block in self._blocks)

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        """Return a task for each block."""
        return [
            ReadTask(
                lambda block=block: [_files_table(block)],
                BlockMetadata(num_rows=len(block), size_bytes=self._bytes(block), input_files=None, exec_stats=None),
            )
            for block in self._blocks
        ]

    @staticmethod
    def _bytes(block: Sequence[File]) -> int:
        return sum(2 * len(file.path) + len(file.source) for file in block)


class Actor:
    """A worker in a process of Ray."""

    def __init__(self, worker: Encoder | Decoder, watch: Watches, how: How) -> None:
        self._worker, self._watch, self._how = worker, watch, how

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows of a block of files."""
        rows = [self._row(file) for file in batch.to_pylist()]
        columns = self._worker.columns
        if self._how.samples:
            return _samples(rows, batch.column(KEY), self._worker.options.suffix)
        return pa.Table.from_pylist(rows, schema=pa.schema([SCHEMA.field(name) for name in columns]))

    def _row(self, file: Mapping[str, Any]) -> dict[str, Any]:
        path = str(file["path"])
        try:
            deaths = self._watch.begin(path)
            if deaths < MOST_DEATHS:
                row = self._worker.row(file)
            else:
                why = f"worker died {deaths} times while it worked on this file; see Ray's logs, and if memory ran out"
                row = self._worker.empty_row(path) | {"error_type": DIED, "error": why, "seconds": 0.0}
            self._watch.end(path)
        except Exception as error:  # of the model, or a bug: without it no file can be done
            self._stop(None, type(error).__name__, str(error))
        if row["error_type"] and self._how.stop_at_error:
            self._stop(path, row["error_type"], row["error"])
        return row

    def _stop(self, path: str | None, error_type: str, error: str) -> None:
        self._watch.stop(path, error_type, error)
        raise StoppedError(error)


def transform(
    dataset: ray.data.Dataset,
    worker: Encoder | Decoder,
    pool: Pool,
    *,
    watch: Watches | None = None,
    how: How = How(),
    **more: Any,
) -> ray.data.Dataset:
    """Return a dataset's files encoded or decoded by a pool of actors.

    Args:
        dataset: with the columns that `Encoder` reads.
        worker: what each actor does; its model is given the threads of the pool.
        pool: of actors.
        watch: over the workers; None: one of its own.
        how: what actors do beside that.
        more: ``resuming`` for `sized`, ``batch_size`` for Ray (default 16).

    Raises:
        JobError: the cluster has no room for the pool.
    """
    least, most = sized(pool, machines(), resuming=more.get("resuming", False))
    return dataset.map_batches(
        Actor,
        fn_constructor_args=(_with_threads(worker, pool.threads), watch or Watches(most), how),
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        batch_size=more.get("batch_size", 16),
        batch_format="pyarrow",
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        memory=pool.memory_bytes,
        udf_modifying_row_count=False,
    )


def _with_threads(worker: Encoder | Decoder, threads: int) -> Encoder | Decoder:
    """Return a worker whose model has so many threads, unless it says how many."""
    model = worker.options.model
    if model.threads is not None:
        return worker
    options: Any = replace(worker.options, model=replace(model, threads=threads))
    return type(worker)(options, worker.folder)


def start(address: str, *, quiet: bool) -> bool:
    """Connect to a cluster, or start one on this machine; do nothing where that is done.

    A cluster that is started here has CPUs by name for reading and resuming, beside those of the machine: what uses
    them hardly computes, and without them Ray would wait for ever.

    Args:
        address: ``local``, ``auto`` for a running cluster and else a local one, or a cluster's.
        quiet: leave out what Ray says of itself.

    Returns:
        Whether it was started or connected to here, and so is to be left by `ray.shutdown`.

    Raises:
        ConnectionError: no cluster is at that address.
    """
    if ray.is_initialized():
        return False
    how = {"log_to_driver": not quiet, "logging_level": logging.ERROR if quiet else logging.INFO}
    if address != _LOCAL:
        _check_reachable(address)
        try:
            ray.init(address=address, **how)
            return True
        except ConnectionError:
            if address != _AUTO:
                raise
    ray.init(
        address=_LOCAL,
        num_cpus=_cores() + READING_CPUS + RESUMING_CPUS,
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        **how,
    )
    return True


def _check_reachable(address: str) -> None:
    """Raise ConnectionError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname is None or parts.port is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers there ({error})") from None


def machines() -> list[dict[str, float]]:
    """Return what each machine of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _files_table(files: Sequence[File]) -> pa.Table:
    return pa.table(
        {
            "path": pa.array([file.path for file in files], pa.string()),
            "source": pa.array([file.source for file in files], pa.string()),
            KEY: pa.array([file.key for file in files], pa.string()),
        }
    )


def _samples(rows: Sequence[Mapping[str, Any]], keys: pa.ChunkedArray, suffix: str) -> pa.Table:
    """Return rows as samples: the file's bytes under its suffix, and all else as JSON."""
    told = [json.dumps({name: value for name, value in row.items() if name != "data"}) for row in rows]
    return pa.table(
        {
            KEY: keys,
            suffix.removeprefix("."): pa.array([row["data"] for row in rows], pa.large_binary()),
            "json": pa.array([text.encode() for text in told], pa.binary()),
        }
    )
