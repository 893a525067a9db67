"""Gram blocks within output rows: against brute force, positive semidefinite, solved by the loop."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qubo_prune.api import prune
from qubo_prune.blocks import Block
from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.objective import CrossEntropy
from qubo_prune.patterns import Pattern
from qubo_prune.recipe import Recipe
from qubo_prune.refine.icbs import IcbsLoop
from qubo_prune.refine.row_couplings import row_couplings, same_row
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import collect
from qubo_prune.statistics.fisher import KroneckerDiagonal
from qubo_prune.statistics.input_gram import InputGram
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_tokens
from qubo_solvers import CardinalityQubo, LowRankSparse, solve

Loop = Callable[..., tuple[IcbsLoop, PruneState]]

SMALL: dict[str, Any] = {
    "steps": 3,
    "windows": 4,
    "batch": 2,
    "chunk": 8,
    "candidates": {"per_side": 30, "max_flip": 1.0, "fixed_pruned": 0.0, "fixed_kept": 0.0},
    "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
    "curvature": {"chunk": 4, "gram": True},
    "trust": {"swaps": 12, "damping": 2.0},
}


def tokens() -> Tensor:
    return tiny_tokens(48 * 16).reshape(48, 16)


def linear_layers(g: torch.Generator) -> dict[str, Layer]:
    model = torch.nn.Sequential(torch.nn.Linear(5, 3, bias=False), torch.nn.Linear(4, 2, bias=False))
    for layer in model:
        torch.nn.init.normal_(layer.weight, generator=g)
    return prunable_layers(model)


# -- statistics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [1.0, 0.5, 0.0])
def test_moments_age_as_the_diagonal_does(discount: float) -> None:
    """Several batches and calls; E[x_i x_j] is the weighted mean, its diagonal that of KroneckerDiagonal."""
    g = torch.Generator().manual_seed(0)
    layers = linear_layers(g)
    gram, diagonal = InputGram(layers), KroneckerDiagonal(layers)
    total, weight = torch.zeros(5, 5, dtype=torch.float64), 0.0
    for calls in (1, 2, 1):
        gram.age(discount)
        diagonal.age(discount)
        xs = [torch.randn(2, 3, 5, generator=g) for _ in range(calls)]
        gs = [torch.randn(2, 3, 3, generator=g) for _ in range(calls)]
        gram.add("0", xs)
        gram.forget()
        diagonal.add("0", xs, gs, 3)
        flat = torch.cat(xs).reshape(-1, 5).double()
        total, weight = discount * total + flat.T @ flat, discount * weight + len(flat)
    i, j = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    found = gram.entries("0", i, j)
    torch.testing.assert_close(found, (total / weight).float())
    assert torch.equal(found, found.T)
    torch.testing.assert_close(torch.outer(diagonal.outputs("0"), found.diagonal()), diagonal.diagonal("0"))


def test_layers_that_share_their_input_share_the_product() -> None:
    g = torch.Generator().manual_seed(1)
    layers = linear_layers(g)
    gram = InputGram({"a": layers["0"], "b": layers["0"], "c": layers["0"]})
    x = torch.randn(2, 3, 5, generator=g)
    gram.add("a", [x])
    gram.add("b", [x.reshape(2, 3, 5)])
    gram.add("c", [x + 1])
    i = torch.arange(5)
    assert torch.equal(gram.entries("a", i, i), gram.entries("b", i, i))
    shifted = (x + 1).reshape(-1, 5).square().mean(0)
    torch.testing.assert_close(gram.entries("c", i, i), shifted)


def test_collected_beside_the_diagonal() -> None:
    """From the same pass over the model, for every layer."""
    model = tiny_llama()
    layers = prunable_layers(model)
    gram, diagonal = InputGram(layers), KroneckerDiagonal(layers)
    pairs = [(tiny_tokens(32, seed).reshape(2, 16), None) for seed in range(3)]
    collect(model, layers, pairs, CrossEntropy(), None, diagonal=diagonal, gram=gram, label_every=2)
    for name, layer in layers.items():
        i = torch.arange(layer.shape[1])
        product = torch.outer(diagonal.outputs(name), gram.entries(name, i, i))
        torch.testing.assert_close(product, diagonal.diagonal(name))


# -- pairs of one row ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=12).map(sorted))
def test_pairs_of_equal_rows(rows: list[int]) -> None:
    a, b = same_row(torch.tensor(rows, dtype=torch.int64))
    every = itertools.product(range(len(rows)), repeat=2)
    expected = [(i, j) for i, j in every if rows[i] == rows[j] and i != j]
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == expected


def test_couplings_are_the_kronecker_blocks() -> None:
    """Entry by entry, over two layers; with the diagonal added the whole is positive semidefinite."""
    g = torch.Generator().manual_seed(2)
    layers = linear_layers(g)
    gram, diagonal = InputGram(layers), KroneckerDiagonal(layers)
    moments = {}
    for name, layer in layers.items():
        out, inputs = layer.shape
        x, d = torch.randn(4, 3, inputs, generator=g), torch.randn(4, 3, out, generator=g)
        gram.add(name, [x])
        diagonal.add(name, [x], [d], 3)
        moments[name] = (
            (3 * d).reshape(-1, out).square().mean(0),
            torch.einsum("bti,btj->ij", x, x) / 12,
        )
    block = Block({"0": torch.tensor([0, 2, 3, 6, 11, 12, 14]), "1": torch.tensor([1, 3, 4, 5, 6, 7])})
    found = row_couplings(block, layers, diagonal, gram)
    matrix = torch.zeros(block.size, block.size)
    matrix[found.row, found.column] = found.value
    expected = torch.zeros_like(matrix)
    where = [(n, *divmod(int(i), layers[n].shape[1])) for n, index in block.indices.items() for i in index]
    for (a, (n, o, i)), (b, (m, p, j)) in itertools.product(enumerate(where), repeat=2):
        if (n, o) == (m, p) and a != b:
            expected[a, b] = moments[n][0][o] * moments[n][1][i, j]
    torch.testing.assert_close(matrix, expected)
    assert torch.equal(matrix, matrix.T)
    own = torch.cat([diagonal.diagonal(n).reshape(-1)[i] for n, i in block.indices.items()])
    assert torch.linalg.eigvalsh((matrix + torch.diag(own)).double()).min() > -1e-6


# -- the loop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [0.0, 0.25, 1.0, 6.0])
def test_what_is_added_to_the_curvature(damping: float, loop: Loop) -> None:
    """H is the Fisher, plus the blocks of the rows, plus what the damping's diagonal has beyond theirs."""
    run, state = loop({**SMALL, "candidates": {**SMALL["candidates"], "concentrated": True, "per_row": 6}})
    evidence, names = run.evidence, tuple(state.layers)
    evidence.collect(names, 0.0)
    block = run.choice.choose(0, names, evidence)
    assert block.size > 40
    gradient = evidence.gradient(block)
    found = evidence.curvature(block, gradient, damping)
    evidence._gram, gram = None, evidence._gram
    assert gram is not None
    fisher = evidence.curvature(block, gradient, 0.0)
    couplings = row_couplings(block, state.layers, evidence.diagonal, gram)
    assert len(couplings.value) > block.size
    own = torch.cat([evidence.diagonal.diagonal(n).reshape(-1)[i] for n, i in block.indices.items()])
    for seed in range(3):
        v = torch.randn(block.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        added = couplings.times(v) + max(1.0, damping) * own.double() * v
        scale = float(added.abs().max())
        torch.testing.assert_close(found.times(v), fisher.times(v) + added, rtol=0, atol=1e-5 * scale)
        assert v @ added >= 0


@pytest.mark.parametrize("solver", ["descent", "anneal", "tabu"])
@pytest.mark.parametrize("budget", ["row", "layer", "global"])
def test_solved_by_the_loop(solver: str, budget: str, solved: list[tuple[CardinalityQubo, Any]]) -> None:
    candidates = {**SMALL["candidates"], "concentrated": True, "max_variables": 80}
    changes = {"budget": budget, "candidates": candidates, "solver": {"name": solver}}
    report = prune(tiny_llama(), tokens(), Recipe.parse({"refine": {**SMALL, **changes}}))
    assert report.to_dict()["sparsity"] == 0.5
    assert len(solved) == 3
    for problem, solution in solved:
        assert isinstance(problem.quadratic, LowRankSparse)
        assert len(problem.quadratic.value)
        assert abs(problem.energy(problem.reference)) < 1e-9
        assert solution.energy <= 0


def test_small_blocks_are_solved_to_the_optimum(solved: list[tuple[CardinalityQubo, Any]]) -> None:
    """What the oracle, which writes the matrix out, finds, annealing of the sparse form finds too."""
    candidates = {**SMALL["candidates"], "concentrated": True, "max_variables": 14}
    prune(tiny_llama(), tokens(), Recipe.parse({"refine": {**SMALL, "candidates": candidates}}))
    for problem, _ in solved:
        best = solve(problem, "exhaustive").energy
        assert solve(problem, "anneal", seed=1).energy == pytest.approx(best, rel=1e-9)
        assert solve(problem, "tabu", seed=1).energy == pytest.approx(best, rel=1e-9)


def test_with_a_pattern_and_one_layer_a_step() -> None:
    recipe = Recipe.parse({"pattern": "2:4", "refine": {**SMALL, "scope": "one_layer", "steps": 8}})
    report = prune(tiny_gpt2(), tokens(), recipe)
    assert all(Pattern(2, 4).holds(mask) for mask in report.masks.values())


def test_refusals() -> None:
    for change, message in (
        ({"couplings": False}, r"gram adds couplings: set it to false"),
        ({"kind": "exact_hessian"}, r"set refine\.curvature\.gram to false"),
    ):
        with pytest.raises(InputError, match=message):
            Recipe.parse(
                {"refine": {"curvature": {"gram": True, **change}, "candidates": {"max_variables": 10}}}
            )
