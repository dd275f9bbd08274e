"""The load: clients in a closed loop, threads of one process, each with a connection that it keeps.

It shares the cores with the servers: about half a millisecond of one for a request of 32 texts.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .cells import Cell, Request
from .expected import Answer

ENOUGH_S = 3.0  # a pass that took less is run again, until so much is measured
MAX_PASSES = 5


class Asked(Protocol):
    """Answers requests, several at a time."""

    def ask(self, request: Request) -> Answer: ...


@runtime_checkable
class AtOnce(Protocol):
    """Takes all requests together, as no server can."""

    def ask_all(self, requests: Sequence[Request]) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """One cell of one system in one round."""

    pairs_per_s: float
    p50_ms: float
    """Of a request; 0 where all went together."""


def measure(system: Asked, cell: Cell, *, once: bool = False) -> tuple[Measured, list[Answer]]:
    """Run the cell's requests, again if that took little time.

    Args:
        once: a second pass would find all answers in the cache.

    Returns:
        What was found, and the answers of every pass, one after the other.
    """
    seconds, milliseconds, answers = 0.0, list[float](), list[Answer]()
    for n_passes in itertools.count(1):  # a pass ends before the next begins: no request meets its like
        started = time.perf_counter()
        got = run(system, cell.requests, cell.clients)
        answers += [answer for answer, _ in got]
        milliseconds += [ms for _, ms in got]
        seconds += time.perf_counter() - started
        if once or seconds > ENOUGH_S or n_passes == MAX_PASSES:
            break
    return Measured(n_passes * cell.n_pairs / seconds, statistics.median(milliseconds)), answers


def run(system: Asked, requests: Sequence[Request], clients: int) -> list[tuple[Answer, float]]:
    """Each answer, and its milliseconds; 0 where all went together."""
    if isinstance(system, AtOnce):
        return [(answer, 0.0) for answer in system.ask_all(requests)]

    def one(request: Request) -> tuple[Answer, float]:
        started = time.perf_counter()
        answer = system.ask(request)
        return answer, 1_000 * (time.perf_counter() - started)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, requests))
