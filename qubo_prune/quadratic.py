"""The algebra of the local loss model: a block of weights with its gradient and curvature -> CardinalityQubo.

With x_i = 1 where weight i is pruned, w0 the value it has when kept, w its value now, dw0 = w0 - w, the move is
d = dw0 - w0 x and dL(x) = gamma g'd + 1/2 d'Hd + 1/2 rho d'd. The current mask has energy 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from qubo_solvers import CardinalityQubo, Dense, LowRank
from torch import Tensor

from qubo_prune.errors import InputError


@dataclass(frozen=True)
class Curvature:
    """H of a block of n weights: factor' factor (rank N) or an explicit matrix; exactly one of the two.

    factor   (N, n): H = factor' factor, e.g. sqrt(s/N) G from N per-sample gradients
    matrix   (n, n): an explicit H, e.g. the exact Hessian
    """

    factor: Tensor | None = None
    matrix: Tensor | None = None

    @classmethod
    def fisher(cls, samples: Tensor, scale: float = 1.0) -> Curvature:
        """H = scale * G'G / N from per-sample gradients G (N, n) (arXiv 2411.17796, eq. for the empirical Fisher)."""
        return cls(factor=samples * (scale / max(1, samples.shape[0])) ** 0.5)

    @classmethod
    def mean_gradient(cls, gradient: Tensor) -> Curvature:
        """H = g g', the outer product of the mean gradient: rank one."""
        return cls(factor=gradient.reshape(1, -1))

    def times(self, v: Tensor) -> Tensor:
        """H v in float64, (n,)."""
        v = v.double()
        if self.factor is not None:
            f = self.factor.double()
            return f.T @ (f @ v)
        assert self.matrix is not None
        return self.matrix.double() @ v


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
        n = self.kept_value.shape[0]
        parts = {"kept values": self.kept_value, "mask": self.pruned, "gradient": self.gradient}
        c = self.curvature
        parts["curvature"] = c.factor if c.factor is not None else c.matrix  # type: ignore[assignment]
        for label, tensor in parts.items():
            if tensor is None or tensor.shape[-1] != n:
                raise InputError(f"the block has {n} weights but its {label} do not match")
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    f"the block's {label} have NaN or infinite entries: check the calibration data and the dtype"
                )

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
    """A problem with the seconds its building (on the gradients' device) and its transfer to the host took."""

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
    dense             write Q out (n x n) instead of keeping the low-rank factor

    Q = 1/2 (w0 w0') o Hr, linear = -w0 o (gamma g + Hr dw0), const = gamma g'dw0 + 1/2 dw0' Hr dw0 with
    Hr = H + rho I. Runs where the tensors are; the factor, linear term and groups cross to the host once.
    """
    started = time.perf_counter()
    w0, now = model.kept_value.double(), model.pruned.double()
    slope = -model.gamma * model.gradient.double() * w0
    ridge = 0.5 * model.rho * w0.square()
    if model.curvature.factor is not None:
        body = (model.curvature.factor * model.kept_value).T.contiguous()  # (n, N): row i is variable i's
        factor = body.double()
        q_now = 0.5 * (factor @ (factor.T @ now)) + ridge * now
        if dense:
            body = 0.5 * (factor @ factor.T) + torch.diag(ridge)
    else:
        assert model.curvature.matrix is not None
        dense = True
        body = 0.5 * torch.outer(w0, w0) * model.curvature.matrix.double() + torch.diag(ridge)
        body = 0.5 * (body + body.T)
        q_now = body @ now
    # -w0 o (gamma g + Hr dw0) and gamma g'dw0 + 1/2 dw0'Hr dw0, through Q itself: rounding of a float32 factor
    # then cancels, and the energy of the current mask is 0 to float64.
    linear = slope - 2 * q_now
    offset = now @ q_now - slope @ now
    if w0.is_cuda:
        torch.cuda.synchronize(w0.device)
    built = time.perf_counter()
    host = [t.detach().cpu().numpy() for t in (body, linear, ridge, groups, pruned_per_group, offset)]
    form = Dense(host[0]) if dense else LowRank(host[0], host[2])
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
