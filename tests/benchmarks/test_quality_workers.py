"""Processes of the quality bench: their threads, how many at once, and that none outlives the call."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

WORK = '''
import os, signal, time
from pathlib import Path

def told(number):
    import torch
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "GLIBC_TUNABLES")
    return [number, torch.get_num_threads(), *(os.environ.get(name) for name in names)]

def dies(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def meets(folder, number, others):
    """Done once all the others are there too: these are at work at once."""
    (Path(folder) / str(number)).write_text(str(os.getpid()))
    while not all((Path(folder) / str(other)).exists() for other in others):
        time.sleep(0.05)
    return number

def sleeps(folder, number):
    (Path(folder) / str(number)).write_text(str(os.getpid()))
    if number:
        time.sleep(600)
'''
INTERRUPTED = """
import signal, sys
sys.path[:0] = {path!r}
import quality_workers, some_work
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        quality_workers.run_apart(some_work.sleeps, [({folder!r}, number) for number in (0, 1, 2)], 2, print)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that spawned processes can import too."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "some_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "some_work", raising=False)
    return importlib.import_module("some_work")


@pytest.mark.slow
def test_threads_are_shared_out(
    bench: dict[str, ModuleType], work: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = bench["quality_workers"]
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(workers.torch, "get_num_threads", lambda: 5)
    before, found = dict(os.environ), []
    workers.run_apart(work.told, [(7,)], 2, lambda number, result: found.append(result))
    assert found == [[7, 2, "2", "2", workers.MALLOC]]
    assert dict(os.environ) == before
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert workers.environment(3)["GLIBC_TUNABLES"] == "glibc.malloc.check=0"
    assert [workers.threads_each(jobs) for jobs in (1, 2, 3, 9)] == [5, 2, 1, 1]


@pytest.mark.slow
def test_some_at_once_and_a_death_costs_its_own(
    bench: dict[str, ModuleType], work: ModuleType, tmp_path: Path
) -> None:
    workers, found = bench["quality_workers"], dict[int, Any]()
    workers.run_apart(work.meets, [(str(tmp_path), n, (0, 1)) for n in (0, 1)], 2, found.__setitem__)
    assert found == {0: 0, 1: 1}
    found.clear()
    workers.run_apart(work.dies, [(n,) for n in range(3)], 2, found.__setitem__)
    assert found == {0: 0, 1: workers.Died(-signal.SIGKILL), 2: 2}
    assert "ended with code -9" in found[1].told
    workers.run_apart(work.dies, [])


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_all(
    bench: dict[str, ModuleType], work: ModuleType, tmp_path: Path, sent: signal.Signals
) -> None:
    """What is done was told; both that are at work end."""
    path = [str(Path(module.__file__ or "").parent) for module in (bench["quality_workers"], work)]
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(path=path, folder=str(tmp_path)))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not all((tmp_path / name).is_file() for name in "012") and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(sent)
        assert process.communicate(timeout=30)[0] == "0 None\n"
        assert process.returncode == 130
        for name in "12":
            with pytest.raises(ProcessLookupError):
                os.kill(int((tmp_path / name).read_text()), 0)
    finally:
        process.kill()
        process.wait()
