"""What a caller may still do under one policy, as answers tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["requests", "pairs"]


@dataclass(frozen=True, slots=True)
class Quota:
    """One policy and what is left of it.

    Attributes:
        name: stable, such as `caller-requests`.
        limit: units in `window_s` seconds.
        burst: units at once, after a pause.
        remaining: units that would pass now; 0 or more.
        next_s: seconds, rounded up, until one unit more is there; 0 when it is full.
    """

    name: str
    unit: Unit
    limit: int
    window_s: int
    burst: int
    remaining: int
    next_s: int
