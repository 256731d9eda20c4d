"""The ``tensorrt`` backend, TensorRT or TensorRT for RTX, for bundles with plans that fit this library and this GPU.

    plan ─ deserialise ─▶ engine ─▶ a context per target ─ shapes, scratch memory, addresses ─ enqueue ─▶ outputs

`execute` records what it queues, and replays it for the next image of the same size (`capture`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ...errors import BackendUnavailableError, BundleError, DeviceMemoryError
from ...limits import Size
from ...manifest import AUTO, FORMS, PRECISIONS, Bundle, GraphSpec, precision_of
from ..base import WEIGHTED_SUM, BackendAbsentError, Buffer, Graph, Options, Recordings, Result
from ..gpu.capture import Captures
from ..gpu.cuda import device_facts
from ..gpu.device import DeviceBackend
from ..gpu.workspace import Workspace
from . import plans
from .graph import TrtGraph
from .library import Library, open_library
from .plans import Plan


def open_backend(options: Options) -> TrtBackend:
    """Return the backend with the first library that is installed and has plans for this GPU.

    Raises:
        BackendUnavailableError: there is none; says why for each library.
    """
    reasons: list[BackendUnavailableError] = []
    try:
        device = device_facts()
    except BackendAbsentError as error:
        raise BackendAbsentError(f"tensorrt: {error}") from None
    for name in plans.LIBRARIES:
        try:
            library = open_library(name)
            library.check_runs_on(device.capability)
            precision = _choose_precision(options, library, device.capability)
        except BackendUnavailableError as error:
            reasons.append(error)
        else:
            return TrtBackend(Workspace.open(options), library, options, precision)
    if all(isinstance(reason, BackendAbsentError) for reason in reasons):
        text = "; ".join(map(str, reasons))
        extra = plans.extra_for(device.capability)
        raise BackendAbsentError(f"tensorrt: {text}. Install it with `pip install 'rdeic-rt[{extra}]'`.")
    text = "; ".join(str(reason) for reason in reasons if not isinstance(reason, BackendAbsentError))
    raise BackendUnavailableError(f"tensorrt: {text}")


def _choose_precision(options: Options, library: Library, capability: int) -> str:
    """Return the precision asked for, or the preferred one among those that the bundle has plans in."""
    if options.bundle is None:
        return PRECISIONS[0] if options.precision == AUTO else options.precision
    forms = options.bundle.preference(TrtBackend.name, options.precision)
    choices = dict.fromkeys(precision_of(form) for form in forms)
    reasons = []
    for precision in choices:
        missing = _missing(options.bundle, library, capability, precision)
        if not missing or (len(missing) < len(options.bundle.rates) and not options.every_rate):
            return precision
        reasons.append(missing[0])
    raise reasons[0]


def _missing(bundle: Bundle, library: Library, capability: int, precision: str) -> list[BackendUnavailableError]:
    """Return for each rate that lacks a plan the reason."""
    reasons = []
    for rate in bundle.rates:
        try:
            for spec in (*(bundle.reference(rate.graphs[role]) for role in bundle.decoding_roles), WEIGHTED_SUM):
                _find(bundle, spec, library, capability, precision)
        except BackendUnavailableError as error:
            reasons.append(error)
    return reasons


def _find(bundle: Bundle | None, spec: GraphSpec, library: Library, capability: int, precision: str) -> Plan:
    if bundle is None:
        raise BackendUnavailableError("tensorrt runs only the graphs of the bundle that it was opened for")
    try:
        return plans.find(
            bundle, spec, library=library.name, version=library.version, capability=capability, precision=precision
        )
    except BundleError as error:
        raise BackendUnavailableError(str(error)) from None


class TrtBackend(DeviceBackend):
    """The ``tensorrt`` backend.

    Attributes:
        library: which TensorRT.
        precision: of the plans it runs.
    """

    name = "tensorrt"
    forms = frozenset(FORMS)
    runs_plans = True

    def __init__(self, workspace: Workspace, library: Library, options: Options, precision: str) -> None:
        super().__init__(workspace)
        self.library = library
        self.precision = precision
        self._bundle = options.bundle
        self._step_px = 1 if options.bundle is None else options.bundle.size_multiple_px
        self._largest: dict[tuple[object, ...], Size] = {}
        self._captures = Captures(workspace) if options.capture else None

    def description(self) -> dict[str, str]:
        """Return library, version and precision, and the device."""
        facts = {self.library.name: self.library.version, "plans": self.precision}
        return {**facts, **self.device_description()}

    def load(self, spec: GraphSpec) -> TrtGraph:
        """Return the graph, ready to run.

        Raises:
            BackendUnavailableError: there is no plan of it for this library and GPU.
            BundleCorruptError: its plan is damaged, or of another graph.
            DeviceMemoryError: its weights do not fit.
            BackendError: the library does not take the plan.
        """
        capability = self.workspace.device.capability
        plan = _find(self._bundle, spec, self.library, capability, self.precision)
        with self.workspace.entered():
            return TrtGraph(spec, plan, self.library, self.workspace)

    def largest_size(self, graphs: Sequence[Graph]) -> Size | None:
        """Return the largest padded image that the plans' profiles and max_vram allow.

        Raises:
            DeviceMemoryError: max_vram is too little for the smallest image that the plans take.
        """
        loaded = [graph for graph in graphs if isinstance(graph, TrtGraph)]
        if not loaded:
            return None
        profiles = [graph.plan.key.profile for graph in loaded]
        size = Size(*(min(getattr(p.largest, side) for p in profiles) for side in ("height", "width")))
        least = Size(*(max(getattr(p.smallest, side) for p in profiles) for side in ("height", "width")))
        memory = self.workspace.memory
        if memory.limit is None:
            return size  # `TrtGraph` wishes for the scratch memory of that
        weights = sum(list(memory.elsewhere.values()))
        key = (weights, *(graph.spec.id for graph in loaded))
        if key in self._largest:
            return self._largest[key]
        with self.workspace.entered():
            while (wanted := weights + _working_bytes(loaded, size)) > memory.limit:
                if size == least:
                    raise DeviceMemoryError(
                        f"{wanted} bytes of GPU memory wanted for {least.width}x{least.height}, the smallest size of "
                        f"these plans ({weights} of them for weights), but max_vram allows {memory.limit}. "
                        "Raise max_vram, or take a lower precision."
                    )
                size = _smaller(size, least, self._step_px)
            self.workspace.scratch_wish = max(graph.needs(size)[0] for graph in loaded)
        self._largest[key] = size
        return size

    def trim(self) -> None:
        """Drop what is recorded, and give back to the device what is kept for work to come."""
        with self.workspace.entered():
            if self._captures is not None:
                self._captures.clear()
            self.workspace.trim()

    def recordings(self) -> Recordings | None:
        """Return what has been recorded; None if that is switched off."""
        return None if self._captures is None else self._captures.recordings

    def execute(
        self, key: Hashable, function: Callable[[Mapping[str, Buffer]], Result], inputs: Mapping[str, NDArray[Any]]
    ) -> Result:
        """Return function(buffers), replayed where it was recorded for this key and these shapes."""
        if self._captures is None:
            return super().execute(key, function, inputs)
        return self._captures.run(key, function, inputs)


def _smaller(size: Size, least: Size, step_px: int) -> Size:
    """Return a size with its longer side, as far as that may shrink, one step shorter."""
    if size.height > least.height and (size.height >= size.width or size.width <= least.width):
        return Size(max(size.height - step_px, least.height), size.width)
    return Size(size.height, max(size.width - step_px, least.width))


def _working_bytes(graphs: Sequence[TrtGraph], size: Size) -> int:
    """Return at most what decoding takes beside weights: scratch memory, and two sets of all inputs and outputs."""
    needs = [graph.needs(size) for graph in graphs]
    return max(scratch for scratch, _ in needs) + 2 * sum(tensors for _, tensors in needs)
