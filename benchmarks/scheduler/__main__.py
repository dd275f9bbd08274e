"""Runs every part and prints a table for docs/bench.md. Needs wrk; leave the machine alone meanwhile."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from deployments.engines.torch import Device, TorchEngine

from .front import rates
from .overhead import overhead, save_model
from .padding import CPU, GPU, waste
from .waiting import batches_waited, p95

ROUNDS = 3
SAVED = 6.0  # times the plain graph


def main() -> None:
    """One row for each goal."""
    _row("part", "goal", "found")
    _row("---", "---", "---")
    for machine in (CPU, GPU):
        found = [waste(machine, seed) for seed in range(ROUNDS)]
        share, pairs = (statistics.median(numbers) for numbers in zip(*found, strict=True))
        _row(f"padding, {machine.name}", "<= 5 %", f"{share:.1%}, batches of {pairs:.0f} pairs")
    _row("overhead at 32 pairs of 32 tokens", "<= 3 % of engine time", _overhead())
    for who, same in (("the same tenant's", True), ("another tenant's", False)):
        waited = batches_waited(same_tenant=same)
        goal = "<= 3 engine batches"
        _row(f"a short request behind {who} 4,096 pairs", goal, f"p95 {p95(waited):.1f}, most {max(waited)}")
    found_rates = rates()
    plain = found_rates["plain graph, default mode"]
    for name, rate in found_rates.items():
        ratio = f"{rate.per_s / plain.per_s:.1f} x plain"
        goal = f">= {SAVED:.0f} x plain" if name == "ours, fast profile" else ""
        figures = f"{rate.per_s:,.0f}/s, p50 {rate.p50_ms:.0f} ms, p99 {rate.p99_ms:.0f} ms"
        _row(f"no-op model through {name}", goal, f"{ratio} ({figures})")


def _overhead() -> str:
    with tempfile.TemporaryDirectory() as folder:
        engine = TorchEngine(save_model(Path(folder)), "fp32", Device("cpu", threads=os.cpu_count() or 1))
        found = [overhead(engine) for _ in range(ROUNDS)]
    share, pairs = (statistics.median(numbers) for numbers in zip(*found, strict=True))
    return f"{share:.2%}, batches of {pairs:.0f} pairs"


def _row(*cells: str) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
