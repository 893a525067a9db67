"""A processor and hybrid services that answer offline; no test here sees a token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dwave.system", reason="dwave-system is not installed")
    for name in ("DWAVE_API_TOKEN", "DWAVE_PROFILE", "DWAVE_API_ENDPOINT", "DWAVE_API_SOLVER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dwave.conf").touch()
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "dwave.conf"))


def mock_processor(shape: int = 4, **options: Any) -> Any:
    """D-Wave's own mock of a Zephyr processor: real graph, steepest descent in place of anneals."""
    from dwave.system.testing import MockDWaveSampler

    return MockDWaveSampler(
        topology_type="zephyr", topology_shape=[shape, 4], substitute_kwargs={"seed": 1},
        exact_solver_cutoff=0, parameter_warnings=False, **options,
    )  # fmt: skip


class Service:
    """What the hybrid samplers have in common, and a record of how they were asked."""

    def __init__(self, least: float = 3.0, fail_after: int | None = None, error: Exception | None = None):
        self.least, self.fail_after, self.error = least, fail_after, error or OSError("no network")
        self.limits: list[float] = []

    def min_time_limit(self, model: Any) -> float:
        return self.least

    def answer(self, samples: Any, time_limit: float) -> Any:
        if self.fail_after is not None and len(self.limits) >= self.fail_after:
            raise self.error
        self.limits.append(time_limit)
        samples.info.clear()
        samples.info.update(
            problem_id=f"p{len(self.limits)}", run_time=3.0e6, charge_time=2.9e6, qpu_access_time=4.0e4
        )
        return samples


class HybridBqm(Service):
    """`LeapHybridSampler`'s interface over a short annealing run."""

    def sample(self, bqm: Any, time_limit: float) -> Any:
        from dwave.samplers import SimulatedAnnealingSampler

        return self.answer(SimulatedAnnealingSampler().sample(bqm, num_sweeps=50, seed=5), time_limit)


class HybridCqm(Service):
    """`LeapHybridCQMSampler`'s interface over a solver of this package; `broken` flips the first variable."""

    broken = False

    def sample_cqm(self, cqm: Any, time_limit: float) -> Any:
        import dimod

        from qubo_solvers.dimod_sampler import QuboPruneSampler

        samples = QuboPruneSampler("descent").sample_cqm(cqm, seed=7)
        if self.broken:
            values = samples.record.sample.copy()
            values[:, 0] ^= 1
            samples = dimod.SampleSet.from_samples_cqm((values, list(samples.variables)), cqm)
        return self.answer(samples, time_limit)


@pytest.fixture
def processor() -> Callable[..., Any]:
    return mock_processor


@pytest.fixture
def hybrid_bqm() -> type[HybridBqm]:
    return HybridBqm


@pytest.fixture
def hybrid_cqm() -> type[HybridCqm]:
    return HybridCqm
