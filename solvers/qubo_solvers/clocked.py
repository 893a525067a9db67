"""A search under a recorder's clock: when to stop, and which incumbents are worth being scored."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.solution import Status
from qubo_solvers.solver import Recorder

OFFER_SHARE = 0.1  # of the time, at most, for scoring incumbents that a better one may soon follow


class Clocked:
    """What every native search shares.

    Scores for the recorder cost a product with Q, so `publish_other` makes them rarely unless forced, and
    `stop` keeps back the time that a last one takes.
    """

    def __init__(self, problem: CardinalityQubo, recorder: Recorder) -> None:
        self.problem = problem
        self.recorder = recorder
        self.start_energy = math.nan
        self._cut = False
        self._offer_seconds = 0.0
        self._offered_at = 0.0

    def stop(self) -> bool:
        """Whether to end now: asked to by the callback, or the time left is needed to score the answer."""
        if self.recorder.asked_to_stop:
            return True
        self._cut = self._cut or self.recorder.remaining() <= 1.5 * self._offer_seconds
        return self._cut

    def status(self) -> Status | None:
        """TIME_LIMIT where the clock ended the search; None: the recorder decides."""
        return Status.TIME_LIMIT if self._cut else None

    def offer(self, x: ArrayLike) -> bool:
        """Score x for the recorder, and learn what scoring costs."""
        begin = self.recorder.seconds()
        kept = self.recorder.offer(x)
        self._offered_at = self.recorder.seconds()
        self._offer_seconds = self._offered_at - begin
        return kept

    def publish_other(self, x: Assignment, gain: float, force: bool = False) -> None:
        """Offer a feasible assignment whose maintained energy is the start's plus `gain`, if it beats the
        incumbent; now and then, unless forced."""
        since = self.recorder.seconds() - self._offered_at
        if self.start_energy + gain < self.recorder.energy and (
            force or since * OFFER_SHARE > self._offer_seconds
        ):
            self.offer(x)
