"""Couplings of a block's weights within output rows: the blocks of a Kronecker-factored Fisher.

The Fisher of a linear layer is E[(g g') x (x x')] over the gradients g of its outputs and its inputs x. K-FAC
(arXiv 1503.05671, equation 1) takes the two as independent: E[g g'] x E[x x']. Of that, the block of output
row o is E[g_o^2] E[x x'], which is positive semidefinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qubo_prune.blocks import Block
from qubo_prune.layers import Layer
from qubo_prune.quadratic import Sparse
from qubo_prune.statistics.fisher import KroneckerDiagonal
from qubo_prune.statistics.input_gram import InputGram


def row_couplings(
    block: Block, layers: dict[str, Layer], diagonal: KroneckerDiagonal, gram: InputGram
) -> Sparse:
    """E[g_o^2] E[x_i x_j] for each two weights of the block in one output row o of one layer, diagonal left
    out (it is that of `KroneckerDiagonal.diagonal`)."""
    rows, columns, values = [], [], []
    first = 0
    for name, index in block.indices.items():
        inputs = layers[name].shape[1]
        row, feature = index // inputs, index % inputs
        a, b = same_row(row)
        rows.append(first + a)
        columns.append(first + b)
        values.append(diagonal.outputs(name)[row[a]] * gram.entries(name, feature[a], feature[b]))
        first += len(index)
    return Sparse(torch.cat(rows), torch.cat(columns), torch.cat(values))


def same_row(row: Tensor) -> tuple[Tensor, Tensor]:
    """The ordered pairs of different positions with the same entry of `row` (n,), which ascends: int64 a and
    b, by a and then b."""
    count = row.unique_consecutive(return_counts=True)[1]
    size = torch.repeat_interleave(count, count)
    begin = torch.repeat_interleave(count.cumsum(0) - count, count)
    a = torch.repeat_interleave(torch.arange(len(row), device=row.device), size)
    b = (
        torch.arange(len(a), device=row.device)
        - torch.repeat_interleave(size.cumsum(0) - size, size)
        + begin[a]
    )
    other = a != b
    return a[other], b[other]
