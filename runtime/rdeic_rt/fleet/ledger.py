"""What a job has done: the rows that Ray has written and committed, which a resumed job does not do again.

    job.json                what the job is: its key
    checkpoints/BASE.parquet    ids of the rows that are committed, by Ray (CheckpointConfig)
    BASE*.parquet, BASE*.tar    the rows themselves: in a folder beside it, or the one of the outputs

Ray writes ``BASE.pending.parquet`` before a part, and renames it once the part is whole. A row counts if its id stands
in the checkpoint of its part; so an id is taken out first where a file is to be made again, and then its row.
"""

from __future__ import annotations

import itertools
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .. import files
from ..errors import LimitExceededError
from .on_ray import KEY, SCHEMA
from .workers import REPORT, checksum

JOB_FILE = "job.json"
_PENDING = ".pending"
_MOST_JOB_BYTES = 2**20
_MOST_ERRORS_SHOWN = 20
_ROWS_AT_ONCE = 64

_log = logging.getLogger("rdeic_rt.fleet.ledger")

Row = dict[str, Any]


@dataclass
class Summary:
    """What a job has come to, over all its runs.

    Attributes:
        n_files: of which there is a row.
        n_bytes: of what came out.
        error_types: how many files failed, by class.
        errors: path and text of the first of them.
        report: where all of it is.
    """

    n_files: int = 0
    n_bytes: int = 0
    error_types: Counter[str] = field(default_factory=Counter)
    errors: list[tuple[str, str]] = field(default_factory=list)
    report: Path = Path()

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a file."""
        self.n_files += 1
        self.n_bytes += row["n_bytes"] or 0
        if row["error_type"]:
            self.error_types[row["error_type"]] += 1
            if len(self.errors) < _MOST_ERRORS_SHOWN:
                self.errors.append((row["path"], row["error"]))


class Ledger:
    """The rows of one job.

    Attributes:
        folder: of the ledger itself.
        checkpoints: where Ray commits.
        parts: where Ray writes rows.
    """

    def __init__(self, folder: Path, parts: Path, outputs: Path, *, samples: bool) -> None:
        """Open a ledger, which may be empty.

        Args:
            folder: of the ledger.
            parts: of its rows.
            outputs: what the column ``out`` is relative to.
            samples: whether rows are samples in tar files, instead of rows in Parquet files.
        """
        self.folder, self.parts, self._outputs = folder, parts, outputs
        self.checkpoints = folder / "checkpoints"
        self._suffix = ".tar" if samples else ".parquet"
        self.id_column = KEY if samples else "path"

    def key(self) -> dict[str, Any] | None:
        """Return the key of the job that the ledger is of; None where there is none.

        Raises:
            ValueError: its file holds something else.
        """
        try:
            data = files.read_bytes(self.folder / JOB_FILE, _MOST_JOB_BYTES)
        except FileNotFoundError:
            return None
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError(f"{self.folder / JOB_FILE} does not describe a job")
        return found

    def begin(self, key: Mapping[str, Any]) -> None:
        """Make the ledger of a job with this key."""
        for folder in (self.checkpoints, self.parts):
            folder.mkdir(parents=True, exist_ok=True)
        files.atomic_write(self.folder / JOB_FILE, (json.dumps(key, indent=1) + "\n").encode())

    def leave_whole(self) -> tuple[int, int]:
        """Take out what is to be made again; return how many files are done, and how many were taken out.

        Taken out are files that failed, and those of which the output is not there or has another CRC-32C; and parts
        that were never committed.
        """
        done, dropped = 0, 0
        parts = self._parts()
        for checkpoint in self._committed():
            ids = _ids(checkpoint, self.id_column)
            of_it = parts.pop(checkpoint.stem, [])
            found = {part: {id_: self._is_whole(row, data) for id_, row, data in self._read(part)} for part in of_it}
            whole = {id_ for rows in found.values() for id_, is_whole in rows.items() if is_whole} & ids
            done, dropped = done + len(whole), dropped + len(ids) - len(whole)
            if whole != ids:
                _replace_ids(checkpoint, self.id_column, whole)
            for part, rows in found.items():
                self._keep(part, set(rows), whole)
        for part in itertools.chain.from_iterable(parts.values()):
            part.unlink()
        return done, dropped

    def report(self, target: Path) -> Summary:
        """Write the row of every file to a Parquet file; return what it comes to."""
        summary = Summary(report=target)
        schema = pa.schema([SCHEMA.field(name) for name in REPORT])
        parts = self._parts()

        def write(stream: BinaryIO) -> None:
            with pq.ParquetWriter(stream, schema) as writer:
                for checkpoint in self._committed():
                    ids = _ids(checkpoint, self.id_column)
                    rows = [row for part in parts.get(checkpoint.stem, []) for row in self._told(part, ids)]
                    for row in rows:
                        summary.add(row)
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))

        files.atomic_write(target, write)
        return summary

    def _told(self, part: Path, ids: set[str]) -> Iterator[Row]:
        """Yield those rows of a part; where their bytes are in the part, ``out`` is its path."""
        here = part.relative_to(self._outputs).as_posix() if part.is_relative_to(self._outputs) else None
        for id_, row, _ in self._read(part):
            if id_ in ids:
                yield {"out": None if row["error_type"] else here} | {name: row[name] for name in REPORT if name in row}

    def _is_whole(self, row: Row, data: bytes | None) -> bool:
        """Return whether a file need not be done again."""
        if row["error_type"]:
            return False
        if "out" in row:
            try:
                data = files.read_bytes(self._outputs / row["out"], row["n_bytes"])
            except (OSError, LimitExceededError):
                return False
        return data is not None and checksum(data) == row["crc32c"]

    def _committed(self) -> list[Path]:
        """Return the checkpoints that Ray has committed."""
        return [path for path in sorted(self.checkpoints.glob("*.parquet")) if _PENDING not in path.name]

    def _parts(self) -> dict[str, list[Path]]:
        """Return the parts of each checkpoint, by the checkpoint's name; those of none under a name of their own."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.parts.glob(f"*{self._suffix}")):
            found.setdefault(path.stem.partition("-")[0], []).append(path)
        return found

    def _read(self, part: Path) -> Iterator[tuple[str, Row, bytes | None]]:
        """Yield id, row without its bytes, and bytes, of each row of a part; nothing more where it is damaged."""
        try:
            yield from (_tar_rows if self._suffix == ".tar" else _parquet_rows)(part)
        except (pa.ArrowException, tarfile.TarError, OSError, ValueError) as error:
            _log.warning("%s is damaged: what was in it is made again (%s)", part, error)

    def _keep(self, part: Path, found: set[str], ids: set[str]) -> None:
        """Leave only these rows in a part that has those that were found; remove it if there are none."""
        if not ids & found:
            part.unlink()
        elif not found <= ids:
            keep = _keep_in_tar if self._suffix == ".tar" else _keep_in_parquet
            files.atomic_write(part, lambda stream: keep(part, ids, stream))


def _ids(checkpoint: Path, column: str) -> set[str]:
    return set(pq.read_table(checkpoint, columns=[column]).column(column).to_pylist())


def _replace_ids(checkpoint: Path, column: str, ids: set[str]) -> None:
    """Let a checkpoint say that these ids are done; remove it if there are none."""
    if ids:
        table = pa.table({column: pa.array(sorted(ids), pa.string())})
        files.atomic_write(checkpoint, lambda stream: pq.write_table(table, stream))
    else:
        checkpoint.unlink()


def _parquet_rows(part: Path) -> Iterator[tuple[str, Row, bytes | None]]:
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                data = row.pop("data", None)
                yield row["path"], row, data


def _keep_in_parquet(part: Path, ids: set[str], stream: BinaryIO) -> None:
    table = pq.read_table(part)
    pq.write_table(table.filter(pa.array([path in ids for path in table.column("path").to_pylist()])), stream)


def _tar_rows(part: Path) -> Iterator[tuple[str, Row, bytes | None]]:
    """Yield the samples of a shard; the JSON of a sample comes after its data."""
    with tarfile.open(part) as shard:
        data: bytes | None = None
        for member in shard:
            key, _, kind = member.name.rpartition(".")
            content = shard.extractfile(member)
            assert content is not None
            if kind != "json":
                data = content.read()
                continue
            yield key, json.loads(content.read()), data
            data = None


def _keep_in_tar(part: Path, ids: set[str], stream: BinaryIO) -> None:
    with tarfile.open(part) as shard, tarfile.open(fileobj=stream, mode="w") as kept:
        for member in shard:
            if member.name.rpartition(".")[0] in ids:
                kept.addfile(member, shard.extractfile(member))
