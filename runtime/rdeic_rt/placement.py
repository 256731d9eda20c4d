"""Where a family's stages run: on a whole image, or on tiles of it. Families need not distinguish the two.

    Whole   values stay on the backend's device; the whole list of stages may be recorded and replayed
    Tiled   values are arrays of the whole image on the host; each stage runs tile by tile, and the outputs of the tiles
            are blended before the next stage, so that they cannot drift apart

Both have the same methods: `run` for a list of stages, `each` for one stage of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import pixels, stopping, tiles
from .backends.base import Backend, Buffer, Graph
from .errors import BundleCorruptError
from .limits import Size
from .progress import Progress
from .tensor_spec import TensorSpec
from .tiles import Canvas, Tiling

Value: TypeAlias = Buffer
"""An array of the whole image: a backend's buffer, or a host array where the image is processed in tiles."""


StageList: TypeAlias = "Callable[[Placement, Mapping[str, Value]], Any]"


@dataclass(frozen=True)
class Stage:
    """Work on one tile, or on a whole image: named buffers -> buffers, by graphs and methods of the backend alone.

    Attributes:
        name: for progress; two stages of one list may have the same.
        graphs: what it runs.
        inputs: specification of each input, by name, with its position on the image grid.
        outputs: the same for the outputs, in order.
        run: buffers by name -> outputs. It must not call `Backend.put` or `Backend.get`.
        finite: an input that must hold no infinity and no NaN, which the stage would silently convert to an image.
            It is checked only on the host, where this needs no synchronisation.
        number: among the stages with its name.
        is_part: whether it is reported to progress; stages that take no time are not.
    """

    name: str
    graphs: tuple[Graph, ...]
    inputs: Mapping[str, TensorSpec]
    outputs: tuple[TensorSpec, ...]
    run: Callable[[Mapping[str, Buffer]], tuple[Buffer, ...]]
    number: int = 0
    finite: str | None = None
    is_part: bool = True


class Placement(Protocol):
    """See the module."""

    def run(self, key: Hashable, function: StageList, inputs: Mapping[str, NDArray[Any]]) -> Any:
        """Return function(placement, values): a list of stages, for values with the content of host arrays.

        Args:
            key: identifies what the function does, apart from the shapes of its inputs.
            function: calls `each` of the placement that it receives, and no method of a backend.
            inputs: of the whole image, by name.

        Raises:
            BackendError: a graph could not be run.
            BundleCorruptError: a graph returned an output of the wrong type or shape, or values that are not finite.
        """

    def each(self, stage: Stage, **inputs: Value | None) -> tuple[Value, ...]:
        """Return the outputs of a stage for these inputs; inputs that are None are omitted."""

    def get(self, value: Value) -> NDArray[Any]:
        """Return a value as an array on the host."""

    def crop(self, image: Value, size: Size) -> NDArray[np.uint8]:
        """Return the top left corner of an image, uint8 [1, H, W, 3], as an array [h, w, 3] on the host."""

    def crop_on_device(self, image: Value, size: Size) -> Any:
        """Return the same on the backend's device."""


@dataclass(frozen=True)
class Whole:
    """The whole image at once."""

    backend: Backend
    progress: Progress = field(default_factory=Progress)

    def run(self, key: Hashable, function: StageList, inputs: Mapping[str, NDArray[Any]]) -> Any:
        """As `Placement.run`; the backend may record it under the key and replay it."""
        return self.backend.execute(key, partial(function, self), inputs)

    def each(self, stage: Stage, **inputs: Value | None) -> tuple[Value, ...]:
        """As `Placement.each`."""
        if stage.is_part:
            self.progress.begin(stage.name)
        given = {name: value for name, value in inputs.items() if value is not None}
        _check_finite(stage, given)
        return stage.run(given)

    def get(self, value: Value) -> NDArray[Any]:
        """As `Placement.get`."""
        return self.backend.get(value)

    def crop(self, image: Value, size: Size) -> NDArray[np.uint8]:
        """As `Placement.crop`."""
        return pixels.crop(self.backend.get(image)[0], size)

    def crop_on_device(self, image: Value, size: Size) -> Any:
        """As `Placement.crop_on_device`."""
        return self.backend.crop(image, size)


@dataclass(frozen=True)
class Tiled:
    """An image in tiles."""

    backend: Backend
    tiling: Tiling
    progress: Progress = field(default_factory=Progress)
    _key: Hashable = field(default=None, repr=False)

    def run(self, key: Hashable, function: StageList, inputs: Mapping[str, NDArray[Any]]) -> Any:
        """As `Placement.run`; the backend may record each stage."""
        return function(replace(self, _key=key), inputs)

    def each(self, stage: Stage, **inputs: Value | None) -> tuple[Value, ...]:
        """As `Placement.each`, tile by tile."""
        given = {name: value for name, value in inputs.items() if value is not None}
        _check_finite(stage, given)
        canvases = [Canvas(self.tiling, spec) for spec in stage.outputs]
        for tile in self.tiling.tiles():
            if stage.is_part:
                self.progress.begin(stage.name, again=tile.row + tile.column > 0)
            pieces = {
                name: tiles.crop(np.asarray(value), stage.inputs[name], self.tiling, tile)
                for name, value in given.items()
            }
            outputs = self.backend.execute((self._key, stage.name, stage.number), stage.run, pieces)
            for canvas, output in zip(canvases, outputs, strict=True):
                stopping.go_on()
                canvas.add(tile, self.backend.get(output))
        return tuple(canvas.array for canvas in canvases)

    def get(self, value: Value) -> NDArray[Any]:
        """As `Placement.get`."""
        return np.asarray(value)

    def crop(self, image: Value, size: Size) -> NDArray[np.uint8]:
        """As `Placement.crop`."""
        return pixels.crop(np.asarray(image)[0], size)

    def crop_on_device(self, image: Value, size: Size) -> Any:
        """As `Placement.crop_on_device`."""
        return self.backend.put(self.crop(image, size))


def _check_finite(stage: Stage, inputs: Mapping[str, Value]) -> None:
    value = None if stage.finite is None else inputs[stage.finite]
    if isinstance(value, np.ndarray) and not np.isfinite(value).all():
        raise BundleCorruptError(
            "denoising returned values that are not finite: the bundle's weights or its schedule are unusable, "
            "or the sharpness is far too large"
        )
