"""Everything the README and the pages for users show is run, in order, in a folder with a photo in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from rdeic_rt.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/python.md", "docs/command-line.md")
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(
    r"(?:^<!-- ci: (?P<name>\w+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    ci_name: str | None


# The command as it is without the extra openvino, which every process would compile its graphs anew for.
COMMAND = "import sys; sys.modules['openvino'] = None; from rdeic_rt.cli.main import main; sys.exit(main())"
# The sides that MS-SSIM needs, and little more: with the whole photo, `eval` judges thirty images five times as large.
CUT = (100, 60, 276, 228)
BLOCKS = [
    Block(found["language"], found["text"], found["name"]) for text in TEXTS.values() for found in BLOCK.finditer(text)
]
LINKS = [(page, link) for page, text in TEXTS.items() for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]


def run(arguments: list[str], folder: Path) -> None:
    command_folder = folder / "bin"
    command_folder.mkdir(exist_ok=True)
    command = command_folder / "rdeic-rt"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{COMMAND}" "$@"\n')
    command.chmod(0o755)
    environment = dict(os.environ, PATH=f"{command_folder}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_snippets_in_order_all_work(tmp_path: Path, photo_paths: list[Path]) -> None:
    with Image.open(photo_paths[0]) as photo:
        photo.crop(CUT).save(tmp_path / "photo.jpg", quality=90)
    run(["rdeic-rt", "encode", "photo.jpg"], tmp_path)

    for block in BLOCKS:
        if block.language == "python":
            run([sys.executable, "-c", block.text], tmp_path)
        elif block.ci_name is None:
            run(["bash", "-euo", "pipefail", "-c", block.text], tmp_path)

    assert {block.language for block in BLOCKS} == {"bash", "python"}
    assert (tmp_path / "decoded" / "photo.png").is_file()


def test_set_up_commands_are_the_ones_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    named = [block.ci_name for block in BLOCKS if block.ci_name is not None]

    assert named == ["use", "test"]
    assert re.findall(r'"\$\(readme_block (\w+)\)"', script) == ["test", "use"]


def test_set_up_commands_are_one_line_each() -> None:
    for block in BLOCKS:
        if block.ci_name is not None:
            assert block.text.startswith("pip install ")
            assert block.text.count("\n") == 1


def test_exit_codes_agree_with_the_help() -> None:
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXTS["docs/command-line.md"], re.MULTILINE)}
    epilog = build_parser()[0].epilog or ""
    codes = {int(code) for code in re.findall(r"(?:^  |; )(\d+) ", epilog, re.MULTILINE)}

    assert table == codes


@pytest.mark.parametrize(("page", "link"), sorted(set(LINKS)))
def test_link_to_a_file_leads_somewhere(page: str, link: str) -> None:
    assert (ROOT / page).parent.joinpath(link).exists()
