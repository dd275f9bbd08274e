"""Token bucket: how many units may pass, and when the next ones may.

Kept as one integer, the theoretical arrival time (TAT) of the generic cell rate algorithm, in units of 1/limit ns, so
that nothing is ever rounded: a unit adds `window_ns` to it, and a nanosecond takes `limit` from its distance to now.
Times are integer nanoseconds on any clock that does not go back. Pure: the time comes as an argument.

Tokens that have left a bucket and may not have been spent yet (a lease, or an answer on its way) are *open*: the
bucket fills up to its burst less what is open. So tokens and open tokens never exceed the burst together, and in
every window no more is spent than burst + rate x window.
Source: ITU-T I.371 (GCRA); the bound: docs/adr/0007.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

PARTS = 1_000_000  # shares are counted in parts of the whole


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` units in `window_ns`, and `burst` at once after a pause."""

    limit: int
    window_ns: int
    burst: int


class Reserved(NamedTuple):
    """What others may have held in place of every bucket."""

    at: int
    """When they may have."""

    ns: int
    """For how long they may have filled up by then, at the full rate."""

    share: int
    """Of the burst, in `PARTS`, that they could hold at most."""


class _Open(NamedTuple):
    amount: int
    ahead: int
    """How much of it was granted for requests still to come."""

    expires: int


class Bucket:
    """One subject's tokens of one rate.

    Args:
        empty_at: when it held nothing; it is full `burst / limit` windows later.
    """

    __slots__ = ("_n_open", "_n_spent", "_open", "_settled", "_spent", "_tat", "ahead", "rate")

    def __init__(self, rate: Rate, empty_at: int) -> None:
        self.rate = rate
        self.ahead = 0
        """Open tokens that were granted ahead of need."""

        self._tat = rate.limit * empty_at + rate.burst * rate.window_ns
        self._open: dict[int, _Open] = {}  # by grant, in order of expiry
        self._n_open = 0
        self._spent: dict[int, int] = {}  # by grant, oldest first: what a refund could still bring back
        self._n_spent = 0
        self._settled = -1  # until when it has been settled: what happens since then cannot exceed that cap

    def settle(self, now: int, reserved: Sequence[Reserved] = ()) -> None:
        """Bring it to `now`, before anything else is asked of it.

        Args:
            reserved: what was missing here at earlier times.
        """
        rate = self.rate
        for at, ns, share in reserved:
            if at + ns > self._settled:
                self._cap(at + min(ns, -(-rate.burst * share * rate.window_ns // (rate.limit * PARTS))))
        if now <= self._settled:
            return
        while self._open and (first := next(iter(self._open.items())))[1].expires <= now:
            self._cap(first[1].expires)
            self._forget(first[0])
        self._cap(now)
        self._settled = now

    def tokens(self, now: int) -> int:
        """Whole units that may pass now."""
        rate = self.rate
        return rate.burst - -(-(self._tat - rate.limit * now) // rate.window_ns)

    def wait_ns(self, cost: int, now: int) -> int:
        """Until `cost` units may pass; 0: they may now. Exact, unless others come in between."""
        rate = self.rate
        ready = max(now, -(-(self._tat + (cost - rate.burst) * rate.window_ns) // rate.limit))
        if ready == now:
            return 0
        n_open = self._n_open
        for open in self._open.values():
            lacking = n_open + cost - rate.burst
            if lacking <= 0:
                break
            ready = max(ready, open.expires + -(-lacking * rate.window_ns // rate.limit))
            n_open -= open.amount
        return ready - now

    def next_ns(self, now: int) -> int:
        """Until there is one unit more, by the rate alone; 0: it is full."""
        tokens = self.tokens(now)
        if tokens >= self.rate.burst:
            return 0
        return max(0, -(-(self._tat + (tokens + 1 - self.rate.burst) * self.rate.window_ns) // self.rate.limit) - now)

    def debit(self, cost: int) -> None:
        """Spend what `wait_ns` has found to be there."""
        self._tat += cost * self.rate.window_ns

    def grant(self, id: int, cost: int, ahead: int, expires: int) -> None:
        """Take `cost + ahead` units out, which stay open until closed or expired; `expires` never decreases."""
        self._tat += (cost + ahead) * self.rate.window_ns
        self._open[id] = _Open(cost + ahead, ahead, expires)
        self._n_open += cost + ahead
        self.ahead += ahead

    def close(self, id: int, unspent: int) -> None:
        """The grant will not be spent from any more; what it left comes back. Only the first time counts."""
        if open := self._forget(id):
            self._tat -= min(unspent, open.amount) * self.rate.window_ns
            if spent := open.amount - min(unspent, open.amount):
                self._spent[id] = spent
                self._n_spent += spent

    def refund(self, id: int, amount: int) -> None:
        """Units of a closed grant that were spent for nothing come back, unless the time has refunded them."""
        amount = min(amount, self._spent.get(id, 0))
        if amount:
            self._spent[id] -= amount
            self._n_spent -= amount
            self._tat -= amount * self.rate.window_ns

    def change(self, rate: Rate, now: int) -> None:
        """Take another rate from now on, with the tokens it has, as far as they fit; a change adds none."""
        kept = min(self.tokens(now), rate.burst - self._n_open)
        self.rate = rate
        self._tat = rate.limit * now + (rate.burst - kept) * rate.window_ns
        self._settled = -1

    def is_full(self, now: int) -> bool:
        """Nothing is missing and nothing is open: it equals a new one."""
        return not self._open and self._tat <= self.rate.limit * now

    def _cap(self, at: int) -> None:
        """At that time it held no more than a burst less what was open; what time had refunded by then is refunded."""
        least = self.rate.limit * at + self._n_open * self.rate.window_ns
        self._tat = max(self._tat, least)
        excess = -(-(self._n_spent * self.rate.window_ns - (self._tat - least)) // self.rate.window_ns)
        gone = []
        for id, amount in self._spent.items():  # one walk: finding the first of a dict gets dearer with each that went
            if excess <= 0:
                break
            if excess < amount:
                self._spent[id] -= excess
                self._n_spent -= excess
                break
            excess -= amount
            self._n_spent -= amount
            gone.append(id)
        for id in gone:
            del self._spent[id]

    def _forget(self, id: int) -> _Open | None:
        open = self._open.pop(id, None)
        if open:
            self._n_open -= open.amount
            self.ahead -= open.ahead
        return open
