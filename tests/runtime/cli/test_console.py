"""Lines, errors and the bar on standard error."""

from __future__ import annotations

import io
import logging

import pytest

from rdeic_rt.cli.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "total", "quiet"), [(io.StringIO(), 3, False), (Terminal(), 1, False), (Terminal(), 3, True)]
)
def test_bar_needs_a_terminal_and_several_inputs(stream: io.StringIO, total: int, quiet: bool) -> None:
    console = Console(stream, quiet=quiet)
    console.progress(0, total, "photo.jpg")
    console.clear()

    assert stream.getvalue() == ""


def test_bar_is_cleared_before_anything_else_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    console = Console(stream)
    console.progress(1, 2, "photo.jpg")
    assert stream.getvalue() == "[############............] 1/2 photo.jpg"

    console.line("done")
    console.line("again")
    assert stream.getvalue().endswith("photo.jpg\r\x1b[Kdone\nagain\n")


def test_bar_of_one_input_shows_how_far_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    console = Console(stream)
    console.progress(0.5, 1, "photo.rdc", "vae")
    console.progress(0.5, 1, "photo.rdc", "vae")
    assert stream.getvalue() == "[############............] 50 % photo.rdc: vae"
    console.progress(1.0, 1, "photo.rdc", "writing")
    assert stream.getvalue().endswith("\r\x1b[K[########################] 100 % photo.rdc: writing")


def test_what_is_held_back_is_said_later() -> None:
    stream = io.StringIO()
    console = Console(stream)
    with console.held() as said:
        console.line("first")
        console.error("second")
    console.line("before")
    console.say(said)
    assert stream.getvalue() == "before\nfirst\nrdeic-rt: second\n"


def test_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    Console(stream).progress(1, 2, "a" * 100)

    assert len(stream.getvalue()) < 40


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"quiet": True}, ["an error"]),
        ({}, ["a warning", "an error"]),
        ({"verbose": 1}, ["a fact", "a warning", "an error"]),
        ({"verbose": 2}, ["a detail", "a fact", "a warning", "an error"]),
    ],
)
def test_messages_of_the_library_are_shown_by_verbosity(options: dict[str, bool], shown: list[str]) -> None:
    stream = io.StringIO()
    logger = logging.getLogger("rdeic_rt.test_console")
    with Console(stream, **options).messages_of("rdeic_rt.test_console"):
        logger.debug("a detail")
        logger.info("a fact")
        logger.warning("a warning")
        logger.error("an error")
    logger.error("afterwards")

    assert [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()] == shown
    assert logger.handlers == []


def test_console_without_a_stream_says_nothing() -> None:
    console = Console(None)
    console.line("x")
    console.error("y")
    console.progress(0, 2, "z")
