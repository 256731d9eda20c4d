"""What shells and desktops are given: completions, manual page, media type, file(1)'s magic, thumbnailer."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from rdeic_rt import pillow
from rdeic_rt.cli.main import build_parser
from rdeic_rt.codec import Codec
from rdeic_rt.container import SIGNATURE
from tests.packaging.building import ROOT, configured

MAX_PACKED_BYTES = 30_000
PLACES = {
    "bash-completion/completions/rdeic-rt",
    "zsh/site-functions/_rdeic-rt",
    "fish/vendor_completions.d/rdeic-rt.fish",
    "man/man1/rdeic-rt.1",
    "mime/packages/rdeic.xml",
    "rdeic/rdeic.magic",
    "thumbnailers/rdeic-rt.thumbnailer",
}
RENDERDOC = """\
<?xml version="1.0"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="application/x-renderdoc-capture">
    <comment>RenderDoc capture</comment>
    <magic priority="50"><match type="string" offset="0" value="RDOC"/></magic>
    <glob pattern="*.rdc"/>
  </mime-type>
</mime-info>
"""


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"there is no {' and no '.join(missing)}")


def said(*command: str | Path, **environment: str) -> str:
    """Run a command that must work and say nothing on standard error; return what it prints."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def share(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `share` that the wheel installs."""
    folder = tmp_path_factory.mktemp("data")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".data/data/share/" in name:
                archive.extract(name, folder)
    (found,) = folder.glob("*.data/data/share")
    return found


@pytest.fixture(scope="module")
def files(codec: Codec, photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ours.rdc, of 160x120 pixels, theirs.rdc, which begins as RenderDoc's captures do, and photo.jpg."""
    folder = tmp_path_factory.mktemp("files")
    with Image.open(photo_paths[0]) as photo:
        photo.convert("RGB").crop((0, 0, 160, 120)).save(folder / "photo.jpg")
        (folder / "ours.rdc").write_bytes(codec.encode(photo.convert("RGB").crop((0, 0, 160, 120))))
    (folder / "theirs.rdc").write_bytes(b"RDOC" + bytes(60))
    return folder


def test_wheel_has_these_files_and_they_are_small(wheel: Path, share: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = sum(info.compress_size for info in archive.infolist() if ".data/" in info.filename)

    assert {path.relative_to(share).as_posix() for path in share.rglob("*") if path.is_file()} == PLACES
    assert packed < MAX_PACKED_BYTES


@needs("cmake")
def test_cmake_installs_the_media_type(share: Path, tmp_path: Path) -> None:
    build, root = configured(ROOT, tmp_path / "build", "-DRDEIC_BUILD_TESTS=OFF"), tmp_path / "root"
    said("cmake", "--install", build, "--component", "desktop", "--prefix", root)

    for place in ("mime/packages/rdeic.xml", "rdeic/rdeic.magic"):
        assert (root / "share" / place).read_bytes() == (share / place).read_bytes()


def completed(share: Path, *words: str, folder: Path) -> set[str]:
    """What bash offers for the last of these words."""
    script = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_rdeic_rt rdeic-rt "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    source = share / "bash-completion" / "completions" / "rdeic-rt"
    command = ["bash", "-c", script, "bash", str(source), "rdeic-rt", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return set(done.stdout.split())


@needs("bash")
def test_bash_completes_commands_options_choices_and_files(share: Path, files: Path) -> None:
    said("bash", "-n", share / "bash-completion" / "completions" / "rdeic-rt")
    (files / "folder").mkdir(exist_ok=True)

    assert completed(share, "de", folder=files) == {"decode"}
    assert completed(share, "bundle", "pu", folder=files) == {"pull", "push"}
    assert completed(share, "decode", "--previ", folder=files) == {"--preview"}
    assert completed(share, "decode", "--backend", "t", folder=files) == {"tensorrt"}
    assert completed(share, "decode", "ou", folder=files) == {"ours.rdc"}
    assert completed(share, "bundle", "pull", "--to", "", folder=files) == {"folder"}


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        pytest.param("zsh", "zsh/site-functions/_rdeic-rt", marks=needs("zsh")),
        pytest.param("fish", "fish/vendor_completions.d/rdeic-rt.fish", marks=needs("fish")),
    ],
)
def test_other_shells_read_their_completions(share: Path, shell: str, place: str) -> None:
    said(shell, "-n", share / place)


@pytest.mark.parametrize("place", [place for place in sorted(PLACES) if "completion" in place or "zsh" in place])
def test_completions_have_every_option(share: Path, place: str) -> None:
    text = (share / place).read_text(encoding="utf-8")
    mark = "-l {}" if place.endswith(".fish") else "--{}"
    for verb in build_parser()[1].values():
        for action in verb._actions:
            for flag in action.option_strings:
                assert not flag.startswith("--") or mark.format(flag[2:]) in text, flag


def test_manual_page_has_every_option_and_no_lost_line(share: Path) -> None:
    text = (share / "man" / "man1" / "rdeic-rt.1").read_text(encoding="utf-8")
    plain = text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "")

    parser, verbs = build_parser()
    for verb in verbs.values():
        assert f'.SS "{verb.usage}"' in plain
        assert all(flag in plain for action in verb._actions for flag in action.option_strings)
        assert all(line.lstrip(".") in plain for line in (verb.epilog or "").splitlines())
    assert all(line in plain for line in (parser.epilog or "").splitlines())
    requests = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".nf", ".fi"}


@needs("man")
def test_manual_page_is_shown_without_a_warning(share: Path) -> None:
    page = said("man", "--warnings", "-l", share / "man" / "man1" / "rdeic-rt.1", MANWIDTH="100", LC_ALL="C.UTF-8")

    assert page.startswith("RDEIC-RT(1)")
    assert "rdeic-rt bundle pull [options] SOURCE" in page
    assert ".rdc files" in page


def test_media_type_is_that_of_the_plug_in_and_the_format(share: Path) -> None:
    space = {"m": "http://www.freedesktop.org/standards/shared-mime-info"}
    kind = ET.parse(share / "mime" / "packages" / "rdeic.xml").find("m:mime-type", space)
    assert kind is not None
    assert kind.attrib["type"] == pillow.MIME
    match = kind.find("m:magic/m:match", space)
    assert match is not None
    assert match.attrib["value"].encode("latin-1").decode("unicode_escape").encode("latin-1") == SIGNATURE
    assert [glob.attrib["pattern"] for glob in kind.findall("m:glob", space)] == ["*.rdc"]


@needs("update-mime-database", "gio")
@pytest.mark.parametrize("beside_renderdoc", [False, True])
def test_content_decides_where_renderdoc_is_installed(
    share: Path, files: Path, tmp_path: Path, beside_renderdoc: bool
) -> None:
    packages = tmp_path / "mime" / "packages"
    packages.mkdir(parents=True)
    shutil.copy(share / "mime" / "packages" / "rdeic.xml", packages)
    if beside_renderdoc:
        (packages / "renderdoc.xml").write_text(RENDERDOC, encoding="utf-8")
    shutil.copy(files / "ours.rdc", tmp_path / "no suffix")
    data = {"XDG_DATA_HOME": str(tmp_path), "XDG_DATA_DIRS": str(tmp_path / "none")}
    said("update-mime-database", tmp_path / "mime", **data)

    def content_type(path: Path) -> str:
        return said("gio", "info", "-a", "standard::content-type", path, **data).split()[-1]

    assert content_type(files / "ours.rdc") == "image/x-rdc"
    assert content_type(tmp_path / "no suffix") == "image/x-rdc"
    if beside_renderdoc:
        assert content_type(files / "theirs.rdc") == "application/x-renderdoc-capture"


@needs("xmllint")
def test_media_type_is_well_formed(share: Path) -> None:
    said("xmllint", "--noout", share / "mime" / "packages" / "rdeic.xml")


@needs("file")
def test_file_tells_version_model_and_rate(share: Path, files: Path, codec: Codec) -> None:
    magic = str(share / "rdeic" / "rdeic.magic")
    rate = codec.bundle.choose_rate(None)

    shown = said("file", "-b", "-m", magic, files / "ours.rdc").strip()
    assert shown == f"RDEIC image data, version 1, model {rate.model_id.hex()} at rate {rate.number}"
    assert said("file", "-b", "--mime-type", "-m", magic, files / "ours.rdc").strip() == "image/x-rdc"
    assert "RDEIC" not in said("file", "-b", "-m", magic, files / "theirs.rdc")


def test_thumbnailer_makes_a_small_image(share: Path, files: Path, tmp_path: Path) -> None:
    entry = configparser.ConfigParser(interpolation=None)
    entry.read(share / "thumbnailers" / "rdeic-rt.thumbnailer")
    section = entry["Thumbnailer Entry"]
    assert section["MimeType"] == "image/x-rdc;"

    output = tmp_path / "thumbnail.png"
    given = {"%s": "64", "%i": str(files / "ours.rdc"), "%o": str(output)}
    program, *words = shlex.split(section["Exec"])
    assert program == section["TryExec"] == "rdeic-rt"
    said(sys.executable, "-m", "rdeic_rt", *(given.get(word, word) for word in words))
    with Image.open(output) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("PNG", (64, 48))
