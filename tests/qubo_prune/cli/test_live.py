"""Progress: the time that is left, bars on a terminal, lines elsewhere, one phase after another."""

import io

import pytest
from rich.console import Console

from qubo_prune.cli.live import Live, time_left


@pytest.mark.parametrize(
    ("elapsed", "at", "done", "total", "limit", "left"),
    [
        (10.0, 10.0, 2, 10, None, 40.0),  # five seconds a piece, eight to go
        (14.0, 10.0, 2, 10, None, 36.0),  # the clock goes on between pieces
        (10.0, 10.0, 2, 10, 25.0, 15.0),  # the limit comes first
        (30.0, 10.0, 2, 10, 25.0, 0.0),
        (10.0, 0.0, 0, 10, 25.0, 15.0),
        (10.0, 0.0, 0, 10, None, None),
        (10.0, 0.0, 0, None, None, None),
    ],
)
def test_time_left(
    elapsed: float, at: float, done: int, total: int | None, limit: float | None, left: float | None
) -> None:
    assert time_left(elapsed, at, done, total, limit) == left


def test_lines_where_there_is_no_terminal() -> None:
    shown = io.StringIO()
    with Live(Console(file=shown)) as live:
        live.phase("first", 2)
        live.done(1)
        live.phase("first", 2)
        live.note("remark")
        live.phase("second")
    lines = shown.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["remark", "first", "second"]
    assert set(live.seconds) == {"first", "second"}


def test_bars_on_a_terminal() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    with Live(console) as live:
        live.phase("pieces", 4, limit=100.0)
        forward = live.counting(lambda batch: batch + 1, 4)
        assert [forward(value) for value in range(2)] == [1, 2]
        live._bars.refresh()
    assert "2/4" in shown.getvalue()
    assert " left" in shown.getvalue()


def test_an_error_ends_the_phase_quietly() -> None:
    shown = io.StringIO()

    def fail() -> None:
        with Live(Console(file=shown)) as live:
            live.phase("first")
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    assert shown.getvalue() == ""
