"""Graphs, tables and entropy models of a bundle, each loaded once, on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from . import entropy, timing
from .backends import select
from .backends.base import Backend, Graph
from .bundle_file import BundleFile
from .entropy import EntropyModel
from .errors import BackendUnavailableError, BundleCorruptError
from .families.base import Family, Stages
from .lazy import Cache
from .manifest import LEVEL, STEP, Bundle, Rate
from .schedule import Schedule, float_rows, load_arrays, load_step_rows


class Loaded:
    """What a codec has loaded of its bundle so far.

    Attributes:
        entropy_models: file -> entropy model.
        level_rows: role -> what its graph reads at each level, float32 [levels, D].
        encoders: index of a rate -> stages of `families.Family.encode`.
        previews: index of a rate -> stages of `families.Family.preview`.
        decoders: index of a rate, name of a schedule -> stages of `families.Family.decode`.
    """

    def __init__(
        self, bundle: Bundle, family: Family, selection: select.Selection, precision: str, threads: int | None
    ) -> None:
        # None of these refers to the codec, so its memory is freed with the last reference to it.
        self.entropy_models: Cache[BundleFile, EntropyModel] = Cache(
            partial(_entropy_model, bundle, family, selection.backend, threads)
        )
        self.level_rows: Cache[str, NDArray[np.float32]] = Cache(partial(_level_rows, bundle))
        graphs = {
            backend: Cache(partial(_graph, bundle, backend)) for backend in (selection.backend, selection.encoder)
        }

        def rate_loader(backend: Backend, precision: str | None, index: int) -> RateLoader:
            return RateLoader(bundle, bundle.rates[index], backend, precision, graphs[backend])

        encoding = partial(rate_loader, selection.encoder, None)
        decoding = partial(rate_loader, selection.backend, precision)
        self.encoders: Cache[int, Stages] = Cache(lambda index: family.load_encoder(encoding(index)))
        self.previews: Cache[int, Stages] = Cache(lambda index: family.load_preview(decoding(index)))
        self.decoders: Cache[tuple[int, str | None], Stages] = Cache(
            lambda key: family.load_decoder(decoding(key[0]), None if key[1] is None else bundle.schedules[key[1]])
        )


@dataclass(frozen=True)
class RateLoader:
    """Loads what a family needs for one rate; see `families.base.Loader`.

    Attributes:
        bundle, rate: what is loaded.
        backend: where the graphs run.
        precision: as for `rdeic_rt.load`; None for the form that encoders run, so that files do not depend on it.
        graphs: id and form -> graph.
    """

    bundle: Bundle
    rate: Rate
    backend: Backend
    precision: str | None
    graphs: Cache[tuple[str, str], Graph]

    def graph(self, role: str) -> Graph:
        """Return the rate's graph for a role, in the form that the backend runs in this precision."""
        graph_id = self.rate.graphs[role]
        if self.precision is None:
            spec = self.bundle.reference(graph_id)
        else:
            spec = select.choose_form(self.backend, self.bundle, graph_id, self.precision)
        return self.graphs[spec.id, spec.form]

    def step_rows(self, schedule: Schedule) -> Mapping[str, NDArray[np.float32]]:
        """Return the rows that stand for the timesteps of a schedule, by role."""
        widths = {}
        for role in self.bundle.decoding_roles:
            inputs = {tensor.name: tensor for tensor in self.bundle.reference(self.rate.graphs[role]).inputs}
            if STEP in inputs:
                widths[role] = int(inputs[STEP].shape[-1])
        return load_step_rows(self.rate.step_tables[schedule.name], schedule.n_steps, widths)


def check_precision(backend: Backend, bundle: Bundle, precision: str) -> None:
    """Raise unless some rate has all its graphs in this precision for the backend; errors as for `choose_form`."""
    failures = []
    for rate in bundle.rates:
        try:
            for role in bundle.decoding_roles:
                select.choose_form(backend, bundle, rate.graphs[role], precision)
        except BackendUnavailableError as error:
            failures.append(error)
    if len(failures) == len(bundle.rates):
        raise failures[0]


def _graph(bundle: Bundle, backend: Backend, key: tuple[str, str]) -> Graph:
    graph_id, form = key
    with timing.stage("load"):
        return backend.load(bundle.graphs[graph_id][form])


def _entropy_model(
    bundle: Bundle, family: Family, backend: Backend, threads: int | None, file: BundleFile
) -> EntropyModel:
    """Return the entropy model in a file, with its networks evaluated on the backend's device.

    BundleCorruptError if its model id differs from ``bundle.json``, or if a graph reads the decoded tensors on another
    grid than the model's.
    """
    with timing.stage("load"):
        model = entropy.load(load_arrays(file), threads)
    wanted = {rate.model_id for rate in bundle.rates if rate.entropy == file}
    if wanted != {model.model_id}:
        raise BundleCorruptError(
            f"{file.path}: this is model {model.model_id.hex()}, bundle.json says "
            f"{' and '.join(m.hex() for m in wanted)}. Get the bundle again, or export it again."
        )
    for rate in bundle.rates:
        for name, position_px in model.position_px.items() if rate.entropy == file else ():
            grid = bundle.reference(rate.graphs[family.latents[name]]).input(name).grid
            graph_px = None if grid is None else bundle.size_multiple_px // grid.per_unit
            if graph_px != position_px:
                raise BundleCorruptError(
                    f"{file.path}: a position of {name} is {position_px} pixels, in the graph that reads it it is "
                    f"{graph_px}. Get the bundle again, or export it again."
                )
    with timing.stage("load"):
        return model.evaluated_by(backend.evaluator)


def _level_rows(bundle: Bundle, role: str) -> NDArray[np.float32]:
    """Return what a role's graph reads at each level, float32 [levels, D].

    Raises:
        BundleCorruptError: the file lacks the array, or it does not fit the graph's input.
    """
    assert bundle.levels is not None  # not called otherwise
    width = int(bundle.reference(bundle.rates[0].graphs[role]).input(LEVEL).shape[-1])
    with timing.stage("load"):
        return float_rows(bundle.levels.file, load_arrays(bundle.levels.file), role, bundle.levels.count, width)
