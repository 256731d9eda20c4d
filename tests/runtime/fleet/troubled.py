"""An encoder that notes what it does, and gets into trouble; and a program that runs a job with it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdeic_rt.fleet import Encoder

CALLS = "calls"
SLOW = "slow"


class TroubledEncoder(Encoder):
    """Writes the path of each file to `CALLS` beside its folder, dies of files called kill*, and may take its time."""

    def row(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """Note the file first."""
        assert self.folder is not None
        with open(self.folder.parent / CALLS, "a", encoding="utf-8") as calls:
            calls.write(f"{file['path']}\n")
        if file["path"].startswith("kill"):
            os._exit(1)
        if (self.folder.parent / SLOW).exists():
            time.sleep(0.5)
        return super().row(file)


def main(inputs: str, output: str, bundle: str, address: str) -> None:
    """Run a job on a cluster, which somebody may cut off."""
    from rdeic_rt.fleet import Encoding, Model, Pool, job

    vars(job)["Encoder"] = TroubledEncoder
    options = Encoding(Model(bundle, backend="cpu"))
    job.run(job.Job(options, [inputs], Path(output), pool=Pool(1), address=address))


if __name__ == "__main__":
    # As Ray's workers know it.
    from tests.runtime.fleet import troubled

    troubled.main(*sys.argv[1:])
