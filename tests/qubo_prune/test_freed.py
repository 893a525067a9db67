"""Giving freed memory back works, or does nothing, on any system."""

import ctypes

import pytest

from qubo_prune import freed


@pytest.mark.parametrize("there", [True, False])
def test_memory_is_given_back_where_that_can_be_asked(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Library:
        malloc_trim = staticmethod(asked.append)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library() if there else object())
    freed._malloc_trim.cache_clear()
    try:
        freed.give_back()
    finally:
        freed._malloc_trim.cache_clear()
    assert asked == ([0] if there else [])
