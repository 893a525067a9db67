"""Least squares on the support: new values for the kept weights of a layer, the mask as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.support import cholesky, conjugate_gradients

LADDER = (1.0, 0.1, 0.01)
"""Dampings that are tried, in means of the Gram matrix's diagonal."""

ITERATIONS = 50
"""Of conjugate gradients at most, for each damping."""

_ADVANTAGE = 80.0
"""How many times as many operations a second large float32 products do as batches of float64 factors (45
measured on two cores), and the twofold by which few iterations are run in full."""

_FEW = 1 << 14
"""Numbers in the matrices of a layer's rows up to which Cholesky factors are taken."""

Solver = Literal["auto", "conjugate_gradients", "cholesky"]


@torch.no_grad()
def least_squares(
    weight: Tensor,
    mask: Tensor,
    original: Tensor,
    gram: Tensor,
    drift: Tensor | None = None,
    damping: float = 0.0,
    start: Tensor | None = None,
    *,
    solver: Solver = "auto",
    iterations: int = 100,
    tolerance: float = 1e-5,
) -> Tensor:
    """(R, n) float32 change z of the weights, zero outside the mask: w + z minimises, in each row,

        E[((w + z) x - T x_t)^2] + damping * mean(diag H) * |z|^2

    weight: (R, n) w, zero outside `mask` (R, n) bool. original: (R, n) T. gram: (n, n) float32 H = E[x x'].
    drift: (n, n) float32 E[x (x_t - x)'], None: zero. The damping pulls towards the values there are, so a
    large one leaves all as it is (departure from a ridge towards zero). start: as for `conjugate_gradients`,
    which is what "auto" takes but where supports are so small that `cholesky` is the cheaper; rows that are
    not positive definite go to conjugate gradients in any case.
    """
    gap = original.float() - weight.float()
    rhs = gap @ gram
    if drift is not None:
        rhs += original.float() @ drift.t()
    ridge = damping * float(gram.diagonal().mean())
    if solver == "auto":
        solver = "cholesky" if _small_supports(mask, iterations) else "conjugate_gradients"
    if solver == "conjugate_gradients":
        return conjugate_gradients(gram, mask, rhs, ridge, start, iterations=iterations, tolerance=tolerance)
    z, solved = cholesky(gram, mask, rhs, ridge)
    if not bool(solved.all()):
        left = ~solved
        z[left] = conjugate_gradients(
            gram, mask[left], rhs[left], ridge, iterations=iterations, tolerance=tolerance
        )
    return z


def _small_supports(mask: Tensor, iterations: int) -> bool:
    """Whether factors of all rows cost less than the products of the iterations, as for a few short rows: 16
    of 64 inputs take two thirds of the time (of 576 inputs conjugate gradients are 2.4 times as fast even for
    one row)."""
    largest = int(mask.sum(1).max())
    return len(mask) * largest**2 <= _FEW or largest**3 / 3 < 2 * iterations * mask.shape[1] ** 2 / _ADVANTAGE


@dataclass(frozen=True)
class LeastSquares:
    """The method of a layer for `sequential.walk`.

    dampings are tried from the largest, and the one with the least held-out error is taken; the layer stays
    as it is unless that error is below its present one, at the values as rounded to the layer's dtype. The
    systems are solved to `tolerance`: what would be gained below it is not there on held-out inputs.
    """

    dampings: Sequence[float] = LADDER
    solver: Solver = "auto"
    iterations: int = ITERATIONS
    tolerance: float = 1e-3

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        parts = [(rows, part.gram(), part.drift()) for rows, part in evidence.groups]
        least, best, chosen = evidence.error(weight), None, 0.0
        z: Tensor | None = None
        for damping in sorted(self.dampings, reverse=True):
            z = torch.cat([
                least_squares(
                    weight[rows], mask[rows], evidence.original[rows], gram, drift, damping,
                    None if z is None else z[rows],
                    solver=self.solver, iterations=self.iterations, tolerance=self.tolerance,
                )
                for rows, gram, drift in parts
            ])  # fmt: skip
            values = (weight.float() + z).to(weight.dtype)
            error = evidence.error(values)
            if error < least:
                least, best, chosen = error, values, damping
        return LayerChange(best, details={} if best is None else {"damping": chosen})
