"""A device that is there, or one clear refusal."""

import torch

from qubo_prune.errors import InputError, first_line


def usable_device(device: str | torch.device, setting: str = "device") -> torch.device:
    """The device, with its index. InputError, naming the setting: this machine has none of its kind, or it is
    meta, which holds shapes and no values."""
    try:
        found = torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError) as error:
        raise _unusable(device, setting, first_line(error)) from error
    if found.type == "meta":
        raise _unusable(device, setting, "it holds shapes and no values")
    return found


def _unusable(device: str | torch.device, setting: str, why: str) -> InputError:
    return InputError(f"{setting}={str(device)!r} cannot be used: {why}. Try {setting}='cpu'.")
