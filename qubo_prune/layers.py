"""The linear layers of a model that may be pruned, found by structure, each seen as (out, in)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer: its name in the model, its module, and its weight seen as (out, in).

    `transposed` is True where the module stores (in, out), as transformers' Conv1D does.
    """

    name: str
    module: nn.Module
    transposed: bool = False

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself, in the shape the module stores."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def weight(self) -> Tensor:
        """(out, in) view of the parameter's data, without gradient: writing into it changes the model."""
        return self.oriented(self.parameter.detach())

    @property
    def grad(self) -> Tensor | None:
        """(out, in) view of the parameter's gradient, or None where there is none."""
        return None if self.parameter.grad is None else self.oriented(self.parameter.grad)

    def oriented(self, tensor: Tensor) -> Tensor:
        """A tensor in the module's own shape, viewed as (out, in)."""
        return tensor.t() if self.transposed else tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        out, inputs = self.weight.shape
        return int(out), int(inputs)

    @property
    def numel(self) -> int:
        """out * in."""
        return int(self.parameter.numel())

    def norm(self) -> float:
        """Frobenius norm of the weights rounded to bfloat16: the same for a model in whatever dtype."""
        return float(torch.linalg.vector_norm(self.weight.bfloat16(), dtype=torch.float64))


def check_finite(layers: Mapping[str, Layer]) -> None:
    """InputError, naming the layer: weights that are NaN or infinite."""
    for name, layer in layers.items():
        if not bool(torch.isfinite(layer.weight).all()):
            raise InputError(f"layer {name!r} has NaN or infinite weights: the checkpoint is broken")


def check_group(layers: Mapping[str, Layer], group: int | None, setting: str) -> None:
    """InputError, naming the setting: a group that does not divide a layer's inputs."""
    for name, layer in layers.items():
        if group is not None and layer.shape[1] % group:
            raise InputError(
                f"layer {name!r} has {layer.shape[1]} inputs, which {group} does not divide: choose another "
                f"{setting}, or exclude the layer."
            )


def prunable_layers(
    model: nn.Module,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    all_linear: bool = False,
) -> dict[str, Layer]:
    """The prunable linear layers of a model by name, in the model's own order.

    Linear layers are `nn.Linear` and transformers' `Conv1D`; embeddings, convolutions and batched expert
    tensors are not. Which of them, with no pattern given:

    * those inside the model's blocks: the `nn.ModuleList` of same-class modules, nested in no other, which
      holds the most linear weights. Head and embeddings are outside it. An encoder-decoder gives its larger
      stack;
    * in a model without such a list (an MLP), all of them but the declared output embeddings; the last layer
      of a plain MLP counts, leave it out with `exclude`;
    * with `all_linear=True`, all of them, in any model, but those tied to an embedding.

    include: patterns; when given, exactly the linear layers of the whole model that match one, so the head
        too ("*" means every linear layer). A head tied to the embedding is prunable only in this way, and
    stays tied. exclude: patterns; matching layers are left out.
    A pattern is matched against the whole name as by fnmatch ("*.q_proj"), or, written "re:PATTERN", searched
    for as a regular expression. A weight that two modules share appears once, under its first name; what is
    seen of its inputs is seen at that module, its gradients are those of both.

    InputError: a pattern that matches no linear layer, an invalid expression, no layer left, or a layer whose
    weights are not floating point (a quantised model).
    """
    linear = linear_layers(model)
    included, excluded = _matches(include, linear, "include"), _matches(exclude, linear, "exclude")
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    if include:
        chosen = included
    else:
        untied = {name for name, layer in linear.items() if id(layer.parameter) not in embeddings}
        chosen = untied if all_linear else untied & _default_names(model, linear)
    layers: dict[str, Layer] = {}
    seen: set[int] = set()
    for name, layer in linear.items():
        if name in chosen and name not in excluded and id(layer.parameter) not in seen:
            if not layer.parameter.is_floating_point():
                kind = layer.parameter.dtype
                raise InputError(
                    f"layer {name}: its weights are {kind}, not floating point: load it unquantised."
                )
            seen.add(id(layer.parameter))
            layers[name] = layer
    if not layers:
        raise InputError(
            f"{type(model).__name__}: no prunable linear layer is left (include={tuple(include)}, "
            f"exclude={tuple(exclude)}); its linear layers are: {_some(linear)}."
        )
    return layers


def linear_layers(model: nn.Module) -> dict[str, Layer]:
    """Every linear layer of a model, prunable or not, by name; a module used twice appears once."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            layers[name] = Layer(name, module)
        elif type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
            layers[name] = Layer(name, module, transposed=True)
    return layers


def block_stack(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The name and the list of the model's blocks, by the rule of `prunable_layers`; None without such a
    list."""
    found = _stack(model, linear_layers(model))
    if found is None:
        return None
    stack = model.get_submodule(found[0])
    assert isinstance(stack, nn.ModuleList)
    return found[0], stack


def _stack(model: nn.Module, linear: dict[str, Layer]) -> tuple[str, set[str]] | None:
    """The name of the largest stack of blocks, and the linear layers inside it."""
    stacks: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1 and not nested:
            inside = {layer for layer in linear if layer.startswith(f"{name}.")}
            if inside and not isinstance(module[0], nn.Linear):
                stacks[name] = inside
    return max(stacks.items(), key=lambda s: sum(linear[name].numel for name in s[1]), default=None)


def _default_names(model: nn.Module, linear: dict[str, Layer]) -> set[str]:
    """The linear layers inside the largest stack of blocks, or all but the output embeddings without one."""
    found = _stack(model, linear)
    if found is not None:
        return found[1]
    head = _output_embeddings(model)
    return {name for name, layer in linear.items() if layer.module is not head}


def _output_embeddings(model: nn.Module) -> object:
    """The head a transformers model declares, or None."""
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if callable(getter) else None


def _matches(patterns: Sequence[str], linear: dict[str, Layer], argument: str) -> set[str]:
    """Names that match any pattern; a pattern without a match is refused."""
    if isinstance(patterns, str):
        raise InputError(f"{argument}={patterns!r}: give a list of patterns, not one string.")
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in linear if match_pattern(pattern, name, argument)}
        if not hits:
            raise InputError(
                f"{argument} pattern {pattern!r} matches no linear layer; there are: {_some(linear)}."
            )
        found |= hits
    return found


def match_pattern(pattern: str, name: str, argument: str) -> bool:
    """Whether one name matches one pattern (fnmatch, or a regular expression after `re:`)."""
    if not pattern.startswith("re:"):
        return fnmatchcase(name, pattern)
    try:
        return re.search(pattern[3:], name) is not None
    except re.error as error:
        raise InputError(f"{argument} pattern {pattern!r} is not a regular expression: {error}.") from error


def _some(names: dict[str, Layer], most: int = 8) -> str:
    """The first and last few names, for a message."""
    every = list(names)
    if len(every) <= most:
        return ", ".join(every) or "none"
    return ", ".join([*every[: most - 1], "...", every[-1]]) + f" ({len(every)} in all)"
