"""The trust region: swaps after good, poor and refused steps."""

import math

import pytest

from qubo_prune.icbs_settings import TrustRegion
from qubo_prune.refine.trust import Trust

FIXED = {"swaps": 8, "damping": 4.0, "grow": 2.0, "poor": 0.25, "good": 0.5}


def trust(**changes: float) -> Trust:
    return Trust(TrustRegion.model_validate({**FIXED, **changes}), weights=10**6)


@pytest.mark.parametrize(
    ("predicted", "measured", "radius"),
    [
        (-1.0, -2.0, 16),
        (-1.0, -0.5, 16),
        (-1.0, -0.4, 8),  # neither good nor poor
        (-1.0, -0.25, 8),
        (-1.0, -0.2, 4),  # better, though far less than said
        (-1.0, 0.0, 4),
        (-1.0, 2.0, 4),
        (-1.0, math.inf, 4),
        (-1.0, math.nan, 8),
        (-1.0, None, 8),
        (0.0, -1.0, 8),
    ],
)
def test_after_a_step_that_used_its_swaps_up(predicted: float, measured: float | None, radius: int) -> None:
    t = trust()
    assert (t.radius, t.damping) == (8, 4.0)
    t.adapt(predicted, measured, 8)
    assert (t.radius, t.damping) == (radius, 4.0)


def test_a_step_below_its_radius_does_not_widen_it_and_is_the_measure_when_refused() -> None:
    t = trust()
    t.adapt(-1.0, -1.0, 3)
    assert t.radius == 8
    t.adapt(-1.0, 1.0, 4)
    assert t.radius == 2
    t.adapt(-1.0, 1.0, 0)
    assert t.radius == 2


def test_bounds() -> None:
    t = trust(swaps=1, grow=1.2)
    t.adapt(-1.0, 1.0, 1)
    assert t.radius == 1
    for _ in range(3):
        t.adapt(-1.0, -1.0, t.radius or 0)
    assert t.radius == 4


def test_damping_halves_where_nothing_promises_to_improve() -> None:
    t = trust()
    t.relax()
    assert (t.radius, t.damping) == (8, 2.0)


def test_first_radius_is_a_share_of_the_weights_and_none_without_a_region() -> None:
    assert Trust(TrustRegion(), 10**8).radius == 600
    assert Trust(TrustRegion(), 100).radius == 16
    none = Trust(None, 10**8)
    none.adapt(-1.0, 1.0, 5)
    assert (none.radius, none.damping) == (None, 0.0)
