"""Instances by a line of text: files of any format, and generated ones; each with a hash of its contents."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from qubo_solvers import formats
from qubo_solvers.generate import KINDS, random_problem
from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.palubeckis import check_name, palubeckis
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank


def load_instance(spec: str) -> CardinalityQubo:
    """The problem that a line of text names:

    palubeckis:p3000.1       a published random QUBO, from its generator
    random:KIND:N[:SEED]     `generate.random_problem`
    FORMAT:PATH or PATH      a file, in one of `formats.TABLE` or by its suffix

    Raises ValueError or FileNotFoundError naming what is wrong.
    """
    kind, _, rest = spec.partition(":")
    if kind == "palubeckis":
        return palubeckis(rest)
    if kind == "random":
        words = rest.split(":")
        try:
            n, seed = int(words[1]), int(words[2]) if len(words) > 2 else 0
        except (IndexError, ValueError):
            raise ValueError(f"instance {spec!r}: expected random:KIND:N[:SEED], KIND of {KINDS}") from None
        return random_problem(words[0], n, seed)
    if kind in formats.TABLE and rest:
        return formats.read(Path(rest), kind)
    return formats.read(Path(spec))


def check_instance(spec: str) -> None:
    """What `load_instance` refuses, without generating a large instance for it."""
    kind, _, rest = spec.partition(":")
    if kind == "palubeckis":
        check_name(rest)
    else:
        load_instance(spec)


def short_name(spec: str) -> str:
    """How an instance is called in reports."""
    if spec.startswith("random:"):
        return spec.removeprefix("random:")
    kind, _, rest = spec.partition(":")
    path = rest if rest and (kind in formats.TABLE or kind == "palubeckis") else spec
    return path if kind == "palubeckis" else Path(path).stem


def problem_hash(problem: CardinalityQubo) -> str:
    """sha256 over everything that defines the problem, names left out."""
    digest = hashlib.sha256()
    form = problem.quadratic
    if isinstance(form, Dense):
        parts = [form.matrix]
    elif isinstance(form, LowRank):
        parts = [form.factor, form.extra_diagonal]
    elif isinstance(form, LowRankSparse):
        parts = [form.factor, form.extra_diagonal, form.start, form.column, form.value]
    else:
        parts = [form.dense()]
    parts += [problem.linear, problem.groups, problem.lower, problem.upper]
    if problem.reference is not None:
        parts.append(problem.reference)
    for part in parts:
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)
    digest.update(f"{problem.offset!r} {problem.radius} {problem.objective_scale!r}".encode())
    return digest.hexdigest()
