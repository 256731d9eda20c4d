"""The command `rdeic-rt`, as it is installed and as `python -m rdeic_rt`.

Until all that it takes is imported, Ctrl-C would end in a traceback of imports. So that happens in here.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command with the process's arguments and return its exit code."""
    try:
        from rdeic_rt.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except MemoryError:
        return _say("not enough memory", 6)


def _say(what: str, status: int) -> int:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # said once is enough
    if sys.stderr is not None:
        try:
            sys.stderr.write(f"rdeic-rt: {what}\n")
            sys.stderr.flush()
        except OSError:
            return status
    return status


if __name__ == "__main__":
    sys.exit(main())
