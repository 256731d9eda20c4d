"""How many workers there are, what each holds, and whether a cluster has room for them; needs no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

READING_CPUS = 1
"""What reading the list of files and writing the report take: with less, Ray waits for ever, and says nothing."""
RESUMING_CPUS = 1
"""What comes to that where a job is resumed: the actor of Ray that leaves out what is done."""


class JobError(ValueError):
    """A fleet is asked for what cannot be done; says why, and what to give instead."""


@dataclass(frozen=True)
class Pool:
    """Workers, and what Ray sets aside for each.

    Attributes:
        least, most: workers; Ray makes more or fewer between them by what there is to do. None: as many as fit.
        cpus: of each; it gets as many threads, but at least one.
        gpus: of each; with 0.5 two share one.
        memory_bytes: of each; None: not counted.
    """

    least: int | None = None
    most: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int | None = None

    @property
    def threads(self) -> int:
        """CPU threads of one worker."""
        return max(1, int(self.cpus))


def sized(pool: Pool, nodes: Sequence[Mapping[str, float]], *, resuming: bool = False) -> tuple[int, int]:
    """Return the least and the most workers, once it is sure that a cluster has room for them and for reading.

    Args:
        pool: what is asked for.
        nodes: for each machine of the cluster its ``CPU``, ``GPU`` and ``memory`` in bytes, as Ray counts them.
        resuming: whether what is done must be left out.

    Raises:
        JobError: there is no room; says the numbers.
    """
    reserved = READING_CPUS + (RESUMING_CPUS if resuming else 0)
    total = sum(node.get("CPU", 0.0) for node in nodes)
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    room = sum(_room(node, pool) for node in nodes)
    if pool.cpus > 0:
        room = min(room, math.floor((total - reserved) / pool.cpus + 1e-9))
    elif total < reserved:
        room = 0
    least = max(1, room) if pool.least is None else pool.least
    most = least if pool.most is None else pool.most
    if most <= room:
        return least, most
    each = f"{pool.cpus:g} CPU" + (f" and {pool.gpus:g} GPU" if pool.gpus else "")
    has = f"{total:g} CPUs" + (f" and {gpus:g} GPUs" if pool.gpus else "") + f" on {len(nodes)} machine(s)"
    if pool.memory_bytes:
        each += f" and {pool.memory_bytes / 2**30:.3g} GiB"
        has += f" with {sum(node.get('memory', 0.0) for node in nodes) / 2**30:.3g} GiB"
    why = "reading and writing need 1 CPU" + (", and leaving out what is done needs 1 more" if resuming else "")
    raise JobError(
        f"{most} worker(s) of {each} each take {most * pool.cpus:g} of {has}, and {why}, or the job would wait for "
        f"ever: {max(0, room)} fit. Give fewer --workers, or less to each "
        "(--cpus-per-worker, --gpus-per-worker, --memory-per-worker)"
    )


def _room(node: Mapping[str, float], pool: Pool) -> int:
    """Return how many workers fit on one machine."""
    wanted = {"CPU": pool.cpus, "GPU": pool.gpus, "memory": pool.memory_bytes or 0}
    fits = [math.floor(node.get(name, 0.0) / each + 1e-9) for name, each in wanted.items() if each > 0]
    return min(fits, default=2**20)
