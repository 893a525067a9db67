"""Rates that the user gives: patterns, the rest, rescaling, files, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given as cases
from hypothesis import strategies as st

from qubo_prune.allocation import allocate as by_settings
from qubo_prune.allocation.given import RatesFile, allocate, read_rates
from qubo_prune.allocation_settings import Given
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.selection import prune_count
from qubo_prune.testing import tiny_llama, tiny_mlp

LLAMA = prunable_layers(tiny_llama())
TOTAL = sum(layer.numel for layer in LLAMA.values())


@cases(st.floats(0.0, 1.0), st.floats(0.3, 0.7))
def test_the_rest_shares_what_is_left(rate: float, sparsity: float) -> None:
    try:
        found = allocate(LLAMA, sparsity, {"*.q_proj": rate, "re:k_proj$": rate})
    except InputError:
        pytest.fail("two small layers of a block cannot use up the budget")
    assert sum(found.counts.values()) == prune_count(TOTAL, sparsity)
    rest = set()
    for name, layer in LLAMA.items():
        if name.endswith(("q_proj", "k_proj")):
            assert abs(found.counts[name] - rate * layer.numel) < 1
        else:
            rest.add(round(found.rates[name], 1))
    assert len(rest) <= 2


def test_the_first_pattern_counts() -> None:
    found = allocate(LLAMA, 0.5, {"model.layers.0.self_attn.q_proj": 0.25, "*.q_proj": 0.75})
    assert found.rates["model.layers.0.self_attn.q_proj"] == 0.25
    assert found.rates["model.layers.1.self_attn.q_proj"] == 0.75


def test_every_layer_given() -> None:
    rates = {"*.layers.0.*": 0.4, "*.layers.1.*": 0.6}
    found = allocate(LLAMA, 0.5, rates)
    assert sum(found.counts.values()) == TOTAL // 2
    with pytest.raises(
        InputError, match=r"prune 0\.500000 of all weights and the sparsity is 0\.7: set sparsity"
    ):
        allocate(LLAMA, 0.7, rates)
    scaled = allocate(LLAMA, 0.7, rates, rescale=True)
    assert sum(scaled.counts.values()) == prune_count(TOTAL, 0.7)
    assert scaled.rates["model.layers.0.mlp.up_proj"] == pytest.approx(0.56, abs=5e-3)
    assert scaled.rates["model.layers.1.mlp.up_proj"] == pytest.approx(0.84, abs=5e-3)
    held = allocate(LLAMA, 0.9, rates, rescale=True)
    assert sum(held.counts.values()) == prune_count(TOTAL, 0.9)
    assert all(rate < 1 for rate in held.rates.values())


def test_rates_of_a_result_are_read_back(tmp_path: Path) -> None:
    layers = prunable_layers(tiny_mlp(sizes=(13, 11, 7, 5)))
    first = allocate(layers, 0.613, {"0": 0.31})
    (tmp_path / "rates.json").write_text(json.dumps(first.to_dict()))
    again = by_settings(layers, 0.613, Given(file=str(tmp_path / "rates.json")))
    assert again.counts == first.counts
    (tmp_path / "rates.yaml").write_text("'0': 0.31\n")
    assert by_settings(layers, 0.613, Given(file=str(tmp_path / "rates.yaml"))).counts == first.counts
    assert by_settings(layers, 0.613, Given(rates={"0": 0.31})).counts == first.counts


EIGHTHS = {"*.layers.0.*": 0.375, "*.layers.1.mlp.*": 0.625000001, "*": 0.62499999}


def test_rates_of_groups() -> None:
    found = allocate(LLAMA, 0.5, EIGHTHS, group=8)
    assert found.group == 8
    for name, layer in LLAMA.items():
        assert found.counts[name] == layer.numel // 8 * (3 if ".0." in name else 5)
    assert (
        allocate(LLAMA, 0.51, EIGHTHS, group=8).counts == found.counts
    )  # within a step of the largest layer
    assert by_settings(LLAMA, 0.5, Given(rates=EIGHTHS, group=8)).counts == found.counts


@pytest.mark.parametrize("beside", [{"group": 8}, {"pattern": {"a": "5:8", "b": "8:8"}}])
def test_groups_of_a_file(beside: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    file.write_text(json.dumps({"rates": EIGHTHS, **beside}))
    assert read_rates(file) == RatesFile(EIGHTHS, 8)
    found = by_settings(LLAMA, 0.5, Given(file=str(file)))
    assert found.counts == allocate(LLAMA, 0.5, EIGHTHS, group=8).counts
    assert found.to_dict()["pattern"]["model.layers.0.mlp.up_proj"] == "5:8"
    assert by_settings(LLAMA, 0.5, Given(file=str(file), group=8)).group == 8
    with pytest.raises(InputError, match=r"group is 4, and .* has patterns of 8"):
        by_settings(LLAMA, 0.5, Given(file=str(file), group=4))
    with pytest.raises(InputError, match="rescale would leave the multiples"):
        by_settings(LLAMA, 0.5, Given(file=str(file), rescale=True))
    file.write_text(json.dumps({"rates": EIGHTHS}))
    assert by_settings(LLAMA, 0.5, Given(file=str(file), group=8)).group == 8
    assert by_settings(LLAMA, 0.5, Given(file=str(file))).group is None


@pytest.mark.parametrize(
    "beside",
    [
        {"group": 1},
        {"group": True},
        {"group": "M"},
        {"pattern": {"a": 308}},
        {"pattern": "half"},
        {"pattern": {"a": "2:4", "b": "5:8"}},
        {"group": 4, "pattern": {"a": "5:8"}},
    ],
)
def test_files_whose_patterns_make_no_sense(beside: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rates.json").write_text(json.dumps({"rates": {"*": 0.5}, **beside}))
    with pytest.raises(InputError, match="`group` must be one whole number M from 2"):
        read_rates(tmp_path / "rates.json")


@pytest.mark.parametrize(
    ("rates", "options", "message"),
    [
        ({"*.nothing": 0.5}, {}, r"'\*\.nothing' matches none of the 14"),
        ({"re:(": 0.5}, {}, "not a regular expression"),
        ({"*": 1.5}, {}, "has 1.5, it must be a number from 0 to 1"),
        ({"*": "half"}, {}, "has 'half', it must be a number"),
        ({"*": True}, {}, "has True"),
        ({"*.mlp.*": 1.0}, {}, r"leave -\S+ of .* to prune, and the 8 layers without a rate"),
        ({"*.q_proj": 0.5}, {"rescale": True}, "needs a rate for every layer"),
        ({"*": 0.0}, {"rescale": True}, "all rates are 0"),
        ({"*.q_proj": 0.49, "*": 0.5}, {"group": 8}, r"layer 'model.*q_proj': the rate 0\.49 is not"),
        ({"*.q_proj": 1.0, "*": 0.5}, {"group": 8}, r"the rate 1\.0 is not \(M - N\) / M for M = 8"),
        ({"*.q_proj": 0.5}, {"group": 8}, "group needs a rate for every layer"),
        ({"*": 0.5}, {"group": 8, "rescale": True}, "rescale would leave the multiples"),
        ({"*": 0.4}, {"group": 5}, "which 5 does not divide"),
        ({"*": 0.625}, {"group": 8}, r"is 0\.5: set sparsity to 0\.625000\.$"),
    ],
)
def test_refusals(rates: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate(LLAMA, 0.5, rates, **options)


def test_files_that_hold_no_rates(tmp_path: Path) -> None:
    file = tmp_path / "rates.yaml"
    with pytest.raises(InputError, match="cannot be read"):
        read_rates(file)
    for text, message in (("- 1", "must map"), ("", "must map"), ("a: [", "neither JSON nor YAML")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            read_rates(file)
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="cannot be read"):
        read_rates(file)


def test_files_that_are_cut_off_or_of_another_model(tmp_path: Path) -> None:
    file, weights = tmp_path / "rates.yaml", sum(layer.numel for layer in LLAMA.values())
    rates = dict.fromkeys(LLAMA, 0.5)
    whole = yaml.safe_dump({"total_weights": weights, "layers": len(rates), "rates": rates}, sort_keys=False)
    file.write_text(whole)
    assert read_rates(file) == RatesFile(rates, None, weights)
    assert sum(by_settings(LLAMA, 0.5, Given(file=str(file))).counts.values()) == weights // 2
    file.write_text("".join(whole.splitlines(keepends=True)[:-3]))
    with pytest.raises(InputError, match=r"the rates of 14 layers, and has 11: it is cut off"):
        by_settings(LLAMA, 0.5, Given(file=str(file)))
    file.write_text(whole.replace(str(weights), str(weights + 8)))
    with pytest.raises(InputError, match="find rates for this model"):
        by_settings(LLAMA, 0.5, Given(file=str(file)))
    assert by_settings(LLAMA, 0.5, Given(file=str(file), rescale=True)).method == "given"
