"""The command in processes that have too little: no home, no account, no memory, no time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdeic_rt import bundle_search, user_cache

COMMAND = [sys.executable, "-m", "rdeic_rt"]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")


def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a process without HOME, of a user id that has no account."""
    pwd = pytest.importorskip("pwd")

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "XDG_CACHE_HOME", "RDEIC_RT_BUNDLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def as_nobody() -> list[str]:
    """Return the words before a command that is to run as a user id without account and HOME; skip if it cannot."""
    # What the user may not read (a Python in the superuser's home) is read in the superuser's name.
    rights = "+dac_override,+dac_read_search"
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    become += ["--inh-caps", rights, "--ambient-caps", rights, "env", "-u", "HOME", "-u", "XDG_CACHE_HOME"]
    try:
        allowed = subprocess.run([*become, sys.executable, "-c", "pass"], capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no setpriv")
    if allowed.returncode:
        pytest.skip(f"cannot become somebody else: {allowed.stderr!r}")
    return become


def test_find_without_home_and_account_looks_elsewhere(
    monkeypatch: pytest.MonkeyPatch, embedded_bundle: Path, tmp_path: Path
) -> None:
    no_account(monkeypatch)
    assert user_cache.folder("bundles") is None
    assert bundle_search.find() == embedded_bundle
    assert bundle_search.find(embedded_bundle) == embedded_bundle
    monkeypatch.setenv("RDEIC_RT_BUNDLES", f"~/bundles{os.pathsep}{embedded_bundle.parent}")
    assert bundle_search.find("tiny-2") == embedded_bundle
    with pytest.raises(Exception, match="no bundle '~nobody/x'"):
        bundle_search.find("~nobody/x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser becomes somebody else")
def test_decode_as_a_user_id_without_account(here: Path) -> None:
    become = as_nobody()
    done = subprocess.run([*become, *COMMAND, "decode", "-q", "made.rdc", "-o", "-"], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"\x89PNG")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser becomes somebody else")
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_too_few_threads_end_well_or_in_6_and_one_line(here: Path, processes: int) -> None:
    become = as_nobody()
    words = ["decode", "made.rdc", "-o", "-", "-q", "--backend", "cpu", "--threads", "2"]
    done = subprocess.run(
        [*become, "prlimit", f"--nproc={processes}", *COMMAND, *words], capture_output=True, timeout=120
    )
    assert done.returncode in (0, 6), done
    assert done.stderr.count(b"\n") == (1 if done.returncode else 0), done.stderr
    assert done.stdout.startswith(b"\x89PNG") if done.returncode == 0 else done.stdout == b""


@linux_only
@pytest.mark.parametrize("words", [("decode", "made.rdc", "-o", "x.png"), ("encode", "photo.jpg", "-o", "x.rdc")])
@pytest.mark.parametrize("kilobytes", [600_000, 400_000, 300_000, 270_000, 250_000, 200_000, 100_000, 40_000])
def test_any_limit_of_address_space_ends_well_or_in_6_and_one_line(
    here: Path, words: tuple[str, ...], kilobytes: int
) -> None:
    script = f'ulimit -v {kilobytes}; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *words, "-q"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, 6), done.stderr
    assert done.stderr.count("\n") == (1 if done.returncode else 0), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert not (here / words[-1]).exists()


# Presses Ctrl-C when a module is about to be imported.
INTERRUPTED_IMPORT = """
import os, signal, sys

from rdeic_rt.__main__ import main

class CtrlC:
    name = sys.argv.pop(1)

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == cls.name:
            os.kill(os.getpid(), signal.SIGINT)

assert CtrlC.name not in sys.modules
sys.meta_path.insert(0, CtrlC)
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module",
    [
        "rdeic_rt.cli.main",
        "rdeic_rt.cli.outputs",
        "rdeic_rt.pixels",
        "rdeic_rt.codec",
        "argparse",
        "numpy",
        "numpy._core._multiarray_umath",
        "datetime",
        "PIL._imaging",
        "onnxruntime",
        "onnxruntime.capi.onnxruntime_pybind11_state",
        "constriction",
    ],
)
def test_ctrl_c_in_any_import_is_one_word(here: Path, module: str) -> None:
    words = [sys.executable, "-c", INTERRUPTED_IMPORT, module, "decode", "made.rdc", "-o", "x.png", "--backend", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "rdeic-rt: interrupted\n")


SWALLOWED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from rdeic_rt import codec
from rdeic_rt.__main__ import main
def broken(self, *_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True: pass
    except KeyboardInterrupt:
        raise AttributeError("half of a module") from None
codec.Codec.decode_with_metadata = broken
sys.exit(main())
"""


def test_ctrl_c_that_a_library_makes_an_error_of_is_one_word_and_ends_the_run(here: Path) -> None:
    (here / "second.rdc").write_bytes((here / "made.rdc").read_bytes())
    words = [sys.executable, "-c", SWALLOWED, "decode", "made.rdc", "second.rdc", "-q", "-o", "out/"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "rdeic-rt: interrupted\n")


def test_ctrl_c_at_any_time_is_one_word(here: Path) -> None:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], timeout=60)
    start_s = time.perf_counter() - began
    for step in range(6):
        (here / "made.png").unlink(missing_ok=True)
        started = subprocess.Popen([*COMMAND, "decode", "made.rdc", "-q"], stderr=subprocess.PIPE, text=True)
        time.sleep(start_s * (2 + 2 * step))
        started.send_signal(signal.SIGINT)
        err = started.communicate(timeout=120)[1]
        if "Traceback" in err and "rdeic_rt" not in err:
            continue  # Python itself had not yet started
        # Where Ctrl-C hits code that a library runs, Python itself sees to 130: it ends by the signal.
        assert started.returncode in (130, -signal.SIGINT, 0), (step, err)
        assert err == ("rdeic-rt: interrupted\n" if started.returncode else ""), (step, err)
