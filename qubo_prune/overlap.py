"""Refuse calibration text that the evaluation text repeats: no run of 64 tokens may be in both."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from qubo_prune.errors import InputError

RUN = 64
"""Tokens in a row that count as the same text."""

_Hashes = npt.NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def refuse_overlap(
    calibration_tokens: Tensor,
    evaluation_tokens: Tensor,
    run: int = RUN,
    *,
    calibration: str = "calibration text",
    evaluation: str = "evaluation text",
) -> None:
    """InputError when both token sequences share a run of `run` tokens; the message says where.

    Each is one sequence (tokens,), or windows (n, length), whose runs do not cross from one window to the
    next. Runs are compared by 64-bit hashes of all positions (a second for 10^6 tokens), every hit then token
    by token.
    """
    if run < 1:
        raise InputError(f"refuse_overlap: run={run}; it must be at least 1.")
    left, right = _rows(calibration_tokens), _rows(evaluation_tokens)
    if left.shape[1] < run or right.shape[1] < run:
        return
    left_hash, right_hash = _run_hashes(left, run).reshape(-1), _run_hashes(right, run).reshape(-1)
    order = np.argsort(left_hash, kind="stable")
    ordered = left_hash[order]
    first = np.searchsorted(ordered, right_hash, side="left")
    last = np.searchsorted(ordered, right_hash, side="right")
    per_row = left.shape[1] - run + 1, right.shape[1] - run + 1
    hits = np.flatnonzero(last > first)
    for hit in hits:  # ends at the first true one: a hash that hits by chance is rarer than one in 10^6 texts
        there = _position(int(hit), per_row[1])
        wanted = right[there[0], there[1] : there[1] + run]
        for candidate in order[first[hit] : last[hit]]:
            here = _position(int(candidate), per_row[0])
            if np.array_equal(left[here[0], here[1] : here[1] + run], wanted):
                raise InputError(
                    f"the {evaluation} repeats the {calibration}: {run} tokens from "
                    f"{_place(there, right)} are those from {_place(here, left)} of the {calibration} "
                    f"({len(hits)} such runs in all): calibrate on another text."
                )


def _rows(tokens: Tensor) -> npt.NDArray[np.int64]:
    """Tokens as (rows, length)."""
    array = tokens.detach().cpu().numpy().astype(np.int64, copy=False)
    return array.reshape(1, -1) if array.ndim == 1 else array


def _run_hashes(rows: npt.NDArray[np.int64], run: int) -> _Hashes:
    """(rows, length - run + 1): the polynomial hash, modulo 2^64, of the `run` tokens from each position.

    Built by doubling: the hash of 2L tokens is hash_L(i) * base^L + hash_L(i + L), so about 2 log2(run)
    passes.
    """
    power = rows.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    power ^= power >> np.uint64(31)
    power *= np.uint64(0x94D049BB133111EB)
    total: _Hashes | None = None
    length, total_length = 1, 0
    while True:
        if run & length:
            total = power if total is None else _joined(total, power, total_length, length)
            total_length += length
        if total_length == run:
            assert total is not None
            return total
        power = _joined(power, power, length, length)
        length *= 2


def _joined(left: _Hashes, right: _Hashes, left_length: int, right_length: int) -> _Hashes:
    """Hashes of a run of left_length tokens and the run of right_length tokens that follows it."""
    factor = np.uint64(pow(_BASE, right_length, _MASK + 1))
    following = right[:, left_length:]
    width = min(left.shape[1], following.shape[1])
    joined: _Hashes = left[:, :width] * factor + following[:, :width]
    return joined


def _position(flat: int, per_row: int) -> tuple[int, int]:
    """(row, start) of a run's number."""
    return divmod(flat, per_row)


def _place(position: tuple[int, int], rows: npt.NDArray[np.int64]) -> str:
    """Words for a position."""
    return f"token {position[1]}" if len(rows) == 1 else f"window {position[0]}, token {position[1]}"
