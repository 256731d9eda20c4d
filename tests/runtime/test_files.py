"""Bounded reads and atomic writes."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from rdeic_rt import files
from rdeic_rt.errors import LimitExceededError

posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions and pipes of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_read_bytes_within_limit_returns_the_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert files.read_bytes(tmp_path / "a", len(content)) == content
    assert files.read_bytes(str(tmp_path / "a"), 2**40) == content


def test_read_bytes_over_limit_raises_limit_exceeded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1001))
    with pytest.raises(LimitExceededError, match="a: more than 1000 bytes"):
        files.read_bytes(tmp_path / "a", 1000)


def test_read_bytes_empty_file_returns_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert files.read_bytes(tmp_path / "a", 0) == b""


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["folder", "missing"])
def test_read_bytes_no_such_file_raises_os_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError):
        files.read_bytes(tmp_path / "a", 1000)


def test_read_bytes_huge_limit_takes_no_memory_for_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"small")
    tracemalloc.start()
    files.read_bytes(tmp_path / "a", 2**40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20


@posix_only
@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")
def test_read_bytes_endless_device_stops_at_the_limit() -> None:
    with pytest.raises(LimitExceededError):
        files.read_bytes("/dev/zero", 3_000_000)


def test_read_stream_in_pieces_returns_all_of_it() -> None:
    class Slow(io.BytesIO):
        left = 10

        def read(self, size: int | None = -1) -> bytes:
            self.left -= 1
            return b"ab" if self.left >= 0 else b""

    assert files.read_stream(Slow(), 20, "slow") == b"ab" * 10
    with pytest.raises(LimitExceededError, match="slow"):
        files.read_stream(Slow(), 19, "slow")


def test_dash_carries_every_byte_through_standard_input_and_output() -> None:
    program = "from rdeic_rt import files; files.atomic_write('-', files.read_bytes('-', 10**6))"
    content = bytes(range(256)) * 300 + b"\r\n\x1a\n"
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True)
    assert done.stdout == content


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_dash_closed_stream_raises_os_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, name, None)
    with pytest.raises(OSError, match="is closed"):
        files.atomic_write("-", files.read_bytes("-", 10) if name == "stdin" else b"")


@pytest.mark.parametrize("content", [b"new", lambda stream: stream.write(b"new")], ids=["bytes", "function"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_atomic_write_new_file_holds_the_content_and_nothing_else_is_left(
    tmp_path: Path, content: bytes | Callable[[BinaryIO], object], overwrite: bool
) -> None:
    files.atomic_write(tmp_path / "a", content, overwrite=overwrite)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_atomic_write_existing_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old and longer")
    files.atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_atomic_write_without_overwrite_refuses_and_leaves_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError) as caught:
        files.atomic_write(tmp_path / "a", b"new", overwrite=False)
    assert caught.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("hard_links", [True, False], ids=["hard links", "no hard links"])
def test_atomic_write_without_overwrite_from_many_threads_succeeds_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    def no_link(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", no_link)
    barrier = threading.Barrier(8)
    outcomes: list[bytes | None] = []

    def write(content: bytes) -> None:
        def produce(stream: BinaryIO) -> None:
            stream.write(content)
            barrier.wait()

        try:
            files.atomic_write(tmp_path / "a", produce, overwrite=False)
            outcomes.append(content)
        except FileExistsError:
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(bytes([n]) * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [content for content in outcomes if content is not None]
    assert len(outcomes) == 8
    assert (tmp_path / "a").read_bytes() == winner
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_write_interrupted_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def produce(stream: BinaryIO) -> None:
        stream.write(b"half of the new")
        stream.flush()
        assert (tmp_path / "a").read_bytes() == b"old"
        raise error

    with pytest.raises(error):
        files.atomic_write(tmp_path / "a", produce)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_atomic_write_missing_folder_raises_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.atomic_write(tmp_path / "none" / "a", b"new")


def test_atomic_write_to_a_folder_raises_os_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        files.atomic_write(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"]


@posix_only
def test_atomic_write_permissions_are_the_old_files_or_what_umask_gives(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    files.atomic_write(tmp_path / "new", b"x")
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode
    plain.chmod(0o640)
    files.atomic_write(plain, b"x")
    assert stat.S_IMODE(plain.stat().st_mode) == 0o640


@posix_only
def test_atomic_write_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a")
    files.atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "a").read_bytes() == b"new"


@posix_only
def test_atomic_write_device_or_pipe_is_written_to(tmp_path: Path) -> None:
    files.atomic_write("/dev/null", b"new", overwrite=False)
    os.mkfifo(tmp_path / "pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    files.atomic_write(tmp_path / "pipe", lambda stream: stream.write(b"through"))
    reader.join()
    assert received == [b"through"]
    assert names(tmp_path) == ["pipe"]


@posix_only
def test_atomic_write_longest_allowed_name_is_written(tmp_path: Path) -> None:
    files.atomic_write(tmp_path / ("n" * 255), b"new")
    assert names(tmp_path) == ["n" * 255]


@posix_only
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda folder: folder / "none" / "a", FileNotFoundError),
        (lambda folder: folder / "file" / "a", NotADirectoryError),
        (lambda folder: folder, IsADirectoryError),
        (lambda folder: folder / "loop", OSError),
        (lambda folder: folder / "dangling", FileNotFoundError),
        (lambda folder: folder / ("n" * 256), OSError),
    ],
    ids=["no folder", "file in the place of a folder", "folder", "loop", "dangling link", "too long a name"],
)
def test_atomic_write_error_names_the_output_as_given(
    tmp_path: Path, make: Callable[[Path], Path], problem: type[OSError]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("none/a")
    before = names(tmp_path)
    with pytest.raises(problem) as caught:
        files.atomic_write(make(tmp_path), b"new")
    assert caught.value.filename == str(make(tmp_path))
    assert names(tmp_path) == before


@posix_only
def test_atomic_write_link_to_no_file_makes_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    files.atomic_write(tmp_path / "link", b"new")
    assert os.readlink(tmp_path / "link") == "a"
    assert (tmp_path / "a").read_bytes() == b"new"


@posix_only
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_atomic_write_full_device_is_named() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        files.atomic_write("/dev/full", b"new")


@posix_only
def test_atomic_write_content_is_never_more_public_than_the_file_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "a").touch(0o600)
    modes: list[int] = []

    def produce(stream: BinaryIO) -> None:
        modes.append(stat.S_IMODE(os.fstat(stream.fileno()).st_mode))

    files.atomic_write(tmp_path / "a", produce)
    assert modes == [0o600]


@posix_only
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may write to everything")
def test_atomic_write_read_only_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(PermissionError):
        files.atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


@posix_only
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("old", [b"old", None])
def test_atomic_write_in_a_process_that_is_ended_leaves_nothing(tmp_path: Path, number: str, old: bytes | None) -> None:
    program = f"""
import os, signal, sys
from rdeic_rt import files

def end(stream):
    stream.write(b"half")
    stream.flush()
    assert len(os.listdir()) > 0
    os.kill(os.getpid(), signal.{number})

assert signal.getsignal(signal.{number}) is signal.SIG_DFL
files.atomic_write("a", lambda stream: stream.write(b"first"))
assert signal.getsignal(signal.{number}) is signal.SIG_DFL, "as before"
os.unlink("a")
if {old!r}: open("a", "wb").write({old!r})
files.atomic_write("a", end)
print("still there")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -getattr(signal, number), done
    assert done.stdout == ""
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {"a": old})


@posix_only
def test_atomic_write_leaves_signals_to_a_program_that_handles_them(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from rdeic_rt import files

signal.signal(signal.SIGTERM, lambda *_: print("handled"))
files.atomic_write("a", lambda stream: (os.kill(os.getpid(), signal.SIGTERM), stream.write(b"whole")))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done
    assert (tmp_path / "a").read_bytes() == b"whole"


@posix_only
def test_is_stream_is_for_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("pipe")
    assert files.is_stream("-") and files.is_stream("/dev/null") and files.is_stream("/dev/stdout")
    assert files.is_stream(tmp_path / "pipe") and files.is_stream(tmp_path / "link")
    assert not files.is_stream(tmp_path / "file") and not files.is_stream(tmp_path)
    assert not files.is_stream(tmp_path / "none")
