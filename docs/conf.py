"""The documentation site: `sphinx-build -W -b html docs SITE`."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from rdeic_rt.cli import batch
from rdeic_rt.cli.main import build_parser

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")

project = "rdeic-rt"
release = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"rdeic-rt {release}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"  # docstrings name things in single backticks
napoleon_use_ivar = True
nitpicky = False
# The highlighter has no grammar for what some blocks hold, such as columns of bytes.
suppress_warnings = ["misc.highlighting_failure"]

_log = logging.getLogger(__name__)


class VerbHelp(SphinxDirective):
    """``{verb} NAME`` shows what ``rdeic-rt NAME --help`` prints; without a name, the help of the whole command."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the text as a literal block."""
        os.environ["COLUMNS"] = "88"
        whole, verbs = build_parser()
        parsers = {**verbs, **{f"batch {name}": parser for name, parser in batch.directions(verbs["batch"]).items()}}
        text = (parsers[self.arguments[0]] if self.arguments else whole).format_help()
        return [nodes.literal_block(text, text, language="none")]


def leave_the_site(app: Sphinx, page: str, source: list[str]) -> None:
    """Show links to files that are no pages as text, and warn of those that lead nowhere."""
    folder = DOCS / Path(page).parent

    def shown(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        if not target.exists():
            _log.warning("%s: no file %s", page, found[2])
        return found[0] if target.is_relative_to(DOCS) else found[1]

    source[0] = LINK.sub(shown, source[0])


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.add_directive("verb", VerbHelp)
    app.connect("source-read", leave_the_site)
