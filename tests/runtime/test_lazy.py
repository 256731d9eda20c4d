"""Values made on first use, and begun before."""

from __future__ import annotations

import threading

import pytest

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
