"""The contents of ``bundle.json`` as objects; `bundle` reads, checks and writes it (docs/bundle.md)."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsIndex

from .bundle_file import BundleFile, Source
from .bundle_search import PULL, SEARCH_VARIABLE
from .errors import BundleMismatchError
from .limits import Size
from .schedule import Schedule
from .tensor_spec import BATCH, COLUMNS, ROWS, TensorSpec

# The forms of a graph, from the closest to the trained model on.
FORMS = ("fp32", "fp16", "fp16-cuda", "int8", "int8-cpu")
# What a user selects: one of these, or `AUTO`, the fastest.
PRECISIONS = ("fp32", "fp16", "int8")
AUTO = "auto"
# The input of graphs that rates share: a row of numbers for each level.
LEVEL = "level"
# The input that stands for a timestep: a row of numbers for each step of a schedule.
STEP = "step"


def precision_of(form: str) -> str:
    """Return the precision of a form, the first part of its name: ``int8`` for ``int8-cpu``."""
    return form.partition("-")[0]


def rate_from(given: str | float | None) -> float | str | None:
    """Return a rate as `Bundle.choose_rate` takes it of one that may be given as text: a number where it is one."""
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        return given
    if given.isdecimal():
        return int(given)
    try:
        return float(given)
    except ValueError:
        return given


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX graph of a bundle in one form: its file, inputs and outputs.

    Attributes:
        id: its name in ``bundle.json``, the same for all forms.
        form: one of `FORMS`.
        file: the ONNX file; backends load it with `graph_file.read`.
        inputs, outputs: in the graph's order.
        folder: of the file, relative to the bundle: empty, or with a trailing slash.
        listed: the bundle's files, which may hold weights of the graph.
    """

    id: str
    form: str
    file: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    folder: str = ""
    listed: Mapping[str, BundleFile] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Path of the file, for messages and tools."""
        return self.file.path

    def input(self, name: str) -> TensorSpec:
        """Return the input called name; KeyError if there is none."""
        return {spec.name: spec for spec in self.inputs}[name]

    def output(self, name: str) -> TensorSpec:
        """Return the output called name; KeyError if there is none."""
        return {spec.name: spec for spec in self.outputs}[name]

    def free_shapes(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Return input -> shape at these sizes of the free dimensions, of the inputs that have any."""
        return {tensor.name: tensor.resolve(sizes) for tensor in self.inputs if tensor.free}

    def weights_at(self, location: str) -> BundleFile | None:
        """Return the file at a path from the graph's folder, as the graph gives it; None if no such file is listed."""
        return self.listed.get(self.folder + location)


@dataclass(frozen=True)
class Rate:
    """One operating point of the codec: a rate of the bundle, or a level between two of its rates.

    Attributes:
        index: among the bundle's rates; between two rates, the index of the one with larger files.
        number: stored in .rdc files: the level if the bundle has levels, otherwise the index.
        label: a name for users.
        bpp: bits per source pixel of a typical photo.
        model_id: 4 bytes, the entropy model that files of this rate need.
        graphs: role of the bundle's family -> graph id.
        entropy: .npz of the entropy model.
        schedule: name of the default schedule; None if the family has no steps.
        step_tables: schedule name -> .npz with the rows that `schedule.load_step_rows` reads.
        lambda_r: weight of the distortion in the training loss (Eq. 9); larger means larger files. None: not known.
        is_guided: whether a lambda_s other than 1 has an effect.
        bit_worth: squared error of y, in squared steps, that the encoder trades for a bit; see
            `entropy.EntropyModel.encode`.
    """

    index: int
    number: int
    label: str
    bpp: float
    model_id: bytes
    graphs: Mapping[str, str]
    entropy: BundleFile
    schedule: str | None = None
    step_tables: Mapping[str, BundleFile] = field(default_factory=dict)
    lambda_r: float | None = None
    is_guided: bool = True
    bit_worth: float = 0.0


@dataclass(frozen=True)
class Levels:
    """The scale of rates that share their graphs, from the largest, 0, to the smallest, ``count`` - 1.

    Attributes:
        count: of levels.
        file: .npz with the rows that the graphs read, one array per role and one row per level, see `loading.Loaded`.
    """

    count: int
    file: BundleFile


@dataclass(frozen=True)
class Bundle:
    """A checked ``bundle.json``; every path in it exists and lies inside ``folder``.

    Attributes:
        folder: absolute path of the bundle.
        name, licence, provenance: identity and origin of the model.
        family: name of the family, which defines the graphs and how they are chained, see `families`.
        decoding_roles: the family's roles after entropy decoding, in the order of execution.
        encodes: whether rates have the graphs that only encoding needs; if not, it is the decoding half of a bundle.
        size_multiple_px: image sides are padded to a multiple of this, the unit of `TensorSpec.grid`.
        files: relative path -> file, for every file but ``bundle.json``.
        graphs: id -> form -> graph.
        preferred: name of a backend -> forms, the measured fastest first.
        schedules: by name.
        rates: by index.
        default_rate: index of the rate that `Codec.encode` uses by default.
        levels: levels between the bundle's rates; None if there are none.
        calibration: measurements (rate overhead of the integer networks, ...), free-form.
    """

    folder: Path
    name: str
    family: str
    decoding_roles: tuple[str, ...]
    encodes: bool
    licence: str
    provenance: Mapping[str, Any]
    size_multiple_px: int
    files: Mapping[str, BundleFile]
    graphs: Mapping[str, Mapping[str, GraphSpec]]
    preferred: Mapping[str, tuple[str, ...]]
    schedules: Mapping[str, Schedule]
    rates: tuple[Rate, ...]
    default_rate: int
    levels: Levels | None
    calibration: Mapping[str, Any]

    def reference(self, graph_id: str) -> GraphSpec:
        """Return a graph in the form closest to the trained model, which encoders run and plans are built from."""
        forms = self.graphs[graph_id]
        return next(forms[form] for form in FORMS if form in forms)

    def free_sizes(self, size: Size, batch: int = 1) -> dict[str, int]:
        """Return the free dimensions for images of a size, padded to units, as `TensorSpec.resolve` takes them."""
        rows, columns = (-(-side // self.size_multiple_px) for side in (size.height, size.width))
        return {BATCH: batch, ROWS: rows, COLUMNS: columns}

    def preference(self, backend: str, precision: str) -> tuple[str, ...]:
        """Return the forms of a precision, or all for ``auto``, in a backend's order of preference."""
        measured = self.preferred.get(backend, ())
        ordered = [*measured, *(form for form in FORMS if form not in measured)]
        return tuple(form for form in ordered if precision in (AUTO, precision_of(form)))

    def has(self, model_id: bytes, rate: int) -> bool:
        """Return whether `rate_of` would return a rate."""
        if self.levels is not None:
            return rate < self.levels.count and self.rates[0].model_id == model_id
        return rate < len(self.rates) and self.rates[rate].model_id == model_id

    def rate_of(self, model_id: bytes, rate: int) -> Rate:
        """Return the rate of an .rdc header.

        Args:
            model_id: 4 bytes, from the header.
            rate: rate number, from the header.

        Raises:
            BundleMismatchError: the file was encoded with another model; the message names both.
        """
        if self.has(model_id, rate):
            return self.rates[rate] if self.levels is None else self.rate_at(rate)
        if self.levels is None:
            has = ", ".join(f"rate {r.index}: {r.model_id.hex()}" for r in self.rates)
        else:
            has = f"{self.rates[0].model_id.hex()} at levels 0 to {self.levels.count - 1}"
        raise BundleMismatchError(
            f"the file needs model {model_id.hex()} at rate {rate}; bundle {self.name!r} in {self.folder} has {has}. "
            "Load the bundle that the file was made with (by path, from a folder in "
            f"{SEARCH_VARIABLE}, or after {PULL})."
        )

    def rate_at(self, level: int) -> Rate:
        """Return the rate at a level, 0 to ``levels.count`` - 1.

        Beyond the bundle's first and last rate it is like these; between two, lambda_r and bits per pixel are geometric
        means of theirs.
        """
        numbers = [rate.number for rate in self.rates]
        below = max(bisect_right(numbers, level) - 1, 0)
        larger, smaller = self.rates[below], self.rates[min(below + 1, len(numbers) - 1)]
        if level == larger.number:
            return larger
        span = smaller.number - larger.number
        share = min(max((level - larger.number) / span, 0.0), 1.0) if span else 0.0

        def between(more: float, less: float) -> float:
            return float(more ** (1 - share) * less**share)

        known = larger.lambda_r is not None and smaller.lambda_r is not None
        return replace(
            larger,
            number=level,
            label=f"{larger.index + share:.2f}",
            lambda_r=between(larger.lambda_r or 0.0, smaller.lambda_r or 0.0) if known else None,
            bpp=between(larger.bpp, smaller.bpp),
        )

    def choose_rate(self, rate: float | str | None) -> Rate:
        """Return the rate with this index or label, or the default one for None; ValueError lists the choices.

        Where the bundle has levels, ``rate`` may lie between two indices: 1.5 is halfway from rate 1 to rate 2.
        """
        if rate is None:
            return self.rates[self.default_rate]
        last = len(self.rates) - 1
        named = [one for one in self.rates if one.label == rate]
        if named:
            return named[0]
        if isinstance(rate, SupportsIndex) and not isinstance(rate, bool) and 0 <= operator.index(rate) <= last:
            return self.rates[operator.index(rate)]
        if self.levels is not None and isinstance(rate, float) and 0 <= rate <= last:
            below = self.rates[min(int(rate), last - 1)] if last else self.rates[0]
            above = self.rates[min(below.index + 1, last)]
            return self.rate_at(round(below.number + (rate - below.index) * (above.number - below.number)))
        choices = ", ".join(f"{r.index} ({r.label})" for r in self.rates)
        between = "" if self.levels is None else ", and all between them"
        raise ValueError(f"rate {rate!r} is not one of bundle {self.name!r}'s: {choices}{between}")

    def choose_schedule(self, rate: Rate, n_steps: int | None) -> Schedule | None:
        """Return the rate's schedule, or that of the same sampler with n_steps; ValueError lists the choices.

        None is the schedule of a family without steps, for which n_steps must be None.
        """
        if rate.schedule is None:
            if n_steps is None:
                return None
            raise ValueError(f"{n_steps!r} steps: bundle {self.name!r} does not decode in steps that can be chosen")
        default = self.schedules[rate.schedule]
        if n_steps is None:
            return default
        alike = [self.schedules[name] for name in rate.step_tables]
        by_steps = {s.n_steps: s for s in [*alike, default] if s.sampler == default.sampler}
        if isinstance(n_steps, bool) or n_steps not in by_steps:
            choices = " or ".join(map(str, sorted(by_steps)))
            raise ValueError(
                f"{n_steps!r} steps: rate {rate.index} of bundle {self.name!r} decodes in {choices} steps"
                f" (default {default.n_steps})"
            )
        return by_steps[n_steps]

    def n_steps(self, rate: Rate, asked: int | None = None) -> int:
        """Return how many denoising steps a rate decodes in, 1 where they cannot be chosen; errors as above."""
        schedule = self.choose_schedule(rate, asked)
        return 1 if schedule is None else schedule.n_steps

    def check_sharpness(self, rate: Rate, sharpness: float) -> None:
        """Raise ValueError for a sharpness that the rate does not support."""
        if sharpness != 1.0 and not rate.is_guided:
            raise ValueError(
                f"sharpness is {sharpness:g}, but rate {rate.index} of bundle {self.name!r} cannot be guided: it "
                "has no denoiser without control to be compared with. It must be 1"
            )
