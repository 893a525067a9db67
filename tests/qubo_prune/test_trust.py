"""The trust region: radius and stiffness after good, poor and refused steps."""

import math

import pytest

from qubo_prune.recipe import TrustRegion
from qubo_prune.refine.trust import Trust

FIXED = {"swaps": 8, "stiffness": 4.0, "grow": 2.0, "good": 0.25, "excellent": 0.7}


def trust(**changes: float) -> Trust:
    return Trust(TrustRegion.model_validate({**FIXED, **changes}), weights=10**6)


@pytest.mark.parametrize(
    ("predicted", "measured", "radius", "stiffness"),
    [
        (-1.0, -1.0, 16, 2.0),  # as predicted
        (-1.0, -0.5, 16, 4.0),
        (-1.0, -0.25, 16, 4.0),
        (-1.0, -0.2, 8, 8.0),  # better, though less than said
        (-1.0, 0.0, 4, 8.0),
        (-1.0, 2.0, 4, 8.0),
        (-1.0, math.inf, 4, 8.0),
        (-1.0, math.nan, 8, 4.0),
        (-1.0, None, 8, 4.0),
        (0.0, -1.0, 8, 4.0),
    ],
)
def test_after_a_step_that_used_its_swaps_up(
    predicted: float, measured: float | None, radius: int, stiffness: float
) -> None:
    t = trust()
    assert (t.radius, t.stiffness) == (8, 4.0)
    t.adapt(predicted, measured, 8)
    assert (t.radius, t.stiffness) == (radius, stiffness)


def test_a_step_below_its_radius_does_not_widen_it_and_is_the_measure_when_refused() -> None:
    t = trust()
    t.adapt(-1.0, -1.0, 3)
    assert t.radius == 8
    t.adapt(-1.0, 1.0, 4)
    assert t.radius == 2
    t.adapt(-1.0, 1.0, 0)
    assert t.radius == 2


def test_bounds() -> None:
    t = trust(swaps=1, grow=1.2, stiffness=1.0, max_stiffness=2.0)
    t.adapt(-1.0, 1.0, 1)
    assert (t.radius, t.stiffness) == (1, 2.0)
    t.adapt(-1.0, 1.0, 1)
    assert (t.radius, t.stiffness) == (1, 2.0)
    for _ in range(3):
        t.adapt(-1.0, -1.0, t.radius or 0)
    assert (t.radius, t.stiffness) == (4, 1.0)


def test_first_radius_is_a_share_of_the_weights_and_none_without_a_region() -> None:
    assert Trust(TrustRegion(), 10**8).radius == 600
    assert Trust(TrustRegion(), 100).radius == 16
    none = Trust(None, 10**8)
    none.adapt(-1.0, 1.0, 5)
    assert (none.radius, none.stiffness) == (None, 1.0)
