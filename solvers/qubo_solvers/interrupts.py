"""Ctrl-C and exceptions of callbacks are kept until foreign code ends, which they must not unwind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Kept:
    """What was raised within: `call` keeps an exception of a callback, Ctrl-C is kept by itself."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.interrupted = False

    def __bool__(self) -> bool:
        return self.interrupted or bool(self.errors)

    def call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        """The callback's answer, or None where it raised."""
        try:
            return callback(*arguments)
        except BaseException as error:
            self.errors.append(error)
            return None


@contextmanager
def kept() -> Iterator[Kept]:
    """Raises at the end what came up within; look at its truth to end the foreign code early.

    In other threads than the main one, and where Ctrl-C is ignored, signals are left alone.
    """
    found = Kept()
    before = signal.getsignal(signal.SIGINT)
    here = threading.current_thread() is threading.main_thread() and callable(before)

    def note(*_: object) -> None:
        found.interrupted = True

    if here:
        signal.signal(signal.SIGINT, note)
    try:
        yield found
    finally:
        if here:
            signal.signal(signal.SIGINT, before)
    if found.errors:
        raise found.errors[0]
    if found.interrupted and callable(before):
        before(signal.SIGINT, None)
