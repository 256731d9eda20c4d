"""`rdeic-rt info`: what a file or bundle is, from headers and manifests alone; no weights, no ONNX Runtime."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundleError
from ..lazy import Cache
from . import inputs, options, shapes
from .console import Console, printable, write_output
from .failures import report, worst
from .outputs import UsageError

if TYPE_CHECKING:
    from ..manifest import Bundle

_MANIFEST = "bundle.json"


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb and its options."""
    parser = options.add_verb(
        commands,
        "info",
        arguments="FILE|BUNDLE...",
        summary="show what an .rdc file or a bundle holds",
        description="""\
Show what an .rdc file holds (size, rate, model, sections), or a bundle (rates,
graphs, where its weights come from). Reads headers only: no weights are loaded.
A file's checksum is verified, the hashes of a bundle's files are not. Bundle, label
and steps are those of the installed bundle that a file was made with, if there is
one.""",
        epilog="""\
examples:
  rdeic-rt info photo.rdc
  rdeic-rt info engines/tiny-2
  rdeic-rt info --json *.rdc | jq .bpp       one JSON object a line
  rdeic-rt info --json --recursive archive   of all .rdc files in a folder and below
  rdeic-rt info engines/tiny-2 --shapes 256x256,768x512,1024x1024 --format trtexec""",
    )
    options.add_inputs(
        parser,
        "FILE|BUNDLE",
        "an .rdc file, a folder of them, '-' for one on standard input, or the folder of a bundle",
        ".rdc files",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object a line, for machines. Default: text")
    shapes.add_options(parser)
    options.add_limits(parser)
    options.add_messages(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace, console: Console) -> int:
    """Describe every input on standard output; return the exit code."""
    if args.format and (args.shapes is None or args.json):
        raise UsageError("--format goes with --shapes, and without --json")
    codes = []
    bundles: Cache[tuple[bytes, int], Bundle | None] = Cache(_installed)
    for source in _sources(args):
        try:
            if args.shapes is not None:
                _write_shapes(source, args)
                continue
            facts = _bundle_facts(source) if _is_bundle(source) else _file_facts(source, args, bundles)
        except Exception as error:
            codes.append(report(error, source, console))
            continue
        write_facts(facts, as_json=args.json)
    return worst(codes)


def _sources(args: argparse.Namespace) -> Iterator[str]:
    """Yield what the inputs stand for: a folder that is no bundle for its .rdc files, if it has any."""
    for word in args.inputs:
        if not os.path.isdir(word) or os.path.exists(os.path.join(word, _MANIFEST)):
            yield word
            continue
        try:
            yield from (found.path for found in inputs.find([word], inputs.RDC_SUFFIXES, recursive=args.recursive))
        except UsageError:
            yield word  # the error says that it is no bundle either


def write_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Write facts to standard output: as a line of JSON, or as `name: value` lines, nested ones indented."""
    text = json.dumps(facts) if as_json else "\n".join(_lines(facts, ""))
    write_output(text + "\n")


def _file_facts(
    source: str, args: argparse.Namespace, bundles: Cache[tuple[bytes, int], Bundle | None]
) -> dict[str, Any]:
    from .. import container, files

    limits = options.limits_from(args)
    data = files.read_bytes(source, limits.max_file_bytes)
    file = container.parse(data, limits)
    header = file.header
    bundle = bundles[header.model_id, header.rate]
    rate = None if bundle is None else bundle.rate_of(header.model_id, header.rate)
    return {
        "file": source,
        "format": f"rdc version {container.VERSION}",
        "width": header.size.width,
        "height": header.size.height,
        "bytes": len(data),
        "bpp": round(8 * len(data) / (header.size.width * header.size.height), 6),
        "bundle": None if bundle is None else bundle.name,
        "rate": header.rate,
        "label": None if rate is None else rate.label,
        "steps": None if bundle is None or rate is None else bundle.n_steps(rate),
        "model_id": header.model_id.hex(),
        "z_bytes": len(file.z),
        "z_coding": "plain" if header.z_is_plain else "range",
        "y_bytes": len(file.y),
        # Compressed, with their length: what the file would be shorter without them.
        "metadata_bytes": len(data) - len(container.pack(header, file.z, file.y)),
        "icc_bytes": len(file.metadata.icc or b""),
        "exif_bytes": len(file.metadata.exif or b""),
        "crc32c": f"{file.crc:08x}",
    }


def _installed(model: tuple[bytes, int]) -> Bundle | None:
    """Return the installed bundle that has a model at a rate, None where there is none."""
    from .. import bundle as bundles

    try:
        return bundles.read(bundles.find_for(*model), verify=False)
    except BundleError:
        return None


def _is_bundle(source: str) -> bool:
    return os.path.isdir(source) or os.path.basename(source) == _MANIFEST


def _write_shapes(source: str, args: argparse.Namespace) -> None:
    """Write the shapes of a bundle's graphs to standard output; UsageError for what is no bundle."""
    if not _is_bundle(source):
        raise UsageError("--shapes is for bundles, and this is none")
    bundle = _read_bundle(source)
    if args.format is None:
        write_facts(shapes.facts(bundle, args.shapes), as_json=args.json)
    else:
        write_output("\n".join(shapes.lines(bundle, args.shapes, args.format)) + "\n")


def _read_bundle(source: str) -> Bundle:
    from .. import bundle as bundles

    path = Path(source)
    return bundles.read(path if path.is_dir() else path.parent, verify=False)


def _bundle_facts(source: str) -> dict[str, Any]:
    from .. import bundle as bundles

    bundle = _read_bundle(source)
    return {
        "bundle": bundle.name,
        "folder": str(bundle.folder),
        "family": bundle.family,
        "schema": bundles.SCHEMA,
        "licence": bundle.licence,
        "bytes": sum(entry.size_bytes for entry in bundle.files.values()),
        "encodes": bundle.encodes,
        "rates": [
            {
                "index": rate.index,
                "label": rate.label,
                "default": rate.index == bundle.default_rate,
                "bpp": rate.bpp,
                "steps": None if rate.schedule is None else bundle.schedules[rate.schedule].n_steps,
                "level": None if bundle.levels is None else rate.number,
                "model_id": rate.model_id.hex(),
            }
            for rate in bundle.rates
        ],
        "graphs": [
            {"id": graph.id, "form": graph.form, "bytes": graph.path.stat().st_size}
            for forms in bundle.graphs.values()
            for graph in forms.values()
        ],
        "preferred": {backend: list(forms) for backend, forms in bundle.preferred.items()},
        "provenance": dict(bundle.provenance),
        "levels": None if bundle.levels is None else bundle.levels.count,
        "calibration": dict(bundle.calibration),
    }


def _lines(value: Any, indent: str) -> list[str]:
    lines: list[str] = []
    for name, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{name}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines.append(f"{indent}{name}:")
            lines += [
                indent + "  " + ", ".join(f"{key} {_scalar(field)}" for key, field in row.items()) for row in item
            ]
        else:
            lines.append(f"{indent}{name}: {_scalar(item)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_scalar, value))
    return "-" if value is None else printable(str(value))
