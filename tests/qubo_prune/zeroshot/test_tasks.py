"""LAMBADA and PIQA against their definitions, rows from files, tasks of lm-eval, refusals."""

import json
import math
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from qubo_prune.errors import InputError, MissingPackage
from qubo_prune.testing import tiny_llama, tiny_tokenizer
from qubo_prune.zeroshot import Subset, prepare, run_tasks

PASSAGES = ["one two  three", "a b\n\nc d", "so it goes", "naïve café", "the the the the", "word"]
QUESTIONS = [
    {"goal": "open a jar", "sol1": "twist the lid", "sol2": "eat é é é é the jar ", "label": 0},
    {"goal": "dry a cup", "sol1": "put it in water", "sol2": "wipe it", "label": 1},
    {"goal": "é", "sol1": "ü", "sol2": "uu", "label": 1},
    {"goal": "same", "sol1": "the same", "sol2": "the same", "label": 1},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def likelihood(model: nn.Module, context: str, continuation: str) -> tuple[list[float], list[bool]]:
    """Log-probabilities and whether each is the top one, by the bytes of the two texts, one pass unpadded."""
    tokenizer = tiny_tokenizer()
    before, after = (tokenizer(text)["input_ids"] for text in (context, continuation))
    ids = (before or [256]) + after
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -len(after) - 1 : -1].double()
    chosen = torch.tensor(after)
    return logits.log_softmax(-1)[torch.arange(len(after)), chosen].tolist(), (
        logits.argmax(-1) == chosen
    ).tolist()


def test_lambada(tmp_path: Path) -> None:
    model = tiny_llama()
    file = write(tmp_path / "rows.jsonl", [{"text": text} for text in PASSAGES])
    split = [("one two", "  three"), ("a b\n\nc", " d"), ("so it", " goes"), ("naïve", " café")]
    split += [("the the the", " the")]
    scores = [likelihood(model, *pair) for pair in [*split, ("", " word")]]
    nll = -sum(sum(tokens) for tokens, _ in scores) / len(PASSAGES)
    for batch in (1, 4):
        (found,) = run_tasks([f"lambada:{file}"], model, tiny_tokenizer(), batch=batch)
        assert found.figures["perplexity"].value == pytest.approx(math.exp(nll), rel=1e-5)
        assert found.figures["acc"].value == sum(all(top) for _, top in scores) / len(PASSAGES)
    assert (found.rows, found.chosen, found.data) == (6, "all 6 rows", file)


def test_lambada_where_the_model_knows_the_word(tmp_path: Path) -> None:
    """A callable that always continues "x x x ..." has the last word of some rows right, all of its bytes."""
    tokenizer = tiny_tokenizer()
    space, x = tokenizer(" x")["input_ids"]

    class Repeats(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 9.0 * nn.functional.one_hot(torch.where(ids == x, space, x), 258)

    file = write(tmp_path / "r.jsonl", [{"text": text} for text in ("x x x", "x x y", "x xx", "x x")])
    (found,) = run_tasks([f"lambada:{file}"], Repeats(), tokenizer)
    assert found.figures["acc"].value == 0.5
    assert found.figures["acc"].low < 0.5 < found.figures["acc"].high


def test_piqa(tmp_path: Path) -> None:
    model = tiny_llama()
    file = write(tmp_path / "rows.jsonl", QUESTIONS)
    raw, normed = [], []
    for row in QUESTIONS:
        totals = [
            sum(likelihood(model, f"Question: {row['goal']}\nAnswer:", f" {row[s]}")[0])
            for s in ("sol1", "sol2")
        ]
        per_byte = [t / len(str(row[s]).encode()) for t, s in zip(totals, ("sol1", "sol2"), strict=True)]
        raw.append(totals.index(max(totals)) == row["label"])
        normed.append(per_byte.index(max(per_byte)) == row["label"])
    for batch in (1, 3):
        (found,) = run_tasks([f"piqa:{file}"], model, tiny_tokenizer(), batch=batch)
        assert found.figures["acc"].value == sum(raw) / 4
        assert found.figures["acc_norm"].value == sum(normed) / 4
    assert not raw[3]  # of equal ones the first is chosen


def test_piqa_labels_lie_beside(tmp_path: Path) -> None:
    unlabelled = [{key: row[key] for key in ("goal", "sol1", "sol2")} for row in QUESTIONS]
    file = write(tmp_path / "mine.jsonl", unlabelled)
    with pytest.raises(InputError, match=r"there is no mine_labels\.lst beside them"):
        prepare([f"piqa:{file}"])
    labels = tmp_path / "mine_labels.lst"
    labels.write_text("0\n1\n1\n")
    with pytest.raises(InputError, match="4 rows, but 3 labels"):
        prepare([f"piqa:{file}"])
    labels.write_text("0\n1\n1\n1\n")
    assert [row["label"] for row in prepare([f"piqa:{file}"])[0].rows] == [0, 1, 1, 1]
    labels.write_text("0\n1\n1\n2\n")
    with pytest.raises(InputError, match="row 4: label '2'"):
        prepare([f"piqa:{file}"])


def test_subsets_and_progress(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", QUESTIONS)
    (job,) = prepare([f"piqa:{file}"], Subset(2))
    assert [row["goal"] for row in job.rows] == ["open a jar", "dry a cup"]
    seen: list[tuple[str, int, int]] = []
    names = [f"piqa:{file}", job]
    results = run_tasks(
        names,
        tiny_llama(),
        tiny_tokenizer(),
        subset=Subset(3, 1),
        batch=2,
        on_progress=lambda *a: seen.append(a),
    )
    assert [r.chosen for r in results] == ["drawn with seed 1, 3 of 4 rows", "the first 2 of 4 rows"]
    assert seen[:4] == [(names[0], done, 6 if done else 0) for done in (0, 2, 4, 6)]
    plain = json.loads(json.dumps(results[0].to_dict()))
    assert plain["figures"]["acc"]["value"] == results[0].figures["acc"].value


def test_the_published_rows(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUBO_PRUNE_DATA", str(data))
    jobs = prepare(["lambada", "piqa"], Subset(3))
    assert [(job.total, len(job.rows)) for job in jobs] == [(5153, 3), (1838, 3)]
    every = prepare(["piqa"])[0].rows
    assert {row["label"] for row in every} == {0, 1}
    results = run_tasks(jobs, tiny_llama(max_position_embeddings=2048), tiny_tokenizer())
    assert [set(result.figures) for result in results] == [{"acc", "perplexity"}, {"acc", "acc_norm"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lambada", "", "there are no rows"),
        ("lambada", "{]", "line 1: not JSON"),
        ("lambada", '{"text": "a b"}\n[]', "line 2: it must be an object with the texts text"),
        ("lambada", '{"text": 3}', "line 1: it must be an object"),
        ("lambada", '{"text": "a b "}', "row 1: the text ends in a space"),
        ("piqa", '{"goal": "a", "sol1": "b"}', "with the texts goal, sol1, sol2"),
        ("piqa", '{"goal": "a", "sol1": "b", "sol2": "", "label": 0}', "row 1: a solution is empty"),
    ],
)
def test_wrong_rows(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        prepare([f"{name}:{tmp_path / 'rows.jsonl'}"])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task 'arc' is unknown: use lambada, piqa, or lm-eval:NAME"):
        prepare(["arc"])
    with pytest.raises(InputError, match="there is no such file"):
        prepare([f"lambada:{tmp_path / 'none.jsonl'}"])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        prepare([f"lambada:{tmp_path / 'bytes'}"])


# -- lm-eval --------------------------------------------------------------------------------------------


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("qubo_prune.zeroshot.harness.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'qubo-prune\[eval\]'"):
        prepare(["lm-eval:arc_easy"])


def test_with_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the package's own interface: its figures and errors come through."""
    calls: dict[str, Any] = {}

    def simple_evaluate(**settings: Any) -> dict[str, Any]:
        calls.update(settings)
        if settings["tasks"] == ["nope"]:
            raise KeyError("nope")
        scores = {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": 0.1}
        scores |= {"acc,strict": 0.5, "acc_stderr,strict": "N/A"}
        return {"results": {"arc": scores}, "n-samples": {"arc": {"original": 9, "effective": 4}}}

    package, models, wrapper = ModuleType("lm_eval"), ModuleType("lm_eval.models"), ModuleType("w")
    package.__spec__ = ModuleSpec("lm_eval", None)
    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    wrapper.HFLM = lambda **settings: SimpleNamespace(**settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.models", models)
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", wrapper)
    model = tiny_llama()
    (found,) = run_tasks(["lm-eval:arc"], model, "tokenizer", subset=Subset(4), batch=2)
    wrapped = calls["model"]
    assert (wrapped.pretrained, wrapped.tokenizer, wrapped.batch_size) == (model, "tokenizer", 2)
    assert (calls["tasks"], calls["limit"], calls["num_fewshot"]) == (["arc"], 4, 0)
    assert (found.task, found.rows, found.chosen) == ("lm-eval:arc", 4, "the first 4 rows")
    assert set(found.figures) == {"acc", "acc@strict"}
    acc = found.figures["acc"]
    assert (acc.value, acc.stderr, acc.low) == (0.25, 0.1, pytest.approx(0.054, abs=1e-3))
    assert (found.figures["acc@strict"].stderr, found.figures["acc@strict"].low) == (None, -math.inf)
    with pytest.raises(InputError, match="lm-eval:nope: lm-eval cannot run it: 'nope'"):
        run_tasks(["lm-eval:nope"], model, "tokenizer")
    with pytest.raises(InputError, match="takes the first rows"):
        prepare(["lm-eval:arc"], Subset(4, 1))
