"""The way to D-Wave's service: what is said where there is no token, no configuration or no network."""

import subprocess
import sys

import pytest

from qubo_solvers import Status, availability, capabilities, solve
from qubo_solvers.quantum.access import Calls, Unanswered, ask
from qubo_solvers.testing import random_problem

NAMES = ("dwave_qpu", "leap_bqm", "leap_cqm")


@pytest.mark.parametrize("name", NAMES)
def test_without_a_token_they_are_unavailable(name):
    able, reason = availability(name)
    assert not able
    assert reason.startswith(f"solver {name!r} has no token")
    assert "DWAVE_API_TOKEN" in reason
    solution = solve(random_problem("dense", 6), name)
    assert (solution.status, solution.message) == (Status.UNAVAILABLE, reason)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_the_hint_comes_first(name, monkeypatch):
    monkeypatch.setattr("qubo_solvers.registry._found", lambda module: not module.startswith("dwave"))
    able, reason = availability(name)
    assert not able
    assert "needs dwave.system" in reason
    assert capabilities(name).install in reason


def test_a_token_of_the_environment_or_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("DWAVE_API_TOKEN", "abc")
    assert availability("dwave_qpu") == (True, "")
    monkeypatch.delenv("DWAVE_API_TOKEN")
    (tmp_path / "dwave.conf").write_text("[defaults]\ntoken = abc\n\n[other]\ntoken = def\n")
    assert availability("leap_bqm") == (True, "")
    monkeypatch.setenv("DWAVE_PROFILE", "nobody")
    able, reason = availability("leap_cqm")
    assert not able
    assert "cannot read D-Wave's configuration" in reason
    assert "nobody" in reason


def test_a_wrong_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "nothing.conf"))
    assert "nothing.conf" in availability("dwave_qpu")[1]


def test_asking_imports_neither_dimod_nor_the_samplers():
    code = (
        "import sys, qubo_solvers as q; q.availability('dwave_qpu'); "
        "print([m for m in ('dimod', 'dwave.system', 'dwave.samplers', 'minorminer') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "sampler"), [("dwave_qpu", "DWaveSampler"), ("leap_cqm", "LeapHybridCQMSampler")]
)
def test_what_the_client_raises_is_one_line(name, sampler, monkeypatch):
    from dwave.cloud.exceptions import SolverAuthenticationError

    def refuse(**_):
        raise SolverAuthenticationError("Token not\naccepted")

    monkeypatch.setenv("DWAVE_API_TOKEN", "abc")
    monkeypatch.setattr(f"dwave.system.{sampler}", refuse)
    solution = solve(random_problem("dense", 6), name)
    assert solution.status is Status.UNAVAILABLE
    assert solution.message == "D-Wave's service: SolverAuthenticationError: Token not accepted"


def test_errors_of_our_own_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        ask(lambda: 1 / 0)


def test_the_first_failure_is_raised_and_a_later_one_ends_the_calls():
    import dimod

    bqm = dimod.BinaryQuadraticModel({0: 1.0, 1: -1.0}, {}, "BINARY")
    calls = Calls()

    def fail():
        raise TimeoutError("too slow")

    with pytest.raises(Unanswered, match="D-Wave's service: TimeoutError: too slow"):
        calls.sample(fail, bqm)
    samples = calls.sample(lambda: dimod.ExactSolver().sample(bqm), bqm)
    assert (len(samples), calls.failure) == (4, "")
    assert len(calls.sample(fail, bqm)) == 0
    assert calls.failure == "ended after 1 calls: D-Wave's service: TimeoutError: too slow"
    assert calls.work() == {"calls": 1, "microseconds": {}, "problems": []}
