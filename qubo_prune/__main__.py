"""python -m qubo_prune: the same as the command `qubo-prune`."""

from qubo_prune.cli import app

if __name__ == "__main__":
    app(prog_name="qubo-prune")
