"""The ledger: every bucket, and what of them is leased to which replica.

One for all replicas of the front door. After a crash it starts with empty buckets, `LEASE_NS` later: for so long what
the one before it had granted may still be spent. Pure: the time comes as an argument, chance as `epoch` and `secret`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from typing import NamedTuple

from .bucket import Bucket, Rate
from .lease import (
    ADDRESS,
    GRACE_NS,
    LEASE_NS,
    SLOTS,
    Check,
    Denied,
    Granted,
    Holding,
    Left,
    Message,
    Policies,
    Rates,
    Reply,
    Unable,
    names,
)
from .shares import Shares

MAX_SUBJECTS = 200_000  # some 100 MB
PROBES, PROBES_WHEN_FULL = 2, 100  # accounts looked at for each new one, so that those not needed any more go
AHEAD_PART = 10  # at most a tenth of a burst is leased ahead of need

LONG_AGO = -(2**80)  # ns; any bucket is full since

_Levels = list[tuple[Bucket, int, str]]  # bucket, 0 for requests or 1 for pairs, name of the policy


class _Grant(NamedTuple):
    buckets: list[tuple[Bucket, int]]
    expires: int


class _Account:
    """A caller's buckets, or those of the service."""

    __slots__ = ("buckets", "tier")

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.buckets: list[Bucket | None] = [None, None]


class Ledger:
    """Answers the messages of replicas.

    Args:
        epoch: another number for every ledger.
        restarted: there was a ledger before this one; if not, all buckets are full.
        secret: for the slots of addresses.
    """

    def __init__(
        self, epoch: int, now: int, *, restarted: bool, secret: bytes, max_subjects: int = MAX_SUBJECTS
    ) -> None:
        self._epoch = epoch
        self._secret = secret
        self._shares = Shares(now, restarted=restarted)
        self._empty_at = self._shares.clock + LEASE_NS if restarted else LONG_AGO
        self._max_subjects = max_subjects
        self.policies = Policies({}, Rates(None, None))
        self._told_at = -1
        self._service = _Account("")
        self._callers: dict[str, _Account] = {}
        self._round: deque[str] = deque()  # callers, in the order in which they are looked at next
        self._grants: OrderedDict[int, _Grant] = OrderedDict()  # by expiry; in a dict the first is ever dearer to find
        self._n_grants = 0

    def handle(self, message: Message, now: int) -> Reply:
        """Take note of what a replica says, and answer its checks, in order."""
        self._shares.advance(now)
        self._drop_expired()
        ours = message.epoch == self._epoch
        holding = message.holding if ours else Holding(None, 0, 0)
        is_news = self._shares.is_news(message.replica, message.seq)
        permit = self._shares.renew(message.replica, message.seq, holding, stays=message.stays)
        self._adopt(*message.config)
        if ours:
            self._take_back(message, with_refunds=is_news)
        return Reply(message.seq, self._epoch, permit, [self._answer(check) for check in message.checks])

    def silent(self) -> list[str]:
        """Replicas not heard of lately, for whose shares the ledger's clock stands still."""
        return self._shares.silent()

    def bury(self, replica: str, now: int) -> None:
        """A replica has certainly died: its share is free again."""
        self._shares.bury(replica, now)

    def _take_back(self, message: Message, *, with_refunds: bool) -> None:
        for closed in message.closed:
            if grant := self._grants.get(closed.id):
                for bucket, unit in grant.buckets:
                    self._settle(bucket)
                    bucket.close(closed.id, closed.unspent[unit])
        for refund in message.refunds if with_refunds else ():
            if grant := self._grants.get(refund.id):
                for bucket, unit in grant.buckets:
                    self._settle(bucket)
                    bucket.refund(refund.id, refund.cost[unit])

    # Checks.

    def _answer(self, check: Check) -> Granted | Denied | Unable:
        levels = self._levels(check)
        if levels is None:
            return Unable("too many callers at a time have used up some of their quota")
        clock = self._shares.clock
        waits = [(bucket.wait_ns(check.cost[unit], clock), name) for bucket, unit, name in levels]
        if any(wait for wait, _ in waits):
            violated = tuple(name for wait, name in waits if wait)
            return Denied(max(waits)[0], violated, self._left(check.subject))
        ahead = _ahead(levels, check, clock)
        id = self._n_grants = self._n_grants + 1
        expires = clock + LEASE_NS + GRACE_NS
        for bucket, unit, _ in levels:
            bucket.grant(id, check.cost[unit], ahead[unit], expires)
        self._grants[id] = _Grant([(bucket, unit) for bucket, unit, _ in levels], expires)
        return Granted(id, ahead, self._left(check.subject))

    def _levels(self, check: Check) -> _Levels | None:
        """The buckets that the check is about, settled; None: no room for them."""
        account = self._account(check.subject)
        if account is None:
            return None
        account.tier = check.tier
        return [
            (self._bucket(one, unit, rate), unit, names(level)[unit])
            for level, one in (("caller", account), ("service", self._service))
            for unit, rate in enumerate(self._rates(one))
            if rate is not None and (one is account or check.service)
        ]

    def _left(self, subject: str) -> tuple[Left | None, Left | None]:
        requests, pairs = self._callers[self._slot(subject)].buckets
        return self._left_of(requests), self._left_of(pairs)

    def _left_of(self, bucket: Bucket | None) -> Left | None:
        if bucket is None:
            return None
        clock = self._shares.clock
        return Left(max(0, bucket.tokens(clock)), bucket.next_ns(clock))

    # Buckets.

    def _slot(self, subject: str) -> str:
        if not subject.startswith(ADDRESS):
            return subject
        digest = hashlib.blake2b(subject.encode(), key=self._secret, digest_size=8).digest()
        return f"{ADDRESS}{int.from_bytes(digest) % SLOTS}"

    def _account(self, subject: str) -> _Account | None:
        slot = self._slot(subject)
        account = self._callers.get(slot)
        if account is None:
            self._evict()
            if len(self._callers) < self._max_subjects:
                account = self._callers[slot] = _Account("")
                self._round.append(slot)
        return account

    def _bucket(self, account: _Account, unit: int, rate: Rate) -> Bucket:
        bucket = account.buckets[unit]
        if bucket is None:
            bucket = account.buckets[unit] = Bucket(rate, self._empty_at)
        self._settle(bucket)
        if bucket.rate != rate:
            bucket.change(rate, self._shares.clock)
        return bucket

    def _settle(self, bucket: Bucket) -> None:
        bucket.settle(self._shares.clock, self._shares.reserved)

    def _evict(self) -> None:
        """Look at some accounts, and drop those that equal a new one; no other is ever dropped."""
        is_full = len(self._callers) >= self._max_subjects
        for _ in range(min(len(self._round), PROBES_WHEN_FULL if is_full else PROBES)):
            slot = self._round.popleft()
            if self._is_new(self._callers[slot]):
                del self._callers[slot]
            else:
                self._round.append(slot)

    def _is_new(self, account: _Account) -> bool:
        for bucket in account.buckets:
            if bucket is not None:
                self._settle(bucket)
                if not bucket.is_full(self._shares.clock):
                    return False
        return True

    def _drop_expired(self) -> None:
        while self._grants and (first := next(iter(self._grants.items())))[1].expires <= self._shares.clock:
            del self._grants[first[0]]

    # Policies.

    def _adopt(self, told_at: int, policies: Policies) -> None:
        """Whoever was told its policies last is right; all buckets change at once, so that none gains by it."""
        if told_at <= self._told_at:
            return
        self._told_at = told_at
        old, self.policies = self.policies, policies
        if old == policies:
            return
        for account in (self._service, *self._callers.values()):
            for bucket, rate in zip(account.buckets, self._rates(account), strict=True):
                if bucket is not None and rate is not None:
                    self._settle(bucket)
                    bucket.change(rate, self._shares.clock)

    def _rates(self, account: _Account) -> Rates:
        if account is self._service:
            return self.policies.service
        tiers = self.policies.tiers
        return tiers.get(account.tier) or tiers[""]


def _ahead(levels: _Levels, check: Check, clock: int) -> tuple[int, int]:
    """What may be granted ahead of need: as asked for, or scaled down to what the scarcest bucket can spare."""
    part, whole = 1, 1
    for bucket, unit, _ in levels:
        rate, wanted = bucket.rate, check.ahead[unit]
        at_most = min(rate.burst // AHEAD_PART, rate.limit * LEASE_NS // rate.window_ns)
        room = max(0, min(at_most - bucket.ahead, bucket.tokens(clock) - check.cost[unit]))
        if room * whole < part * wanted:
            part, whole = room, wanted
    return check.ahead[0] * part // whole, check.ahead[1] * part // whole
