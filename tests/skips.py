"""Where the environment variable CI is set, a test that skips fails, but for the reasons that are listed here."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _pytest.runner import CallInfo

# What no machine of CI has, or cannot have beside what other tests need. Tests marked `gpu` may skip too.
ALLOWED = re.compile(
    r"(RDEIC_RT_REFERENCE(_DIFFO)? names"  # data that are not part of this repository
    r"|only the superuser|the superuser may|cannot become somebody else"
    r"|(cv2|torchvision|datasets) cannot be imported"  # large, or not for this torch
    r"|Ray is not installed"  # 500 MB; .ci/nightly has it
    r"|could not import 'tritonclient"  # holds protobuf back; .ci/nightly has it
    r"|web/rdeic-web is not built"  # .ci/web builds it, and runs its tests
    r"|this NVRTC knows)"  # parametrized with architectures of several versions of it
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that skips."""
    report = yield
    if item.get_closest_marker("gpu") is None and not hasattr(report, "wasxfail"):
        fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a file that skips as a whole."""
    report = yield
    fail_if_skipped(report)
    return report


def fail_if_skipped(report: Any) -> None:
    """Make a report of a skip, for a reason that is not `ALLOWED`, one of a failure where CI is set."""
    if not report.skipped or not os.environ.get("CI"):
        return
    _, _, reason = report.longrepr
    if not ALLOWED.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nCI is set, and this is none of the reasons of tests/skips.py to skip."
