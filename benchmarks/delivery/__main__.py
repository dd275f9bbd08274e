"""Runs both modes of Serve and prints a table for docs/bench.md; leave the machine alone meanwhile."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.limits.cluster import fast_environment
from benchmarks.limits.table import row

LIMIT_S = 600


def main() -> None:
    """One row for each way, mode by mode."""
    row("way", "goal", "default mode", "throughput mode")
    row("---", "---", "---", "---")
    command = [sys.executable, "-m", "benchmarks.delivery.on_cluster"]
    fast = fast_environment()
    default = {name: value for name, value in fast.items() if name != "RAY_SERVE_THROUGHPUT_OPTIMIZED"}
    found = [
        subprocess.run(command, env=env, check=True, timeout=LIMIT_S, stdout=subprocess.PIPE, text=True).stdout
        for env in (default, fast)
    ]
    for lines in zip(*(output.splitlines() for output in found), strict=True):
        (way, goal, first), (_, _, second) = (line.split("\t") for line in lines)
        row(way, goal, first, second)


if __name__ == "__main__":
    main()
