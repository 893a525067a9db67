"""A first mask by a one-shot score: METHODS is the table, `initial_masks` the way to use it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from qubo_prune.budgets import uniform_counts
from qubo_prune.errors import InputError
from qubo_prune.initial import fisher, gradient, magnitude, random, wanda
from qubo_prune.layers import Layer
from qubo_prune.masks import Masks
from qubo_prune.patterns import Pattern
from qubo_prune.selection import Granularity, keep_rows, keep_topk, keep_topk_global, nm_mask, prune_count

Need = Literal["moments", "gradients", "diagonal"]


class InputNorms(Protocol):
    """What is asked of input statistics; `statistics.gram.InputMoments` has it."""

    def __contains__(self, name: str) -> bool:
        """Whether there are statistics of this layer."""

    def norm(self, name: str) -> Tensor:
        """(in,) root mean square of each input feature of a layer."""


class OutputNorms(Protocol):
    """What is asked of the Fisher's statistics; `statistics.fisher.KroneckerDiagonal` has it."""

    def __contains__(self, name: str) -> bool:
        """Whether there are statistics of this layer."""

    def input_norm(self, name: str) -> Tensor:
        """(in,) root mean square of each input feature of a layer."""

    def output_norm(self, name: str) -> Tensor:
        """(out,) root mean square of the loss gradient at each output of a layer."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a method may look at besides the weights; see each method's `needs`.

    moments: of the layers' inputs. gradients: layer name -> (out, in) mean gradient. diagonal: the Fisher's,
    with output_power, see `initial.fisher`. seed: for random choices.
    """

    moments: InputNorms | None = None
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    diagonal: OutputNorms | None = None
    output_power: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A one-shot score: `scores(layer, evidence)` (out, in), its usual granularity, and what it needs."""

    scores: Callable[[Layer, Evidence], Tensor]
    granularity: Granularity = "layer"
    needs: Need | None = None


def _wanda(layer: Layer, evidence: Evidence) -> Tensor:
    assert evidence.moments is not None
    return wanda.scores(layer, evidence.moments.norm(layer.name))


def _fisher(layer: Layer, evidence: Evidence) -> Tensor:
    found = evidence.diagonal
    assert found is not None
    # moments may come from more windows than the Fisher, which needs a backward pass
    inputs = found.input_norm(layer.name) if evidence.moments is None else evidence.moments.norm(layer.name)
    return fisher.scores(layer, inputs, found.output_norm(layer.name), evidence.output_power)


METHODS: dict[str, Method] = {
    "magnitude": Method(lambda layer, evidence: magnitude.scores(layer)),
    "wanda": Method(_wanda, "output", "moments"),
    "fisher": Method(_fisher, "layer", "diagonal"),
    "gradient": Method(
        lambda layer, evidence: gradient.scores(layer, evidence.gradients[layer.name]), needs="gradients"
    ),
    "random": Method(lambda layer, evidence: random.scores(layer, evidence.seed)),
}
"""Every method of a first mask, by name."""


def initial_masks(
    method: str,
    layers: Mapping[str, Layer],
    sparsity: float | Mapping[str, int],
    granularity: Granularity | None = None,
    *,
    evidence: Evidence | None = None,
    group: int | None = None,
    pattern: Pattern | None = None,
    rows: Mapping[str, Tensor] | None = None,
) -> Masks:
    """bool (out, in) for each layer, True = kept, pruning the lowest scores of a method; weights are not
    changed.

    sparsity: the fraction to prune, the same in each layer with the total exact ("global": over all
        together); or how many weights to prune in each layer, from an allocation.
    granularity: what counts hold over, see `keep_topk`; None: the method's usual one (Wanda "output", else
    "layer"). evidence: what the method needs, as its `METHODS` entry says.
    group: M; each layer then prunes its count in equal shares of each M consecutive inputs of a row. pattern:
    N:M in every layer; sparsity is then the pattern's own, and granularity None. rows: layer -> (out,)
    weights to prune in each row, for layers whose allocation says that.

    InputError, before any work: an unknown method, evidence that is missing or lacks a layer, counts that fit
    no layer, counts for each layer together with "global", or a pattern with another sparsity, with a
    granularity or with inputs that M does not divide. Later: scores that are not finite (the layer is named).
    """
    if method not in METHODS:
        raise InputError(f"initial method {method!r} is unknown: use one of {', '.join(METHODS)}.")
    chosen, evidence = METHODS[method], evidence or Evidence()
    if pattern is not None:
        pattern.check_sparsity(sparsity)
        if granularity is not None:
            raise InputError(f"pattern {pattern} says what is counted over: leave the granularity out.")
        sparsity, group = pattern.counts(layers), pattern.group
    granularity = granularity or chosen.granularity
    _check_evidence(method, chosen, layers, evidence)
    if granularity == "global":
        if not isinstance(sparsity, int | float):
            raise InputError('granularity "global" takes one sparsity, not a count for each layer.')
        scores = {name: chosen.scores(layer, evidence) for name, layer in layers.items()}
        return keep_topk_global(scores, prune_count(sum(s.numel() for s in scores.values()), sparsity))
    counts = uniform_counts(layers, sparsity) if isinstance(sparsity, int | float) else sparsity
    for name, layer in layers.items():
        if not 0 <= counts.get(name, -1) <= layer.numel:
            raise InputError(f"layer {name!r}: it needs a count of weights to prune from 0 to {layer.numel}.")
        if group is not None and counts[name] * group % layer.numel:
            raise InputError(f"layer {name!r}: {counts[name]} of {layer.numel} weights is not N of {group}.")
    if group is not None:
        kept = {name: group - counts[name] * group // layer.numel for name, layer in layers.items()}
        return {
            name: nm_mask(chosen.scores(layer, evidence), kept[name], group, name=name)
            for name, layer in layers.items()
        }
    rows = rows or {}
    return {
        name: keep_rows(chosen.scores(layer, evidence), rows[name], name=name)
        if name in rows
        else keep_topk(chosen.scores(layer, evidence), counts[name], granularity, name=name)
        for name, layer in layers.items()
    }


def _check_evidence(name: str, method: Method, layers: Mapping[str, Layer], evidence: Evidence) -> None:
    """InputError unless the evidence a method needs is there for every layer."""
    if method.needs is None:
        return
    have = {"moments": evidence.moments, "gradients": evidence.gradients, "diagonal": evidence.diagonal}
    found = have[method.needs]
    lacking = [layer for layer in layers if found is None or layer not in found]
    if lacking:
        raise InputError(
            f"initial method {name!r} needs {method.needs} of every layer: they lack for {lacking[0]!r}"
            f"{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}; collect them first."
        )
