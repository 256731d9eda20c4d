"""Parses the command line, runs the verb, and turns whatever went wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..errors import RdeicError
from . import bench, decode, doctor, encode, eval, info
from .batch import EXIT_BUG, EXIT_OS_ERROR, describe, exit_code
from .console import PROGRAM, Console, printable
from .outputs import UsageError

EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141

_DESCRIPTION = """\
Extreme image compression: .rdc files of 0.02 to 0.2 bits per pixel, decoded by a
diffusion model in a few steps. 'rdeic-rt COMMAND --help' tells more."""

_EPILOG = """\
exit codes:
  0    everything worked
  2    the command line is wrong
  3    a file cannot be read or written
  4    bad input: not an .rdc file, a damaged one, or an image that cannot be read
  5    a bundle is missing, damaged, or not the one the file was made with
  6    the backend cannot run, or ran out of memory
  1    a bug in rdeic-rt; 130 interrupted; 141 the reader of the output went away
With several inputs the others are still done, and the highest code is returned, or
1 if one of them ran into a bug."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `rdeic-rt` with these arguments (None: the process's own) and return its exit code."""
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as leave:  # argparse, after --help, --version or a wrong command line
        status = leave.code if isinstance(leave.code, int) else EXIT_BUG
    except BrokenPipeError:
        status = EXIT_PIPE_CLOSED
    return _flush_output(status)


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command, and that of each verb by its name."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [options] ...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and leave")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    verbs = {module.__name__.rpartition(".")[2]: module for module in (encode, decode, info, bench, eval, doctor)}
    return parser, {name: module.add_parser(commands) for name, module in verbs.items()}


def _run(argv: list[str]) -> int:
    args, verb = _parse(argv)
    console = Console(sys.stderr, quiet=args.quiet, verbose=args.verbose, debug=args.debug)
    try:
        with console.messages_of("rdeic_rt"), console.python_warnings():
            status: int = args.run(args, console)
            return status
    except UsageError as error:
        verb.error(printable(str(error)))
    except BrokenPipeError:
        raise
    except (RdeicError, OSError) as error:
        console.error(describe(error), error)
        return exit_code(error)
    except KeyboardInterrupt as error:
        console.error("interrupted", error)
        return EXIT_INTERRUPTED
    except Exception as error:
        console.bug(error)
        return EXIT_BUG


def _parse(argv: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Return the arguments and the verb's parser; options may stand between inputs, and `--` ends them."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser, verbs = build_parser()
    args, rest = parser.parse_known_args(argv[:end])
    args.words = argv
    verb = verbs[args.command]
    unknown = [word for word in rest if word.startswith("-") and word != "-"]
    if unknown:
        verb.error(printable(f"unrecognized arguments: {' '.join(unknown)}"))
    words = rest + argv[end + 1 :]
    if "inputs" in args:
        args.inputs += words
        if not args.inputs:
            verb.error("give at least one input")
    elif words:
        verb.error(printable(f"unrecognized arguments: {' '.join(words)}"))
    return args, verb


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import rdeic_rt

        sys.stdout.write(f"{PROGRAM} {rdeic_rt.__version__}\n")
        parser.exit()


def _flush_output(status: int) -> int:
    """Return the exit code, once what was written to standard output has arrived or failed to."""
    if sys.stdout is None:
        return status
    try:
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = EXIT_PIPE_CLOSED
    except OSError as error:
        if status == 0:
            Console(sys.stderr).error(describe(error, "standard output"))
            status = EXIT_OS_ERROR
    # What is still buffered goes nowhere, or the interpreter would fail on it again at exit.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return status
