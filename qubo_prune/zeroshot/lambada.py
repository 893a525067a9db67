"""LAMBADA (arXiv 1606.06031): the last word of a passage, by greedy decoding and by its log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qubo_prune.errors import InputError
from qubo_prune.zeroshot.figures import Figure, accuracy, perplexity
from qubo_prune.zeroshot.rows import read_rows
from qubo_prune.zeroshot.scoring import LogLikelihood, Request, encode

DATA = "data:zeroshot/lambada_test.jsonl"
"""The test passages, `{"text": ...}` a line."""


def read(spec: str) -> list[dict[str, Any]]:
    """Rows with `text`. InputError: as for `read_rows`, or a text that does not end in a word."""
    rows = read_rows(spec, ("text",))
    for number, row in enumerate(rows, 1):
        if not row["text"].split(" ")[-1].strip():
            raise InputError(f"{spec!r}, row {number}: the text ends in a space; it must end in a word.")
    return rows


def requests(tokenizer: Any, row: dict[str, Any]) -> list[Request]:
    """One request: all before the last space, then a space and the last word (lm-eval's lambada_openai)."""
    context, _, word = row["text"].rpartition(" ")
    return [encode(tokenizer, context, f" {word}")]


def figures(rows: Sequence[dict[str, Any]], answers: Sequence[Sequence[LogLikelihood]]) -> dict[str, Figure]:
    """acc: the last word is what greedy decoding gives, all its tokens; perplexity: of the last word, a row
    counting once."""
    words = [only for (only,) in answers]
    return {
        "acc": accuracy([word.greedy for word in words]),
        "perplexity": perplexity([word.total for word in words]),
    }
