"""Masks on disk: a safetensors file of packed bits, 1 byte for 8 weights, with the shapes in its metadata."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.masks import Masks, pack, unpack

MASK_FILE = "masks.safetensors"
"""The name of the mask file in a saved model's folder."""
_FORMAT = "qubo-prune-masks-1"


def save_masks(masks: Mapping[str, Tensor], path: str | Path) -> None:
    """Write masks: one uint8 tensor (out, ceil(in / 8)) a layer, high bit first, 1 = kept."""
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    packed = {name: pack(mask) for name, mask in masks.items()}
    save_file(packed, str(path), metadata={"format": _FORMAT, "shapes": json.dumps(shapes)})


def load_masks(path: str | Path) -> Masks:
    """The masks of a mask file, or of a saved model's folder. InputError: no file, or not a mask file."""
    file = Path(path)
    if file.is_dir():
        file = file / MASK_FILE
    if not file.is_file():
        raise InputError(
            f"masks {str(path)!r}: there is no mask file; give a saved model's folder or its {MASK_FILE}."
        )
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(f"masks {str(path)!r}: not a mask file of this program (format {_FORMAT}).")
            shapes = json.loads(metadata["shapes"])
            if set(shapes) != set(opened.keys()):
                raise InputError(
                    f"masks {str(path)!r}: its shapes and its tensors have different names; it is damaged."
                )
            return {
                name: unpack(opened.get_tensor(name), (out, width)) for name, (out, width) in shapes.items()
            }
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"masks {str(path)!r}: the file cannot be read ({error}).") from error
