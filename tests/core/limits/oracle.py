"""How much may have passed in every window, by the definition alone: burst + rate x time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from deployments.core.bucket import Rate

WINDOW_NS = 1_000_000_000  # of every rate here, so that tokens times this is a whole number of unit-nanoseconds

Subject = tuple[str, int]
Policy = tuple[str, int]


@dataclass
class _Passed:
    at: int
    cost: int
    grown: int
    """What the rate had brought until then, since the beginning."""

    burst: int
    """The largest in force from the admission before it until then."""


@dataclass
class _InForce:
    since: int
    limit: int = 0
    burst: int = 0
    grown: int = 0


class Oracle:
    """Holds every admission, and what was in force when."""

    def __init__(self, now: int) -> None:
        self._passed: defaultdict[Subject, list[_Passed]] = defaultdict(list)
        self._costs: defaultdict[Subject, int] = defaultdict(int)
        self._in_force: defaultdict[Policy, _InForce] = defaultdict(lambda: _InForce(now))

    def in_force(self, policy: Policy, rates: list[Rate], at: int) -> None:
        """From now on these: several while a change spreads, and then the laxest of them counts."""
        current = self._in_force[policy]
        current.grown += current.limit * (at - current.since)
        current.since, current.limit = at, max(rate.limit for rate in rates)
        burst = max(rate.burst for rate in rates)
        if burst < current.burst:  # the windows that begin before this have the larger burst still
            for (subject, unit), passed in self._passed.items():
                if passed and self._policy(subject, unit) == policy:
                    passed[-1].burst = max(passed[-1].burst, current.burst)
        current.burst = burst

    def passed(self, subject: Subject, cost: int, at: int) -> None:
        """An admission: no window that ends here may hold more than it should."""
        current = self._in_force[self._policy(*subject)]
        grown = current.grown + current.limit * (at - current.since)
        passed = self._passed[subject]
        passed.append(_Passed(at, cost, grown, current.burst))
        self._costs[subject] += cost
        total = burst = allowed = 0
        for one in reversed(passed):
            if self._costs[subject] * WINDOW_NS <= allowed:
                break  # everything together may pass, so may every longer window
            total += one.cost
            burst = max(burst, one.burst)
            allowed = burst * WINDOW_NS + grown - one.grown
            assert total * WINDOW_NS <= allowed, (
                f"{subject}: {total} units in {at - one.at} ns, allowed {allowed / WINDOW_NS}"
            )

    def refunded(self, subject: Subject, cost: int, passed_at: int) -> None:
        """The latest admission of that time and cost did not happen."""
        for one in reversed(self._passed[subject]):
            if (one.at, one.cost) == (passed_at, cost):
                one.cost = 0
                return
        raise AssertionError("no such admission")

    @staticmethod
    def _policy(subject: str, unit: int) -> Policy:
        return ("caller" if subject else "service", unit)
