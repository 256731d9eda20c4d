"""The package's messages, which go nowhere unless the program asks for them: ``logging.getLogger("rdeic_rt")``."""

from __future__ import annotations

import logging

logging.getLogger(__package__).addHandler(logging.NullHandler())
