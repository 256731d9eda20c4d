"""Parses the command line, runs the verb, and turns whatever went wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import TextIO

from .. import address_space, stopping
from ..errors import CancelledError, DeviceMemoryError, RdeicError
from . import batch, bench, bundle, decode, doctor, encode, eval, info, serve
from .console import PROGRAM, Console, printable, write_output
from .failures import EXIT_BUG, EXIT_OS_ERROR, EXIT_USAGE, describe, exit_code
from .outputs import UsageError

_MODULES = (encode, decode, info, bundle, serve, bench, eval, doctor, batch)
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
_SIZES = "The size of a file is chosen by --rate, --target-size or --target-bpp"
# What other programs call something that is called otherwise here.
_INSTEAD = {"--quality": _SIZES, "-Q": _SIZES, "--size": _SIZES}

_DESCRIPTION = """\
Extreme image compression: .rdc files of 0.01 to 0.2 bits per pixel, decoded by a
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
    _reserve_standard_streams()
    try:
        with _Interruption() as interruption, stopping.asked_by(interruption.why_stop):
            status = _run(list(sys.argv[1:] if argv is None else argv), interruption)
    except SystemExit as leave:  # argparse, after --help, --version or a wrong command line
        status = leave.code if isinstance(leave.code, int) else EXIT_BUG
    except BrokenPipeError:
        status = EXIT_PIPE_CLOSED
    except OSError as error:  # of the help, or the version
        status = EXIT_OS_ERROR
        Console(sys.stderr).error(describe(error))
    status = _flush(sys.stdout, "standard output", status)
    return _flush(sys.stderr, "standard error", status)


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command, and that of each verb by its name: ``decode``, ``bundle pull``, ..."""
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} COMMAND [options] ...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and leave")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    modules = {module.__name__.rpartition(".")[2]: module for module in _MODULES}
    verbs = {name: module.add_parser(commands) for name, module in modules.items()}
    return parser, verbs | bundle.add_actions(verbs["bundle"])


def _run(argv: list[str], interruption: _Interruption) -> int:
    args, verb = _parse(argv)
    console = Console(sys.stderr, quiet=args.quiet, verbose=args.verbose, debug=args.debug)
    try:
        if args.command not in ("info", "bundle"):
            address_space.check()
        with console.messages_of("rdeic_rt"), console.python_warnings():
            status: int = args.run(args, console)
            return status or (EXIT_OS_ERROR if console.is_lost else 0)
    except UsageError as error:
        verb.error(printable(str(error)))
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or interruption.came:
            console.error("interrupted", error)
            return EXIT_INTERRUPTED
        if isinstance(error, (RdeicError, OSError)):
            console.error(describe(error), error)
            return exit_code(error)
        if address_space.is_shortage(error):
            console.error(f"not enough memory, or threads: {describe(OSError(error))}", error)
            return DeviceMemoryError.exit_code
        console.bug(error)
        return EXIT_BUG


def _parse(argv: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Return the arguments and the verb's parser; options may stand between inputs, and `--` ends them."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser, verbs = build_parser()
    if not argv:
        sys.stderr.write(parser.format_help())
        parser.exit(EXIT_USAGE)
    known = [name for name in verbs if " " not in name]
    if not argv[0].startswith("-") and argv[0] not in known:
        parser.error(printable(f"no command {argv[0]!r}; there are {', '.join(known)}{_meant(argv[0], known)}"))
    args, rest = parser.parse_known_args(argv[:end])
    args.words = argv
    verb = getattr(args, "leaf", verbs[args.command])
    unknown = [word for word in rest if word.startswith("-") and word != "-"]
    if unknown:
        hint = next((_INSTEAD[word] for word in unknown if word in _INSTEAD), None)
        meant = f". {hint}" if hint else _meant(unknown[0].partition("=")[0], verb._option_string_actions)
        verb.error(printable(f"unrecognized arguments: {' '.join(unknown)}{meant}"))
    words = rest + argv[end + 1 :]
    if "inputs" in args:
        args.inputs += words
        if not args.inputs:
            verb.error("give at least one input")
    elif words:
        verb.error(printable(f"unrecognized arguments: {' '.join(words)}"))
    return args, verb


def _meant(word: str, known: Iterable[str]) -> str:
    """Return a question after what is nearest to a word that nothing has, if anything is near."""
    from difflib import get_close_matches  # no other command line needs it

    near = get_close_matches(word, [*known], n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import rdeic_rt

        write_output(f"{PROGRAM} {rdeic_rt.__version__}\n")
        parser.exit()


def _reserve_standard_streams() -> None:
    """Open what is closed of descriptors 0 to 2, so that no output takes its place and gets what a library prints."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free


class _Interruption:
    """Remembers that Ctrl-C came, as a library that is just imported may make an error of its own of it.

    Attributes:
        came: whether it did.
    """

    def __init__(self) -> None:
        self.came = False
        self._is_ours = False

    def __enter__(self) -> _Interruption:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
            self._is_ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def why_stop(self) -> CancelledError | None:
        """Return the error that ends what a library has let go on."""
        return CancelledError("interrupted") if self.came else None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)


class _Parser(argparse.ArgumentParser):
    """A parser whose help cannot be lost without a word, as argparse's own is."""

    def print_help(self, file: object = None) -> None:
        """Write the help to standard output; errors as of `console.write_output`."""
        write_output(self.format_help())


def _flush(stream: TextIO | None, name: str, status: int) -> int:
    """Return the exit code, once what was written to a stream has arrived or failed to."""
    if stream is None:
        return status
    try:
        stream.flush()
        return status
    except BrokenPipeError:
        status = EXIT_PIPE_CLOSED
    except OSError as error:
        if status == 0:
            if stream is not sys.stderr:
                Console(sys.stderr).error(describe(error, name))
            status = EXIT_OS_ERROR
    # What is still buffered goes nowhere, or the interpreter would fail on it again at exit.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return status
