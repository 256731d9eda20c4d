"""Graphs and tables of a bundle, each loaded when it is first needed, once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import bundle as bundles
from . import denoise, entropy, timing
from .backends import select
from .backends.base import Backend, Graph
from .bundle import Bundle, Rate
from .bundle_file import BundleFile
from .errors import BackendUnavailableError, BundleCorruptError
from .reconstruct import Decoder, Previewer
from .schedule import float_rows, load_arrays, load_step_rows

_K = TypeVar("_K")
_V = TypeVar("_V")


class LoadOnce(Generic[_K, _V]):
    """Values made on first use, each once, whichever thread comes first; a failure is not kept."""

    def __init__(self, make: Callable[[_K], _V]) -> None:
        self._make = make
        self._values: dict[_K, _V] = {}
        self._locks: dict[_K, Lock] = {}
        self._lock = Lock()

    def __getitem__(self, key: _K) -> _V:
        if key not in self._values:
            with self._lock:
                lock = self._locks.setdefault(key, Lock())
            with lock:
                if key not in self._values:
                    self._values[key] = self._make(key)
        return self._values[key]


def graph(bundle: Bundle, backend: Backend, graph_id: str) -> Graph:
    """Return a graph of the bundle, ready to run."""
    with timing.stage("load"):
        return backend.load(bundle.graphs[graph_id])


def entropy_model(bundle: Bundle, threads: int | None, file: BundleFile) -> entropy.EntropyModel:
    """Return the entropy model in a file; BundleCorruptError if ``bundle.json`` says that it is another."""
    with timing.stage("load"):
        model = entropy.EntropyModel.load(load_arrays(file), threads)
    wanted = {rate.model_id for rate in bundle.rates if rate.entropy == file}
    if wanted != {model.model_id}:
        raise BundleCorruptError(
            f"{file.path}: this is model {model.model_id.hex()}, bundle.json says "
            f"{' and '.join(m.hex() for m in wanted)}. Get the bundle again, or export it again."
        )
    return model


def level_rows(bundle: Bundle, role: str) -> NDArray[np.float32]:
    """Return what ``analysis`` or ``synthesis`` of a bundle with levels reads at each of them, float32 [levels, D].

    Raises:
        BundleCorruptError: the file lacks the array, or it does not fit the graph's input.
    """
    assert bundle.levels is not None  # nobody asks otherwise
    width = int(bundle.graphs[bundle.rates[0].graphs[role]].input(bundles.LEVEL).shape[-1])
    with timing.stage("load"):
        return float_rows(bundle.levels.file, load_arrays(bundle.levels.file), role, bundle.levels.count, width)


def decoder(
    bundle: Bundle, backend: Backend, precision: str, graphs: LoadOnce[str, Graph], key: tuple[int, str]
) -> Decoder:
    """Return what decodes a rate, by its index and the name of a schedule."""
    rate, schedule = bundle.rates[key[0]], bundle.schedules[key[1]]
    of_role = partial(_graph_of_role, bundle, backend, precision, graphs, rate)
    control, unet_step = of_role("control"), of_role("unet_step")
    widths = [int(step_graph.spec.input("step").shape[-1]) for step_graph in (control, unet_step)]
    rows = load_step_rows(rate.step_tables[schedule.name], schedule.n_steps, *widths)
    return Decoder(
        synthesis=of_role("synthesis"),
        denoiser=denoise.prepare(backend, control, unet_step, schedule, rows),
        vae_decoder=of_role("vae_decoder"),
        start_weights=backend.put(schedule.start_weights()),
    )


def previewer(
    bundle: Bundle, backend: Backend, precision: str, graphs: LoadOnce[str, Graph], rate_index: int
) -> Previewer:
    """Return what makes previews of a rate, by its index."""
    of_role = partial(_graph_of_role, bundle, backend, precision, graphs, bundle.rates[rate_index])
    return Previewer(synthesis=of_role("synthesis"), vae_decoder=of_role("vae_decoder"))


def _graph_of_role(
    bundle: Bundle, backend: Backend, precision: str, graphs: LoadOnce[str, Graph], rate: Rate, role: str
) -> Graph:
    """Return a rate's graph for a role, in the form that the backend runs in this precision."""
    return graphs[select.choose_form(backend, bundle, rate.graphs[role], precision).id]


def check_precision(backend: Backend, bundle: Bundle, precision: str) -> None:
    """Raise unless some rate has all its graphs in this precision for the backend; errors as for `choose_form`."""
    failures = []
    for rate in bundle.rates:
        try:
            for role in bundles.DECODING_ROLES:
                select.choose_form(backend, bundle, rate.graphs[role], precision)
        except BackendUnavailableError as error:
            failures.append(error)
    if len(failures) == len(bundle.rates):
        raise failures[0]
