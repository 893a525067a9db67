"""Calibration text: where it comes from, its tokens, and three ranges of them that do not overlap."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qubo_prune.errors import InputError, MissingPackage
from qubo_prune.sources import data_file, package_path

MAX_CHARACTERS = 20_000_000
"""How much of a text is read by default: about five million tokens of English."""


@dataclass(frozen=True)
class TextSource:
    """A text, named by a spec:

    * a path: a UTF-8 text file;
    * `package:NAME/PATH`: a text file that an installed package carries, as
      `package:exllamav3/conversion/standard_cal_data/c4.utf8`; the package is not imported;
    * `data:PATH`: a file of the data folder (QUBO_PRUNE_DATA);
    * `dataset:NAME[:CONFIG[:SPLIT[:FIELD]]]`: a data set of the Hugging Face Hub, streamed (split "train",
      field "text", joined by blank lines), through the extra `qubo-prune[hub]`. Leave CONFIG empty for the
      default one.

    max_characters: reading stops here, at the last line break before it (at a row, for a data set).
    """

    spec: str
    max_characters: int = MAX_CHARACTERS

    def read(self) -> str:
        """The text. InputError or MissingPackage: it cannot be had, is not UTF-8, or is empty."""
        kind, _, rest = self.spec.partition(":")
        if kind == "dataset":
            text = self._dataset(rest)
        else:
            finders = {"package": package_path, "data": data_file}
            text = self._file(finders[kind](rest) if kind in finders else Path(self.spec).expanduser())
        if not text.strip():
            raise InputError(f"text {self.spec!r}: there is no text in it.")
        return text

    def _file(self, path: Path) -> str:
        """The beginning of a text file."""
        if not path.is_file():
            raise InputError(f"text {self.spec!r}: there is no such file; give a UTF-8 text file.")
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(self.max_characters + 1)
        except OSError as error:
            raise InputError(f"text {self.spec!r} cannot be read: {error.strerror or error}.") from error
        except UnicodeDecodeError as error:
            raise InputError(f"text {self.spec!r} cannot be read as UTF-8 text: {error}.") from error
        if len(text) > self.max_characters:
            text = text[: self.max_characters]
            text = text[: text.rfind("\n") + 1] or text
        return text

    def _dataset(self, rest: str) -> str:
        """The first rows of a data set of the Hub."""
        name, config, split, field = (rest.split(":") + [""] * 4)[:4]
        if not name or rest.count(":") > 3:
            raise InputError(f"text {self.spec!r}: write dataset:NAME[:CONFIG[:SPLIT[:FIELD]]].")
        if find_spec("datasets") is None:
            hint = "Install it with: pip install 'qubo-prune[hub]'"
            raise MissingPackage(f"text {self.spec!r}: the package 'datasets' is not installed. {hint}")
        load = importlib.import_module("datasets").load_dataset
        try:
            rows = load(name, config or None, split=split or "train", streaming=True)
            return self._join(rows, field or "text")
        except InputError:
            raise
        except Exception as error:  # the many errors of the Hub, of the network and of file formats
            raise InputError(
                f"text {self.spec!r} could not be read: {type(error).__name__}: {error} - check name, "
                "config, split and network, or give a text file."
            ) from error

    def _join(self, rows: Iterable[dict[str, Any]], field: str) -> str:
        """Rows joined by blank lines, up to max_characters."""
        texts: list[str] = []
        length = 0
        for row in rows:
            if not isinstance(row.get(field), str):
                raise InputError(f"text {self.spec!r}: no text field {field!r}; it has {', '.join(row)}.")
            length += len(row[field]) + 2
            if texts and length > self.max_characters:
                break
            texts.append(row[field])
        return "\n\n".join(texts)


def tokenise(tokenizer: Any, text: str) -> Tensor:
    """int64 (tokens,) ids of the whole text, tokenised at once, with no BOS nor any other token added."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def token_windows(tokens: Tensor, n: int, length: int, seed: int = 0) -> Tensor:
    """int64 (n, length): n random windows of the tokens that do not overlap, in random order.

    Drawn uniformly among all ways to place them; the same for the same seed. InputError: too few tokens.
    """
    if n < 0 or length < 1:
        raise InputError(f"token_windows: n={n} windows of length={length}; n must be >= 0 and length >= 1.")
    slack = len(tokens) - n * length
    if slack < 0:
        raise InputError(
            f"{n} windows of {length} tokens need {n * length} tokens, there are {len(tokens)}: "
            "give a longer text, or ask for fewer or shorter windows."
        )
    generator = np.random.default_rng(seed)
    gaps = np.sort(generator.choice(slack + n, size=n, replace=False)) - np.arange(n)
    starts = generator.permutation(gaps + length * np.arange(n))
    positions = torch.from_numpy(starts)[:, None] + torch.arange(length)
    return tokens[positions]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Windows from three token ranges of one text that do not overlap.

    calibrate: int64 (n, length), for statistics; random windows of its range.
    accept: int64 (n, length), for deciding; consecutive windows. What it measures is a selection, not a
    result. report: int64 (n, length), for reporting; consecutive windows, touched by no decision.
    tokens: int64 (total,), the whole text; `ranges` has (start, stop) in it for each of the three names.
    """

    calibrate: Tensor
    accept: Tensor
    report: Tensor
    tokens: Tensor
    ranges: dict[str, tuple[int, int]]

    def range_tokens(self, name: str) -> Tensor:
        """int64: all tokens of the range "calibrate", "accept" or "report"."""
        start, stop = self.ranges[name]
        return self.tokens[start:stop]


def split_ranges(
    tokens: Tensor,
    calibrate: tuple[int, int],
    accept: tuple[int, int] = (0, 1),
    report: tuple[int, int] = (0, 1),
    seed: int = 0,
) -> Calibration:
    """Calibrate, accept and report windows, each (n, length), from three ranges of `tokens` (1-D) without
    overlap.

    The report range is the end of the text, the accept range comes before it, and all the rest is the
    calibrate range; `seed` chooses the windows in the latter only, so figures of other seeds compare.
    InputError: too little text (says how many tokens are needed), or counts below zero.
    """
    if tokens.ndim != 1:
        raise InputError(f"split_ranges: tokens have shape {tuple(tokens.shape)}, they must be one sequence.")
    asked = {"calibrate": calibrate, "accept": accept, "report": report}
    for name, (n, length) in asked.items():
        if n < 0 or length < 1:
            raise InputError(f"{name}=({n}, {length}): give (windows >= 0, tokens a window >= 1).")
    sizes = {name: n * length for name, (n, length) in asked.items()}
    if (needed := sum(sizes.values())) > len(tokens):
        each = ", ".join(f"{name} {n} x {length}" for name, (n, length) in asked.items())
        raise InputError(
            f"too little calibration text: {needed} tokens are needed ({each}), the text has {len(tokens)}: "
            "give a longer text, or ask for fewer or shorter windows."
        )
    total = len(tokens)
    last, middle = total - sizes["report"], total - sizes["report"] - sizes["accept"]
    return Calibration(
        calibrate=token_windows(tokens[:middle], *calibrate, seed=seed),
        accept=tokens[middle:last].reshape(accept),
        report=tokens[last:].reshape(report),
        tokens=tokens,
        ranges={"calibrate": (0, middle), "accept": (middle, last), "report": (last, total)},
    )
