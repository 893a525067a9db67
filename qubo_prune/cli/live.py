"""Progress on standard error: a bar with the time left on a terminal, one line a phase and step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


class Live:
    """The phases of a command, one after another; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _TimeLeft(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._name: str | None = None
        self._task: Any = None
        self._began = 0.0

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(say=error is None)
        self._bars.stop()

    def phase(self, name: str, total: int | None = None, limit: float | None = None) -> None:
        """Begin a phase (and end the one before): pieces of work in it, and seconds it may take at most."""
        if name == self._name:
            return
        self.end()
        self._name, self._began = name, time.perf_counter()
        self._task = self._bars.add_task(name, total=total, at=0.0, limit=limit, text="")

    def done(self, done: int, total: int | None = None, text: str = "") -> None:
        """So many pieces of the phase are done."""
        if self._task is not None:
            at = time.perf_counter() - self._began
            self._bars.update(self._task, completed=done, total=total, at=at, text=text)

    def end(self, say: bool = True) -> None:
        """End the phase there is, with a line that says how long it took."""
        name, task = self._name, self._task
        self._name = self._task = None  # first, so that an interruption in here leaves nothing half done
        if name is None:
            return
        seconds = time.perf_counter() - self._began
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._bars.remove_task(task)
        if say:
            self.note(f"{name}: {seconds:.1f} s")

    def note(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False, soft_wrap=True)

    def counting(self, forward: Callable[[Any], Any], total: int) -> Callable[[Any], Any]:
        """The forward pass, each call of which is a piece of the phase."""
        calls = 0

        def counted(batch: Any) -> Any:
            nonlocal calls
            answer = forward(batch)
            calls += 1
            self.done(calls, total)
            return answer

        return counted


def time_left(
    elapsed: float, at: float, done: float, total: float | None, limit: float | None
) -> float | None:
    """Seconds left by the pace up to `at`, when the last piece was done, and by the limit; None: unknown."""
    known = []
    if total and done > 0:
        known.append(at * total / done - elapsed)
    if limit is not None:
        known.append(limit - elapsed)
    return max(0.0, min(known)) if known else None


class _TimeLeft(ProgressColumn):
    """ "1:20 left"."""

    def render(self, task: Task) -> Text:
        fields = task.fields
        left = time_left(task.elapsed or 0.0, fields["at"], task.completed, task.total, fields["limit"])
        return Text("" if left is None else f"{int(left // 60)}:{int(left % 60):02d} left")
