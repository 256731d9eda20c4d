"""Bundles pulled, pushed and removed: whole or not at all, and nothing but what bundle.json lists."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdeic_rt import bundle, bundle_archive, bundle_remote, bundle_search, bundle_store, limits
from rdeic_rt.bundle_remote import AddressError
from rdeic_rt.errors import BundleCorruptError, BundleError, BundleNotFoundError

from . import hub

Packed = Callable[[str], str]
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def packed(micro_folder: Path, tmp_path: Path) -> Packed:
    """Push the bundle to a name and return its path."""

    def push(name: str) -> str:
        bundle_store.push(bundle.load(micro_folder), str(tmp_path / name))
        return str(tmp_path / name)

    return push


def leftovers(folder: Path) -> list[str]:
    """What lies in a folder, with all that is hidden."""
    return sorted(os.listdir(folder)) if folder.exists() else []


def listed(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(folder: Path, **fields: Any) -> None:
    """Change bundle.json."""
    document = json.loads((folder / "bundle.json").read_bytes())
    (folder / "bundle.json").write_text(json.dumps(document | fields), encoding="utf-8")


@pytest.mark.parametrize("name", ["copy", "copy.tar", "copy.tar.gz", "copy.tgz", "copy.zip"])
def test_what_is_pushed_is_pulled_and_found_by_its_name(
    packed: Packed, micro_folder: Path, cache: Path, name: str
) -> None:
    (micro_folder / "README.md").write_text("the card")
    expected = listed(micro_folder)
    source = packed(name)

    pulled = bundle_store.pull(source)

    assert pulled.is_new
    assert pulled.bundle.folder == cache / "micro"
    assert bundle_search.find("micro") == cache / "micro"
    assert listed(cache / "micro") == expected
    assert bundle.load("micro").name == "micro"
    assert leftovers(cache) == ["micro"]


def test_plans_and_what_is_not_listed_stay_behind(micro_folder: Path, cache: Path, tmp_path: Path) -> None:
    (micro_folder / "plans").mkdir()
    (micro_folder / "plans" / "a.plan").write_bytes(b"a program")
    (micro_folder / "extra.bin").write_bytes(b"x")
    shutil.make_archive(str(tmp_path / "all"), "gztar", micro_folder.parent, micro_folder.name)

    for source, name in ((micro_folder, "one"), (tmp_path / "all.tar.gz", "two")):
        bundle_store.pull(str(source), name=name)
        assert set(listed(cache / name)) == {"bundle.json", *bundle.load(micro_folder).files}


def test_pull_again_does_nothing_but_mend_what_is_damaged(packed: Packed, cache: Path) -> None:
    source = packed("micro.tar")
    folder = bundle_store.pull(source).bundle.folder
    before = folder.stat().st_ino
    assert not bundle_store.pull(source).is_new
    assert folder.stat().st_ino == before

    damaged = folder / sorted(bundle.load(folder).files)[0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert bundle_store.pull(source).is_new
    assert bundle.load("micro").folder == folder
    assert leftovers(cache) == ["micro"]


def test_another_bundle_of_that_name_is_kept_unless_told(packed: Packed, micro_folder: Path, cache: Path) -> None:
    folder = bundle_store.pull(packed("micro.tar")).bundle.folder
    first = bundle_store.digest(folder)
    changed(micro_folder, licence="another")
    other = packed("other.zip")

    with pytest.raises(FileExistsError) as caught:
        bundle_store.pull(other)
    assert "--overwrite" in str(caught.value)
    assert bundle_store.digest(folder) == first
    assert bundle_store.pull(other, name="micro-2").bundle.folder == cache / "micro-2"
    assert bundle_store.pull(other, overwrite=True).is_new
    assert bundle.load("micro").licence == "another"
    assert leftovers(cache) == ["micro", "micro-2"]


def test_name_of_an_embedded_bundle_is_not_taken_unless_told(
    packed: Packed, cache: Path, tmp_path: Path, embedded_bundle: Path
) -> None:
    source = packed("micro.tar")

    with pytest.raises(FileExistsError, match="another bundle of that name") as caught:
        bundle_store.pull(source, name="tiny-2")
    assert caught.value.filename == str(embedded_bundle)
    assert bundle_store.pull(source, tmp_path / "elsewhere", name="tiny-2").is_new  # where no one looks
    assert bundle_store.pull(source, name="tiny-2", overwrite=True).is_new
    assert bundle_search.find() == cache / "tiny-2"


def test_folder_that_is_no_bundle_is_never_replaced(packed: Packed, cache: Path) -> None:
    (cache / "micro").mkdir(parents=True)
    (cache / "micro" / "letter.txt").write_text("dear")

    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="no bundle"):
            bundle_store.pull(packed(f"{overwrite}.tar"), overwrite=overwrite)
        with pytest.raises(FileExistsError):
            bundle_store.push(bundle.load(packed(f"{overwrite}")), str(cache / "micro"), overwrite=overwrite)
    assert (cache / "micro" / "letter.txt").read_text() == "dear"


def spoil(folder: Path, how: str) -> None:
    name = sorted(bundle.load(folder).files)[0]
    path = folder / name
    data = path.read_bytes()
    if how == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "longer":
        path.write_bytes(data + b"x")
    elif how == "shorter":
        path.write_bytes(data[:-1])
    elif how == "missing":
        path.unlink()
    elif how == "path":
        document = json.loads((folder / "bundle.json").read_bytes())
        document["files"]["../x"] = document["files"][name]
        (folder / "bundle.json").write_text(json.dumps(document), encoding="utf-8")
    elif how == "schema":
        changed(folder, schema=99)
    else:
        (folder / "bundle.json").write_bytes(b"{")


@pytest.mark.parametrize("how", ["changed", "longer", "shorter", "missing", "path", "schema", "json"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_spoiled_bundle_is_refused_and_leaves_nothing(
    micro_folder: Path, tmp_path: Path, cache: Path, how: str, kind: str
) -> None:
    spoil(micro_folder, how)
    source = str(micro_folder)
    if kind == "zip":
        source = shutil.make_archive(str(tmp_path / "spoiled"), "zip", micro_folder)

    with pytest.raises(BundleError, match=source) as caught:
        bundle_store.pull(source)
    assert type(caught.value) is (BundleError if how == "schema" else BundleCorruptError)
    assert not cache.exists()
    assert ".pull-" not in str(caught.value)


def test_pull_from_where_there_is_none_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "none", tmp_path / "none.tar", tmp_path / "empty"):
        with pytest.raises(BundleNotFoundError, match=str(source)):
            bundle_store.pull(str(source))
    assert not cache.exists()


def test_hash_and_size_that_are_asked_for_are_held(packed: Packed, micro_folder: Path, cache: Path) -> None:
    source = packed("micro.tar")
    right = hashlib.sha256((micro_folder / "bundle.json").read_bytes()).hexdigest()

    with pytest.raises(BundleCorruptError, match="--sha256"):
        bundle_store.pull(source, sha256="0" * 64)
    with pytest.raises(BundleError, match="--max-bytes"):
        bundle_store.pull(packed("copy"), max_bytes=1000)
    assert not cache.exists()
    assert bundle_store.pull(source, sha256=right).is_new


def test_model_card_is_bounded(micro_folder: Path, cache: Path) -> None:
    (micro_folder / "README.md").write_bytes(bytes(limits.MAX_CARD_BYTES + 1))
    with pytest.raises(BundleCorruptError, match=r"README\.md"):
        bundle_store.pull(str(micro_folder))
    assert not cache.exists()


def test_interrupted_pull_leaves_nothing(packed: Packed, cache: Path) -> None:
    def interrupt(done: int, total: int, name: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundle_store.pull(packed("micro.tar"), progress=interrupt)
    assert not cache.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to handle")
def test_pull_that_a_signal_ends_leaves_nothing(packed: Packed, tmp_path: Path) -> None:
    script = """
import pathlib, sys, time
from rdeic_rt import bundle_store
def wait(done, total, name):
    if done == 2:
        print("waiting", flush=True)
        time.sleep(60)
bundle_store.pull(sys.argv[1], pathlib.Path(sys.argv[2]), progress=wait)
"""
    command = [sys.executable, "-c", script, packed("micro.zip"), str(tmp_path / "to")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        assert len(leftovers(tmp_path / "to")) == 1
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert leftovers(tmp_path / "to") == []


def test_bundle_that_cannot_take_its_place_leaves_the_old_one(
    packed: Packed, micro_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_store.pull(packed("micro.tar"))
    changed(micro_folder, licence="another")
    other, rename = packed("other.tar"), os.rename

    def fail(old: Path, new: Path) -> None:
        if Path(old).name == "bundle":
            raise OSError(errno.EIO, "broken")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="broken"):
        bundle_store.pull(other, overwrite=True)
    assert bundle.load("micro").licence != "another"
    assert leftovers(cache) == ["micro"]


def test_push_replaces_only_where_told(packed: Packed, micro_folder: Path, tmp_path: Path) -> None:
    for name in ("copy", "copy.tar"):
        packed(name)
        with pytest.raises(FileExistsError):
            packed(name)
        bundle_store.push(bundle.load(micro_folder), str(tmp_path / name), overwrite=True)
    assert bundle.load(tmp_path / "copy").name == "micro"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_remove_takes_the_bundle_that_is_found_and_no_other(
    packed: Packed, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_store.pull(packed("micro.tar"))
    bundle_store.pull(packed("copy"), tmp_path / "first")
    monkeypatch.setenv(bundle_search.SEARCH_VARIABLE, str(tmp_path / "first"))

    assert bundle_store.remove("micro") == tmp_path / "first" / "micro"
    assert leftovers(tmp_path / "first") == []
    assert bundle_store.remove("micro") == cache / "micro"
    with pytest.raises(BundleNotFoundError):
        bundle_store.remove("micro")


def test_remove_of_a_link_leaves_what_it_leads_to(micro_folder: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "linked").symlink_to(micro_folder)

    bundle_store.remove("linked")
    assert leftovers(cache) == []
    assert bundle.load(micro_folder).name == "micro"


@pytest.mark.parametrize("name", ["tiny-2", "", ".", "..", "a/b", "../tiny-2"])
def test_remove_refuses_embedded_ones_and_paths(name: str, embedded_bundle: Path) -> None:
    with pytest.raises(BundleError):
        bundle_store.remove(name)
    assert (embedded_bundle / "bundle.json").is_file()


def at(root: str, folder: Path) -> dict[str, bytes]:
    return {f"{root}/{name}": content for name, content in listed(folder).items()}


def test_pull_over_http_of_an_archive_and_of_a_folder(packed: Packed, micro_folder: Path, cache: Path) -> None:
    archive = Path(packed("micro.tar.gz")).read_bytes()
    right = bundle_store.digest(micro_folder)
    files = {"/a/micro.tar.gz": archive, **at("/b/micro", micro_folder)}
    with hub.serving(files, {"/moved.zip": "/a/micro.tar.gz"}) as address:
        for number, path in enumerate(("/a/micro.tar.gz?key=1", "/b/micro", "/b/micro/", "/moved.zip")):
            pulled = bundle_store.pull(address + path, name=f"micro-{number}", sha256=right)
            assert bundle_store.digest(pulled.bundle.folder) == right
        with pytest.raises(BundleError, match="--sha256"):
            bundle_store.pull(f"{address}/b/micro")
        with pytest.raises(FileNotFoundError, match=f"{address}/none.zip: there is no such file"):
            bundle_store.pull(f"{address}/none.zip", sha256=right)
        with pytest.raises(BundleNotFoundError, match=f"{address}/none"):
            bundle_store.pull(f"{address}/none", sha256=right)
        with pytest.raises(BundleError, match="more than 100 bytes"):
            bundle_store.pull(f"{address}/a/micro.tar.gz", name="new", sha256=right, max_bytes=100)
    with pytest.raises(OSError, match=address):
        bundle_store.pull(f"{address}/a/micro.tar.gz", sha256=right)
    assert leftovers(cache) == [f"micro-{number}" for number in range(4)]


def test_card_that_is_forbidden_is_done_without_and_a_file_is_not(
    micro_folder: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right, file = bundle_store.digest(micro_folder), sorted(bundle.load(micro_folder).files)[0]
    with hub.serving(at("/b", micro_folder), {"/b/README.md": ""}) as address:
        assert bundle_store.pull(f"{address}/b", sha256=right).is_new
    assert f"{address}/b/README.md: the server says 403" in caplog.text
    with (
        hub.serving(at("/b", micro_folder), {f"/b/{file}": ""}) as address,
        pytest.raises(OSError, match=f"{file}: the server says 403"),
    ):
        bundle_store.pull(f"{address}/b", sha256=right, name="other")
    assert leftovers(cache) == ["micro"]


def test_https_is_not_left_by_a_redirection() -> None:
    import urllib.request
    from email.message import Message

    handler = bundle_remote._StaysEncrypted()
    for old, new, is_followed in (
        ("https://a/x", "http://a/x", False),
        ("https://a/x", "ftp://a/x", False),
        ("https://a/x", "https://b/x", True),
        ("http://a/x", "http://b/x", True),
    ):
        arguments = (urllib.request.Request(old), None, 302, "moved", Message(), new)
        if is_followed:
            assert handler.redirect_request(*arguments) is not None  # type: ignore[arg-type]
        else:
            with pytest.raises(OSError, match="not encrypted"):
                handler.redirect_request(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["memory://store/micro", "memory://store/micro.zip", "memory://store/micro.tar.gz"])
def test_fsspec_takes_and_gives_bundles(micro_folder: Path, cache: Path, target: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    whole = bundle.load(micro_folder)
    try:
        bundle_store.push(whole, target)
        with pytest.raises(FileExistsError):
            bundle_store.push(whole, target)
        bundle_store.push(whole, target, overwrite=True)

        assert listed(bundle_store.pull(target).bundle.folder) == listed(micro_folder)
        with pytest.raises(BundleNotFoundError, match="memory://store/none"):
            bundle_store.pull("memory://store/none", name="none")
    finally:
        fsspec.filesystem("memory").store.clear()


def test_push_that_fails_at_an_address_leaves_no_bundle(micro_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    whole = bundle.load(micro_folder)
    try:
        with pytest.raises(ZeroDivisionError):
            bundle_store.push(whole, "memory://store/micro", progress=lambda done, total, name: 1 // (3 - done))
        assert not system.exists("/store/micro/bundle.json")

        monkeypatch.setattr(type(system), "makedirs", lambda *_, **__: 1 // 0)
        with pytest.raises(OSError, match="memory://store/other: .*zero"):
            bundle_store.push(whole, "memory://store/other")
    finally:
        system.store.clear()


@pytest.mark.parametrize(("module", "address"), [("fsspec", "s3://bucket/x"), ("huggingface_hub", "hf://org/x")])
def test_address_that_needs_what_is_not_there_names_the_extra(
    module: str, address: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module == "huggingface_hub":
        pytest.importorskip("fsspec")
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(AddressError, match=r"pip install 'rdeic-rt\[remote\]'") as caught:
        bundle_store.pull(address)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


def test_addresses_that_nothing_reads_or_writes_are_told_from_paths(micro_folder: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(AddressError, match="nosuch"):
        bundle_store.pull("nosuch://x/y")
    with pytest.raises(AddressError, match="not be written"):
        bundle_store.push(bundle.load(micro_folder), "https://example.org/x")
    assert not bundle_remote.is_address("C:\\x")
    assert not bundle_remote.is_address("a/b://c")
    assert bundle_archive.is_archive(bundle_remote.path_of("https://a/x.zip?b=/c"))


def test_repository_of_the_hub_is_read_at_its_revision(micro_folder: Path, tmp_path: Path) -> None:
    """By huggingface_hub as it is, from a server on this machine."""
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("fsspec")
    files = at(f"/{hub.REPOSITORY}/resolve/{hub.REVISION}", micro_folder)
    script = """
import pathlib, sys
from rdeic_rt import bundle_store
print(bundle_store.pull(sys.argv[1], pathlib.Path(sys.argv[2])).is_new)
"""
    with hub.serving(files) as address:
        variables = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        source = f"hf://{hub.REPOSITORY}@{hub.REVISION}"
        done = subprocess.run(
            [sys.executable, "-c", script, source, str(tmp_path / "to")],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert listed(tmp_path / "to" / "micro") == listed(micro_folder)
