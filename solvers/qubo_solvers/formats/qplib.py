"""QPLIB's own text format (.qplib), for its problems of this class: binary, quadratic, disjoint counts.

Furini et al. 2019 (doi 10.1007/s12532-018-0147-4, appendix B). One item a line, in this order; what follows
#, % or ! is a comment; variables and constraints are numbered from 1:

    name, type, sense                        the type three letters, the sense minimize or maximize
    variables, [constraints]                 in brackets: only where the type's third letter is L
    entries of Q, then "i j q" each          the lower triangle of a symmetric Q: 1/2 x'Qx; none for type L..
    default of b, others, then "i b" each    linear terms
    constant
    [entries of A, then "constraint i a"]
    infinity                                 bounds of at least this size are none
    [default of lower bounds, others, "constraint value" each; the same of upper bounds]
    starting points and names                not read

Read here: types .BN, .BB and .BL (all variables binary), each constraint a count over its variables: all of
its coefficients equal. A group may have several counts, groups must not overlap otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from qubo_solvers.formats.edges import MAX_VARIABLES
from qubo_solvers.formats.qplib_counts import Row, grouped_rows
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, Float

INFINITY = "1.79769313486232E+308"  # QPLIB's own: just above what a float64 holds


def read(path: Path) -> CardinalityQubo:
    """The problem in the file; `problem.objective(x)` is the file's objective, in its own sense.

    Raises ValueError naming file and line on anything malformed, and the reason for a problem of another
    class: variables that are not binary, quadratic constraints, constraints that are no disjoint counts.
    """
    lines = _Lines(path)
    name, kind, sense = lines.word("the problem's name"), lines.word("its type"), lines.word("its sense")
    _check_type(path, kind)
    if sense.lower() not in ("minimize", "maximize"):
        raise lines.error(f"the sense must be minimize or maximize, got {sense!r}")
    scale = 1.0 if sense.lower() == "minimize" else -1.0
    n = lines.count("the number of variables", MAX_VARIABLES)
    m = lines.count("the number of constraints") if kind[2] == "L" else 0
    matrix, linear = np.zeros((n, n)), np.zeros(n)
    if kind[0] != "L":
        for i, j, value in lines.entries("quadratic terms", (n, n)):
            if i == j:
                linear[i] += 0.5 * value
            else:
                matrix[i, j] += 0.5 * value
                matrix[j, i] += 0.5 * value
    linear += lines.defaulted("linear terms", n)
    offset = lines.number("the objective's constant")
    rows: list[Row] = []
    if m:
        terms: list[dict[int, float]] = [{} for _ in range(m)]
        for c, i, value in lines.entries("coefficients of the constraints", (m, n)):
            terms[c][i] = terms[c].get(i, 0.0) + value
        infinity = lines.number("the value for infinity", infinite=True)
        least = lines.defaulted("lower bounds", m, infinity)
        most = lines.defaulted("upper bounds", m, infinity)
        rows = [Row(c + 1, terms[c], float(least[c]), float(most[c])) for c in range(m)]
    groups, lower, upper = grouped_rows(path, n, rows)
    problem = CardinalityQubo.grouped(
        Dense(scale * matrix), scale * linear, groups, lower, upper, offset=scale * offset, name=name
    )
    return replace(problem, objective_scale=scale)


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write a problem in its own sense as QBL, QBN where it has no counts; floats round-trip exactly.

    Raises ValueError where it has a radius, an objective_scale other than 1 and -1, no variables or more than
    20,000.
    """
    if problem.radius is not None:
        raise ValueError(f"{path}: no radius is written in this format; write .npz or .cqm instead")
    if problem.objective_scale not in (1.0, -1.0) or not 1 <= problem.n <= MAX_VARIABLES:
        raise ValueError(
            f"{path}: this format is for an objective_scale of 1 or -1 and 1 to {MAX_VARIABLES} variables, "
            f"got {problem.objective_scale} and {problem.n}"
        )
    scale, n = problem.objective_scale, problem.n
    matrix = scale * problem.quadratic.dense()
    linear = scale * problem.linear + np.diagonal(matrix)
    kept = np.flatnonzero(problem.group_sizes() > 0)
    row, column = np.nonzero(np.tril(matrix, -1))
    name = "_".join(problem.name.split()) or "problem"
    text = [name, "QBL" if len(kept) else "QBN", "minimize" if scale > 0 else "maximize", str(n)]
    text += [str(len(kept))] if len(kept) else []
    text.append(str(len(row)))
    text += [f"{i + 1} {j + 1} {float(2 * matrix[i, j])!r}" for i, j in zip(row, column, strict=True)]
    text += ["0.0", str(np.count_nonzero(linear))]
    text += [f"{i + 1} {float(linear[i])!r}" for i in np.flatnonzero(linear)]
    text.append(repr(float(scale * problem.offset)))
    if len(kept):
        members = [(c, i) for c, g in enumerate(kept, 1) for i in np.flatnonzero(problem.groups == g)]
        text.append(str(len(members)))
        text += [f"{c} {i + 1} 1.0" for c, i in members]
    text.append(INFINITY)
    for counts in (problem.lower, problem.upper) if len(kept) else ():
        text += ["0.0", str(len(kept))]
        text += [f"{c} {float(counts[g])!r}" for c, g in enumerate(kept, 1)]
    text += ["0.0", "0"] * (3 if len(kept) else 2)  # starting values: of variables, (counts,) bounds
    text += ["0", "0"]  # names of variables and of constraints
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def _check_type(path: Path, kind: str) -> None:
    if len(kind) != 3 or kind[0] not in "LDCQ" or kind[1] not in "CBMIG" or kind[2] not in "NBLDCQ":
        raise ValueError(f"{path}: {kind!r} is no problem type of QPLIB (three letters, such as QBL)")
    if kind[1] != "B":
        raise ValueError(f"{path}: type {kind}: its variables are not all binary, only those fit this class")
    if kind[2] not in "NBL":
        raise ValueError(f"{path}: type {kind}: it has quadratic constraints, only counts fit this class")


class _Lines:
    """The items of the file, a line each, with the number of the last one for errors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        self._lines = self._read()

    def _read(self) -> Iterator[list[str]]:
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for self.at, line in enumerate(file, 1):
                words = line.split()
                for w, word in enumerate(words):
                    if word[0] in "#%!":
                        words = words[:w]
                        break
                if words:
                    yield words

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self.path}:{self.at}: {what}")

    def words(self, what: str) -> list[str]:
        try:
            return next(self._lines)
        except StopIteration:
            raise self.error(f"the file ends where {what} should be") from None

    def word(self, what: str) -> str:
        return self.words(what)[0]

    def number(self, what: str, infinite: bool = False) -> float:
        word = self.word(what)
        try:
            return _parsed(word, infinite)
        except ValueError:
            kind = "a number" if infinite else "a finite number"
            raise self.error(f"expected {what}, {kind}, got {word!r}") from None

    def count(self, what: str, most: int | None = None) -> int:
        word = self.word(what)
        least = 0 if most is None else 1
        if not (word.isdecimal() and least <= int(word) and (most is None or int(word) <= most)):
            limits = f" from {least}" + ("" if most is None else f" to {most}")
            raise self.error(f"expected {what}, a whole number{limits}, got {word!r}")
        return int(word)

    def entries(self, what: str, sizes: tuple[int, int]) -> Iterator[tuple[int, int, float]]:
        for _ in range(self.count(f"the number of {what}")):
            (i, j), value = self._entry(what, sizes)
            yield i, j, value

    def defaulted(self, what: str, size: int, infinity: float | None = None) -> Float:
        """(size,) numbers: a default and the others; with an `infinity`, those of its size are infinite."""
        bounds = infinity is not None
        found = np.full(size, self.number(f"the default of {what}", bounds))
        for _ in range(self.count(f"the number of {what} other than the default")):
            (i,), value = self._entry(what, (size,), bounds)
            found[i] = value
        return (
            found
            if infinity is None
            else np.where(np.abs(found) >= infinity, np.copysign(np.inf, found), found)
        )

    def _entry(self, what: str, sizes: tuple[int, ...], infinite: bool = False) -> tuple[list[int], float]:
        """The numbers of a line, counted from 0, and its value."""
        words = self.words(what)
        try:
            ids = [int(word) for word in words[: len(sizes)]]
            value = _parsed(words[len(sizes)], infinite)
        except (IndexError, ValueError):
            wanted = " ".join(["i", "j"][: len(sizes)])
            raise self.error(f"expected '{wanted} value' of the {what}, got {' '.join(words)!r}") from None
        for i, size in zip(ids, sizes, strict=True):
            if not 1 <= i <= size:
                raise self.error(f"number {i} among the {what} is not in 1..{size}")
        return [i - 1 for i in ids], value


def _parsed(word: str, infinite: bool) -> float:
    """The number. Raises ValueError where it is none, NaN, or infinite and must not be."""
    value = float(word)
    if np.isnan(value) or (np.isinf(value) and not infinite):
        raise ValueError(word)
    return value
