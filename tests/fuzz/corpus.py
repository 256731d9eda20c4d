"""What libFuzzer found that reaches new code, packed: one archive for each target, with nothing in it but their bytes.

    python -m tests.fuzz.corpus TARGET FOLDER      packs a folder into tests/fuzz/corpus/TARGET.tar.xz

To take in what a run has found, let libFuzzer choose first, with the seeds beside it, which are not packed:

    mkdir MERGED && build-fuzz/tests/fuzz/TARGET_fuzzer -merge=1 MERGED NEW UNPACKED tests/fuzz/corpus/TARGET

Files that have a name, seeds and inputs that once failed, lie in ``tests/fuzz/corpus/TARGET`` as they are. An input
that fails is kept there, under the name of its fault.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def pack(target: str, folder: Path) -> int:
    """Write the archive of a target, of all files of a folder that are not kept by name; return how many there are."""
    kept = {path.read_bytes() for path in (CORPUS / target).glob("*")}
    inputs = {path.name: data for path in sorted(folder.iterdir()) if (data := path.read_bytes()) not in kept}
    with tarfile.open(CORPUS / f"{target}.tar.xz", "w:xz", format=tarfile.USTAR_FORMAT, preset=9) as archive:
        for name, data in inputs.items():
            member = tarfile.TarInfo(name)  # no times, no owners
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return len(inputs)


def unpack(target: str, folder: Path) -> None:
    """Unpack the archive of a target, if it has one, into a folder."""
    path = CORPUS / f"{target}.tar.xz"
    if path.is_file():
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")


if __name__ == "__main__":
    print(pack(sys.argv[1], Path(sys.argv[2])), "inputs")
