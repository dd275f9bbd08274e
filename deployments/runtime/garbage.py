"""How often a replica looks for garbage that holds itself.

Requests leave few cycles, and nearly all of what they make is gone by its count alone. Python looks every 700
objects; that took a twentieth of a replica's CPU (docs/bench.md).
"""

from __future__ import annotations

import gc

EVERY = 10_000  # objects more made than dropped; at some hundred bytes each, a few megabytes wait at most


def collect_rarely() -> None:
    """For the rest of this process."""
    gc.set_threshold(EVERY)
