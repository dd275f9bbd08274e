"""What the benchmark wants of a way to serve. Another one joins by a class of these four, listed in lineup.py."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from .cells import Request
from .expected import Answer


class System(Protocol):
    """One way to serve, with one precision."""

    name: str
    precision: str
    """fp32, bf16, fp16 or int8: how far its answers may be from fp32's."""

    def start(self, model: Path, scratch: Path) -> None:
        """Load the model from its folder and be ready; what it writes goes to `scratch`."""
        ...

    def ask(self, request: Request) -> Answer:
        """Called by several threads at a time."""
        ...

    def stop(self) -> None:
        """End all that was started."""
        ...
