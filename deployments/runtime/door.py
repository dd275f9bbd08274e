"""Who comes in: by an API key, or by address while `auth` is off; and how many of each at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.contract.errors import TooManyConcurrent
from deployments.contract.keys import bearer

from .keyfile import KeyFileWatch


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is."""

    subject: str
    """Who is counted against the limits."""

    tenant: str
    """Whose pairs are cached, and take turns, together."""

    tier: str | None = None


class Door:
    """Identifies callers.

    Args:
        keys: None while `auth` is off: then everybody comes in, under the name of the address.
    """

    def __init__(self, keys: KeyFileWatch | None) -> None:
        self._keys = keys
        self._inside: Counter[str] = Counter()

    def identify(self, credentials: Sequence[str], address: str) -> Caller:
        """By the values of the Authorization headers.

        Raises:
            Unauthorized, RepeatedAuthorization: no door opens.
        """
        if self._keys is None:
            return Caller(address, address)
        record = self._keys.keyring.verify(bearer(credentials), datetime.now(UTC))
        return Caller(f"key {record.id}", f"tenant {record.tenant}", record.tier)

    @contextmanager
    def inside(self, caller: Caller, most: int) -> Iterator[None]:
        """While a request of the caller is under way.

        Raises:
            TooManyConcurrent: `most` of them are already.
        """
        if self._inside[caller.subject] >= most:
            raise TooManyConcurrent(most)
        self._inside[caller.subject] += 1
        try:
            yield
        finally:
            self._inside[caller.subject] -= 1
            if not self._inside[caller.subject]:
                del self._inside[caller.subject]
