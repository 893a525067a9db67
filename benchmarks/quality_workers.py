"""Processes of the quality bench: a piece of work in each, some at once, none that outlives the call."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

MALLOC = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
)
"""GLIBC_TUNABLES of a worker: freed memory is kept for the next tensors, in huge pages."""


@dataclass(frozen=True)
class Died:
    """What a piece of work gives whose process ended without a result; exitcode: -9 where it was killed."""

    exitcode: int | None

    @property
    def told(self) -> str:
        return f"its process ended with code {self.exitcode}, killed for want of memory perhaps"


@dataclass(frozen=True, eq=False)
class _Worker:
    """A process at work on a piece of this number."""

    number: int
    process: SpawnProcess
    receiver: Connection


def run_apart(
    work: Callable[..., Any],
    pieces: Sequence[tuple[Any, ...]],
    jobs: int = 1,
    on_done: Callable[[int, Any], None] = lambda number, result: None,
) -> None:
    """`work(*piece)` of each piece in a new process, up to `jobs` at once, started in their order.

    on_done gets a piece's number and its result, or Died, as soon as it is there. The jobs share out the
    threads of this process. However the call ends, by Ctrl-C too, no process is left.
    """
    threads = threads_each(jobs)
    waiting, running = deque(enumerate(pieces)), list[_Worker]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, piece = waiting.popleft()
                running.append(_start(number, work, piece, threads))
            for worker in _ready(running):
                result = _result(worker)
                running.remove(worker)
                on_done(worker.number, result)
    finally:
        for worker in running:
            worker.process.terminate()
        for worker in running:
            worker.process.join()


def threads_each(jobs: int) -> int:
    """Threads of each of so many processes: those of torch here (cores, or OMP_NUM_THREADS) shared out."""
    return max(1, torch.get_num_threads() // jobs)


def _start(number: int, work: Callable[..., Any], piece: tuple[Any, ...], threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, piece, threads, sender), daemon=True)
    with _environment(environment(threads)):
        process.start()
    sender.close()  # the worker's end is then the only one: that it died is seen here
    return _Worker(number, process, receiver)


def environment(threads: int) -> dict[str, str]:
    """What a worker of so many threads finds in its environment beside what this process has."""
    tunables = os.environ.get("GLIBC_TUNABLES", MALLOC)
    count = str(threads)
    return {"OMP_NUM_THREADS": count, "NUMBA_NUM_THREADS": count, "GLIBC_TUNABLES": tunables}


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with these on top, as it was after: a spawned process takes it over."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _send(work: Callable[..., Any], piece: tuple[Any, ...], threads: int, sender: Connection) -> None:
    """Do a piece in a worker, which leaves Ctrl-C to the process that waits for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    sender.send(work(*piece))


def _ready(running: Sequence[_Worker]) -> list[_Worker]:
    """The workers that have sent a result or ended; waits for the first."""
    found = wait([thing for w in running for thing in (w.receiver, w.process.sentinel)])
    return [w for w in running if w.receiver in found or w.process.sentinel in found]


def _result(worker: _Worker) -> Any:
    """What a ready worker sent, or Died; its process is over after."""
    try:
        if not worker.receiver.poll():
            raise EOFError
        return worker.receiver.recv()
    except (EOFError, OSError):  # OSError: killed in the middle of sending
        worker.process.join()
        return Died(worker.process.exitcode)
    finally:
        worker.process.terminate()
        worker.process.join()
        worker.receiver.close()
