"""Batches as torch tensors, one code path for every device: layout, scaled rows, fields, swaps of all rows.

Every group's variables are dealt to C classes of S columns each: the best of a class is a candidate, found
for all rows by one reduction of a (rows, groups, S, C) view. Groups are padded with columns of weight 0 that
are neither ones nor zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qubo_solvers.batch import torch_anneal, torch_descent, torch_tabu
from qubo_solvers.batch.problem import RowBatch
from qubo_solvers.batch.settings import Clock, Found, Settings

CLASSES = 8
EPSILON = 2.0**-22  # the rounding of a sum of float32 products, per unit of their absolute sum
ROUNDING = 2.0**-22  # of a field's own size: fields are kept in float32
SAMPLE = 64  # variables whose couplings set a row's temperatures
HOST_NUMBERS = 1 << 20  # of a (rows, columns) buffer on the CPU: they should stay in its caches
DEVICE_SHARE = 0.5  # of an accelerator's free memory, for the buffers of the rows that are searched together
INF = float("inf")


@dataclass(eq=False)
class State:
    """Rows under search; P columns in the model's layout, float32 unless said.

    weights, linear, fields (B, P); x (B, P) bool; gain (B,) float64, energy minus that at the start; swaps
    (B,) int64; slack (B,) the tolerance of a change for each unit of |w_i| reach_i
    """

    weights: Tensor
    linear: Tensor
    fields: Tensor
    x: Tensor
    gain: Tensor
    swaps: Tensor
    slack: Tensor

    def take(self, rows: Tensor) -> State:
        """A copy of these rows (indices)."""
        return State(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def put(self, rows: Tensor, part: State) -> None:
        """Write back what a search changes in rows that were taken."""
        for name in ("fields", "x", "gain", "swaps"):
            getattr(self, name)[rows] = getattr(part, name)


class TorchRows:
    """The Gram matrix in the layout: 2H / max|H|, float32 (P, P), without its diagonal; scaling and bounds as
    in numba_rows. Raises ValueError for groups whose sizes differ so much that padding them would take more
    than four times the columns."""

    def __init__(self, batch: RowBatch, device: str | None = None) -> None:
        self.batch = batch
        gram = batch.gram if batch.is_tensor else _tensor(batch.gram)
        self.device = gram.device if device is None else torch.device(device)
        h = gram.to(self.device)
        h = h if h.dtype == torch.float64 else h.float()
        sizes = np.bincount(batch.groups, minlength=batch.counts.shape[1])
        self.groups, widest = len(sizes), int(sizes.max())
        self.classes = min(CLASSES, widest)
        self.depth = -(-widest // self.classes)
        width = self.depth * self.classes
        self.columns = self.groups * width
        if self.columns > 4 * batch.n + CLASSES:
            raise ValueError(
                f"{self.groups} groups of up to {widest} variables differ too much in size for the torch "
                f"backend, which pads them to {self.columns} columns; use backend='numba'"
            )
        group = batch.groups[batch.order()]
        place = group * width + np.arange(batch.n) - batch.starts()[group]
        column = np.empty(batch.n, np.int64)
        column[batch.order()] = place
        self.column = torch.from_numpy(column).to(self.device)  # (n,) of each variable
        self.plain = self.columns == batch.n and bool((column == np.arange(batch.n)).all())
        self.valid = self.spread(torch.ones(1, batch.n, dtype=torch.bool, device=self.device))[0]
        self.sizes = torch.from_numpy(sizes).to(self.device)
        self.group_of = torch.arange(self.columns, device=self.device) // width
        self.base = torch.arange(self.groups, device=self.device)[:, None] * width + torch.arange(
            self.classes, device=self.device
        )
        self.height = float(h.abs().max())
        unit = self.height or 1.0
        self.diagonal = self.spread((h.diagonal() / unit).float()[None])[0]
        whole = (h / unit + h.T / unit).float()
        self.gram = whole if self.plain else self.spread(self.spread(whole).T.contiguous())
        self.gram.fill_diagonal_(0)
        own = self.diagonal.clamp(min=0).sqrt()
        own[own == 0] = 1.0
        most = torch.cat([(part.abs() / own).amax(1) for part in self.gram.split(1024)])
        self.reach = (own * most).sqrt() * 1.00001
        if self.depth == 1:
            self.blocks = self.gram[self.base[:, :, None], self.base[:, None, :]]

    def spread(self, array: Tensor) -> Tensor:
        """(B, n) in the batch's order -> (B, P) in the layout, zeros where padded."""
        if self.plain:
            return array.clone()
        out = array.new_zeros(array.shape[0], self.columns)
        out[:, self.column] = array
        return out

    def rows_at_once(self) -> int:
        """How many rows are searched together: what stays in a CPU's caches, or fits into free memory."""
        if self.device.type != "cuda":
            return max(16, HOST_NUMBERS // self.columns)
        free, _ = torch.cuda.mem_get_info(self.device)
        row = 96 * self.columns + 32 * self.groups * self.classes**2
        return max(1, int(DEVICE_SHARE * free) // row)

    def start_of(self, first: int, last: int) -> Tensor:
        """The best assignments of the rows without their couplings, (B, n) bool."""
        _, linear = self.part(first, last)
        keys = linear.masked_fill(~self.valid, INF).view(len(linear), self.groups, -1)
        ranks = keys.argsort(dim=2, stable=True).argsort(dim=2, stable=True)
        counts = torch.from_numpy(self.batch.counts[first:last].copy()).to(self.device)
        return (ranks < counts[:, :, None]).view(len(linear), -1)[:, self.column]

    def part(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The scaled weights of some rows, and their linear term with the diagonal in it, both (B, P)."""
        w = self._rows(self.batch.weights, first, last)
        widest = w.abs().amax(1, keepdim=True).double()
        size = self.height * widest**2
        linear = self.batch.linear
        own = None if linear is None else self._rows(linear, first, last)
        if own is not None:
            size = torch.maximum(size, own.abs().amax(1, keepdim=True))
        size[size == 0] = 1.0
        factor = widest * (self.height / size).sqrt()
        widest[widest == 0] = 1.0
        scaled = (w / widest.to(w.dtype) * factor).float()
        total = scaled**2 * self.diagonal
        return scaled, total if own is None else (total + own / size).float()

    def _rows(self, array: Any, first: int, last: int) -> Tensor:
        rows = array[first:last] if self.batch.is_tensor else _tensor(array[first:last])
        rows = rows.to(self.device)
        return self.spread(rows if rows.dtype == torch.float64 else rows.float())

    def search(
        self, method: str, settings: Settings, first: int, last: int, x: Any, seed: int, clock: Clock
    ) -> Found:
        """Search in the rows first..last from the assignments x (B, n) until done or out of time."""
        weights, linear = self.part(first, last)
        start = torch.as_tensor(x).to(self.device) != 0
        zeros = torch.zeros(last - first, dtype=torch.float64, device=self.device)
        slack = EPSILON * (weights.abs() @ self.reach)
        rows = State(
            weights, linear, torch.empty_like(weights), self.spread(start), zeros, zeros.long(), slack
        )
        verified = torch_descent.settle(self, rows, clock)
        if method != "descent":
            generator = torch.Generator(self.device).manual_seed(seed + first)
            if method == "tabu":
                torch_tabu.tabu(self, rows, *settings.sizes(self.batch.n), generator, clock)
            else:
                torch_anneal.anneal(self, rows, settings, self.strength(weights), generator, clock)
            verified = torch_descent.settle(self, rows, clock)
        return Found(rows.x[:, self.column], verified.cpu().numpy(), rows.swaps.cpu().numpy())

    def strength(self, weights: Tensor) -> Tensor:
        """(B,) float32, the upper quartile over sampled i of sqrt(sum_j (w_i w_j gram_ij)^2)."""
        n = self.batch.n
        sample = self.column[np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))]
        with full_precision():
            squares = (weights**2) @ (self.gram[sample] ** 2).T * weights[:, sample] ** 2
        return torch.quantile(squares, 0.75, dim=1).sqrt()

    def refresh(self, rows: State) -> None:
        """Compute the fields anew."""
        with full_precision():
            rows.fields = torch.addcmul(rows.linear, rows.weights, (rows.weights * rows.x) @ self.gram)

    def best(self, rows: State, drop: Tensor, add: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's best swap among the candidates: (change, one, zero), (B,); infinity where there is none.

        drop, add: (B, P) bool, the ones and the zeros that may be candidates.
        """
        number, c = len(rows.fields), self.classes
        shape = (number, self.groups, self.depth, c)
        high, at_one = rows.fields.masked_fill(~drop, -INF).view(shape).max(2)
        low, at_zero = rows.fields.masked_fill(~add, INF).view(shape).min(2)
        ones, zeros = self.base + at_one * c, self.base + at_zero * c
        w_one = rows.weights.gather(1, ones.view(number, -1)).view_as(high)
        w_zero = rows.weights.gather(1, zeros.view(number, -1)).view_as(low)
        pairs = self.blocks if self.depth == 1 else self.gram[ones[..., :, None], zeros[..., None, :]]
        change = low[..., None, :] - high[..., :, None] - w_one[..., :, None] * w_zero[..., None, :] * pairs
        value, at = change.view(number, -1).min(1)
        one = ones.view(number, -1).gather(1, (at // c)[:, None])[:, 0]
        zero = zeros.view(number, -1).gather(1, (at // c**2 * c + at % c)[:, None])[:, 0]
        return value, one, zero

    def swap(self, rows: State, change: Tensor, one: Tensor, zero: Tensor, go: Tensor) -> None:
        """Swap the one with the zero in the rows where `go` is True."""
        one, zero, made = one[:, None], zero[:, None], go[:, None]
        moved = self.gram[zero[:, 0]] * (rows.weights.gather(1, zero) * made)
        moved.addcmul_(self.gram[one[:, 0]], rows.weights.gather(1, one) * made, value=-1)
        rows.fields.addcmul_(rows.weights, moved)
        rows.x.scatter_(1, one, rows.x.gather(1, one) & ~made)
        rows.x.scatter_(1, zero, rows.x.gather(1, zero) | made)
        rows.gain += torch.where(go, change, 0.0)
        rows.swaps += go

    def tolerance(self, rows: State, at: Tensor) -> Tensor:
        """(B, ...) what the fields of the columns `at` (B, ...) may be off by."""
        flat = at.reshape(len(at), -1)
        size = rows.slack[:, None] * rows.weights.gather(1, flat).abs() * self.reach[flat]
        return (size + ROUNDING * rows.fields.gather(1, flat).abs()).view(at.shape)


def _tensor(array: Any) -> Tensor:
    """A NumPy array as a tensor that shares its memory (copied where that is read-only)."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever torch is set to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
