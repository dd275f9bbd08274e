"""Rounds: each system by turns is started, asked everything that is its part, and stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .cells import Cell, Request
from .expected import Expected, WrongAnswer
from .lineup import Entry
from .load import measure, run
from .probes import START, probe
from .report import Results
from .system import System
from .systems.bare import Bare
from .systems.ours import Ours
from .systems.thread_pool import ThreadPool

SETTLE_S = 5.0  # Ray goes on starting processes after the first answer, and uvicorn its other workers


@dataclass(slots=True)
class Bench:
    """What all rounds share."""

    model: Path
    scratch: Path
    every: Sequence[Cell]
    """The base first."""

    chosen: Sequence[Cell]
    """Those to measure."""

    expected: Expected
    results: Results = field(default_factory=Results)
    problems: list[str] = field(default_factory=list)

    def round(self, entries: Sequence[Entry], number: int, after_each: Callable[[], None]) -> None:
        """One turn for each."""
        for entry in entries:
            mine = [cell for cell in self.chosen if entry.takes(cell, number, self.every[0])]
            tell(f"round {number + 1}: {entry.system.name}, {len(mine)} cells")
            try:
                self._turn(entry, mine)
            except Exception as error:  # one that fails does not cost the figures of the others
                self.problems.append(f"{entry.system.name}: {type(error).__name__}: {error}")
                tell(self.problems[-1])
                if isinstance(error, WrongAnswer):
                    self.results.values.pop(entry.key, None)
            after_each()

    def _turn(self, entry: Entry, mine: Sequence[Cell]) -> None:
        system = entry.system
        system.start(self.model, self.scratch)
        try:
            if isinstance(system, Ours):
                self.results.add(entry.key, START, system.server.first_answer_s)
            _warm_up(system)
            if not isinstance(system, Bare | ThreadPool):  # which start no other processes
                time.sleep(SETTLE_S)
            for i, cell in enumerate(mine):
                known = isinstance(system, Bare) and any(cell.pairs == other.pairs for other in mine[:i])
                self._cell(entry, cell, warm=not (entry.peer or known))  # a peer's library sets nothing up for a shape
            if not (entry.peer or entry.cached):  # after the cells: a server is idle once its start is over
                self._probe(entry.key, system)
        finally:
            system.stop()

    def _cell(self, entry: Entry, cell: Cell, *, warm: bool) -> None:
        if warm:
            run(entry.system, cell.warm if entry.cached else cell.requests, cell.clients)
        found, answers = measure(entry.system, cell, once=entry.cached)
        asked = cell.requests * (len(answers) // len(cell.requests))
        off = self.expected.check(entry.system.precision, asked, answers)
        self.results.add(entry.key, cell.name, found.pairs_per_s)
        self.results.add(entry.key, f"p50 ms: {cell.name}", found.p50_ms)
        tell(
            f"  {cell.name}: {found.pairs_per_s:.1f} pairs/s, p50 {found.p50_ms:.0f} ms, off by at most"
            f" {off.largest:.4f}, {off.mean_log:.4f} in the mean of logarithms"
        )

    def _probe(self, key: str, system: System) -> None:
        first = [cell.requests[0] for cell in self.every]
        single = next(i for i, one in enumerate(first) if len(one.texts) == 1 and len(one.labels) == 5)
        wide = next(one for one in first if len(one.labels) == 128)
        for what, value in probe(system, self.every[single], wide):
            self.results.add(key, what, value)


def tell(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _warm_up(system: System) -> None:
    """Texts of many lengths: libraries set themselves up for each."""
    requests = [Request(tuple(f"warm {i} {'word ' * (3 * i + j)}" for j in range(3)), ("a", "b")) for i in range(16)]
    run(system, requests, 8)
