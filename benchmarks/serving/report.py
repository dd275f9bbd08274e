"""Tables for docs/bench.md: figures by cell and system, and whether each goal was reached."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .probes import IDLE, NARROW, START, WIDE

Row = tuple[str, ...]


@dataclass(slots=True)
class Results:
    """By system and by what was measured: a value for each round in which it was, in pairs/s but for the probes."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, system: str, what: str, value: float) -> None:
        self.values.setdefault(system, {}).setdefault(what, []).append(value)

    def median(self, system: str, what: str) -> float | None:
        """None: not measured."""
        found = self.values.get(system, {}).get(what)
        return statistics.median(found) if found else None

    def ratio(self, of: str, to: str, what: str, *, what_to: str | None = None) -> float | None:
        """The median of the ratios of each round."""
        above, below = self.values.get(of, {}).get(what), self.values.get(to, {}).get(what_to or what)
        if not above or not below:
            return None
        return statistics.median(a / b for a, b in zip(above, below, strict=False))


def figures(results: Results, cells: Sequence[str]) -> Iterator[Row]:
    """Pairs a second, medians; "-" where it was not measured."""
    systems = list(results.values)
    yield ("pairs/s", *systems)
    yield ("---",) * (len(systems) + 1)
    for name in (*cells, IDLE, START):
        numbers = [results.median(system, name) for system in systems]
        if any(number is not None for number in numbers):
            yield (name, *("-" if number is None else f"{number:,.{0 if number >= 20 else 1}f}" for number in numbers))


def goals(results: Results, base: str, crowd: str, repeated: str) -> Iterator[Row]:
    """Each figure to reach, in fp32 and with the best precision.

    Args:
        base: the name of that cell.
        crowd: of the one with single texts and 32 clients.
        repeated: of the one with repeated traffic.
    """
    yield ("figure to reach", "goal", "fp32", "best precision")
    yield ("---",) * 4
    ratios = [
        ("of the bare engine, base", "bare", base, 0.90),
        ("of the bare engine, single texts, 32 clients", "bare", crowd, 0.80),
        ("FastAPI and pipeline as users write it", "FastAPI", base, 6.0),
        ("FastAPI and pipeline at its best", "FastAPI tuned", base, 2.5),
        ("plain Ray Serve graph", "Ray Serve", base, 4.0),
        ("thread pool, one forward a pair", "thread pool", base, 0.0),
    ]
    for part, peer, cell, goal in ratios:
        found = [results.ratio(f"ours {p}", f"{peer} {p}" if peer == "bare" else peer, cell) for p in ("fp32", "best")]
        cells = (_verdict(number, "x", reached=number is not None and number >= goal) for number in found)
        yield (part, f">= {goal:g} x" if goal else "", *cells)
    yield ("idle, one text, 5 labels: p50 above the bare engine", "<= 6 ms", *(_above(results, p) for p in _BOTH))
    cached = results.ratio("ours best, cache", "ours best", repeated)
    yield (
        "repeated traffic, of the same without cache",
        ">= 4 x",
        "",
        _verdict(cached, "x", reached=(cached or 0) >= 4),
    )
    wide = [results.ratio(f"ours {p}", f"bare {p}", WIDE, what_to=NARROW) for p in _BOTH]
    yield (
        "128 labels, of the engine's time for 128 requests of 1",
        "<= 1.0 x",
        *(_verdict(number, "x", reached=number is not None and number <= 1.0) for number in wide),
    )
    starts = [results.median(f"ours {p}", START) for p in _BOTH]
    yield (
        "start to first answer, models converted before",
        "<= 25 s",
        *(_verdict(number, "s", reached=number is not None and number <= 25) for number in starts),
    )


_BOTH = ("fp32", "best")


def _above(results: Results, precision: str) -> str:
    ours, bare = results.median(f"ours {precision}", IDLE), results.median(f"bare {precision}", IDLE)
    if ours is None or bare is None:
        return "-"
    return f"{_verdict(ours - bare, 'ms', reached=ours - bare <= 6)} ({ours:.1f} to {bare:.1f})"


def _verdict(number: float | None, unit: str, *, reached: bool) -> str:
    if number is None:
        return "-"
    return f"{number:.2f} {unit}" if reached else f"{number:.2f} {unit}: not reached"
