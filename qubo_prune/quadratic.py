"""The algebra of the local loss model: a block of weights, its gradient and curvature -> CardinalityQubo.

With x_i = 1 where weight i is pruned, w0 its value when kept, w its value now, dw0 = w0 - w, the move is
d = dw0 - w0 x and dL(x) = gamma g'd + 1/2 d'Hd + 1/2 rho d'd. The current mask has energy 0.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_solvers import CardinalityQubo, Dense, LowRank, LowRankSparse, QuadraticForm


@dataclass(frozen=True)
class Sparse:
    """A symmetric (n, n) matrix with a zero diagonal: m entries, both (i, j) and (j, i), by row and column.

    row, column  (m,) int64; value (m,), equal to the bit for (i, j) and (j, i)
    """

    row: Tensor
    column: Tensor
    value: Tensor

    def times(self, v: Tensor) -> Tensor:
        """The product with v (n,), float64."""
        found = torch.zeros_like(v, dtype=torch.float64)
        return found.index_add_(0, self.row, self.value.double() * v.double()[self.column])

    def around(self, w0: Tensor) -> Sparse:
        """1/2 (w0 w0') o this, float64."""
        return replace(self, value=0.5 * (w0[self.row] * w0[self.column]).double() * self.value.double())


@dataclass(frozen=True)
class Curvature:
    """H of a block of n weights, the sum of what is given: a factor or a matrix, a diagonal, or both.

    factor    (N, n): factor' factor, of rank N, e.g. sqrt(s/N) G from N per-sample gradients
    matrix    (n, n): an explicit symmetric matrix, e.g. the exact Hessian
    diagonal  (n,): diag(diagonal), no couplings
    sparse    couplings of few pairs, added to a factor or a diagonal
    """

    factor: Tensor | None = None
    matrix: Tensor | None = None
    diagonal: Tensor | None = None
    sparse: Sparse | None = None

    @classmethod
    def fisher(cls, samples: Tensor, scale: float = 1.0) -> Curvature:
        """H = scale * G'G / N from per-sample gradients G (N, n) (arXiv 2411.17796, the empirical Fisher)."""
        return cls(factor=samples * (scale / max(1, samples.shape[0])) ** 0.5)

    @classmethod
    def mean_gradient(cls, gradient: Tensor) -> Curvature:
        """H = g g', the outer product of the mean gradient: rank one."""
        return cls(factor=gradient.reshape(1, -1))

    def plus(self, samples: Tensor, scale: float = 1.0) -> Curvature:
        """A low-rank H plus scale * G'G / N of further samples G (N, n)."""
        assert self.factor is not None
        further = samples * (scale / max(1, samples.shape[0])) ** 0.5
        return replace(self, factor=torch.cat([self.factor, further]))

    def without_couplings(self) -> Curvature:
        """Only the diagonal of H: the ablation in which flips do not know of one another."""
        if self.factor is not None:
            found = self.factor.double().square().sum(0)
        elif self.matrix is not None:
            found = self.matrix.diagonal().double()
        else:
            return Curvature(diagonal=self.diagonal)
        return Curvature(diagonal=found if self.diagonal is None else found + self.diagonal)

    def damped(self, diagonal: Tensor) -> Curvature:
        """H + diag(diagonal), (n,)."""
        return replace(self, diagonal=diagonal if self.diagonal is None else self.diagonal + diagonal)

    def coupled(self, sparse: Sparse) -> Curvature:
        """H, which has no sparse part yet, plus one."""
        assert self.sparse is None
        return replace(self, sparse=sparse)

    def times(self, v: Tensor) -> Tensor:
        """H v in float64, (n,)."""
        v = v.double()
        found = torch.zeros_like(v)
        if self.factor is not None:
            f = self.factor.double()
            found += f.T @ (f @ v)
        if self.matrix is not None:
            found += self.matrix.double() @ v
        if self.diagonal is not None:
            found += self.diagonal.double() * v
        if self.sparse is not None:
            found += self.sparse.times(v)
        return found


@dataclass(frozen=True)
class LossModel:
    """dL(x) of one block; all tensors of shape (n,) on one device.

    kept_value  w0, the value each weight has when it is kept
    pruned      bool, the current mask: w = w0 where it is False, 0 where it is True
    gradient    g, at the current weights

    Raises InputError on NaN or infinite entries and on wrong shapes.
    """

    kept_value: Tensor
    pruned: Tensor
    gradient: Tensor
    curvature: Curvature
    gamma: float = 1.0
    rho: float = 0.0

    def __post_init__(self) -> None:
        n, c = self.kept_value.shape[-1], self.curvature
        shapes = ((c.factor, (-1, n)), (c.matrix, (n, n)), (c.diagonal, (n,)))
        given = [("curvature", tensor, shape) for tensor, shape in shapes if tensor is not None]
        if not given or (c.factor is not None and c.matrix is not None):
            raise InputError(
                "curvature is a factor or a matrix, a diagonal, or both a diagonal and one of them"
            )
        if c.sparse is not None:
            if c.matrix is not None:
                raise InputError("a sparse curvature is added to a factor or a diagonal, not to a matrix")
            given.append(("sparse curvature", c.sparse.value, (len(c.sparse.row),)))
        line = (n,)
        parts = [
            ("kept values", self.kept_value, line),
            ("mask", self.pruned, line),
            ("gradient", self.gradient, line),
        ]
        for label, tensor, wanted in [*parts, *given]:
            if tensor.dim() != len(wanted) or any(
                h not in (-1, k) for h, k in zip(wanted, tensor.shape, strict=True)
            ):
                raise InputError(f"{label} of a block of {n} weights cannot have shape {tuple(tensor.shape)}")
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    f"NaN or infinite {label} in a block: check the calibration data and the model's dtype"
                )
        if not (math.isfinite(self.gamma) and math.isfinite(self.rho)):
            raise InputError(f"gamma and rho must be finite, not {self.gamma} and {self.rho}")

    def move(self, pruned: Tensor) -> Tensor:
        """d(x) = dw0 - w0 x in float64, (n,); dw0 = w0 - w is w0 where the weight is pruned now."""
        return self.kept_value.double() * (self.pruned.double() - pruned.double())

    def change(self, pruned: Tensor) -> float:
        """dL(x) evaluated directly in float64: what the quadratic model must reproduce."""
        d = self.move(pruned)
        g = self.gradient.double()
        return float(self.gamma * (g @ d) + 0.5 * (d @ self.curvature.times(d)) + 0.5 * self.rho * (d @ d))


@dataclass(frozen=True)
class BuiltBlock:
    """A problem, and the seconds its building (where the gradients are) and its transfer to the host took."""

    problem: CardinalityQubo
    build_seconds: float
    transfer_seconds: float


def build(
    model: LossModel,
    groups: Tensor,
    pruned_per_group: Tensor,
    *,
    reference: Tensor | None = None,
    radius: int | None = None,
    dense: bool = False,
    name: str = "",
) -> BuiltBlock:
    """The block's CardinalityQubo; energy(x) = dL(x).

    groups            (n,) int group of each weight
    pruned_per_group  (m,) exact number of pruned weights per group
    reference         (n,) bool or 0/1, the current mask's pruned weights; required with a radius
    dense             write Q out (n x n) instead of keeping the low-rank factor; always so for a matrix

    Q = 1/2 (w0 w0') o Hr, linear = -w0 o (gamma g + Hr dw0), const = gamma g'dw0 + 1/2 dw0' Hr dw0 with
    Hr = H + rho I. Runs where the tensors are; the factor, linear term and groups cross to the host once.
    """
    started = time.perf_counter()
    w0, now = model.kept_value.double(), model.pruned.double()
    slope = -model.gamma * model.gradient.double() * w0
    ridge = 0.5 * model.rho * w0.square()
    if model.curvature.diagonal is not None:
        ridge = ridge + 0.5 * model.curvature.diagonal.double() * w0.square()
    sparse = None if model.curvature.sparse is None else model.curvature.sparse.around(w0)
    if model.curvature.matrix is not None:
        dense = True
        body = 0.5 * torch.outer(w0, w0) * model.curvature.matrix.double() + torch.diag(ridge)
        body = 0.5 * (body + body.T)
        q_now = body @ now
    else:
        body = _low_rank(model)
        factor = body.double()
        q_now = 0.5 * (factor @ (factor.T @ now)) + ridge * now
        if sparse is not None:
            q_now += sparse.times(now)
        if dense:
            body = 0.5 * (factor @ factor.T) + torch.diag(ridge)
            if sparse is not None:
                body[sparse.row, sparse.column] += sparse.value
    # -w0 o (gamma g + Hr dw0) and gamma g'dw0 + 1/2 dw0'Hr dw0, through Q itself: rounding of a float32
    # factor then cancels, and the energy of the current mask is 0 to float64.
    linear = slope - 2 * q_now
    offset = now @ q_now - slope @ now
    if w0.is_cuda:
        torch.cuda.synchronize(w0.device)
    built = time.perf_counter()
    host = [t.detach().cpu().numpy() for t in (body, linear, ridge, groups, pruned_per_group, offset)]
    form: QuadraticForm
    if dense:
        form = Dense(host[0])
    elif sparse is None:
        form = LowRank(host[0], host[2])
    else:
        start = torch.bincount(sparse.row, minlength=len(w0)).cumsum(0)
        rest = [t.cpu().numpy() for t in (start, sparse.column.int(), sparse.value)]
        form = LowRankSparse(host[0], host[2], np.concatenate([[0], rest[0]]), rest[1], rest[2])
    problem = CardinalityQubo.grouped(
        form,
        host[1],
        host[3].astype(np.int32),
        host[4],
        offset=float(host[5]),
        reference=None if reference is None else reference.to(torch.uint8).cpu().numpy(),
        radius=radius,
        name=name,
    )
    return BuiltBlock(problem, built - started, time.perf_counter() - built)


def _low_rank(model: LossModel) -> Tensor:
    """F (n, N), row i variable i's, float32 at least: Q = 1/2 F F' + a diagonal; zeros without a factor."""
    factor = model.curvature.factor
    if factor is None:
        return model.kept_value.new_zeros(len(model.kept_value), 1, dtype=torch.float32)
    wide = torch.promote_types(factor.dtype, torch.float32)
    return (factor.to(wide) * model.kept_value).T.contiguous()
