"""A replica's side of the ledger: what it has leased, what it asks, and how it counts when the ledger is silent.

Pure: the time comes as an argument, in nanoseconds on the replica's own monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .bucket import PARTS, Bucket, Rate
from .lease import (
    ADDRESS,
    ALONE_NS,
    LEASE_NS,
    QUIET_NS,
    SLOTS,
    Check,
    Closed,
    Denied,
    Granted,
    Holding,
    Left,
    Message,
    Permit,
    Policies,
    Rates,
    Refund,
    Reply,
    Unable,
    names,
)

SERVICE = ""  # stands for all callers, beside their subjects

ABANDON_NS = 2_000_000_000  # a message without a reply for so long is given up
IDLE_NS = 1_000_000_000  # without a request: then a replica gives back what it holds


class Passed(NamedTuple):
    """The request may go on."""

    left: tuple[Left | None, Left | None]
    epoch: int = 0
    grant: int | None = None
    """Where its cost was taken from; None: counted alone."""


@dataclass(slots=True)
class _Lease:
    id: int
    left: list[int]
    """Requests and pairs that may still be spent."""

    expires: int
    beside: tuple[Left | None, Left | None]
    """What the ledger had left when it granted this."""

    def has(self, cost: tuple[int, int]) -> bool:
        return self.left[0] >= cost[0] and self.left[1] >= cost[1]

    def add(self, cost: tuple[int, int], sign: int = 1) -> None:
        self.left[0] += sign * cost[0]
        self.left[1] += sign * cost[1]


class _Sent(NamedTuple):
    message: Message
    at: int


class Lessee:
    """One replica.

    Args:
        replica: its name, which no other ever has.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._seq = 0
        self._told_at = 0
        self._policies = Policies({}, Rates(None, None))
        self._epoch: int | None = None
        self._permit: Permit | None = None
        self._former_share = 0
        self._alone = (0, 0)  # from when to when it may count alone
        self._own: dict[tuple[str, int], Bucket] = {}
        self._sent: _Sent | None = None
        self._leases: dict[str, list[_Lease]] = {}
        self._closed: list[Closed] = []
        self._refunds: list[Refund] = []
        self._demand = _Demand()

    def configure(self, told_at: int, policies: Policies, now: int) -> None:
        """Take other policies; of two replicas the ledger believes the one with the later `told_at`."""
        self._told_at, self._policies = told_at, policies
        self._alone = (max(self._alone[0], now), self._alone[1])
        self._own.clear()

    def tier(self, wanted: str | None) -> str:
        """The tier as it is configured; an unknown one is none."""
        return wanted if wanted in self._policies.tiers else ""

    @property
    def has_met(self) -> bool:
        """Whether it has heard from a ledger."""
        return self._epoch is not None

    def is_limited(self, tier: str) -> bool:
        return self._rates(tier) != (None, None) or self._policies.service != (None, None)

    def most_pairs(self, tier: str) -> int | None:
        """That can ever pass at once; None: any number."""
        levels = (self._rates(tier), self._policies.service)
        return min((rates.pairs.burst for rates in levels if rates.pairs), default=None)

    # Deciding here.

    def decide(self, check: Check, now: int) -> Passed | Denied | Unable | None:
        """From a lease, or alone when it is time for that; None: the ledger must be asked."""
        self._demand.note(check, now)
        self._close_expired(check.subject, now)
        for lease in self._leases.get(check.subject, ()):
            if lease.has(check.cost):
                return self._spend(check, lease)
        return self.alone(check, now) if self.counts_alone(now) else None

    def counts_alone(self, now: int) -> bool:
        """Whether the ledger has been silent for so long that `alone` may let something pass."""
        return self._alone[0] <= now < self._alone[1]

    def alone(self, check: Check, now: int) -> Passed | Denied | Unable:
        """By this replica's share of each rate and burst, once the ledger has been silent for `QUIET_NS`."""
        if not self.counts_alone(now):
            return Unable("the limits cannot be checked at this moment")
        debits = self._own_buckets(check, now)
        if any(cost > bucket.rate.burst for bucket, cost, _ in debits):
            return Unable("the limits of a request of this size cannot be checked at this moment")
        waits = [(bucket.wait_ns(cost, now), name) for bucket, cost, name in debits]
        if any(wait for wait, _ in waits):
            return Denied(max(waits)[0], tuple(name for wait, name in waits if wait), (None, None))
        for bucket, cost, _ in debits:
            bucket.debit(cost)
        return Passed((None, None))

    def refund(self, passed: Passed, check: Check, now: int) -> None:
        """The request passed, but the service could not do the work."""
        if passed.grant is None or passed.epoch != self._epoch:
            return
        for lease in self._leases.get(check.subject, ()):
            if lease.id == passed.grant and now < lease.expires:
                lease.add(check.cost)
                return
        self._refunds.append(Refund(passed.grant, check.cost))

    def _spend(self, check: Check, lease: _Lease) -> Passed:
        lease.add(check.cost, -1)
        if lease.left[0] == 0:
            self._close(check.subject, lease)
        return Passed(self._beside(check.subject, lease), self._epoch or 0, lease.id)

    def _beside(self, subject: str, lease: _Lease) -> tuple[Left | None, Left | None]:
        """What the caller has left: at the ledger, and leased here."""
        leased = [sum(one.left[unit] for one in self._leases.get(subject, ())) for unit in (0, 1)]
        requests, pairs = (
            left and Left(left.tokens + more, left.next_ns) for left, more in zip(lease.beside, leased, strict=True)
        )
        return requests, pairs

    # Alone.

    def _own_buckets(self, check: Check, now: int) -> list[tuple[Bucket, int, str]]:
        levels = (
            ("caller", check.subject, self._rates(check.tier)),
            ("service", SERVICE, self._policies.service),
        )
        found = []
        for level, subject, rates in levels:
            for unit, rate in enumerate(rates):
                if rate is not None and (subject or check.service):
                    key = (_slot(subject), unit)
                    bucket = self._own.setdefault(key, Bucket(self._share(rate), self._alone[0]))
                    bucket.settle(now)
                    found.append((bucket, check.cost[unit], names(level)[unit]))
        return found

    def _share(self, rate: Rate) -> Rate:
        assert self._permit is not None
        share = self._permit.share
        return Rate(rate.limit * share, rate.window_ns * PARTS, rate.burst * share // PARTS)

    def _rates(self, tier: str) -> Rates:
        tiers = self._policies.tiers
        return tiers.get(tier) or tiers[""]

    # Talking to the ledger.

    def message(self, checks: Sequence[Check], now: int, *, stays: bool = True) -> Message:
        """The next one; the one before it, if it has no reply yet, is given up."""
        for subject in list(self._leases):
            self._close_expired(subject, now if stays else now + LEASE_NS)
        if not stays:
            self._permit, self._alone = None, (0, 0)
            self._own.clear()
        permit = self._permit
        self._seq += 1
        message = Message(
            replica=self._replica,
            seq=self._seq,
            epoch=self._epoch,
            stays=stays,
            holding=Holding(permit.stamp, permit.share, self._former_share) if permit else Holding(None, 0, 0),
            config=(self._told_at, self._policies),
            checks=self._with_demand(checks, now) if stays else list(checks),
            closed=list(self._closed),
            refunds=self._refunds,
        )
        self._refunds = []  # these are said once: a second time might count twice
        self._sent = _Sent(message, now)
        return message

    def receive(self, reply: Reply, now: int) -> list[Passed | Denied | Unable | None] | None:
        """What becomes of the checks of the message, in order.

        None in place of the list: it is no reply to the last message. None in the list: granted, but too late.
        """
        sent = self._sent
        if sent is None or reply.seq != sent.message.seq:
            return None
        self._sent = None
        if reply.epoch == self._epoch:
            del self._closed[: len(sent.message.closed)]
        else:
            self._meet(reply.epoch, now)
        self._own.clear()
        if sent.message.stays:
            self._permit = reply.permit
            end = sent.at + QUIET_NS + ALONE_NS if reply.permit.share else 0
            self._alone = (now + QUIET_NS, end)
        return [
            self._take(check, answer, sent.at + LEASE_NS, now)
            for check, answer in zip(sent.message.checks, reply.answers, strict=True)
        ]

    def give_up(self) -> None:
        """There will be no reply to the last message."""
        self._sent = None

    def is_under_way(self, now: int) -> bool:
        """Whether the last message may still get its reply."""
        return self._sent is not None and now < self._sent.at + ABANDON_NS

    def is_idle(self, now: int) -> bool:
        """Nobody has asked for a while."""
        return self._demand.is_idle(now)

    def _meet(self, epoch: int, now: int) -> None:
        """Another ledger: what the one before it granted is worth nothing any more."""
        self._former_share = self._permit.share if self._permit and now < self._alone[1] else 0
        self._permit, self._alone = None, (0, 0)
        self._epoch = epoch
        self._leases.clear()
        self._closed.clear()
        self._refunds.clear()

    def _take(
        self, check: Check, answer: Granted | Denied | Unable, expires: int, now: int
    ) -> Passed | Denied | Unable | None:
        if not isinstance(answer, Granted):
            return answer
        amounts = [cost + ahead for cost, ahead in zip(check.cost, answer.ahead, strict=True)]
        lease = _Lease(answer.id, amounts, expires, answer.left)
        self._leases.setdefault(check.subject, []).append(lease)
        if now >= expires:
            self._close(check.subject, lease)
            return None
        return self._spend(check, lease)

    def _close_expired(self, subject: str, now: int) -> None:
        for lease in [one for one in self._leases.get(subject, ()) if one.expires <= now]:
            self._close(subject, lease)

    def _close(self, subject: str, lease: _Lease) -> None:
        leases = self._leases[subject]
        leases.remove(lease)
        if not leases:
            del self._leases[subject]
        self._closed.append(Closed(lease.id, (lease.left[0], lease.left[1])))

    def _with_demand(self, checks: Sequence[Check], now: int) -> list[Check]:
        """The checks, and what is to be leased ahead of those to come."""
        expected = {
            subject: wanted for subject, wanted in self._demand.expected(now).items() if not self._fresh(subject, now)
        }
        asking = []
        for check in checks:
            wanted = expected.pop(check.subject, None)
            asking.append(check._replace(ahead=wanted.ahead) if wanted else check)
        return [*asking, *expected.values()]

    def _fresh(self, subject: str, now: int) -> bool:
        return any(lease.expires > now + LEASE_NS // 2 for lease in self._leases.get(subject, ()))


def _slot(subject: str) -> str:
    """As at the ledger, addresses share a fixed number of buckets; Python's hash is keyed anew in every process."""
    return f"{ADDRESS}{hash(subject) % SLOTS}" if subject.startswith(ADDRESS) else subject


class _Demand:
    """What subjects have spent of late, to foresee what they will: in this window of `LEASE_NS` and the one before."""

    def __init__(self) -> None:
        self._since = 0
        self._last: int | None = None
        self._now: dict[str, Check] = {}
        self._before: dict[str, Check] = {}

    def note(self, check: Check, now: int) -> None:
        self._turn(now)
        self._last = now
        known = self._now.get(check.subject)
        requests, pairs = known.ahead if known else (0, 0)
        ahead = (requests + check.cost[0], pairs + check.cost[1])
        self._now[check.subject] = check._replace(cost=(0, 0), ahead=ahead)

    def expected(self, now: int) -> dict[str, Check]:
        """A check for each subject that has asked more than once, which costs nothing and asks for a lease."""
        self._turn(now)
        most: dict[str, Check] = {}
        for one in (*self._before.values(), *self._now.values()):  # this window has only begun: it may show too little
            if one.ahead >= most.get(one.subject, one).ahead:
                most[one.subject] = one
        return {subject: one for subject, one in most.items() if one.ahead[0] > 1}

    def is_idle(self, now: int) -> bool:
        return self._last is None or now - self._last > IDLE_NS

    def _turn(self, now: int) -> None:
        if now - self._since >= LEASE_NS:
            self._before = self._now if now - self._since < 2 * LEASE_NS else {}
            self._now, self._since = {}, now
