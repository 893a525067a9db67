"""What came of a run: the report object (its JSON form is the shell's `--json`)."""

from qubo_prune.report.prune_report import PruneReport

__all__ = ["PruneReport"]
