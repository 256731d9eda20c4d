"""`python -m rdeic_rt` is the command `rdeic-rt`."""

import sys

from rdeic_rt.cli.main import main

sys.exit(main())
