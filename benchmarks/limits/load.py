"""Open loop: requests leave at fixed times, whatever became of those before, and are timed from when they were due."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Send = Callable[[int], Awaitable[object]]
_numbers = itertools.count()  # no request is like another, even between rounds


@dataclass(slots=True)
class Round:
    """What became of its requests."""

    ms: list[float] = field(default_factory=list)
    """Of each that was answered."""

    failures: Counter[str] = field(default_factory=Counter)
    late_ms: float = 0.0
    """How late the last to leave left, at most: then the machine, not the service, was too slow."""

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.ms)


async def run(send: Send, per_s: float, seconds: float) -> Round:
    """`send` gets the number of the request."""
    found, started = Round(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for i in range(round(per_s * seconds)):
            due = started + i / per_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            found.late_ms = max(found.late_ms, 1_000 * (time.perf_counter() - due))
            group.create_task(_one(send, due, found))
    return found


async def _one(send: Send, due: float, found: Round) -> None:
    try:
        await send(next(_numbers))
    except Exception as error:  # whatever it is, it is counted and told
        found.failures[type(error).__name__] += 1
    else:
        found.ms.append(1_000 * (time.perf_counter() - due))
