"""The recorder keeps what is feasible and better, by its own scoring."""

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, Recorder, Solution, Status

PROBLEM = CardinalityQubo.cardinality(np.zeros((3, 3)), [3.0, 2.0, 1.0], 1)


def test_only_feasible_improvements_are_kept():
    seen = []
    recorder = Recorder(PROBLEM, on_incumbent=seen.append)
    assert not recorder.offer([0, 0, 0])
    assert recorder.offer([1, 0, 0])
    assert not recorder.offer([1, 0, 0])
    assert not recorder.offer([1, 1, 1])
    assert recorder.offer([0, 1, 0])
    solution = recorder.solution("me")
    assert [i.energy for i in solution.trace] == [3.0, 2.0] == [i.energy for i in seen]
    assert solution.status is Status.FEASIBLE
    assert solution.energy == 2.0
    assert not recorder.should_stop()


def test_what_is_kept_is_a_copy():
    x = np.array([1, 0, 0], np.uint8)
    recorder = Recorder(PROBLEM)
    recorder.offer(x)
    x[:] = 0
    assert recorder.assignment.tolist() == [1, 0, 0]


def test_a_callback_stops():
    recorder = Recorder(PROBLEM, on_incumbent=lambda incumbent: True)
    recorder.offer([1, 0, 0])
    assert recorder.should_stop()


def test_the_clock():
    recorder = Recorder(PROBLEM, time_limit=1e-9)
    assert recorder.out_of_time()
    assert recorder.solution("me").status is Status.TIME_LIMIT
    with pytest.raises(ValueError, match="positive"):
        Recorder(PROBLEM, time_limit=0)


def test_nothing_found():
    solution = Recorder(PROBLEM).solution("me")
    assert solution.status is Status.INFEASIBLE
    assert solution.assignment is None
    assert solution.energy == float("inf")


def test_every_status_has_a_message():
    assert all(status.message for status in Status)
    refusal = Solution.unavailable("me", "why")
    assert (refusal.status, refusal.message) == (Status.UNAVAILABLE, "why")
