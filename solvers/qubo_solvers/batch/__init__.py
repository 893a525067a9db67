"""Many cardinality-constrained rows that share a Gram matrix, solved together on the CPU or an accelerator.

    from qubo_solvers.batch import RowBatch, solve_batch
    batch = RowBatch.cardinality(gram, weights, k)          # NumPy arrays or torch tensors
    solution = solve_batch(batch, "descent", initial=pruned)
    masks = solution.assignments == 0                       # (R, n), True = kept

Importing this imports neither numba nor torch; what a call needs is imported by it.
"""

from qubo_solvers.batch.problem import RowBatch
from qubo_solvers.batch.shared_gram import SharedGram
from qubo_solvers.batch.solve import BatchSolution, solve_batch

__all__ = ["BatchSolution", "RowBatch", "SharedGram", "solve_batch"]
