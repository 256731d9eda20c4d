"""Bundles come and go: pulled into a folder that `bundle_search` looks in, pushed to others, and removed.

A pull is all or nothing. It happens in a temporary folder beside the bundle's place, and one rename ends it:

    SOURCE ──▶ bundle.json ──▶ schema, paths, sizes ──▶ listed files, each by length and SHA-256 ──▶ rename

Only what ``bundle.json`` lists is taken, and ``README.md``, the model card: no plans, which are programs for GPUs.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import bundle as bundles
from . import bundle_archive, bundle_remote, bundle_search, files, limits, onnx_walk, strict_json
from .bundle_file import BundleFile
from .bundle_search import MANIFEST
from .errors import BundleCorruptError, BundleError, BundleNotFoundError, LimitExceededError
from .files import Stream
from .manifest import Bundle, GraphSpec

_log = logging.getLogger("rdeic_rt.bundle_store")

CARD = "README.md"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BLOCK_BYTES = 1 << 20

Progress = Callable[[int, int, str], object]
"""Called with the number of files done, that of all, and the name of the one in work."""
Files = Callable[[Collection[str]], Iterator[tuple[str, Stream]]]
"""A source that is open: yields those of these files that there are, each to be read before the next is asked for."""


@dataclass(frozen=True)
class Pulled:
    """What `pull` did.

    Attributes:
        bundle: where it now is.
        is_new: whether it was fetched; else it was there, whole.
    """

    bundle: Bundle
    is_new: bool


def digest(folder: Path) -> str:
    """Return the hash of a bundle: the SHA-256 of ``bundle.json``, which has those of all other files. OSError."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def is_name(text: str) -> bool:
    """Return whether a bundle's folder may have this name."""
    return _NAME.fullmatch(text) is not None


def pull(
    source: str,
    into: Path | None = None,
    *,
    name: str | None = None,
    sha256: str | None = None,
    overwrite: bool = False,
    max_bytes: int = limits.MAX_BUNDLE_BYTES,
    progress: Progress = lambda done, total, name: None,
) -> Pulled:
    """Fetch a bundle and return where it is; nothing is left of one that fails.

    Args:
        source: a folder, an archive, or an address of either (`bundle_remote`).
        into: the folder that is to hold it; None for the user's own, ``bundles`` in the cache folder.
        name: of its folder; None for the bundle's.
        sha256: what `digest` must be.
        overwrite: whether another bundle of that name may be replaced, or passed over in favour of this one.
        max_bytes: the most it may have, and the archive that it is in.
        progress: told before each file.

    Raises:
        BundleNotFoundError: there is none at the source.
        BundleCorruptError: a hash or a length is another one, or the archive is hostile or damaged.
        BundleError: another schema, or family; larger than ``max_bytes``; no folder to put it into.
        FileExistsError: there is another bundle of that name.
        AddressError: see `bundle_remote`.
        OSError: something cannot be read, or written.
    """
    folder = into or bundle_search.cache_folder()
    if folder is None:
        raise BundleError("there is no cache folder, as the user has no home: say with --to where bundles are to lie")
    if source.lower().startswith("http://") and sha256 is None:
        raise BundleError(f"{source}: anyone on the way can change what comes by http; use https, or give --sha256")
    is_new_folder = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".pull-{secrets.token_hex(8)}"
    try:
        with files.removed_at_the_end(staging):
            staging.mkdir(mode=0o700)
            with _opened(source, staging / "archive", max_bytes) as offered:
                bundle = _announced(source, offered, staging / "bundle", sha256, max_bytes)
                target = folder / (name or bundle.name)
                there = _there(target, bundle, everywhere=into is None, overwrite=overwrite)
                if there is not None:
                    return Pulled(there, is_new=False)
                _fetch(source, offered, bundle, progress)
            _take_place(staging / "bundle", target)
        return Pulled(bundles.read(target, verify=False), is_new=True)
    finally:
        if is_new_folder and not any(folder.iterdir()):
            folder.rmdir()


def push(
    bundle: Bundle,
    target: str,
    *,
    decode_only: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total, name: None,
) -> None:
    """Copy a bundle, as `pull` takes it, to a folder, an archive, or an address of either that fsspec can write to.

    In a folder at an address ``bundle.json`` is written last, so that what is cut short is no bundle.

    Args:
        bundle: loaded with its hashes compared.
        target: becomes the bundle's folder, or by its suffix the archive.
        decode_only: leave out the graphs that only encode, and the files that only these use.
        overwrite: whether what is there may be replaced.
        progress: told before each file.

    Raises:
        FileExistsError: there is something, and it may not be replaced.
        AddressError: see `bundle_remote`.
        OSError: it cannot be written.
    """
    temporary = Path(tempfile.mkdtemp())
    with files.removed_at_the_end(temporary):
        manifest, names = bundle.folder / MANIFEST, bundle.files.keys()
        if decode_only:
            half = _write_decoding_half(bundle, temporary)
            manifest, names = half.folder / MANIFEST, half.files.keys()
        parts = {MANIFEST: manifest, **{name: bundle.folder / name for name in sorted(names)}}
        if (bundle.folder / CARD).is_file():
            parts.setdefault(CARD, bundle.folder / CARD)
        if bundle_remote.is_address(target):
            _push_remote(bundle.folder.name, target, parts, overwrite=overwrite, progress=progress)
        elif bundle_archive.is_archive(target):
            progress(0, 1, target)
            files.atomic_write(
                target,
                lambda stream: bundle_archive.write(stream, target, bundle.folder.name, parts),
                overwrite=overwrite,
            )
        else:
            _push_folder(Path(target), parts, overwrite=overwrite, progress=progress)


def remove(name: str) -> Path:
    """Remove the bundle that `bundle_search.find` finds by a name, and return the folder that it had.

    Raises:
        BundleNotFoundError: there is none.
        BundleError: it is embedded, or no name is given.
        OSError: it cannot be removed.
    """
    if not is_name(name):
        raise BundleError(f"{name!r} is no name of a bundle; 'rdeic-rt bundle list' has them")
    for folder in bundle_search.search_folders():
        found = folder / name
        if (found / MANIFEST).is_file():
            break
    else:
        raise BundleNotFoundError(f"no bundle {name!r}; 'rdeic-rt bundle list' has those there are")
    if bundle_search.is_embedded(found):
        raise BundleError(f"{found} is embedded: it came with rdeic-rt, and goes with it")
    if found.is_symlink():
        found.unlink()
        return found
    gone = found.with_name(f".removed-{secrets.token_hex(8)}")
    with files.removed_at_the_end(gone):
        os.rename(found, gone)  # in one step: whatever comes next, half a bundle is never found
    return found


@contextmanager
def _opened(source: str, spool: Path, max_bytes: int) -> Iterator[Files]:
    """Open a source; an archive at an address is copied to ``spool`` first."""
    is_address = bundle_remote.is_address(source)
    if is_address and not bundle_archive.is_archive(bundle_remote.path_of(source)):
        yield lambda names: bundle_remote.files(source, names)
        return
    if not is_address and Path(source).is_dir():
        yield lambda names: _folder_files(Path(source), names)
        return
    if is_address:
        with bundle_remote.opened(source) as stream, spool.open("wb") as copy:
            n_bytes = 0
            while block := stream.read(_BLOCK_BYTES):
                n_bytes += len(block)
                if n_bytes > max_bytes:
                    raise BundleError(f"{source}: has more than {max_bytes} bytes (limit --max-bytes)")
                copy.write(block)
    elif not Path(source).is_file():
        raise BundleNotFoundError(f"{source}: no such file or folder")
    with bundle_archive.Archive(spool if is_address else Path(source), max_bytes) as archive:
        yield archive.files


def _folder_files(folder: Path, names: Collection[str]) -> Iterator[tuple[str, Stream]]:
    for name in names:
        if (folder / name).is_file():
            with (folder / name).open("rb") as stream:
                yield name, stream


def _announced(source: str, offered: Files, folder: Path, sha256: str | None, max_bytes: int) -> Bundle:
    """Return what a source's ``bundle.json`` says, which is written to a new folder."""
    folder.mkdir()
    manifest = None
    for _, stream in offered([MANIFEST]):
        manifest = _read(stream, limits.MAX_MANIFEST_BYTES, f"{source}: {MANIFEST}")
    if manifest is None:
        raise BundleNotFoundError(f"{source}: there is no {MANIFEST}")
    found = hashlib.sha256(manifest).hexdigest()
    if sha256 is not None and found != sha256:
        raise BundleCorruptError(f"{source}: is bundle {found}, and not the {sha256} that --sha256 asks for")
    (folder / MANIFEST).write_bytes(manifest)
    try:
        bundle = bundles.read_manifest(folder)
    except BundleError as error:
        raise type(error)(str(error).replace(str(folder.resolve() / MANIFEST), f"{source}: {MANIFEST}")) from None
    total = sum(file.size_bytes for file in bundle.files.values())
    if total > max_bytes:
        raise BundleError(f"{source}: the bundle has {total} bytes, more than {max_bytes} (limit --max-bytes)")
    return bundle


def _there(target: Path, bundle: Bundle, *, everywhere: bool, overwrite: bool) -> Bundle | None:
    """Return the bundle that is at its place, or would be found there; None if it is to be fetched.

    Raises:
        FileExistsError: there is another one, and it may not be replaced.
    """
    folders = [target]
    if everywhere:
        folders += [folder / target.name for folder in bundle_search.search_folders()]
    for folder in folders:
        if not os.path.lexists(folder) or (folder != target and not (folder / MANIFEST).is_file()):
            continue
        if (folder / MANIFEST).is_file() and digest(folder) == digest(bundle.folder):
            try:
                return bundles.read(folder)
            except BundleCorruptError:
                if folder == target:
                    return None  # damaged: it is what should be here, and is fetched again
                continue
        if folder == target and not (folder / MANIFEST).is_file():
            raise FileExistsError(errno.EEXIST, "exists, and is no bundle; --as NAME takes another name", str(folder))
        if not overwrite:
            text = "is another bundle of that name; --as NAME keeps both, --overwrite takes the new one in its place"
            raise FileExistsError(errno.EEXIST, text, str(folder))
        return None
    return None


def _fetch(source: str, offered: Files, bundle: Bundle, progress: Progress) -> None:
    """Write the files of a bundle beside its ``bundle.json``; it may lack the card, whatever the reason."""
    wanted = [*bundle.files, *([] if CARD in bundle.files else [CARD])]
    missing = set(bundle.files)
    try:
        for done, (name, stream) in enumerate(offered(wanted)):
            progress(done, len(wanted), name)
            path = bundle.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in bundle.files:
                _copy(source, stream, bundle.files[name], name)
                missing.discard(name)
            else:
                path.write_bytes(_read(stream, limits.MAX_CARD_BYTES, f"{source}: {name}"))
    except OSError as error:
        if missing or CARD in bundle.files:
            raise
        # Stores that do not list what they have say that what is not there is forbidden.
        _log.warning("the bundle comes without its model card: %s", error)
        files.remove(bundle.folder / CARD)
    if missing:
        raise BundleCorruptError(f"{source}: {MANIFEST} lists {min(missing)}, which is not there")


def _copy(source: str, stream: Stream, listed: BundleFile, name: str) -> None:
    """Write a listed file, of which no more is read than it should have."""
    hashed, n_bytes = hashlib.sha256(), 0
    with listed.path.open("xb") as copy:
        while block := stream.read(min(_BLOCK_BYTES, listed.size_bytes + 1 - n_bytes)):
            n_bytes += len(block)
            if n_bytes > listed.size_bytes:
                break
            hashed.update(block)
            copy.write(block)
    if n_bytes != listed.size_bytes:
        has = "more" if n_bytes > listed.size_bytes else f"{n_bytes}"
        raise BundleCorruptError(f"{source}: {name} should have {listed.size_bytes} bytes, and has {has}")
    if hashed.hexdigest() != listed.sha256:
        raise BundleCorruptError(
            f"{source}: SHA-256 of {name} is {hashed.hexdigest()}, should be {listed.sha256}: it has changed"
        )


def _read(stream: Stream, limit_bytes: int, name: str) -> bytes:
    try:
        return files.read_stream(stream, limit_bytes, name)
    except LimitExceededError:
        raise BundleCorruptError(f"{name} has more than {limit_bytes} bytes") from None


def _take_place(made: Path, target: Path) -> None:
    """Give a folder its name; a bundle that has that name goes, but not before the new one is there."""
    if not os.path.lexists(target):
        os.rename(made, target)
        return
    old = target.with_name(f".old-{secrets.token_hex(8)}")
    os.rename(target, old)
    try:
        os.rename(made, target)
    except OSError:
        os.rename(old, target)
        raise
    files.remove(old)


def _write_decoding_half(bundle: Bundle, folder: Path) -> Bundle:
    """Write to a folder the ``bundle.json`` of a bundle that only decodes, and return what it says."""
    document = strict_json.parse((bundle.folder / MANIFEST).read_bytes())
    for rate in document["rates"]:
        rate["graphs"] = {role: rate["graphs"][role] for role in bundle.decoding_roles}
    decoding = {graph for rate in document["rates"] for graph in rate["graphs"].values()}
    document["graphs"] = {name: graph for name, graph in document["graphs"].items() if name in decoding}
    used, unused = (
        _files_of(
            [form for name in bundle.graphs if (name in decoding) == decodes for form in bundle.graphs[name].values()]
        )
        for decodes in (True, False)
    )
    for name in unused - used:
        document["files"].pop(name, None)
    bundles.write_manifest(folder, document)
    return bundles.read_manifest(folder)


def _files_of(graphs: Collection[GraphSpec]) -> set[str]:
    """Return the paths of graphs in their bundle, and those of the files that hold weights of theirs."""
    names = set()
    for graph in graphs:
        names.add(graph.folder + graph.path.name)
        weights = onnx_walk.external_weights(graph.file.read(), graph.path)
        names.update(graph.folder + weight.location for weight in weights)
    return names


def _push_folder(target: Path, parts: Mapping[str, Path], *, overwrite: bool, progress: Progress) -> None:
    if os.path.lexists(target) and not (overwrite and (target / MANIFEST).is_file()):
        text = "exists, and is no bundle" if overwrite else "exists, and overwriting it was not allowed"
        raise FileExistsError(errno.EEXIST, text, str(target))
    target = Path(os.path.abspath(target))
    staging = target.with_name(f".push-{secrets.token_hex(8)}")
    with files.removed_at_the_end(staging):
        staging.mkdir(mode=0o700)
        made = staging / "bundle"
        for done, (name, part) in enumerate(parts.items()):
            progress(done, len(parts), name)
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("rb") as source, path.open("xb") as copy:
                while block := source.read(_BLOCK_BYTES):
                    copy.write(block)
        bundles.read(made)
        _take_place(made, target)


def _push_remote(folder: str, target: str, parts: Mapping[str, Path], *, overwrite: bool, progress: Progress) -> None:
    remote = bundle_remote.Target(target)
    is_archive = bundle_archive.is_archive(target)
    if not overwrite and remote.exists("" if is_archive else MANIFEST):
        raise FileExistsError(errno.EEXIST, "exists, and overwriting it was not allowed", target)
    if is_archive:
        progress(0, 1, target)
        with tempfile.TemporaryFile() as packed:
            bundle_archive.write(packed, target, folder, parts)
            packed.seek(0)
            remote.write(packed)
        return
    for done, name in enumerate([*(name for name in parts if name != MANIFEST), MANIFEST]):
        progress(done, len(parts), name)
        with parts[name].open("rb") as source:
            remote.write(source, name)
