"""Values made on first use, and begun before."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import pytest

from rdeic_rt import address_space, lazy
from rdeic_rt.lazy import Cache


def test_begin_makes_a_value_once_while_others_go_on() -> None:
    made: list[int] = []
    may_end = threading.Event()

    def make(key: int) -> int:
        may_end.wait(10)
        made.append(key)
        return 10 * key

    cache = Cache(make)
    cache.begin(3)
    assert made == []
    may_end.set()
    assert cache[3] == 30
    cache.begin(3)
    assert cache[3] == 30
    assert made == [3]


def test_what_goes_wrong_after_begin_is_met_by_who_asks() -> None:
    cache: Cache[int, float] = Cache(lambda key: 1 / key)
    cache.begin(0)
    with pytest.raises(ZeroDivisionError):
        cache[0]


def test_without_a_thread_a_value_is_made_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    cache = Cache(str)
    cache.begin(1)
    assert cache[1] == "1"


def test_nothing_is_begun_where_address_space_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_space, "left_bytes", lambda: 2**40)
    made: list[int] = []
    cache = Cache(made.append)
    cache.begin(1)
    wait = lazy.begun(threading.get_ident)
    assert made == []
    assert wait() == threading.get_ident()


def test_value_that_was_begun_is_made_in_another_thread_in_the_same_context() -> None:
    word: ContextVar[str] = ContextVar("word")
    word.set("inside")
    wait = lazy.begun(lambda: (word.get(), threading.get_ident()))
    word.set("after")

    made, thread = wait()
    assert made == "inside"
    assert thread != threading.get_ident()
    assert wait() == (made, thread)


def test_error_of_what_was_begun_is_met_by_who_waits() -> None:
    def fail() -> int:
        raise ValueError("no value")

    wait = lazy.begun(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="no value"):
            wait()


def test_without_a_thread_the_value_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert lazy.begun(threading.get_ident)() == threading.get_ident()
