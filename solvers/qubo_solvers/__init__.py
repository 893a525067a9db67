"""Solvers for binary quadratic problems under group counts: one problem class, one registry, one solve().

    from qubo_solvers import CardinalityQubo, solve
    problem = CardinalityQubo.cardinality(Q, linear, k)     # Q symmetric (n, n): minimise x'Qx + linear'x
    solution = solve(problem, "anneal", seed=0, time_limit=2.0)
    solution.assignment, solution.energy, solution.status

Importing this package imports numpy and nothing heavier; a solver's back end is imported when it is used.
"""

if __name__ != "qubo_solvers":  # a second copy would have a second registry and a second CardinalityQubo
    raise ImportError(f"import this package as 'qubo_solvers', not as {__name__!r}: two copies do not mix")

from qubo_solvers.batch import BatchSolution, RowBatch, SharedGram, solve_batch
from qubo_solvers.bounds import Bound, lower_bound
from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank, QuadraticForm
from qubo_solvers.registry import availability, capabilities, get, names, register
from qubo_solvers.solution import Incumbent, OnIncumbent, Solution, Status
from qubo_solvers.solver import Capabilities, Recorder, Solver
from qubo_solvers.solving import solve
from qubo_solvers.start import greedy_start, random_start, repair

__all__ = [
    "Assignment",
    "BatchSolution",
    "Bound",
    "Capabilities",
    "CardinalityQubo",
    "Dense",
    "Incumbent",
    "LowRank",
    "LowRankSparse",
    "OnIncumbent",
    "QuadraticForm",
    "Recorder",
    "RowBatch",
    "SharedGram",
    "Solution",
    "Solver",
    "Status",
    "availability",
    "capabilities",
    "get",
    "greedy_start",
    "lower_bound",
    "names",
    "random_start",
    "register",
    "repair",
    "solve",
    "solve_batch",
]
