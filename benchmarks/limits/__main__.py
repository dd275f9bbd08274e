"""Runs every part and prints a table for docs/bench.md; leave the machine alone meanwhile."""

from __future__ import annotations

import subprocess
import sys

from . import pure
from .cluster import fast_environment
from .table import row, verdict

PURE_US = 5.0
LIMIT_S = 240


def main() -> None:
    """One row for each goal."""
    row("part", "goal", "found")
    row("---", "---", "---")
    _pure("one bucket: settle, wait, debit", pure.debit())
    _pure("a replica's decision from a lease, two levels by two units", pure.lease())
    for n_keys in (4, 10_000):
        _pure(f"the ledger's answer to a check, two levels by two units, {n_keys:,} keys", pure.handle(n_keys))
    command = [sys.executable, "-m", "benchmarks.limits.on_cluster"]
    subprocess.run(command, env=fast_environment(), check=True, timeout=LIMIT_S)


def _pure(part: str, us: float) -> None:
    row(part, f"<= {PURE_US:.0f} µs", verdict(f"{us:.1f} µs", reached=us <= PURE_US))


if __name__ == "__main__":
    main()
