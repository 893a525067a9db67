"""D-Wave's cloud service: whether it is configured, calls that fail with one line, and what they took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

TIMES = ("qpu_access_time", "charge_time", "run_time")  # of a hybrid solver's answer, in microseconds


class Unanswered(Exception):
    """The service gave no answer; the message says why, in one line."""


def missing() -> str:
    """Why the service cannot be asked; "" where its environment or configuration file has a token.

    As D-Wave's own client reads them: DWAVE_API_TOKEN, or the profile (DWAVE_PROFILE) of dwave.conf
    (DWAVE_CONFIG_FILE). Needs dwave.cloud, and nothing of the network.
    """
    from dwave.cloud.config import load_config
    from dwave.cloud.config.exceptions import ConfigFileError

    try:
        token = load_config().get("token")
    except (ConfigFileError, ValueError) as error:
        return f"cannot read D-Wave's configuration: {_line(error)}"
    if token:
        return ""
    return (
        "has no token of D-Wave's service: set DWAVE_API_TOKEN, or write dwave.conf with: dwave config create"
    )


def ask(call: Callable[[], Any]) -> Any:
    """What the call returns. Raises Unanswered where the service, its client or the network fails."""
    from dwave.cloud import exceptions as cloud
    from dwave.system.exceptions import FailoverCondition

    failures = (
        OSError,  # the network, and dwave.cloud's RequestError with all its kinds
        ValueError,  # a problem or parameter that the service does not take, no token, no such device
        cloud.PollingTimeout,
        cloud.CanceledFutureError,
        cloud.ProblemUploadError,
        cloud.UseAfterCloseError,
        FailoverCondition,
    )
    try:
        return call()
    except failures as error:
        raise Unanswered(f"D-Wave's service: {_line(error)}") from error


def lend(solver: Any, **changes: Any) -> None:
    """Give a solver that has its sampler capabilities of its own: nothing to configure, and the changes."""
    own = replace(type(solver).capabilities, configured="", **changes)
    object.__setattr__(solver, "capabilities", own)


class Calls:
    """The calls of one solve: counted, their times added up. A failure after the first one only ends them."""

    def __init__(self) -> None:
        self.count = 0
        self.failure = ""
        self.problems: list[str] = []
        self.microseconds: dict[str, float] = {}

    def sample(self, call: Callable[[], Any], model: Any) -> Any:
        """The call's sample set of a dimod model; an empty one where it fails after others had succeeded.

        Raises Unanswered where the first call fails.
        """
        from dimod import SampleSet

        def resolved() -> Any:
            samples = call()
            samples.resolve()
            return samples

        try:
            samples = ask(resolved)
        except Unanswered as error:
            if not self.count:
                raise
            self.failure = f"ended after {self.count} calls: {error}"
            labels = list(model.variables)
            return SampleSet.from_samples_bqm((np.zeros((0, len(labels)), np.int8), labels), model)
        self.count += 1
        info = samples.info
        if "problem_id" in info:
            self.problems.append(str(info["problem_id"]))
        for key, value in info.get("timing", {key: info[key] for key in TIMES if key in info}).items():
            if not key.endswith("_per_sample"):
                self.microseconds[key] = self.microseconds.get(key, 0.0) + float(value)
        return samples

    def work(self) -> dict[str, Any]:
        """calls, microseconds (added up by the service's own names), problems (their ids there)."""
        return {"calls": self.count, "microseconds": self.microseconds, "problems": self.problems}


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
