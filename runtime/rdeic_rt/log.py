"""The package's log, silent unless the program configures it: ``logging.getLogger("rdeic_rt")``."""

from __future__ import annotations

import logging

logging.getLogger(__package__).addHandler(logging.NullHandler())
