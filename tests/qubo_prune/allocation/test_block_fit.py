"""What is judged at the exact counts: the masks of `keep_topk` and `keep_rows`, and the answers they give."""

import pytest
import torch

from qubo_prune.allocation.block_fit import Reconstruction, _Learned, fit_block
from qubo_prune.allocation.learned_rate import even_counts
from qubo_prune.allocation_settings import Besa
from qubo_prune.block_calls import call_of, hidden
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.layers import block_stack, prunable_layers
from qubo_prune.prefix import Blocks
from qubo_prune.resident import Resident
from qubo_prune.selection import keep_rows, keep_topk
from qubo_prune.testing import tiny_llama, tiny_tokens


def layer_and_scores() -> tuple:
    layer = next(iter(prunable_layers(tiny_llama()).values()))
    scores = layer.weight.abs()
    scores[1:4, 2:9] = scores[0, 0]  # ties within and between rows
    scores[5] = scores[6]
    return layer, scores


def test_counted_prunes_as_keep_topk_by_output() -> None:
    layer, scores = layer_and_scores()
    part = _Learned(layer, layer.weight, scores, layer.numel // 2, Besa())
    out, inputs = layer.shape
    for count in (0, 1, out - 1, out, 3 * out + 5, layer.numel // 2 + 7, layer.numel - 1, layer.numel):
        expected = layer.oriented(layer.weight * keep_topk(scores, count, "output"))
        assert torch.equal(part.counted(part.values(), count, None), expected)
        assert int(even_counts(scores, part.order, count).sum()) == count
    rows = torch.arange(out) % (inputs + 1)
    expected = layer.oriented(layer.weight * keep_rows(scores, rows))
    assert torch.equal(part.counted(part.values(), int(rows.sum()), rows), expected)


def test_scores_that_are_not_finite_are_refused() -> None:
    layer, scores = layer_and_scores()
    scores[2, 3] = torch.nan
    with pytest.raises(InputError, match=f"{layer.name}.*1 scores are NaN or infinite"):
        _Learned(layer, layer.weight, scores, 5, Besa())


@pytest.mark.parametrize("per", ["layer", "row"])
@pytest.mark.parametrize("steps", [0, 6])
@torch.no_grad()
def test_the_answers_are_those_of_the_counts_that_were_chosen(per: str, steps: int) -> None:
    model = tiny_llama().requires_grad_(False).eval()
    name, modules = block_stack(model)
    blocks = Blocks(forward_of(model), modules)
    calls = [call_of(blocks, modules, tiny_tokens(2 * 20, seed).reshape(2, 20), 0, None) for seed in range(2)]
    found = prunable_layers(model, (f"{name}.0.*",))
    layers = {layer.removeprefix(f"{name}.0.") + ".weight": part for layer, part in found.items()}
    scores = {key: layer.weight.abs() for key, layer in layers.items()}
    counts = {key: layer.numel // 2 for key, layer in layers.items()}
    targets = [hidden(call.run(modules[0])) for call in calls]
    reconstruction = Reconstruction(Resident(modules[0]), calls, targets)
    fit = fit_block(reconstruction, layers, scores, counts, Besa(steps=steps, per=per, learning_rate=0.3))
    assert fit.learned == (steps > 0)
    weights = {
        key: layer.oriented(layer.weight * (
            keep_topk(scores[key], fit.layers[key].count, "output") if fit.layers[key].rows is None
            else keep_rows(scores[key], fit.layers[key].rows)
        ))
        for key, layer in layers.items()
    }  # fmt: skip
    for call, answer in zip(calls, fit.answers, strict=True):
        assert torch.equal(hidden(answer), hidden(call.run(modules[0], weights)))
    error = fit.error_learned if fit.learned else fit.error_start
    assert reconstruction.judged(weights)[0] == pytest.approx(error)
