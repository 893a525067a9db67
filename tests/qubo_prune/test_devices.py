"""A device is there, or the refusal names the setting and what to do."""

import pytest

from qubo_prune.devices import usable_device
from qubo_prune.errors import InputError


@pytest.mark.parametrize(
    ("device", "why"), [("cuda:99", ".*"), ("{no}", ".*"), ("meta", "it holds shapes and no values")]
)
def test_refusals_name_the_setting(device: str, why: str) -> None:
    with pytest.raises(InputError, match=rf"^here='{device}' cannot be used: {why}\. Try here='cpu'\.$"):
        usable_device(device, "here")


def test_a_device_that_is_there() -> None:
    assert usable_device("cpu").type == "cpu"
