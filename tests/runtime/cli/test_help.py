"""Help is complete, quick, and says what the code does."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

import pytest

from rdeic_rt import closed_loop, errors, pipeline
from rdeic_rt.backends import select
from rdeic_rt.cli import failures, main, options
from rdeic_rt.manifest import AUTO, PRECISIONS

from .conftest import Command

VERBS = ["encode", "decode", "info", "bundle", "serve", "bench", "eval", "doctor"]
ACTIONS = [f"bundle {action}" for action in ("list", "verify", "pull", "push", "rm")]


@pytest.mark.parametrize("verb", VERBS + ACTIONS)
def test_help_of_a_verb_has_a_text_for_every_option(
    command: Command, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert command(*verb.split(), "--help") == 0

    text = capsys.readouterr().out
    parser = main.build_parser()[1][verb]
    actions = [
        action
        for action in parser._actions
        if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    ]
    assert all(action.help for action in actions)
    assert all(flag in text for action in actions for flag in action.option_strings)
    assert text.startswith(f"usage: rdeic-rt {verb} [options]")


@pytest.mark.parametrize("verb", VERBS)
def test_usage_error_begins_with_the_verb(command: Command, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    mistakes = [["--no-such"], ["--debug=1"], ["--max-pixels"] if verb != "doctor" else ["--bundle"]]
    if verb in ("bench", "doctor", "serve"):
        mistakes.append(["extra"])
    else:
        mistakes.append([])
    for words in mistakes:
        assert command(verb, *words) == 2
        usage, error = capsys.readouterr().err.splitlines()
        assert usage.startswith(f"usage: rdeic-rt {verb} [options]")
        assert error.startswith(f"rdeic-rt {verb}: error: ")


def test_help_of_the_command_lists_verbs(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0

    text = capsys.readouterr().out
    assert all(re.search(rf"^    {verb} +\w", text, re.MULTILINE) for verb in VERBS)
    assert set(main.build_parser()[1]) == {*VERBS, *ACTIONS, "batch"}


def test_help_lists_every_exit_code(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    families = [errors.FileFormatError, errors.ImageError, errors.BundleError, errors.BackendError]
    codes = {family.exit_code for family in families} | {failures.EXIT_BUG, failures.EXIT_USAGE, failures.EXIT_OS_ERROR}
    codes |= {main.EXIT_INTERRUPTED, main.EXIT_PIPE_CLOSED, 0}
    assert command("--help") == 0

    text = capsys.readouterr().out
    assert {int(code) for code in re.findall(r"(?:^  |; )(\d+) ", text, re.MULTILINE)} == codes


def test_version_is_the_installed_one(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert re.fullmatch(r"rdeic-rt \d+\.\d+\.\d+(\.dev\d+)?\n", capsys.readouterr().out)


def test_choices_are_those_of_the_backends() -> None:
    assert options.BACKENDS == (AUTO, *select.NAMES)
    assert options.PRECISIONS == (AUTO, *PRECISIONS)
    assert options.MAX_EFFORT == closed_loop.MAX_EFFORT
    assert options.MAX_JOBS == pipeline.MAX_WORKERS


def test_help_loads_nothing_heavy() -> None:
    script = """
import sys
from rdeic_rt.cli.main import main
assert main(["encode", "--help"]) == 0
heavy = {"numpy", "onnxruntime", "PIL", "constriction", "fastjsonschema"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
