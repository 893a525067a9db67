"""Figures against their definitions: standard errors, intervals that cover, subsets that repeat."""

import math

import numpy as np
import pytest

from qubo_prune.errors import InputError
from qubo_prune.zeroshot.figures import accuracy, perplexity
from qubo_prune.zeroshot.rows import Subset


def test_accuracy() -> None:
    hits = [True, False, True, True, False, True, True]
    found = accuracy(hits)
    assert found.value == pytest.approx(5 / 7)
    assert found.stderr == pytest.approx(np.std(hits, ddof=1) / math.sqrt(7))
    z = 1.959963984540054
    for bound in (found.low, found.high):  # where the score test is at its critical value
        assert abs(found.value - bound) / math.sqrt(bound * (1 - bound) / 7) == pytest.approx(z)
    assert accuracy([True]).stderr is None
    none, every = accuracy([False] * 20), accuracy([True] * 20)
    assert (none.low, every.high) == (0.0, pytest.approx(1.0))
    assert 0.1 < none.high < 0.2


def test_intervals_cover() -> None:
    rng = np.random.default_rng(0)
    covered = sum(
        (found := accuracy((rng.random(60) < 0.3).tolist())).low <= 0.3 <= found.high for _ in range(400)
    )
    assert covered > 0.92 * 400
    covered = 0
    for _ in range(400):
        found = perplexity((-2.0 + rng.normal(size=80)).tolist())
        covered += found.low <= math.exp(2.0) <= found.high
    assert covered > 0.9 * 400


def test_perplexity() -> None:
    rows = [-1.0, -2.0, -6.0]
    found = perplexity(rows)
    error = np.std(rows, ddof=1) / math.sqrt(3)
    assert found.value == pytest.approx(math.exp(3.0))
    assert found.stderr == pytest.approx(math.exp(3.0) * error)
    half = math.log(found.high) - 3.0
    assert half == pytest.approx(3.0 - math.log(found.low))
    assert half == pytest.approx(1.96 * error, rel=1e-4)
    one = perplexity([-1.0])
    assert (one.stderr, one.low, one.high) == (None, 0.0, math.inf)
    assert perplexity([-1000.0] * 2).value == math.inf


def test_subsets() -> None:
    rows = list(range(100))
    assert Subset().of(rows) == Subset(100).of(rows) == Subset(500, 3).of(rows) == rows
    assert Subset(4).of(rows) == [0, 1, 2, 3]
    drawn = Subset(20, 1).of(rows)
    assert drawn == Subset(20, 1).of(rows) == sorted(set(drawn))
    assert drawn != Subset(20, 2).of(rows)
    assert Subset(4).described(100) == "the first 4 of 100 rows"
    assert Subset(4, 7).described(100) == "drawn with seed 7, 4 of 100 rows"
    assert Subset(None, 7).described(100) == Subset(100).described(100) == "all 100 rows"
    with pytest.raises(InputError, match="limit=0"):
        Subset(0)
