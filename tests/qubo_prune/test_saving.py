"""Saved folders open with plain transformers, zeros and ties in place; refusals leave nothing behind."""

import os
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from qubo_prune.errors import InputError, MaskMismatch
from qubo_prune.layers import prunable_layers
from qubo_prune.mask_file import load_masks, save_masks
from qubo_prune.masks import Masks, apply, keep_topk, verify
from qubo_prune.models import LoadedModel, load_model
from qubo_prune.saving import check_output, save_model
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_mlp, tiny_tokenizer


def half(model: torch.nn.Module) -> Masks:
    layers = prunable_layers(model)
    masks = {
        name: keep_topk(layer.weight.abs(), layer.numel // 2, "output") for name, layer in layers.items()
    }
    apply(layers, masks)
    return masks


@pytest.mark.parametrize("family", TINY_MODELS)
def test_round_trip(family: str, tmp_path: Path) -> None:
    model = TINY_MODELS[family]()
    masks = half(model)
    folder = save_model(model, tiny_tokenizer(), masks, tmp_path / "deep" / "out")
    assert folder == tmp_path / "deep" / "out"
    assert os.listdir(tmp_path / "deep") == ["out"]

    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    verify(prunable_layers(plain), masks)
    for name, tensor in model.state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight  # type: ignore[operator]
    assert (plain.get_input_embeddings().weight is plain.get_output_embeddings().weight) == tied

    loaded = load_model(folder)
    assert loaded.tokenizer("café <|end|>").input_ids == tiny_tokenizer()("café <|end|>").input_ids
    assert not loaded.model.training
    found = load_masks(folder)
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())


def test_bfloat16_and_no_tokenizer(tmp_path: Path) -> None:
    model = tiny_llama().to(torch.bfloat16)
    folder = save_model(LoadedModel(model, None, "tiny"), None, half(model), tmp_path / "out")
    loaded = load_model(folder, dtype="bfloat16")
    assert loaded.tokenizer is None
    assert loaded.model.lm_head.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


def test_plain_module(tmp_path: Path) -> None:
    model = tiny_mlp()
    folder = save_model(model, None, half(model), tmp_path / "out")
    assert sorted(os.listdir(folder)) == ["masks.safetensors", "model.safetensors"]
    assert torch.equal(load_file(folder / "model.safetensors")["0.weight"], model[0].weight)


def test_refusals_write_nothing(tmp_path: Path) -> None:
    model = tiny_llama()
    masks = {name: ~mask for name, mask in half(model).items()}
    with pytest.raises(MaskMismatch, match="not zero"):
        save_model(model, None, masks, tmp_path / "out")
    with pytest.raises(InputError, match="no such layer"):
        save_model(model, None, {"nope": torch.ones(1, 1, dtype=torch.bool)}, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        save_model(model, None, {}, tmp_path / "full")
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "full" / "mine.txt")
    with pytest.raises(InputError, match="not a folder that can be written"):
        check_output(tmp_path / "full" / "mine.txt" / "below")
    assert os.listdir(tmp_path) == ["full"]
    assert os.listdir(tmp_path / "full") == ["mine.txt"]


def test_interruption_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        def save_pretrained(self, folder: str) -> None:
            raise KeyboardInterrupt

    model = tiny_llama()
    with pytest.raises(KeyboardInterrupt):
        save_model(model, Broken(), half(model), tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_existing_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    save_model(tiny_mlp(), None, {}, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]


def test_damaged_mask_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no mask file"):
        load_masks(tmp_path)
    path = tmp_path / "masks.safetensors"
    save_masks({"a": torch.ones(2, 9, dtype=torch.bool)}, path)
    assert load_masks(path)["a"].all()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="cannot be read"):
        load_masks(path)
    path.write_bytes(whole.replace(b"[2, 9]", b"[2, 7]"))
    with pytest.raises(InputError, match="does not hold"):
        load_masks(path)
    path.write_bytes(whole.replace(b"qubo-prune-masks-1", b"qubo-prune-masks-9"))
    with pytest.raises(InputError, match="not a mask file"):
        load_masks(path)
