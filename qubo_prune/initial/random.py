"""Random: every weight as likely as any other; the floor that every method must pass."""

import zlib

import torch
from torch import Tensor

from qubo_prune.layers import Layer


def scores(layer: Layer, seed: int = 0) -> Tensor:
    """(out, in) float32 uniform numbers, the same for the same seed, layer name and shape."""
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(layer.name.encode()))
    return torch.rand(layer.shape, generator=generator).to(layer.weight.device)
