"""The errors a user can cause; each names the input, says what is wrong and what to do."""


class InputError(ValueError):
    """An input cannot be used as it is; raised before anything is changed or written."""


class MissingPackage(InputError):
    """An optional package is not installed; the message has the command that installs it."""


class MaskMismatch(InputError):
    """Weights and masks disagree: a pruned weight is not zero, or a kept weight is not what it should be."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .") if lines else type(error).__name__
