"""The registry: lazy, complete, and clear about what it does not know."""

import subprocess
import sys

import pytest

from qubo_solvers import Capabilities, availability, capabilities, get, names, register, registry
from qubo_solvers.exhaustive import Exhaustive


@pytest.fixture
def clean_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TABLE", dict(registry.TABLE))


def available() -> list[str]:
    return [name for name in names() if availability(name)[0]]


def test_the_exact_oracle_and_the_baselines_are_there():
    assert {"exhaustive", "cpsat", "neal"} <= set(available())


@pytest.mark.parametrize("name", available())
def test_every_solver_is_named_as_registered(name):
    solver = get(name)
    assert solver.name == name
    assert isinstance(capabilities(name), Capabilities)
    assert capabilities(name).description
    get(name, **registry.options(name))


def test_by_path():
    assert isinstance(get("qubo_solvers.exhaustive:Exhaustive", max_states=9), Exhaustive)
    with pytest.raises(ImportError, match="Nothing"):
        get("qubo_solvers.exhaustive:Nothing")
    assert availability("no_such_package.module:Class") == (
        False,
        "solver 'no_such_package.module:Class' cannot be imported: No module named 'no_such_package'",
    )


def test_unknown_names_and_options_are_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown solver 'anneel'; known: .*exhaustive.*Did you mean 'anneal'"
    ):
        get("anneel")
    with pytest.raises(ValueError, match=r"no option 'num_read'; its options: .*Did you mean 'num_reads'"):
        get("neal", num_read=3)
    with pytest.raises(ValueError, match="unknown solver"):
        availability("anneel")


@pytest.mark.usefixtures("clean_table")
def test_registering():
    register("mine", Exhaustive)
    register("path", "qubo_solvers.exhaustive:Exhaustive")
    assert {"mine", "path"} <= set(names())
    assert get("mine", max_states=3).max_states == 3
    assert get("path").name == "exhaustive"
    with pytest.raises(ValueError, match="replace=True"):
        register("mine", Exhaustive)
    register("mine", lambda: Exhaustive(5), replace=True)
    assert get("mine").max_states == 5
    assert capabilities("mine").exact
    for bad in ("", "a:b"):
        with pytest.raises(ValueError, match="solver name"):
            register(bad, Exhaustive)
    with pytest.raises(ValueError, match="of the form"):
        register("x", "no colon")


@pytest.mark.usefixtures("clean_table")
def test_a_factory_of_something_else_is_refused():
    register("wrong", dict)
    with pytest.raises(ValueError, match="lacks a Solver's"):
        get("wrong")


@pytest.mark.usefixtures("clean_table")
def test_a_missing_module_is_named_with_the_install_hint():
    class Missing(Exhaustive):
        capabilities = Capabilities(
            "needs something", requires=("no_such_package.part",), install="pip install it"
        )

    register("missing", Missing)
    able, reason = availability("missing")
    assert not able
    assert reason.startswith("solver 'missing' needs no_such_package.part, which is not installed")
    assert reason.endswith("install it with: pip install it")


@pytest.mark.usefixtures("clean_table")
def test_a_solver_that_is_not_configured_says_why(monkeypatch):
    class Service(Exhaustive):
        capabilities = Capabilities("needs a key", configured="qubo_solvers.solution:reason")

    register("service", Service)
    reasons = ["has no key: set KEY", ""]
    monkeypatch.setattr("qubo_solvers.solution.reason", lambda: reasons.pop(0), raising=False)
    assert availability("service") == (False, "solver 'service' has no key: set KEY")
    assert availability("service") == (True, "")
    Service.capabilities = Capabilities(
        "asked too early", requires=("no_such_package",), configured="no.such:way"
    )
    assert "no_such_package" in availability("service")[1]


def test_capabilities_import_no_back_end():
    code = (
        "import sys, qubo_solvers as q; [q.availability(n) for n in q.names()]; "
        "print([m for m in ('ortools', 'dimod', 'neal', 'dwave.samplers', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
