"""The project's own format: a numpy .npz holding everything of a CardinalityQubo, low-rank factors included.

Arrays: format (version 1), either matrix (n, n), or factor (n, rank) and extra_diagonal (n,), in the dtype
they have, with start, column and value where a sparse part is added (see LowRankSparse); linear, offset,
groups, lower, upper, objective_scale; reference (n,) and radius where there are; name and metadata (JSON) as
text. No pickles are written or read.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank, QuadraticForm

VERSION = 1


def read(path: Path) -> CardinalityQubo:
    """The problem in an .npz file. Raises ValueError naming the file where it is damaged or holds none."""
    return _load(path)[0]


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata written beside the problem ({} where there is none)."""
    return _load(path)[1]


def write(problem: CardinalityQubo, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a problem, compressed, with optional metadata that JSON can hold."""
    arrays: dict[str, Any] = {
        "format": np.int64(VERSION),
        "linear": problem.linear,
        "offset": np.float64(problem.offset),
        "groups": problem.groups,
        "lower": problem.lower,
        "upper": problem.upper,
        "objective_scale": np.float64(problem.objective_scale),
        "name": np.str_(problem.name),
        "metadata": np.str_(json.dumps(metadata or {})),
    }
    if isinstance(problem.quadratic, LowRank | LowRankSparse):
        arrays |= {"factor": problem.quadratic.factor, "extra_diagonal": problem.quadratic.extra_diagonal}
        if isinstance(problem.quadratic, LowRankSparse):
            arrays |= {key: getattr(problem.quadratic, key) for key in ("start", "column", "value")}
    elif isinstance(problem.quadratic, Dense):
        arrays["matrix"] = problem.quadratic.matrix
    else:
        arrays["matrix"] = problem.quadratic.dense()
    if problem.reference is not None:
        arrays["reference"] = problem.reference
    if problem.radius is not None:
        arrays["radius"] = np.int64(problem.radius)
    with Path(path).open("wb") as file:  # an open file: numpy appends no suffix of its own
        np.savez_compressed(file, **arrays)


def _load(path: Path) -> tuple[CardinalityQubo, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
        if int(found["format"]) != VERSION:
            raise ValueError(f"format version {int(found['format'])}, this reader knows {VERSION}")
        quadratic: QuadraticForm
        if "start" in found:
            keys = ("factor", "extra_diagonal", "start", "column", "value")
            quadratic = LowRankSparse(*(found[key] for key in keys))
        elif "factor" in found:
            quadratic = LowRank(found["factor"], found["extra_diagonal"])
        else:
            quadratic = Dense(found["matrix"])
        problem = CardinalityQubo(
            quadratic,
            found["linear"].astype(np.float64),
            float(found["offset"]),
            found["groups"].astype(np.int32),
            found["lower"].astype(np.int64),
            found["upper"].astype(np.int64),
            found["reference"].astype(np.uint8) if "reference" in found else None,
            int(found["radius"]) if "radius" in found else None,
            str(found["name"]),
            float(found["objective_scale"]),
        )
        return problem, dict(json.loads(str(found["metadata"])))
    except KeyError as error:
        raise ValueError(f"{path}: not a problem file of this project: it has no array {error}") from error
    except (
        ValueError,
        TypeError,
        AttributeError,
        EOFError,
        OSError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path}: cannot be read as a problem: {error}") from error
