"""Where a figure comes from: versions, seed, hardware and peak memory, as plain JSON values."""

from __future__ import annotations

import os
import platform
import resource
import sys
from datetime import UTC, datetime
from typing import Any

from qubo_solvers.machine import processor, versions

PACKAGES = ("qubo-prune", "torch", "numpy", "numba", "transformers", "dimod", "dwave-neal", "ortools")


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Versions, date, processor, threads and devices of this process."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far (CUDA memory not counted)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
