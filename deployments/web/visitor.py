"""What HTTP, or a handle, tells of a request beside its body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody at the door, not identified yet."""

    address: str
    """Under which they are counted as long as no key says who they are."""

    credentials: Sequence[str]
    """The values of all Authorization headers."""

    request_id: str
