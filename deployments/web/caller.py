"""Who asks, and for how long they will wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """What the front door knows of a request beside its body."""

    tenant: str
    """Requests take turns by tenant: the caller's address, or one name for all handle callers."""

    request_id: str
    seconds: float
    """Until the deadline."""
