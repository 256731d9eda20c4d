"""A bundle with its graphs in more forms: hard links to what there was, what was derived, and a new ``bundle.json``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdeic_rt import bundle as bundles
from rdeic_rt.bundle_search import MANIFEST
from rdeic_rt.manifest import Bundle

from . import disk, forms, staging
from .fidelity import FidelityReport
from .forms import Derived

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
    """Write a bundle that has its graphs in more forms; return it. Nothing is hashed that was hashed before.

    Args:
        bundle: what it is made of; it stays as it is unless ``output`` is its folder.
        output: folder to write; an older bundle there is replaced.
        taken: the forms.
        preferred: name of a backend -> forms in the order it should take them in; other backends' order stays.
        reports: form -> what a comparison with float32 found, to be kept in the bundle.
        drop_fp32: leave out the float32 form of graphs that have another one.
    """
    document = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    files = dict(bundle.files)
    facts: dict[str, Mapping[str, Any]] = {}
    for derived in taken:
        for graph_id, graph in derived.graphs.items():
            in_forms = document["graphs"][graph_id]["forms"]
            if drop_fp32 and forms.REFERENCE in in_forms:
                path = in_forms.pop(forms.REFERENCE)
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
