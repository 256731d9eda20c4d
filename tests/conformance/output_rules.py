"""What the commands `rdeic-rt` and `rdeic` do with outputs, and which bundle they take: rules that both keep.

    python3 tests/conformance/output_rules.py build/rdeic              the rules on a command
    python3 tests/conformance/output_rules.py --only pipes build/rdeic  one of them

Needs the standard library alone. Each rule is a function of a `Command`, run in an empty folder with ``photo.rdc`` in
it; it raises AssertionError. Devices are made in that folder, so that no bug can touch the system's own; a rule whose
device cannot be made there is not tried.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "v1"
PHOTO = GOLDEN / "coffee_r0.rdc"
LEVELS = GOLDEN.parent / "v1-levels"
PNG = b"\x89PNG\r\n\x1a\n"
ERROR = 3  # the exit code for a file that cannot be read or written
USAGE = 2
BAD_FILE = 4
BAD_BUNDLE = 5
Stream = IO[bytes] | int
_SECONDS = 120
_NULL, _FULL = os.makedev(1, 3), os.makedev(1, 7)  # of Linux


class CannotTry(Exception):
    """The rule cannot be tried here."""


@dataclass(frozen=True)
class Command:
    """A command and the folder that it runs in.

    Attributes:
        words: how it is called.
        folder: absolute; nothing else is in it at first but ``photo.rdc``.
    """

    words: tuple[str, ...]
    folder: Path

    def run(
        self,
        *words: str,
        check: int | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it and return how it ended; ``check``: the exit code that it must have."""
        done = subprocess.run(
            [*self.words, *words],
            cwd=self.folder,
            env=self.environment(),
            timeout=_SECONDS,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        assert check is None or done.returncode == check, f"{words}: exit code {done.returncode}, {done.stderr!r}"
        return done

    def shell(self, script: str) -> subprocess.CompletedProcess[bytes]:
        """Run a line of sh, in which "$@" is the command."""
        return subprocess.run(
            ["sh", "-c", script, "sh", *self.words],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            timeout=_SECONDS,
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start it."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            [*self.words, *words], cwd=self.folder, env=self.environment(), stdin=quiet, stdout=quiet, stderr=quiet
        )

    def environment(self) -> dict[str, str]:
        """Return the environment in which the name ``tiny-2`` stands for the small bundle."""
        return {**os.environ, "RDEIC_RT_BUNDLES": str(self.folder.parent / "bundles")}

    def names(self) -> set[str]:
        """Return the names of what is in the folder."""
        return {path.name for path in self.folder.iterdir()}


def refuses(command: Command, code: int, says: str, *words: str) -> str:
    """Check that a command line is refused, in one line but for the usage, and changes nothing; return what it says."""
    before = command.names()
    said = command.run(*words, check=code).stderr.decode()
    assert says in said, f"no {says!r} in {said!r}"
    assert code == USAGE or said.count("\n") == 1, said
    assert ".tmp" not in said and "Traceback" not in said, said
    assert command.names() == before, command.names() ^ before
    return said


@contextlib.contextmanager
def device(command: Command, name: str, number: int) -> Iterator[Path]:
    """Make a device in the folder; CannotTry where that is not allowed."""
    path = command.folder / name
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, number)
        path.open("wb").close()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise CannotTry(f"no device can be made: {error}") from None
    yield path
    assert stat.S_ISCHR(path.lstat().st_mode), f"{name} is no longer a device"


def default_name_is_beside_the_input(command: Command) -> None:
    command.run("decode", "photo.rdc", check=0)
    assert (command.folder / "photo.png").read_bytes().startswith(PNG)
    assert command.names() == {"photo.rdc", "photo.png"}


def default_name_replaces_nothing(command: Command) -> None:
    source = command.folder / "photo.png"
    source.write_bytes(b"precious")
    refuses(command, ERROR, "photo.png: exists", "decode", "photo.rdc")
    refuses(command, ERROR, "photo.png: exists", "decode", "photo.rdc", "--no-overwrite")
    refuses(command, ERROR, "photo.png: exists", "decode", "photo.rdc", "--no-overwrite", "-o", "photo.png")
    assert source.read_bytes() == b"precious"
    source.unlink()
    source.symlink_to("elsewhere.png")
    refuses(command, ERROR, "photo.png: exists", "decode", "photo.rdc")
    source.unlink()
    source.write_bytes(b"old")
    command.run("decode", "photo.rdc", "--overwrite", check=0)
    assert source.read_bytes().startswith(PNG)


def named_file_is_replaced(command: Command) -> None:
    (command.folder / "x.png").write_bytes(b"old")
    command.run("decode", "photo.rdc", "-o", "x.png", check=0)
    assert (command.folder / "x.png").read_bytes().startswith(PNG)
    assert command.names() == {"photo.rdc", "x.png"}


def standard_output_is_a_dash(command: Command) -> None:
    command.run("decode", "photo.rdc", "-o", "x.png", check=0)
    image = (command.folder / "x.png").read_bytes()
    assert command.run("decode", "photo.rdc", "-o", "-", check=0).stdout == image
    with (command.folder / "photo.rdc").open("rb") as stream:
        assert command.run("decode", "-", stdin=stream, check=0).stdout == image
    assert command.names() == {"photo.rdc", "x.png"}


def pipes_are_written_to(command: Command) -> None:
    for name in ("pipe", "pipe.png"):
        pipe = command.folder / name
        os.mkfifo(pipe)
        opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(opened, True)
        with open(opened, "rb") as stream:
            status = command.start("decode", "photo.rdc", "-o", name).wait(_SECONDS)
            received = stream.read()  # little enough for the pipe to hold it all
        assert status == 0, status
        assert stat.S_ISFIFO(pipe.lstat().st_mode), f"{name} is no longer a pipe"
        assert received.startswith(PNG)


def open_files_are_written_to(command: Command) -> None:
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        if not os.path.exists(name):
            continue
        assert command.run("decode", "photo.rdc", "-o", name, check=0).stdout.startswith(PNG), name
        with (command.folder / "x.png").open("wb") as stream:
            number = os.fstat(stream.fileno()).st_ino
            command.run("decode", "photo.rdc", "-o", name, stdout=stream, check=0)
        assert (command.folder / "x.png").stat().st_ino == number
        assert (command.folder / "x.png").read_bytes().startswith(PNG), name
    assert command.names() == {"photo.rdc", "x.png"}


def devices_are_written_to(command: Command) -> None:
    with device(command, "null", _NULL):
        command.run("decode", "photo.rdc", "-o", "null", check=0)
        (command.folder / "link.png").symlink_to("null")
        command.run("decode", "photo.rdc", "-o", "link.png", check=0)
    assert (command.folder / "link.png").is_symlink()
    assert command.names() == {"photo.rdc", "null", "link.png"}


def full_device_is_an_error_that_names_the_output(command: Command) -> None:
    with device(command, "full", _FULL):
        said = refuses(command, ERROR, "full: No space left", "decode", "photo.rdc", "-o", "full")
        assert "photo.rdc: No space" not in said, said


def symbolic_links_are_followed(command: Command) -> None:
    folder = command.folder / "folder"
    folder.mkdir()
    (folder / "old.png").write_bytes(b"old")
    for link, target in (("one.png", "folder/old.png"), ("new.png", "folder/new.png"), ("two.png", "one.png")):
        (command.folder / link).symlink_to(target)
        command.run("decode", "photo.rdc", "-o", link, check=0)
        assert os.readlink(command.folder / link) == target
        assert (command.folder / link).read_bytes().startswith(PNG)
    assert {path.name for path in folder.iterdir()} == {"old.png", "new.png"}
    (command.folder / "loop.png").symlink_to("loop.png")
    refuses(command, ERROR, "loop.png: ", "decode", "photo.rdc", "-o", "loop.png")
    assert (command.folder / "loop.png").is_symlink()


def permissions_are_kept_or_those_of_the_umask(command: Command) -> None:
    old = command.folder / "old.png"
    for mode in (0o640, 0o600, 0o664):
        old.write_bytes(b"old")
        old.chmod(mode)
        command.run("decode", "photo.rdc", "-o", "old.png", check=0)
        assert stat.S_IMODE(old.stat().st_mode) == mode, oct(old.stat().st_mode)
    for number, umask in enumerate((0o022, 0o027, 0o077)):
        done = command.shell(f'umask {umask:03o}; "$@" decode photo.rdc -o {number}.png')
        assert done.returncode == 0, done.stderr
        mode = (command.folder / f"{number}.png").stat().st_mode
        assert stat.S_IMODE(mode) == 0o666 & ~umask, oct(mode)


def read_only_file_is_left(command: Command) -> None:
    if os.geteuid() == 0:
        raise CannotTry("the superuser may write to everything")
    old = command.folder / "old.png"
    old.write_bytes(b"old")
    old.chmod(0o444)
    refuses(command, ERROR, "old.png: Permission denied", "decode", "photo.rdc", "-o", "old.png")
    assert old.read_bytes() == b"old"


def suffix_must_be_one_of_those_listed(command: Command) -> None:
    for name in ("x.xyz", "x", "png", "x.png.bak"):
        assert ".png" in refuses(command, USAGE, f"{name}: ", "decode", "photo.rdc", "-o", name)
    for name, begins in (("x.PNG", PNG), ("x.ppm", b"P6"), ("x.Ppm", b"P6")):
        command.run("decode", "photo.rdc", "-o", name, check=0)
        assert (command.folder / name).read_bytes().startswith(begins)


def inputs_of_one_name_are_refused_before_any_work(command: Command) -> None:
    shutil.copy(PHOTO, command.folder / "photo.dat")
    refuses(command, USAGE, "would both become photo.png", "decode", "photo.rdc", "photo.dat")
    refuses(command, USAGE, "would both become", "decode", "photo.rdc", "./photo.rdc")
    refuses(command, USAGE, "only input", "decode", "photo.rdc", "-")


def input_is_never_the_output(command: Command) -> None:
    image = command.folder / "photo.png"
    shutil.copy(PHOTO, image)
    (command.folder / "link.png").symlink_to("photo.png")
    refuses(command, USAGE, "would be overwritten", "decode", "photo.png")
    refuses(command, USAGE, "would be overwritten", "decode", "photo.png", "--overwrite")
    refuses(command, USAGE, "would be overwritten", "decode", "photo.png", "-o", "./photo.png")
    refuses(command, USAGE, "would be overwritten", "decode", "photo.png", "-o", "link.png")
    assert image.read_bytes() == PHOTO.read_bytes()


def missing_folder_is_named_as_typed(command: Command) -> None:
    refuses(command, ERROR, "no/such/x.png: No such file", "decode", "photo.rdc", "-o", "no/such/x.png")
    refuses(command, ERROR, "photo.rdc/x.png: Not a directory", "decode", "photo.rdc", "-o", "photo.rdc/x.png")
    (command.folder / "link.png").symlink_to("no/such/x.png")
    refuses(command, ERROR, "link.png: No such file", "decode", "photo.rdc", "-o", "link.png")


def full_disk_behind_standard_output_is_an_error(command: Command) -> None:
    if not os.path.exists("/dev/full"):
        raise CannotTry("no /dev/full")
    lines = (
        ("decode", "photo.rdc", "-o", "-"),
        ("info", "photo.rdc"),
        ("info", "--json", "photo.rdc"),
        ("info", str(GOLDEN / "bundle")),
        ("--version",),
        ("--help",),
        ("decode", "--help"),
    )
    for words in lines:
        for variable in ({}, {"PYTHONUNBUFFERED": "1"}):
            with open("/dev/full", "wb") as full:
                done = subprocess.run(
                    [*command.words, *words],
                    cwd=command.folder,
                    env={**command.environment(), **variable},
                    stdout=full,
                    stderr=subprocess.PIPE,
                    timeout=_SECONDS,
                )
            assert done.returncode == ERROR, (words, done.returncode, done.stderr)
            assert done.stderr.count(b"\n") == 1 and b"standard output: No space left" in done.stderr, done.stderr


def full_disk_behind_standard_error_does_not_hide_the_exit_code(command: Command) -> None:
    if not os.path.exists("/dev/full"):
        raise CannotTry("no /dev/full")
    (command.folder / "bad.rdc").write_bytes(b"GIF89a")
    for words, code in ((("decode", "bad.rdc"), BAD_FILE), (("decode", "none.rdc"), ERROR), (("decode",), USAGE)):
        with open("/dev/full", "wb") as full:
            command.run(*words, stderr=full, check=code)


def closed_streams_are_errors_and_no_file_takes_their_place(command: Command) -> None:
    done = command.shell('"$@" info photo.rdc >&-')
    assert done.returncode == ERROR and b"standard output" in done.stderr, done
    done = command.shell('"$@" --version >&-')
    assert done.returncode == ERROR and b"standard output" in done.stderr, done
    done = command.shell('"$@" decode - <&-')
    assert done.returncode == ERROR and b"standard input" in done.stderr, done
    done = command.shell('"$@" decode photo.rdc none.rdc bad.rdc <&- >&- 2>&-')
    assert done.returncode == ERROR, done
    image = (command.folder / "photo.png").read_bytes()
    command.run("decode", "photo.rdc", "-o", "again.png", check=0)
    assert (command.folder / "again.png").read_bytes() == image


def reader_that_leaves_ends_the_command(command: Command) -> None:
    for words in (("decode", "photo.rdc", "-o", "-"), ("info", "photo.rdc")):
        reading, writing = os.pipe()
        os.close(reading)
        done = command.run(*words, stdout=writing)
        os.close(writing)
        assert done.returncode in (141, -signal.SIGPIPE) and b"Traceback" not in done.stderr, done


def command_that_is_ended_leaves_all_or_nothing(command: Command) -> None:
    began = time.monotonic()
    command.run("decode", "photo.rdc", "-o", "x.png", check=0)
    seconds = time.monotonic() - began
    whole = (command.folder / "x.png").read_bytes()
    for share in (0.3, 0.7, 0.9, 0.97, 1.0):
        for number in (signal.SIGTERM, signal.SIGINT):
            started = command.start("decode", "photo.rdc", "-o", "ended.png")
            time.sleep(share * seconds)
            started.send_signal(number)
            started.wait(_SECONDS)
            assert command.names() <= {"photo.rdc", "x.png", "ended.png"}, command.names()
            if "ended.png" in command.names():
                assert (command.folder / "ended.png").read_bytes() == whole


def other_bundle(command: Command) -> Path:
    """Install a second bundle, and put ``other.rdc`` into the folder, which was made with it."""
    shutil.copy(LEVELS / "coffee_r37.rdc", command.folder / "other.rdc")
    folder = command.folder.parent / "bundles" / "levels"
    folder.symlink_to(LEVELS / "bundle")
    return folder


def each_file_is_decoded_with_the_bundle_it_was_made_with(command: Command) -> None:
    broken = command.folder.parent / "bundles" / "broken"
    broken.mkdir()
    (broken / "bundle.json").write_bytes(b"{")
    other = other_bundle(command)
    shutil.copy(GOLDEN / "coffee_r1.rdc", command.folder / "second.rdc")
    command.run("decode", "photo.rdc", "other.rdc", "second.rdc", check=0)
    for name, bundle in (("photo", "tiny-2"), ("other", str(other)), ("second", "tiny-2")):
        command.run("decode", f"{name}.rdc", "--bundle", bundle, "-o", "x.png", check=0)
        assert (command.folder / f"{name}.png").read_bytes() == (command.folder / "x.png").read_bytes(), name


def bundle_that_no_file_needs_is_not_opened(command: Command) -> None:
    other_bundle(command)
    default = command.folder.parent / "bundles" / "tiny-2"
    default.unlink()
    shutil.copytree(GOLDEN / "bundle", default)
    graph = next(default.glob("vae_decoder*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    command.run("decode", "other.rdc", check=0)
    refuses(command, BAD_BUNDLE, f"photo.rdc: {graph}: SHA-256", "decode", "photo.rdc")
    command.run("decode", "photo.rdc", "other.rdc", "--overwrite", check=BAD_BUNDLE)
    assert command.names() == {"photo.rdc", "other.rdc", "other.png"}


def file_that_no_installed_bundle_has_is_an_error_that_lists_them(command: Command) -> None:
    folder = other_bundle(command)
    folder.unlink()
    said = refuses(command, BAD_BUNDLE, "other.rdc: the file needs model e32e6d28 at rate 37", "decode", "other.rdc")
    assert str(GOLDEN / "bundle") in said or str(folder.parent / "tiny-2") in said, said
    command.run("decode", "other.rdc", "photo.rdc", check=BAD_BUNDLE)
    assert command.names() == {"photo.rdc", "other.rdc", "photo.png"}
    (folder.parent / "tiny-2").unlink()
    refuses(
        command, BAD_BUNDLE, "photo.rdc: the file needs model 2d54bf78 at rate 0", "decode", "photo.rdc", "-o", "x.png"
    )


def bundle_that_is_given_is_taken_for_every_file(command: Command) -> None:
    other = other_bundle(command)
    for bundle in ("levels", str(other)):
        refuses(
            command, BAD_BUNDLE, "photo.rdc: the file needs model 2d54bf78", "decode", "photo.rdc", "--bundle", bundle
        )
    refuses(command, BAD_BUNDLE, "no bundle 'none'", "decode", "photo.rdc", "none.rdc", "--bundle", "none")
    command.run("decode", "other.rdc", "photo.rdc", "--bundle", "levels", check=BAD_BUNDLE)
    assert command.names() == {"photo.rdc", "other.rdc", "other.png"}


def file_cut_short_is_decoded_with_its_bundle_when_allowed(command: Command) -> None:
    other_bundle(command)
    cut = command.folder / "other.rdc"
    cut.write_bytes(cut.read_bytes()[:-6])
    refuses(command, BAD_FILE, "cut short", "decode", "other.rdc")
    command.run("decode", "other.rdc", "--allow-partial", check=0)
    assert (command.folder / "other.png").read_bytes().startswith(PNG)


RULES: tuple[Callable[[Command], None], ...] = (
    default_name_is_beside_the_input,
    default_name_replaces_nothing,
    named_file_is_replaced,
    standard_output_is_a_dash,
    pipes_are_written_to,
    open_files_are_written_to,
    devices_are_written_to,
    full_device_is_an_error_that_names_the_output,
    symbolic_links_are_followed,
    permissions_are_kept_or_those_of_the_umask,
    read_only_file_is_left,
    suffix_must_be_one_of_those_listed,
    inputs_of_one_name_are_refused_before_any_work,
    input_is_never_the_output,
    missing_folder_is_named_as_typed,
    full_disk_behind_standard_output_is_an_error,
    full_disk_behind_standard_error_does_not_hide_the_exit_code,
    closed_streams_are_errors_and_no_file_takes_their_place,
    reader_that_leaves_ends_the_command,
    command_that_is_ended_leaves_all_or_nothing,
    each_file_is_decoded_with_the_bundle_it_was_made_with,
    bundle_that_no_file_needs_is_not_opened,
    file_that_no_installed_bundle_has_is_an_error_that_lists_them,
    bundle_that_is_given_is_taken_for_every_file,
    file_cut_short_is_decoded_with_its_bundle_when_allowed,
)


def prepared(words: Sequence[str], folder: Path) -> Command:
    """Return a command in a folder of its own inside ``folder``, which is empty."""
    (folder / "bundles").mkdir()
    (folder / "bundles" / "tiny-2").symlink_to(GOLDEN / "bundle")
    (folder / "work").mkdir()
    shutil.copy(PHOTO, folder / "work" / "photo.rdc")
    return Command(tuple(words), folder / "work")


def main() -> int:
    """Try the rules on a command and return the exit code: 1 if any is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rules with this in their name. Default: all")
    parser.add_argument("command", nargs="+", help="how the command is called")
    args = parser.parse_args()
    broken = 0
    for rule in RULES:
        if args.only not in rule.__name__:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                rule(prepared(args.command, Path(folder)))
                print(f"kept      {rule.__name__}")
            except CannotTry as why:
                print(f"not tried {rule.__name__}: {why}")
            except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
                broken += 1
                print(f"BROKEN    {rule.__name__}: {error}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
