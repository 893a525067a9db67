"""Seconds for one decoder block of a 7B-shaped model: row problems, then least squares on the kept weights.

    python benchmarks/experiments/block_time.py --device cuda --dtype bfloat16
    python benchmarks/experiments/block_time.py --hidden 576 --intermediate 1536 --heads 9 --tokens 8192

A LLaMA of one block with random weights; the inputs of its first layers are correlated features of differing
scale, as a trained model's are. Half of every row is pruned by Wanda; then `prune` runs `rows` and
`reconstruct` with their usual settings. Their seconds are of whole phases: passes through the block, Gram
matrices, the work itself (*solving*), errors on held-out windows. Before the run counted, a small block warms
up what is compiled and loaded once. Each run adds its row to OUT.json (default:
benchmarks/results/block_time.json), in place of an earlier one of the same block, and writes OUT.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from qubo_prune import Data, PruneReport, Recipe, prune
from qubo_prune.provenance import peak_memory_bytes, provenance
from qubo_prune.sequential import LayerRecord

RESULTS = Path(__file__).resolve().parents[1] / "results"
PHASES = ("rows", "reconstruct")
NAMED_BY = ("shape", "windows", "device", "dtype")
"""What tells one row of the table from another."""
DTYPES = ("float32", "bfloat16", "float16")


def block(hidden: int, intermediate: int, heads: int, length: int, device: str, dtype: str) -> nn.Module:
    """A model of one decoder block, the same for the same shape; more words than features, so that the Gram
    matrix of the first layers' inputs has full rank."""
    config = LlamaConfig(
        vocab_size=2 * hidden,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=length,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
        few = hidden // 4
        shared = torch.randn(2 * hidden, few) @ torch.randn(few, hidden) / few**0.5
        features = (0.5 * shared + torch.randn(2 * hidden, hidden)) * (0.7 * torch.randn(hidden)).exp()
    model.model.embed_tokens.weight.data.copy_(features)
    built: nn.Module = model.to(device, getattr(torch, dtype)).eval()
    return built


def windows(tokens: int, length: int, vocabulary: int, device: str) -> Tensor:
    """Windows of random tokens, at least four: a quarter of them is held out."""
    length = min(length, tokens // 4)
    chosen = torch.randint(vocabulary, (tokens // length, length), generator=torch.Generator().manual_seed(0))
    return chosen.to(device)


def pruned(model: nn.Module, batches: Tensor) -> PruneReport:
    """One run of both phases. KeyboardInterrupt: it was stopped, so there is nothing to record."""
    parts = {"rows": {}, "refine": None, "reconstruct": {"accept": "always"}}
    recipe = Recipe.parse({"calibration": {"windows": len(batches)}, **parts})
    report = prune(model, Data(list(batches.split(1)), []), recipe)
    if report.stopped == "interrupted":
        raise KeyboardInterrupt
    return report


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The row of one block."""
    where = (options.device, options.dtype)
    small = windows(256, 64, 128, options.device)
    pruned(block(64, 128, 4, 64, *where), small)
    batches = windows(options.tokens, options.length, 2 * options.hidden, options.device)
    model = block(options.hidden, options.intermediate, options.heads, batches.shape[1], *where)
    on_cuda = torch.device(options.device).type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    report = pruned(model, batches)
    return {
        "shape": [options.hidden, options.intermediate, options.heads],
        "windows": list(batches.shape),
        "device": torch.cuda.get_device_name() if on_cuda else options.device,
        "dtype": options.dtype,
        "seconds": {phase: report.seconds[phase] for phase in PHASES},
        "solving": {phase: sum(r.seconds for r in report.walks[phase]) for phase in PHASES},
        "swaps": sum(int(r.details["swaps"]) for r in report.walks["rows"] if r.changed),
        "error": {phase: _error(report.walks[phase]) for phase in PHASES},
        "layers": {phase: [vars(r) for r in report.walks[phase]] for phase in PHASES},
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_cuda_bytes": torch.cuda.max_memory_allocated() if on_cuda else None,
        "provenance": provenance(),
    }


def _error(walk: list[LayerRecord]) -> float:
    """The mean over layers of how much of the held-out error is left."""
    return sum(r.error_after / r.error_before if r.error_before else 1.0 for r in walk) / len(walk)


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of all recorded runs."""
    lines = [
        "# Seconds for one decoder block",
        "",
        "Row problems, then least squares on the kept weights, for all layers of one LLaMA block: random "
        "weights, 50 % of every row, after a warm-up. Seconds: with the Gram matrices, passes through the "
        "block and errors on held-out windows; *solving*: without these. Error left: of the layers' outputs "
        "on held-out windows, mean over layers. GiB: at most, on the device (of the process on the CPU). "
        "Written by `benchmarks/experiments/block_time.py`.",
        "",
        "| hidden, intermediate, heads | tokens | device | rows | solving | swaps | error left "
        "| least squares | solving | error left | both | GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        machine = r["device"] if r["peak_cuda_bytes"] else f"{r['provenance']['processor']}, CPU"
        threads = "" if r["peak_cuda_bytes"] else f", threads: {r['provenance']['threads']}"
        first, second = (
            [f"{r['seconds'][p]:,.1f}", f"{r['solving'][p]:,.1f}", f"{100 * r['error'][p]:.1f} %"]
            for p in PHASES
        )
        cells = [
            ", ".join(f"{size:,}" for size in r["shape"]),
            f"{r['windows'][0]:,} x {r['windows'][1]:,}",
            f"{machine}{threads}, {r['dtype']}",
            *first[:2],
            f"{r['swaps']:,}",
            first[2],
            *second,
            f"{sum(r['seconds'].values()):,.1f}",
            f"{(r['peak_cuda_bytes'] or r['peak_memory_bytes']) / 2**30:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=11008)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=65536, help="of calibration, held-out ones among them")
    parser.add_argument("--length", type=int, default=2048, help="tokens a window; at most a quarter of all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--out", type=Path, default=RESULTS / "block_time", help="without .json and .md")
    options = parser.parse_args(arguments)
    if options.tokens < 32:
        parser.error(f"--tokens {options.tokens}: give at least 32, for four windows")
    if options.hidden % (2 * options.heads):
        parser.error(f"--hidden {options.hidden}: give a multiple of 2 x heads ({2 * options.heads})")
    file = options.out.with_suffix(".json")
    rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    new = measured(options)
    rows = [*(r for r in rows if any(r[name] != new[name] for name in NAMED_BY)), new]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = table(rows)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
