"""A bundle with its graphs in more forms: hard links to existing files, derived files, and a new ``bundle.json``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdeic_rt import bundle as bundles
from rdeic_rt.bundle_search import MANIFEST
from rdeic_rt.manifest import Bundle

from .. import disk
from ..forms import selection
from ..forms.derive import Derived
from ..verify.fidelity import FidelityReport
from . import staging

logger = logging.getLogger("build_engines")


def write(
    bundle: Bundle,
    output: Path,
    taken: Sequence[Derived],
    *,
    preferred: Mapping[str, Sequence[str]],
    reports: Mapping[str, FidelityReport] | None = None,
    drop_fp32: bool = False,
) -> Bundle:
    """Write a bundle that has its graphs in more forms; return it. Files that were hashed before are not hashed again.

    Args:
        bundle: the source; it does not change unless ``output`` is its folder.
        output: folder to write; an older bundle there is replaced.
        taken: the forms to add.
        preferred: name of a backend -> forms in order of preference; other backends keep their order.
        reports: form -> result of the comparison with float32, which is recorded in the bundle.
        drop_fp32: omit the float32 form of graphs that have another one.
    """
    document = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    files = dict(bundle.files)
    facts: dict[str, Mapping[str, Any]] = {}
    for derived in taken:
        for graph_id, graph in derived.graphs.items():
            in_forms = document["graphs"][graph_id]["forms"]
            if drop_fp32 and selection.REFERENCE in in_forms:
                path = in_forms.pop(selection.REFERENCE)
                files.pop(path, None)
                files.pop(f"{path}.data", None)
            in_forms[derived.form] = graph.spec.path.name
            facts[f"{graph_id}.{derived.form}"] = graph.facts
            logger.info("%s: %.1f MB", graph.spec.path.name, graph.size_bytes / 1e6)
    for derived in taken:  # again after those that were dropped: half precision may share their weights
        for graph in derived.graphs.values():
            files.update(graph.files)
    calibration = document["calibration"]
    calibration["forms"] = {**calibration.get("forms", {}), **facts}
    found = {form: report.document() for form, report in (reports or {}).items()}
    calibration["fidelity"] = {**calibration.get("fidelity", {}), **found}
    document["preferred"] = {**document["preferred"], **{name: list(order) for name, order in preferred.items()}}
    with staging.staging(output) as stage:
        for name, file in files.items():
            disk.link(file.path, stage.folder / name)
        del document["schema"], document["files"]
        bundles.write(stage.folder, document, hashed=files)
    return bundles.read(output, verify=False)
