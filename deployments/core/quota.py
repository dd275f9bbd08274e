"""What a caller may still do under one policy, as answers tell it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal["requests", "pairs"]


class Quota(NamedTuple):
    """One policy and what is left of it."""

    name: str
    """Stable, such as `caller-requests`."""

    unit: Unit
    limit: int
    """Units in `window_s` seconds."""

    window_s: int
    burst: int
    """Units at once, after a pause."""

    remaining: int
    """Units that would pass now; 0 or more."""

    next_s: int
    """Seconds, rounded up, until there is one unit more; 0 when it is full."""
