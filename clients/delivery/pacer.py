"""When the next request may be sent, so that the service has no cause to refuse it.

The client counts by the same token buckets as the service. Where others use the same key too, the service refuses;
then nothing is sent for as long as it says, and afterwards at a smaller share of the rate, which grows again with
every request that passes (additive increase, multiplicative decrease, as TCP does).

Pure: times are seconds on any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.contract.wire import QuotaState, Terms

LESS = 0.7  # of its share: what a client goes on with after a refusal
MORE = 0.01  # of the whole rate: what it gains by a request that passes
LEAST = 0.05  # of the whole rate: what it never falls below


@dataclass(slots=True)
class _Bucket:
    rate: float
    """Units a second, all of which are this client's where nobody else uses the key."""

    burst: int
    level: float
    at: float

    def wait(self, cost: int, share: float, now: float) -> float:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate * share)
        self.at = now
        return max(0.0, (cost - self.level) / (self.rate * share))


class Pacer:
    """What one client may send, by what it was told; before it is told anything, everything."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._not_before = float("-inf")
        self._share = 1.0
        self.max_concurrent: int | None = None
        """Requests at a time; None: not told yet."""

    def learn(self, terms: Terms, now: float) -> None:
        """What is granted; told before the first request, and now and then."""
        self.max_concurrent = terms["max_concurrent"]
        units = {quota["unit"] for quota in terms["quotas"]}
        self._buckets = {unit: bucket for unit, bucket in self._buckets.items() if unit in units}
        self.see(terms["quotas"], now)

    def see(self, quotas: Sequence[QuotaState], now: float) -> None:
        """What the service said of the quotas. `remaining` counts only where a policy is new: it is old news."""
        for quota in quotas:
            rate, burst = quota["limit"] / quota["window_s"], quota["burst"]
            bucket = self._buckets.get(quota["unit"])
            if bucket is None or (bucket.rate, bucket.burst) != (rate, burst):
                self._buckets[quota["unit"]] = _Bucket(rate, burst, quota["remaining"], now)

    def passed(self) -> None:
        """A request was admitted."""
        self._share = min(1.0, self._share + MORE)

    def wait_s(self, pairs: int, now: float) -> float:
        """Seconds until a request of so many pairs should be sent.

        One that costs more than a burst never passes: it is sent at once, to be told so.
        """
        wait = max(0.0, self._not_before - now)
        for bucket, cost in self._costs(pairs):
            if cost <= bucket.burst:
                wait = max(wait, bucket.wait(cost, self._share, now))
        return wait

    def take(self, pairs: int) -> None:
        """A request is sent."""
        for bucket, cost in self._costs(pairs):
            if cost <= bucket.burst:
                bucket.level -= cost

    def refused(self, retry_after_s: float, now: float) -> None:
        """Nothing is sent until there is room again; several refusals at a time are one."""
        if now >= self._not_before:
            self._share = max(LEAST, self._share * LESS)
        self._not_before = max(self._not_before, now + retry_after_s)

    def crowded(self, most: int) -> None:
        """The service takes no more than so many at a time."""
        self.max_concurrent = most if self.max_concurrent is None else min(self.max_concurrent, most)

    def _costs(self, pairs: int) -> list[tuple[_Bucket, int]]:
        costs = {"requests": 1, "pairs": pairs}
        return [(bucket, costs[unit]) for unit, bucket in self._buckets.items() if unit in costs]
