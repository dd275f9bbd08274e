"""What is timed beside throughput, on an idle server: one request at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from .cells import Cell, Request
from .system import System
from .systems.bare import Bare

N_IDLE = 20
WARM_PASSES = 3  # OpenVINO compiles for a shape that is new to a stream; which stream gets what is chance
IDLE = "one caller, one text, 5 labels, p50 ms"
WIDE = "one request of 128 labels, ms"
NARROW = "128 requests of 1 label, one after the other, ms"
START = "start to first answer, s"


def probe(system: System, single: Cell, wide: Request) -> Iterator[tuple[str, float]]:
    """Name and value.

    Args:
        single: its requests are of one text.
        wide: of one text and 128 labels.
    """
    idle = single.requests[:N_IDLE]
    for request in idle * WARM_PASSES:
        system.ask(request)
    yield IDLE, statistics.median(_ms(system, request) for request in idle)
    yield WIDE, statistics.median(_ms(system, wide) for _ in range(3))
    if isinstance(system, Bare):
        yield NARROW, sum(_ms(system, Request(wide.texts, (label,))) for label in wide.labels)


def _ms(system: System, request: Request) -> float:
    started = time.perf_counter()
    system.ask(request)
    return 1_000 * (time.perf_counter() - started)
