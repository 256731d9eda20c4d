"""What the wheel puts into ``share`` besides: completions, the manual page, and the files beside this one.

Completions and the manual page are made of the parser when the wheel is built, so that they cannot say anything else
than ``--help`` does. Nothing of this is imported by the runtime.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import shtab
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
COMMAND = "rdeic-rt"
SUMMARY = "photos in very small files, decoded by a diffusion model"
# Where they are looked for, under `share`.
FILES = {
    "rdeic.xml": "mime/packages/rdeic.xml",
    "rdeic.magic": "rdeic/rdeic.magic",
    "rdeic-rt.thumbnailer": "thumbnailers/rdeic-rt.thumbnailer",
}
COMPLETIONS = {
    "bash": f"bash-completion/completions/{COMMAND}",
    "zsh": f"zsh/site-functions/_{COMMAND}",
    "fish": f"fish/vendor_completions.d/{COMMAND}.fish",
}
MANUAL = f"man/man1/{COMMAND}.1"
# What options and inputs with these names take.
_FILE_NAMES = {"IN", "OUT", "F", "FILE", "FILE|BUNDLE", "B", "BUNDLE", "SOURCE", "TARGET"}
_FOLDER_NAMES = {"DIR", "FOLDER"}


class DesktopFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Makes the files and has them put into the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add everything to ``share`` of where the wheel is installed."""
        self._made = tempfile.TemporaryDirectory()
        shared = {str(HERE / name): f"share/{place}" for name, place in FILES.items()}
        for place, text in generated(self.metadata.version).items():
            path = Path(self._made.name, place.replace("/", "-"))
            path.write_text(text, encoding="utf-8")
            shared[str(path)] = f"share/{place}"
        build_data["shared_data"].update(shared)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made."""
        self._made.cleanup()


def generated(version: str) -> dict[str, str]:
    """Return what is made of the parser: place under ``share`` -> text."""
    sys.path.insert(0, str(HERE.parent))
    try:
        from rdeic_rt.cli.main import build_parser
    finally:
        del sys.path[0]
    parser, verbs = build_parser()
    made = {MANUAL: manual(parser, verbs, version)}
    for one in (parser, *verbs.values()):
        for action in one._actions:
            _prepare(action)
    return made | {place: shtab.complete(parser, shell=shell) for shell, place in COMPLETIONS.items()}


def _prepare(action: argparse.Action) -> None:
    """Have a shell show the first clause of an action's help, and complete file names where it takes them."""
    if isinstance(action, argparse._SubParsersAction):
        for choice in action._choices_actions:
            action.choices[choice.dest].description = choice.help
    name = str(action.metavar)
    action.help = re.split(r"[.;:] | \(", action.help or "")[0]
    if name in _FILE_NAMES | _FOLDER_NAMES:
        # shtab looks for this attribute, which is how it is told.
        action.complete = shtab.DIRECTORY if name in _FOLDER_NAMES else shtab.FILE  # type: ignore[attr-defined]


def manual(parser: argparse.ArgumentParser, verbs: dict[str, argparse.ArgumentParser], version: str) -> str:
    """Return the manual page: what the help of the command and of each verb says, as man(7) has it."""
    lines = [
        f'.TH {COMMAND.upper()} 1 "" "{COMMAND} {version}"',
        *(".SH NAME", f"{_plain(COMMAND)} \\- {SUMMARY}"),
        *(".SH SYNOPSIS", _plain(parser.usage or COMMAND)),
        *(".SH DESCRIPTION", _plain(parser.description)),
        ".SH COMMANDS",
    ]
    for name, verb in verbs.items():
        lines += [f'.SS "{_plain(verb.usage or name)}"', _plain(verb.description)]
        for group in verb._action_groups:
            actions = [one for one in group._group_actions if not isinstance(one, argparse._HelpAction)]
            if actions:
                lines += [".PP", f".B {_plain(group.title)}"]
            for action in actions:
                lines += [".TP", _term(action), _plain(action.help or "; ".join(map(str, action.choices or ())))]
        lines += _as_it_is(verb.epilog)
    return "\n".join([*lines, ".SH NOTES", *_as_it_is(parser.epilog)]) + "\n"


def _term(action: argparse.Action) -> str:
    names = ", ".join(f"\\fB{_plain(name)}\\fR" for name in action.option_strings)
    value = "" if action.nargs == 0 else f"\\fI{_plain(str(action.metavar))}\\fR"
    return f"{names} {value}".strip()


def _as_it_is(text: str | None) -> list[str]:
    return [".PP", ".nf", _plain(text), ".fi"] if text else []


def _plain(text: str | None) -> str:
    """Return text as troff shows it: a backslash, a minus, and a line that begins as a request does."""
    escaped = (text or "").replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)
