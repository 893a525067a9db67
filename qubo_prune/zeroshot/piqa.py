"""PIQA (arXiv 1911.11641): which of two solutions of an everyday task is the more likely text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qubo_prune.errors import InputError
from qubo_prune.sources import file_path
from qubo_prune.zeroshot.figures import Figure, accuracy
from qubo_prune.zeroshot.rows import read_lines, read_rows
from qubo_prune.zeroshot.scoring import LogLikelihood, Request, encode

DATA = "data:zeroshot/piqa_valid.jsonl"
"""The validation set, `{"goal": ..., "sol1": ..., "sol2": ...}` a line; labels in piqa_valid_labels.lst."""


def read(spec: str) -> list[dict[str, Any]]:
    """Rows with `goal`, `sol1`, `sol2` and `label`, 0 or 1 for the right solution.

    Rows without labels get those of NAME_labels.lst beside NAME.jsonl, one a line, as the task is published.
    InputError: as for `read_rows`; labels that are missing, not 0 or 1, or not one a row; an empty solution.
    """
    rows = read_rows(spec, ("goal", "sol1", "sol2"))
    if not all("label" in row for row in rows):
        beside = file_path(spec)
        beside = beside.with_name(f"{beside.stem}_labels.lst")
        if not beside.is_file():
            raise InputError(f"{spec!r}: rows have no label, and there is no {beside.name} beside them.")
        labels = [line.strip() for line in read_lines(beside, str(beside)) if line.strip()]
        if len(labels) != len(rows):
            raise InputError(f"{spec!r}: {len(rows)} rows, but {len(labels)} labels in {beside.name}.")
        rows = [row | {"label": label} for row, label in zip(rows, labels, strict=True)]
    for number, row in enumerate(rows, 1):
        if str(row["label"]) not in ("0", "1"):
            raise InputError(f"{spec!r}, row {number}: label {row['label']!r}; it must be 0 or 1.")
        if not (row["sol1"] and row["sol2"]):
            raise InputError(f"{spec!r}, row {number}: a solution is empty.")
        row["label"] = int(row["label"])
    return rows


def requests(tokenizer: Any, row: dict[str, Any]) -> list[Request]:
    """Two requests, "Question: GOAL\\nAnswer:" and a space and each solution (lm-eval's piqa)."""
    context = f"Question: {row['goal']}\nAnswer:"
    return [encode(tokenizer, context, f" {row[solution]}") for solution in ("sol1", "sol2")]


def figures(rows: Sequence[dict[str, Any]], answers: Sequence[Sequence[LogLikelihood]]) -> dict[str, Figure]:
    """acc: the right solution has the higher log-likelihood; acc_norm: per byte of its UTF-8 text. Of equal
    ones the first is chosen.

    Departure: lm-eval divides by characters; the two differ where a solution is not ASCII (32 rows of 1,838).
    """
    raw, normed = [], []
    for row, (first, second) in zip(rows, answers, strict=True):
        one, two = (len(row[solution].encode()) for solution in ("sol1", "sol2"))
        raw.append(int(second.total > first.total) == row["label"])
        normed.append(int(second.total / two > first.total / one) == row["label"])
    return {"acc": accuracy(raw), "acc_norm": accuracy(normed)}
