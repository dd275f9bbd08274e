"""How much may be sent once more: retries must not become the load that they are an answer to.

Source: the retry budgets of Finagle and gRPC (A6); theirs count by time or by answers, this one by what is sent.
"""

from __future__ import annotations

EARNED_BY = 10  # requests that are sent for the first time earn one that is sent again: 10 %


class RetryBudget:
    """Full, it lets everything that may be outstanding be sent once more: the death of a replica is no storm.

    Args:
        most: requests that may be outstanding.
    """

    def __init__(self, most: int) -> None:
        self._most = EARNED_BY * most
        self._left = self._most
        """In tenths, which add up exactly."""

    def earn(self) -> None:
        """One request is sent for the first time."""
        self._left = min(self._most, self._left + 1)

    def spend(self) -> bool:
        """Whether one may be sent again."""
        if self._left < EARNED_BY:
            return False
        self._left -= EARNED_BY
        return True
