"""`rdeic-rt bundle`: which bundles there are, whether they are whole, and how they come and go."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import options
from .console import PROGRAM, Console, write_output
from .failures import report, worst
from .outputs import UsageError

_SHOWN_DIGITS = 16

_DESCRIPTION = """\
Bundles are the models that files are encoded and decoded with, each a folder. They
are looked for by name in the folders of RDEIC_RT_BUNDLES, in the user's cache
folder, and among those embedded in rdeic-rt."""


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb, which does nothing without an action."""
    return options.add_verb(
        commands,
        "bundle",
        arguments="ACTION ...",
        summary="list, check, get, hand on and remove bundles",
        description=_DESCRIPTION,
        epilog=f"'{PROGRAM} bundle ACTION --help' tells more.",
    )


def add_actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Add what the verb does; return the parser of each action by its name, such as ``bundle pull``."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    added = [add(actions) for add in (_add_list, _add_verify, _add_pull, _add_push, _add_rm)]
    return {one.prog.removeprefix(f"{PROGRAM} "): one for one in added}


def _add_list(actions: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = _add(
        actions,
        "list",
        arguments="",
        summary="show the bundles that are found by name",
        description="""\
Show the bundles that are found by name, in the order in which they are found: name,
hash, size, whether it only decodes, bits per pixel of each rate, and folder. The hash
is the SHA-256 of bundle.json, which has those of all other files; they are not
compared.""",
        epilog="""\
examples:
  rdeic-rt bundle list
  rdeic-rt bundle list --json | jq -r .sha256""",
        run=_list,
    )
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object a line, for machines. Default: text")
    options.add_messages(parser)
    return parser


def _add_verify(actions: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = _add(
        actions,
        "verify",
        arguments="[BUNDLE...]",
        summary="compare the hash of every file",
        description="""\
Compare length and SHA-256 of every file of bundles with what bundle.json says.
The exit code is 5 if a file has changed, or is not there.""",
        epilog="""\
examples:
  rdeic-rt bundle verify                     all that 'bundle list' shows
  rdeic-rt bundle verify tiny-2 other/bundle""",
        run=_verify,
    )
    group = parser.add_argument_group("input")
    group.add_argument(
        "bundles", metavar="BUNDLE", nargs="*", help="names or folders. Default: all that are found by name"
    )
    options.add_messages(parser)
    return parser


def _add_pull(actions: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = _add(
        actions,
        "pull",
        arguments="SOURCE",
        summary="get a bundle from a folder, an archive or an address",
        description="""\
Get a bundle, and put it where it is found by its name. Every file is checked by its
hash, and only what bundle.json lists is taken, with the model card; a pull that fails
or is interrupted leaves nothing.

SOURCE is a folder or an archive (.tar, .tar.gz, .zip), or the address of either:
https://..., hf://ORG/REPO[@REVISION], or another that fsspec can read. All but https
need `pip install 'rdeic-rt[remote]'`.""",
        epilog="""\
examples:
  rdeic-rt bundle pull other-1.tar.gz
  rdeic-rt bundle pull https://example.org/bundles/other-1.tar.gz --sha256 0123...
  rdeic-rt bundle pull hf://org/other-1@v1
  rdeic-rt bundle pull ~/built/other-1 --to /srv/bundles""",
        run=_pull,
    )
    parser.add_argument_group("input").add_argument("source", metavar="SOURCE", help="where the bundle is")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--to",
        metavar="FOLDER",
        type=Path,
        help="the folder that is to hold it, made if missing; found there if RDEIC_RT_BUNDLES lists it. "
        "Default: the user's cache folder",
    )
    group.add_argument(
        "--as", dest="name", metavar="NAME", type=_name, help="of its folder there. Default: the bundle's own name"
    )
    group.add_argument("--overwrite", action="store_true", help="take it in the place of another bundle of that name")
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--sha256", metavar="HEX", type=_sha256, help="refuse a bundle of another hash; 'bundle list --json' shows it"
    )
    group.add_argument(
        "--max-bytes",
        metavar="N[M|G]",
        type=options.file_bytes,
        help="refuse a bundle, or an archive, of more than N bytes, MiB (M) or GiB (G). Default: 16G",
    )
    options.add_messages(parser)
    return parser


def _add_push(actions: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = _add(
        actions,
        "push",
        arguments="BUNDLE TARGET",
        summary="copy a bundle to a folder, an archive or an address",
        description="""\
Copy a bundle, once its hashes are compared, to where 'bundle pull' can get it: what
bundle.json lists, and the model card.

TARGET becomes the bundle's folder or, with the suffix .tar, .tar.gz or .zip, an
archive, of which equal bundles give equal bytes. An address that fsspec can write to
needs `pip install 'rdeic-rt[remote]'`.""",
        epilog="""\
examples:
  rdeic-rt bundle push tiny-2 tiny-2.tar.gz
  rdeic-rt bundle push tiny-2 tiny-2-decoder.tar.gz --decode-only
  rdeic-rt bundle push engines/other-1 s3://bucket/other-1""",
        run=_push,
    )
    group = parser.add_argument_group("input")
    group.add_argument("bundle", metavar="BUNDLE", help="its name or folder")
    group = parser.add_argument_group("output")
    group.add_argument("target", metavar="TARGET", help="where to")
    group.add_argument(
        "--decode-only",
        action="store_true",
        help="leave out the graphs that only encode: the copy decodes the same files to the same images",
    )
    group.add_argument("--overwrite", action="store_true", help="replace an archive, or a bundle, that is there")
    options.add_messages(parser)
    return parser


def _add_rm(actions: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = _add(
        actions,
        "rm",
        arguments="NAME...",
        summary="remove bundles",
        description="""\
Remove bundles, with the plans in their folders, without asking. Of several folders
that have a name, the one is removed that 'bundle list' shows. The embedded bundles
came with rdeic-rt, and are refused.""",
        epilog="""\
examples:
  rdeic-rt bundle rm other-1""",
        run=_rm,
    )
    parser.add_argument_group("input").add_argument("names", metavar="NAME", nargs="+", help="names of bundles")
    options.add_messages(parser)
    return parser


def _add(
    actions: options.Commands[argparse.ArgumentParser],
    name: str,
    *,
    arguments: str,
    summary: str,
    description: str,
    epilog: str,
    run: Callable[[argparse.Namespace, Console], int],
) -> argparse.ArgumentParser:
    parser = options.add_verb(
        actions,
        name,
        under="bundle",
        arguments=arguments,
        summary=summary,
        description=description,
        epilog=epilog,
    )
    parser.set_defaults(run=run, leaf=parser)
    return parser


def _list(args: argparse.Namespace, console: Console) -> int:
    from .. import bundle_search

    codes = []
    for folder in bundle_search.installed():
        try:
            facts = _facts(folder)
        except Exception as error:
            codes.append(report(error, folder.name, console))
            continue
        write_output((json.dumps(facts) if args.json else _line(facts)) + "\n")
    return worst(codes)


def _verify(args: argparse.Namespace, console: Console) -> int:
    from .. import bundle as bundles
    from .. import bundle_search

    codes = []
    sources = [(source, source) for source in args.bundles]
    sources = sources or [(folder.name, str(folder)) for folder in bundle_search.installed()]
    for done, (name, source) in enumerate(sources):
        console.progress(done, len(sources), name)
        try:
            bundle = bundles.load(source)
        except Exception as error:
            codes.append(report(error, name, console))
            continue
        n_bytes = sum(file.size_bytes for file in bundle.files.values())
        console.line(f"{name}: {len(bundle.files)} files, {_megabytes(n_bytes)}: as they should be")
    console.clear()
    return worst(codes)


def _pull(args: argparse.Namespace, console: Console) -> int:
    from .. import bundle_remote, bundle_store, limits

    try:
        pulled = bundle_store.pull(
            args.source,
            args.to,
            name=args.name,
            sha256=args.sha256,
            overwrite=args.overwrite,
            max_bytes=args.max_bytes or limits.MAX_BUNDLE_BYTES,
            progress=console.progress,
        )
    except bundle_remote.AddressError as error:
        raise UsageError(str(error)) from None
    console.clear()
    folder = pulled.bundle.folder
    console.line(f"{args.source} -> {folder}" if pulled.is_new else f"{args.source}: is there already, {folder}")
    write_output(_line(_facts(folder)) + "\n")
    return 0


def _push(args: argparse.Namespace, console: Console) -> int:
    from .. import bundle as bundles
    from .. import bundle_remote, bundle_store

    bundle = bundles.load(args.bundle)
    try:
        bundle_store.push(
            bundle,
            args.target,
            decode_only=args.decode_only,
            overwrite=args.overwrite,
            progress=console.progress,
        )
    except bundle_remote.AddressError as error:
        raise UsageError(str(error)) from None
    console.clear()
    console.line(f"{bundle.folder} -> {args.target}")
    return 0


def _rm(args: argparse.Namespace, console: Console) -> int:
    from .. import bundle_store

    codes = []
    for name in args.names:
        try:
            console.line(f"{bundle_store.remove(name)}: removed")
        except Exception as error:
            codes.append(report(error, name, console))
    return worst(codes)


def _facts(folder: Path) -> dict[str, Any]:
    from .. import bundle as bundles
    from .. import bundle_search, bundle_store

    bundle = bundles.read(folder, verify=False)
    return {
        "bundle": bundle.name,
        "name": folder.name,
        "folder": str(folder),
        "embedded": bundle_search.is_embedded(folder),
        "sha256": bundle_store.digest(folder),
        "bytes": sum(file.size_bytes for file in bundle.files.values()),
        "encodes": bundle.encodes,
        "rates": [{"label": rate.label, "bpp": rate.bpp, "model_id": rate.model_id.hex()} for rate in bundle.rates],
    }


def _line(facts: dict[str, Any]) -> str:
    rates = ", ".join(f"{rate['label']} ({rate['bpp']:g} bpp)" for rate in facts["rates"])
    size = f"{_megabytes(facts['bytes'])}{'' if facts['encodes'] else ', decodes only'}"
    where = f"{facts['folder']}{' (embedded)' if facts['embedded'] else ''}"
    return f"{facts['name']}  {facts['sha256'][:_SHOWN_DIGITS]}  {size}  rates {rates}  {where}"


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"


def _name(text: str) -> str:
    from ..bundle_store import is_name

    if not is_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: letters, digits, '.', '_' and '-', at most 64")
    return text


def _sha256(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 64 hexadecimal digits")
    return text.lower()
