"""A job: every image below some folders to .rdc files, or back, once each. What `rdeic-rt batch` does.

    inputs ─ Listing ─▶ actors ─▶ OUT/PATH.rdc, rows             files
                                  OUT/data/*.parquet             parquet, rows with their bytes
                                  OUT/data/*.tar                 webdataset, samples with their rows
    rows ─▶ OUT/report.parquet

The ledger (`ledger`) is in ``OUT/.rdeic-batch``, and beside it what the job is: to resume it as another one is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.data.checkpoint import CheckpointConfig

from .. import bundle_search, errors, files
from ..limits import MAX_MANIFEST_BYTES
from . import listing, on_ray
from .ledger import Ledger, Summary
from .pool import JobError, Pool, sized
from .workers import Decoder, Decoding, Encoder, Encoding, error_class

FILES, PARQUET, WEBDATASET = FORMATS = ("files", "parquet", "webdataset")
LEDGER_FOLDER = ".rdeic-batch"
REPORT_FILE = "report.parquet"
_MOST_FILES_A_BLOCK = 64
_BLOCKS_A_WORKER = 8
# What has no part in what comes out.
_NO_PART_OF_THE_KEY = {"threads", "verify", "on_progress", "cancel"}

_log = logging.getLogger("rdeic_rt.fleet.job")


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        options: how files are encoded or decoded.
        inputs: files and folders.
        output: folder of what comes out.
        form: one of `FORMATS`.
        pool: of workers.
        address: of the cluster, as for `on_ray.start`.
        resume: go on with the job that is in the folder.
        stop_at_error: end with the first file that fails, instead of recording it.
        report: where the report goes; None: ``report.parquet`` in the folder.
        is_quiet: leave out what Ray says of itself.
    """

    options: Encoding | Decoding
    inputs: Sequence[str]
    output: Path
    form: str = FILES
    pool: Pool = Pool()
    address: str = "auto"
    resume: bool = False
    stop_at_error: bool = False
    report: Path | None = None
    is_quiet: bool = True

    @property
    def worker(self) -> Encoder | Decoder:
        """What each actor does."""
        folder = self.output if self.form == FILES else None
        return Encoder(self.options, folder) if isinstance(self.options, Encoding) else Decoder(self.options, folder)

    def key(self) -> dict[str, Any]:
        """Return what decides the outputs, as JSON: two runs with equal keys are one job."""
        options = _told(dataclasses.asdict(self.options))
        return {
            "rdeic_rt": version("rdeic-rt"),
            "verb": self.worker.verb,
            "format": self.form,
            "bundles": _bundle_hashes(self.options),
            **options,
        }


def run(job: Job) -> Summary:
    """Do a job; return what it has come to, its former runs counted.

    Raises:
        JobError: the folder holds another job, or anything else, or nothing to resume; two files have one name; the
            cluster has no room for the workers; with ``stop_at_error``, an option does not fit a file.
        RdeicError: the model cannot be loaded, or with ``stop_at_error`` a file has failed; BackendError for what Ray
            itself ends with.
        OSError: an input cannot be read, or with ``stop_at_error`` a file.
    """
    job = dataclasses.replace(job, output=job.output.absolute())
    found = listing.find(job.inputs, listing.SUFFIXES[job.worker.verb])
    if not found:
        raise JobError(f"there is nothing to {job.worker.verb} in {', '.join(job.inputs)}")
    if job.form != PARQUET:
        listing.refuse_clashes(found, job.options.suffix if job.form == FILES else None)
    ledger = _ledger(job)
    key = job.key()
    _check_place(job, ledger, key)
    started = _start(job)
    try:
        least, most = sized(job.pool, on_ray.machines(), resuming=job.resume)
        if job.resume:
            done, dropped = ledger.leave_whole()
            _log.info("%d files are done, %d are done again", done, dropped)
        ledger.begin(key)
        files_a_block = max(1, min(_MOST_FILES_A_BLOCK, len(found) // (_BLOCKS_A_WORKER * least)))
        _write(job, ledger, on_ray.Listing(found, files_a_block), files_a_block, most)
    finally:
        if started:
            ray.shutdown()
    return ledger.report(job.report or job.output / REPORT_FILE)


def _write(job: Job, ledger: Ledger, listed: on_ray.Listing, files_a_block: int, most: int) -> None:
    """Let Ray do what the ledger has not."""
    watch = on_ray.Watches(most)
    how = on_ray.How(samples=job.form == WEBDATASET, stop_at_error=job.stop_at_error)
    dataset = ray.data.read_datasource(listed, override_num_blocks=listed.n_blocks)
    dataset.context.checkpoint_config = CheckpointConfig(
        id_column=ledger.id_column, checkpoint_path=str(ledger.checkpoints), delete_checkpoint_on_success=False
    )
    # Ray's second reader takes 20 to 40 s for a handful of checkpoints (2.60.0), the one before it a second.
    dataset.context.use_datasource_v2 = False
    dataset.context.enable_progress_bars = not job.is_quiet
    rows = on_ray.transform(
        dataset, job.worker, job.pool, watch=watch, how=how, resuming=job.resume, batch_size=files_a_block
    )
    try:
        with ray.data.DataContext.current(dataset.context):  # checkpoints are read by what is current
            if job.form == WEBDATASET:
                rows.write_webdataset(str(ledger.parts), encoder=None)
            else:
                rows.write_parquet(str(ledger.parts))
    except ray.exceptions.RayError as error:
        why = watch.stopped_by()
        if why is None:
            text = next((line for line in str(error).splitlines()[::-1] if line.strip()), type(error).__name__)
            raise errors.BackendError(f"Ray ended the job: {text.strip()}") from error
        path, error_type, text = why
        kind = error_class(error_type)
        raise (JobError if issubclass(kind, ValueError) else kind)(
            text if path is None else f"{path}: {text}"
        ) from None


def _ledger(job: Job) -> Ledger:
    folder = job.output / LEDGER_FOLDER
    parts = folder / "rows" if job.form == FILES else job.output / "data"
    return Ledger(folder, parts, job.output, samples=job.form == WEBDATASET)


def _check_place(job: Job, ledger: Ledger, key: dict[str, Any]) -> None:
    """Raise JobError unless the output folder is free, or holds this job and it is to be resumed."""
    before = ledger.key()
    if before is None:
        if job.resume:
            raise JobError(f"{job.output} holds no job to resume")
        if job.output.exists() and any(job.output.iterdir()):
            raise JobError(f"{job.output} is not empty; give a new folder")
        return
    if not job.resume:
        raise JobError(f"{job.output} holds a job; give --resume to go on with it, or a new folder")
    if before != key:
        differs = sorted(name for name in {*before, *key} if before.get(name) != key.get(name))
        first = differs[0]
        raise JobError(
            f"{job.output} holds another job: it differs in {', '.join(differs)} ({first} was {before.get(first)!r} "
            f"and is {key.get(first)!r}). Give what it was begun with, or a new folder"
        )


def _start(job: Job) -> bool:
    if job.is_quiet:
        warnings.filterwarnings("ignore", module=r"ray(\.|$)")
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        return on_ray.start(job.address, quiet=job.is_quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        text = str(error).strip().partition("\n")[0]
        raise errors.BackendUnavailableError(f"Ray cannot be had at {job.address}: {text}") from error


def _bundle_hashes(options: Encoding | Decoding) -> dict[str, str]:
    """Return the SHA-256 of the manifest of each bundle that may be used, by its folder's name.

    A manifest has the hashes of the other files.
    """
    if isinstance(options, Encoding) or options.model.bundle is not None:
        folders = [bundle_search.find(options.model.bundle)]
    else:
        folders = list(bundle_search.default_first())
    manifests = {folder.name: folder / bundle_search.MANIFEST for folder in folders}
    return {
        name: hashlib.sha256(files.read_bytes(path, MAX_MANIFEST_BYTES)).hexdigest() for name, path in manifests.items()
    }


def _told(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON holds them, without those that have no part in what comes out."""
    kept = {name: value for name, value in options.items() if name not in _NO_PART_OF_THE_KEY}
    return {name: _told(value) if isinstance(value, dict) else value for name, value in kept.items()}
