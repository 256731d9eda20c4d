"""Tests. Beside other workers of pytest-xdist, one takes one core."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch and BLAS are loaded
