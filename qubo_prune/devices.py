"""A device that is there, or one clear refusal."""

import torch

from qubo_prune.errors import InputError, first_line


def usable_device(device: str | torch.device, setting: str = "device") -> torch.device:
    """The device, with its index. InputError, naming the setting: this machine has none of its kind."""
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"{setting}={str(device)!r} cannot be used: {first_line(error)}. Try {setting}='cpu'."
        ) from error
