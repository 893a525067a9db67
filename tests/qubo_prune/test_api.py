"""prune() from Python: any module, batches and loss; what is refused, or fails, changes nothing."""

import json
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qubo_prune import prune
from qubo_prune.api import Data
from qubo_prune.calibration import Calibration
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.objective import CrossEntropy, KLToDense
from qubo_prune.preparation import statistics_batches
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_mlp, tiny_tokens

REFINE: dict[str, Any] = {
    "steps": 2,
    "windows": 2,
    "batch": 1,
    "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
    "candidates": {"per_side": 20, "max_flip": 1.0},
    "trust": {"swaps": 8, "damping": 0.0},
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.parse({"refine": REFINE, **changes})


def windows(n: int = 12) -> Tensor:
    return tiny_tokens(n * 16).reshape(n, 16)


def copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return all(torch.equal(now[name].view(torch.uint8), before[name].view(torch.uint8)) for name in before)


def labelled(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 6, generator=g), torch.randint(4, (n,), generator=g)) for n in sizes]


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


# -- what is pruned ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["magnitude", "wanda", "gradient", "random"])
@pytest.mark.parametrize("granularity", [None, "global", "input"])
def test_budget_is_exact(method: str, granularity: str | None) -> None:
    model = tiny_gpt2()
    dense = copy(model)
    report = prune(
        model, windows(), recipe(sparsity=0.37, initial={"method": method, "granularity": granularity})
    )
    layers = prunable_layers(model)
    total = sum(layer.numel for layer in layers.values())
    gone = sum(int((~mask).sum()) for mask in report.masks.values())
    assert gone == int(total * 0.37 + 0.5)
    for name, layer in layers.items():
        mask = report.masks[name]
        assert not layer.weight[~mask].any()
        assert torch.equal(layer.weight[mask], layer.oriented(dense[f"{name}.weight"])[mask])
    others = {n: v for n, v in dense.items() if n.removesuffix(".weight") not in layers}
    assert unchanged(model, others)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["pruned_weights"] == gone


@pytest.mark.parametrize("per_sample", [True, False])
def test_a_classifier_and_tuples(per_sample: bool) -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        reduction = "none" if per_sample else "mean"
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction=reduction)

    model = tiny_mlp(sizes=(6, 16, 16, 4))
    model.train()
    report = prune(model, labelled(8, 8, 5, 8, 3), recipe(), loss=loss)
    assert model.training
    assert report.to_dict()["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert report.figures["dense"] is not None
    assert report.swaps > 0
    for method in ("gradient", "magnitude"):
        prune(tiny_mlp(), (b for b in labelled(4, 4, 4)), recipe(initial={"method": method}), loss=classify)


def test_batches_the_engine_cannot_count() -> None:
    """Any object is a batch where the loss knows what to do with it."""

    class Sample:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    samples = [Sample(x) for x, _ in labelled(4, 4, 4, 4)]
    report = prune(tiny_mlp(), samples, recipe(), loss=lambda model, s: model(s.x).square().sum(1))
    assert report.curve
    model = tiny_mlp()
    before = copy(model)
    with pytest.raises(InputError, match="cannot count the samples"):
        prune(model, samples, recipe(), loss=lambda model, s: model(s.x).square().sum(1).mean())
    assert unchanged(model, before)


@pytest.mark.parametrize("wrap", [dict, UserDict])
def test_mappings(wrap: Any) -> None:
    batches = [wrap(input_ids=w[None], attention_mask=torch.ones(1, 16).long()) for w in windows()]
    plain = prune(tiny_llama(), windows(), recipe())
    report = prune(tiny_llama(), batches, recipe())
    assert all(torch.equal(report.masks[n], plain.masks[n]) for n in plain.masks)


@pytest.mark.parametrize("objective", [KLToDense, CrossEntropy])
def test_objectives_with_logits_of_their_own(objective: Any) -> None:
    options = {} if objective is KLToDense else {"labels": lambda batch: batch[1]}
    loss = objective(logits=lambda model, batch: model(batch[0]), **options)
    report = prune(tiny_mlp(), labelled(8, 8, 8), recipe(), loss=loss)
    assert report.figures["initial"] is not None


def test_the_papers_way() -> None:
    overrides = {
        "refine.steps": 6,
        "refine.candidates.block_size": 60,
        "refine.solver.options": {"restarts": 2},
    }
    report = prune(tiny_llama(), windows(), Recipe.load("icbs-paper", overrides))
    assert len(report.curve) == 6
    assert report.figures["accept_initial"] is None


def test_no_refinement() -> None:
    report = prune(tiny_llama(), windows(), recipe(refine=None))
    assert (report.stopped, report.curve, report.swaps) == ("no refinement", [], 0)


def test_same_seed_same_masks_and_nothing_global() -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, second = (prune(tiny_llama(), windows(), recipe(seed=3)) for _ in range(2))
    assert all(torch.equal(first.masks[n], second.masks[n]) for n in first.masks)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()


# -- ranges --------------------------------------------------------------------------------------------


def test_ranges_from_an_iterable() -> None:
    for n, part in ((3, 1), (8, 1), (15, 1), (16, 2), (40, 5)):
        data = Data.of(iter(range(n)), 1)
        assert [*data.calibrate, *data.accept, *data.report] == list(range(n))
        assert len(data.accept) == len(data.report) == part


def test_ranges_from_tensors() -> None:
    data = Data.of(windows(12), 5)
    assert [len(b) for b in (*data.calibrate, *data.accept, *data.report)] == [5, 5, 2]
    data = Data.of(Data(windows(4), windows(3), torch.empty(0)), 2)
    assert [[len(b) for b in part] for part in (data.calibrate, data.accept, data.report)] == [
        [2, 2],
        [2, 1],
        [],
    ]
    data = Data.of(Calibration(windows(4), windows(3), windows(2), tiny_tokens(200), {}), 2)
    assert (len(data.calibrate), len(data.accept), len(data.report)) == (2, 2, 1)
    data = Data.of(Data((b for b in windows(4).split(1)), [windows(2)]), 2)  # type: ignore[arg-type]
    assert (len(data.calibrate), len(data.accept), len(data.report)) == (4, 1, 0)
    data = Data.of(Data(windows(4), windows(2), [], windows(6), windows(3)), 2)
    assert (len(data.own), len(data.own_refit)) == (3, 2)


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (4, [4, 3]), (7, [7]), (9, [7])])
def test_statistics_are_of_as_many_windows_as_asked(batch: int, sizes: list[int]) -> None:
    data = Data.of(Data(windows(12), windows(1)), batch)
    seven = Recipe.parse({"calibration": {"windows": 7, "fisher_windows": 5}})
    found = statistics_batches(data, seven)
    assert [len(b) for b in found] == sizes
    assert torch.equal(torch.cat(found), windows(12)[:7])
    assert len(torch.cat(statistics_batches(data, seven, fisher=True))) == 5
    more = Recipe.parse({"calibration": {"windows": 99}})
    assert torch.equal(torch.cat(statistics_batches(data, more)), windows(12))
    counted = Data([("any", i) for i in range(9)], [])  # batches that cannot be counted are one sample each
    assert len(statistics_batches(counted, seven)) == 7


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], "calibration is empty"),
        (torch.empty(0, 16), "calibration is empty"),
        ([torch.zeros(1, 16)], "has 1 batches: give at least 3"),
        ({"input_ids": torch.zeros(3, 16)}, "one dict: give a list of batches"),
        ("text.txt", "one str"),
        (torch.zeros(64), r"shape \(64,\)"),
        (Data([torch.zeros(1, 16).long()], []), "give accepting batches"),
        ([(torch.zeros(1, 16), 0)] * 3, "a batch is a tuple"),
    ],
)
def test_calibration_that_cannot_be_used(calibration: Any, message: str) -> None:
    model = tiny_llama()
    before = copy(model)
    with pytest.raises(InputError, match=message):
        prune(model, calibration, recipe())
    assert unchanged(model, before)


# -- refusals and errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"include": ["*.nothing"]}, "matches no linear layer"),
        ({"exclude": ["nothing"]}, "matches no linear layer"),
        ({"sparsity": 1e-9}, "prunes none or all"),
        ({"refine": {"solver": {"name": "best"}}}, "best"),
        ({"refine": {"solver": {"name": "anneal", "options": {"speed": 3}}}}, "speed"),
    ],
)
def test_recipes_that_do_not_fit_the_model(changes: dict[str, Any], message: str) -> None:
    model = tiny_llama()
    before = copy(model)
    with pytest.raises(ValueError, match=message):
        prune(model, windows(), recipe(**changes))
    assert unchanged(model, before)


@pytest.mark.parametrize(
    "changes", [{"objective": "cross_entropy"}, {"initial": {"method": "gradient"}, "refine": None}]
)
def test_cross_entropy_without_tokens(changes: dict[str, Any]) -> None:
    model = tiny_mlp()
    before = copy(model)
    with pytest.raises(InputError, match="without a causal language model"):
        prune(model, [torch.rand(8, 6)] * 6, Recipe.parse(changes))
    assert unchanged(model, before)


def test_settings_assigned_one_by_one_are_checked() -> None:
    model, own = tiny_llama(), recipe()
    before = copy(model)
    assert own.refine is not None
    own.refine.candidates.criterion = "gradient"
    with pytest.raises(InputError, match="candidates by gradient are of one layer"):
        prune(model, windows(), own)
    assert unchanged(model, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_checkpoints(bad: float) -> None:
    model = tiny_llama()
    next(iter(prunable_layers(model).values())).weight[1, 2] = bad
    with pytest.raises(InputError, match="NaN or infinite weights"):
        prune(model, windows(), recipe())


def test_export_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="not an empty folder"):
            prune(tiny_llama(), windows(), recipe(), export_blocks=folder)
    prune(tiny_llama(), windows(), recipe(), export_blocks=tmp_path / "new")
    assert len(list((tmp_path / "new").glob("*.npz"))) == 2


class FailsAt:
    """A loss that raises at its nth call."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.left, self.error = at, error

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error("stop")
        return classify(model, batch)


def calls_of_a_run() -> int:
    counter = FailsAt(10**9, RuntimeError)
    prune(tiny_mlp(), labelled(4, 4, 4, 4), recipe(), loss=counter)
    return 10**9 - counter.left


def test_an_error_anywhere_restores_the_dense_weights_to_the_bit() -> None:
    total = calls_of_a_run()
    assert total > 10
    for at in range(1, total + 1):
        model = tiny_mlp()
        with torch.no_grad():
            model[0].weight[0, 0] = -0.0
        before = copy(model)
        with pytest.raises(RuntimeError, match="stop"):
            prune(model, labelled(4, 4, 4, 4), recipe(), loss=FailsAt(at, RuntimeError))
        assert unchanged(model, before), at
        assert all(p.requires_grad for p in model.parameters())


def test_an_interrupt_anywhere_leaves_the_dense_model_or_a_valid_mask() -> None:
    total = calls_of_a_run()
    returned = 0
    for at in range(1, total + 1):
        model = tiny_mlp()
        before = copy(model)
        try:
            report = prune(model, labelled(4, 4, 4, 4), recipe(), loss=FailsAt(at, KeyboardInterrupt))
        except KeyboardInterrupt:
            assert returned == 0  # before the refinement only
            assert unchanged(model, before), at
            continue
        returned += 1
        assert report.stopped == "interrupted"
        for name, layer in prunable_layers(model).items():
            mask = report.masks[name]
            assert int((~mask).sum()) == int((layer.weight == 0).sum())
            assert torch.equal(layer.weight, torch.where(mask, before[f"{name}.weight"], 0.0))
    assert returned > total / 2


def test_progress_is_told() -> None:
    seen: list[Progress] = []
    report = prune(tiny_llama(), windows(), recipe(), on_progress=seen.append)
    assert [p.step for p in seen if p.step is not None] == report.curve
    assert {"dense answers", "statistics", "first mask", "refine"} <= {p.phase for p in seen}


def test_row_problems_need_a_batch_to_hold_out() -> None:
    recipe = Recipe.parse({"refine": None, "rows": {}, "calibration": {"windows": 1}})
    model = tiny_llama()
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(InputError, match="row problems hold one calibration batch out"):
        prune(model, tiny_tokens(32 * 16).reshape(32, 16), recipe)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
