"""A codec in other processes: a child of fork() ends and is told to load its own; nothing is pickled that cannot be."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rdeic_rt
from rdeic_rt import Codec

# Runs `child` in a child of fork() after the parent has decoded; a child that hangs is ended by its alarm.
FORK = """
import os, signal, sys, warnings
import numpy as np
import rdeic_rt

warnings.simplefilter("ignore")
data = open(sys.argv[2], "rb").read()
codec = rdeic_rt.load(sys.argv[1], threads=2, backend="cpu")
image = codec.decode(data)

def refused(use):
    try:
        use()
    except rdeic_rt.BackendError as error:
        assert "Load one in each process, with rdeic_rt.load()" in str(error), error
    else:
        sys.exit("not refused")

def child():
    global codec
{child}

number = os.fork()
if number == 0:
    signal.alarm(60)
    child()
    sys.exit(0)
status = os.waitpid(number, 0)[1]
assert status == 0, status
assert np.array_equal(codec.decode(data), image)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")


@pytest.mark.parametrize(
    "child",
    [
        "    pass",
        "    refused(lambda: codec.decode(data))",
        "    refused(lambda: codec.encode(image))",
        "    refused(lambda: codec.read_latents(data))",
        "    refused(lambda: codec.prepare(rdeic_rt.Size(64, 64)))",
        "    refused(lambda: list(codec.decode_many([data])))",
        "    del codec",
        "    codec = rdeic_rt.load(sys.argv[1], threads=2, backend='cpu')\n"
        "    assert np.array_equal(codec.decode(data), image)",
        "    own = rdeic_rt.load(sys.argv[1], threads=2, backend='cpu')\n"
        "    grandchild = os.fork()\n"
        "    if grandchild == 0: refused(lambda: own.decode(data)); sys.exit(0)\n"
        "    assert os.waitpid(grandchild, 0)[1] == 0",
    ],
    ids=["ends", "decode", "encode", "latents", "prepare", "many", "gives it back", "loads its own", "has a child"],
)
def test_child_of_fork_ends_and_is_told_what_to_do(golden_bundle: Path, child: str) -> None:
    file = golden_bundle.parent / "coffee_r0.rdc"
    done = subprocess.run(
        [sys.executable, "-c", FORK.format(child=child), golden_bundle, file],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_codec_cannot_be_sent_and_says_what_to_do(golden_codec: Codec, send: Callable[[Codec], object]) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled or copied.* Load one in each process, with rdeic_rt\.load"):
        send(golden_codec)


def test_what_a_codec_reads_can_be_sent(golden_codec: Codec, golden_bundle: Path) -> None:
    data = (golden_bundle.parent / "coffee_r0.rdc").read_bytes()
    latents = golden_codec.read_latents(data)
    sent = pickle.loads(pickle.dumps(latents))
    assert sent.rate == latents.rate
    assert np.array_equal(golden_codec.decode(sent), golden_codec.decode(data))
    assert pickle.loads(pickle.dumps(golden_codec.bundle)) == golden_codec.bundle
    assert copy.deepcopy(golden_codec.bundle.rates) == golden_codec.bundle.rates
    assert pickle.loads(pickle.dumps(rdeic_rt.DecodeOptions(seed=1))) == rdeic_rt.DecodeOptions(seed=1)
