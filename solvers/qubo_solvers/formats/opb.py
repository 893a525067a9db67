"""The nonlinear OPB format, as QPLIB writes its binary problems: a quadratic objective and disjoint counts.

    * a comment
    min: +3 x1 -2 x1 x2 ;          products of at most two variables, numbered from 1
    +1 x1 +1 x2 +1 x3 = 2 ;        a count of a group: coefficients of one size, =, >= or <=

Coefficients are the file's own (QPLIB scales them to whole numbers). Groups must not overlap: this class of
problems has each variable in one group at most.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from qubo_solvers.formats.edges import MAX_VARIABLES
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense

TERM = re.compile(r"([+-]?\s*\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)((?:\s+x\d+)+)")


def read(path: Path) -> CardinalityQubo:
    """The problem in the file. Raises ValueError naming the file and the statement it cannot take."""
    text = "\n".join(
        line
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if not line.lstrip().startswith("*")
    )
    statements = [" ".join(s.split()) for s in text.split(";") if s.strip()]
    if not statements or not statements[0].startswith(("min:", "max:")):
        raise ValueError(f"{path}: expected an objective 'min: ... ;' first: not an OPB file")
    scale = 1.0 if statements[0].startswith("min:") else -1.0
    objective = _terms(path, statements[0][4:])
    counts = [_count(path, s) for s in statements[1:]]
    n = max((i for _, ids in objective for i in ids), default=0)
    n = max(n, max((max(ids) for ids, _, _ in counts), default=0))
    if not 1 <= n <= MAX_VARIABLES:
        raise ValueError(f"{path}: {n} variables; this reader takes 1 to {MAX_VARIABLES}")
    matrix, linear = np.zeros((n, n)), np.zeros(n)
    for value, ids in objective:
        if len(ids) == 1 or ids[0] == ids[1]:
            linear[ids[0] - 1] += scale * value
        else:
            i, j = ids[0] - 1, ids[1] - 1
            matrix[i, j] += scale * value / 2
            matrix[j, i] += scale * value / 2
    groups = np.full(n, -1)
    for g, (ids, _, _) in enumerate(counts):
        at = np.array(ids) - 1
        if (groups[at] >= 0).any() or len(set(ids)) < len(ids):
            raise ValueError(f"{path}: constraint {g + 1} shares variables with another, or repeats one")
        groups[at] = g
    lower, upper = [low for _, low, _ in counts], [high for _, _, high in counts]
    problem = CardinalityQubo.grouped(Dense(matrix), linear, groups, lower, upper, name=path.stem)
    return replace(problem, objective_scale=scale)


def _terms(path: Path, text: str) -> list[tuple[float, list[int]]]:
    """(coefficient, variables) of a sum; nothing else may stand there."""
    rest = TERM.sub("", text).strip()
    if rest:
        raise ValueError(f"{path}: cannot read {rest[:40]!r} in a sum of products")
    found = []
    for value, product in TERM.findall(text):
        ids = [int(word[1:]) for word in product.split()]
        if len(ids) > 2 or min(ids) < 1:
            raise ValueError(f"{path}: a product of {len(ids)} variables; quadratic ones have two")
        found.append((float(value.replace(" ", "")), ids))
    return found


def _count(path: Path, text: str) -> tuple[list[int], int, int]:
    """(variables, least, most ones) of a constraint."""
    match = re.fullmatch(r"(.*?)\s*(>=|<=|=)\s*([+-]?\d+)", text)
    terms = _terms(path, match[1]) if match else []
    sizes = {value for value, ids in terms if len(ids) == 1}
    if not match or len(sizes) != 1 or any(len(ids) > 1 for _, ids in terms) or 0 in sizes:
        raise ValueError(f"{path}: {text[:60]!r} is no count of a group of variables")
    (size,) = sizes
    bound, sense = int(match[3]) / size, match[2]
    if size < 0:
        sense = {"<=": ">=", ">=": "<=", "=": "="}[sense]
    ids = [i for _, (i,) in terms]
    if sense == "=":
        if bound != int(bound):
            raise ValueError(f"{path}: {text[:60]!r} has no whole-number solution")
        return ids, int(bound), int(bound)
    if sense == ">=":
        return ids, max(0, int(np.ceil(bound))), len(ids)
    return ids, 0, min(len(ids), int(np.floor(bound)))
