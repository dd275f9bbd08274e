"""Rows of the table for docs/bench.md."""

from __future__ import annotations

import sys


def row(*cells: str) -> None:
    """One row, at once."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def verdict(found: str, *, reached: bool) -> str:
    """What was found, and a word where that is not the goal."""
    return found if reached else f"{found}: not reached"
