"""Sparse products of layers next to dense ones by shape, tokens and sparsity, and where they break even.

    python benchmarks/experiments/sparse_speed.py
    python benchmarks/experiments/sparse_speed.py --device cuda --dtype float16 --out speed_cuda.md
    python benchmarks/experiments/sparse_speed.py --shape 64x32 --budget 0      # in a second

Random masks on random weights of the shapes of SmolLM2-135M and of a 7B model, every format that
`qubo-prune speed` measures on the device. The table goes to benchmarks/results/sparse_speed.md (or --out).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from qubo_prune.cli.speed import break_even_text
from qubo_prune.layers import prunable_layers
from qubo_prune.provenance import provenance
from qubo_prune.speed.measure import SPARSITIES, Speed, measure

RESULTS = Path(__file__).resolve().parents[1] / "results"
SHAPES = ("576x576", "1536x576", "576x1536", "4096x4096", "11008x4096", "4096x11008")
"""out x in."""


def speeds(
    shapes: Sequence[str], tokens: Sequence[int], budget: float, device: str, dtype: str
) -> list[Speed]:
    """Every format on every shape."""
    found = []
    for shape in shapes:
        out, inputs = map(int, shape.split("x"))
        model = nn.Sequential(nn.Linear(inputs, out, bias=False)).to(device, getattr(torch, dtype))
        found += measure(prunable_layers(model), tokens, SPARSITIES, budget=budget)
    return found


def table(found: Sequence[Speed], device: str, dtype: str) -> str:
    """Markdown; formats that the device has no kernel for are named with the reason."""
    p = provenance()
    where = f"{p['processor']}, threads: {p['threads']}" if device == "cpu" else torch.cuda.get_device_name()
    lines = [
        "# Sparse products next to dense ones",
        "",
        f"{where}, {dtype}. Times the dense product of the same shape, with random masks of that sparsity "
        "(2:4: of its own); *breaks even*: the sparsity from which the product is as fast as the dense one. "
        "Written by `benchmarks/experiments/sparse_speed.py`.",
        "",
        "| out x in | tokens | format | dense µs | "
        + " | ".join(f"{s:.0%} zeros" for s in SPARSITIES)
        + " | breaks even |",
        "|" + "---|" * (5 + len(SPARSITIES)),
    ]
    for one in found:
        if one.refusal is None and one.dense is not None:
            times = {s: f"{one.dense / seconds:.2f}" for s, seconds in one.curve}
            cells = [
                f"{one.shape[0]} x {one.shape[1]}",
                str(one.tokens),
                one.format,
                f"{one.dense * 1e6:,.0f}",
            ]
            cells += [times.get(s, "–") for s in SPARSITIES]
            lines.append("| " + " | ".join([*cells, break_even_text(one, SPARSITIES)]) + " |")
    refused = dict.fromkeys((one.format, one.refusal) for one in found if one.refusal is not None)
    lines += ["", *(f"{name} was not measured: {why}." for name, why in refused)] if refused else []
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--shape", action="append", help="OUTxIN; repeatable")
    parser.add_argument("--tokens", type=int, action="append", help="columns; repeatable; default: 1, 64")
    parser.add_argument("--budget", type=float, default=0.2, help="seconds of each timing, about")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=RESULTS / "sparse_speed.md")
    options = parser.parse_args(arguments)
    where = (options.device, options.dtype)
    found = speeds(options.shape or SHAPES, options.tokens or (1, 64), options.budget, *where)
    text = table(found, *where)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
