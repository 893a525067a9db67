"""How far a run is: what a caller's callback is told, and sequences that tell it as they are gone through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from qubo_prune.refine.records import StepRecord


@dataclass(frozen=True)
class Progress:
    """phase: what is being done; done of total (0: unknown); step: the step just finished, if any."""

    phase: str
    done: int = 0
    total: int = 0
    step: StepRecord | None = None


OnProgress = Callable[[Progress], None]


class Counted(Sequence[Any]):
    """A sequence that says how far it has been gone through, before each item and after the last."""

    def __init__(self, items: Sequence[Any], phase: str, say: OnProgress) -> None:
        self._items, self._phase, self._say = items, phase, say

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._items[index]

    def __iter__(self) -> Iterator[Any]:
        for done, item in enumerate(self._items):
            self._say(Progress(self._phase, done, len(self)))
            yield item
        self._say(Progress(self._phase, len(self), len(self)))
