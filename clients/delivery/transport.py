"""What carries requests to a service: a handle now, HTTP as well one day, a fake in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from deployments.contract.wire import Ask, Terms, Told


class Call(Protocol):
    """A joined call under way; iterating gives what became of its requests, as soon as it is known of any."""

    def __aiter__(self) -> AsyncIterator[list[Told]]: ...

    def cancel(self) -> None:
        """Nobody waits for any of it; iterating ends, with an error or without."""
        ...


class Transport(Protocol):
    """All of it is called on one event loop, the client's own."""

    async def terms(self) -> Terms:
        """What this caller is granted.

        Raises:
            Unauthorized: no valid key where one is needed.
        """
        ...

    def send(self, asks: Sequence[Ask]) -> Call:
        """Start a joined call."""
        ...

    async def forget(self, ids: Sequence[str]) -> None:
        """Nobody waits for these requests any more; a hint."""
        ...

    def is_transient(self, error: Exception) -> bool:
        """Whether the same call may succeed if it is sent again: a replica died, or cannot take more now."""
        ...
