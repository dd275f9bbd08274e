"""The limits as one replica of the front door holds them: decided here where a lease allows, else asked of the ledger.

At most one message to the ledger is under way. While there are requests, one goes out every `HEARTBEAT_S` even if
nothing waits, so that leases are renewed before they end; after the last request the replica says good-bye.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from deployments.contract.errors import CostTooLarge, Unavailable
from deployments.contract.limits import CallerArgs, IngressConfig, RateArgs, RatesArgs
from deployments.core.bucket import Rate
from deployments.core.lease import Check, Denied, Left, Message, Policies, Rates, Reply, Unable, names
from deployments.core.lessee import ABANDON_NS, Lessee, Passed
from deployments.core.quota import Quota, Unit

PATIENCE_S = 0.05  # for the ledger's answer; then the replica counts alone, if it may
LONG_PATIENCE_S = 0.5  # more, until it may
FIRST_PATIENCE_S = 5.0  # until the ledger was heard from for the first time: it takes 1 to 2 s to start
HEARTBEAT_S = 0.1
PROBE_S = 0.1  # between two messages to a ledger that cannot be reached

_UNITS: tuple[Unit, Unit] = ("requests", "pairs")
_log = logging.getLogger("ray.serve")

Ask = Callable[[Message], Awaitable[Reply]]
Basis = Literal["lease", "ledger", "alone"]
"""How a decision came about: from a lease and at once, by asking the ledger, or without it."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that has passed, what it was asked for, and what is left."""

    check: Check
    passed: Passed | None
    """None: nothing limits it."""

    quotas: list[Quota]


@dataclass(frozen=True, slots=True)
class Refusal:
    """It has not; the names of the policies that forbid it, how long to wait, and what is left."""

    violated: list[str]
    retry_after_s: float
    quotas: list[Quota]


@dataclass(eq=False, slots=True)
class _Waiting:
    check: Check
    decision: asyncio.Future[Passed | Denied | Unable]


class Limiter:
    """One replica's limits.

    Args:
        replica: a name that no other replica ever has.
        ask: sends a message to the ledger; raises when that cannot be reached.
    """

    def __init__(self, replica: str, ask: Ask, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._lessee = Lessee(replica)
        self._ask = ask
        self._clock = clock
        self._config = IngressConfig()
        self._waiting: list[_Waiting] = []
        self._wakes = asyncio.Event()
        self._talk: asyncio.Task[None] | None = None
        self._unreachable = False
        self.decisions: Counter[Basis] = Counter()
        """Made so far."""

    def configure(self, config: IngressConfig, told_at: int) -> None:
        """Take other limits from now on; of two replicas that were told different ones, the later `told_at` counts."""
        self._config = config
        self._lessee.configure(told_at, policies(config), self._clock())

    def greet(self) -> None:
        """Speak to the ledger now, so that it is there when the first request comes."""
        if not self._lessee.has_met and self._lessee.is_limited(""):
            self._start()

    def max_concurrent(self, tier: str | None) -> int:
        return self._caller(tier).max_concurrent

    async def admit(self, subject: str, tier: str | None, pairs: int, *, service: bool = True) -> Admission | Refusal:
        """Take one request and so many pairs out of the buckets of the subject and of the service, or nothing.

        Args:
            service: whether the service's quota is touched; who has no key must not use it up for others.

        Raises:
            CostTooLarge: more pairs than a burst holds; that is one request, too.
            Unavailable: nobody can tell.
        """
        check = Check(subject, self._lessee.tier(tier), (1, pairs), service=service)
        if not self._lessee.is_limited(check.tier):
            return Admission(check, None, [])
        most = self._lessee.most_pairs(check.tier)
        if most is not None and pairs > most:
            if isinstance(one := await self.admit(subject, tier, 0, service=service), Refusal):
                return one
            raise CostTooLarge(f"{pairs:,} pairs, but your quota lets at most {most:,} pass at once; send fewer texts")
        decision = self._decide(check) or await self._ask_ledger(check)
        if isinstance(decision, Unable):
            raise Unavailable(f"{decision.reason}; try again", retry_after_s=1)
        quotas = self._quotas(check.tier, decision.left)
        if isinstance(decision, Denied):
            return Refusal(list(decision.violated), decision.retry_after_ns / 1e9, quotas)
        return Admission(check, decision, quotas)

    def refund(self, admission: Admission, *, requests: bool = True) -> None:
        """The work was not done: all that was paid comes back, or the pairs alone."""
        if admission.passed is not None:
            cost = admission.check.cost if requests else (0, admission.check.cost[1])
            self._lessee.refund(admission.passed, admission.check._replace(cost=cost), self._clock())
            self._start()  # the ledger is to hear of it soon
            self._wakes.set()

    def _caller(self, tier: str | None) -> CallerArgs:
        return self._config.tiers.get(tier or "", self._config.caller)

    def full(self, tier: str | None) -> list[Quota]:
        """The quotas of a caller who has not come yet."""
        caller = self._caller(tier)
        return [
            Quota(name, unit, rate.limit, rate.window_s, rate.burst, rate.burst, 0)
            for name, unit, rate in zip(names("caller"), _UNITS, (caller.requests, caller.pairs), strict=True)
            if rate is not None
        ]

    def _quotas(self, tier: str, left: tuple[Left | None, Left | None]) -> list[Quota]:
        by_name = {name: one for name, one in zip(names("caller"), left, strict=True) if one is not None}
        return [
            quota._replace(remaining=one.tokens, next_s=math.ceil(one.next_ns / 1e9))
            for quota in self.full(tier)
            if (one := by_name.get(quota.name))
        ]

    def _decide(self, check: Check) -> Passed | Denied | Unable | None:
        decision = self._lessee.decide(check, self._clock())
        if decision is not None:
            self.decisions["lease" if isinstance(decision, Passed) and decision.grant is not None else "alone"] += 1
        return decision

    # Talking to the ledger.

    async def _ask_ledger(self, check: Check) -> Passed | Denied | Unable:
        one = _Waiting(check, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._start()
        self._wakes.set()
        patience = (PATIENCE_S, LONG_PATIENCE_S) if self._lessee.has_met else (FIRST_PATIENCE_S,)
        try:
            for seconds in patience:
                await asyncio.wait([one.decision], timeout=seconds)
                if one.decision.done():
                    self.decisions["ledger"] += 1
                    return one.decision.result()
                if self._lessee.counts_alone(self._clock()):
                    break
            self.decisions["alone"] += 1
            return self._lessee.alone(check, self._clock())
        except asyncio.CancelledError:
            if one.decision.done():  # in this very moment
                self._give_back(one, one.decision.result())
            raise
        finally:
            one.decision.cancel()

    def _start(self) -> None:
        """In a context of its own: Serve cancels all that was sent in the context of a caller who hangs up."""
        if self._talk is None or self._talk.done():
            self._talk = asyncio.get_running_loop().create_task(self._talk_on(), context=contextvars.Context())

    async def _talk_on(self) -> None:
        """Until there is nothing to say any more."""
        while True:
            self._wakes.clear()
            idle = self._lessee.is_idle(self._clock()) and not self._waiting and self._lessee.has_met
            heard = await self._exchange(stays=not idle)
            if idle and not self._waiting:
                return
            if not heard:
                await asyncio.sleep(PROBE_S)
            elif not self._waiting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._wakes.wait()

    async def _exchange(self, *, stays: bool) -> bool:
        """One message and its reply; False: there was none."""
        asked, self._waiting = [one for one in self._waiting if not one.decision.done()], []
        message = self._lessee.message([one.check for one in asked], self._clock(), stays=stays)
        try:
            async with asyncio.timeout(ABANDON_NS / 1e9):
                reply = await self._ask(message)
            self._note(reachable=True)
        except Exception as error:  # whatever it is, the replica goes on without the ledger
            self._lessee.give_up()
            self._waiting += asked
            self._note(reachable=False, why=error)
            return False
        outcomes = self._lessee.receive(reply, self._clock()) or []
        for one, outcome in zip(asked, outcomes, strict=False):  # more outcomes than asked: leases ahead of need
            self._settle(one, outcome)
        return True

    def _settle(self, one: _Waiting, outcome: Passed | Denied | Unable | None) -> None:
        if one.decision.done():  # nobody waits any more
            self._give_back(one, outcome)
        elif outcome is None:  # granted, but the answer took too long
            self._waiting.append(one)
        else:
            one.decision.set_result(outcome)

    def _give_back(self, one: _Waiting, outcome: Passed | Denied | Unable | None) -> None:
        if isinstance(outcome, Passed):
            self._lessee.refund(outcome, one.check, self._clock())

    def _note(self, *, reachable: bool, why: Exception | None = None) -> None:
        """Once, not ten times a second."""
        if self._unreachable == reachable:
            self._unreachable = not reachable
            if reachable:
                _log.info("the ledger of the limits can be reached again")
            else:
                _log.warning("the ledger of the limits cannot be reached, each replica counts alone: %r", why)


def policies(config: IngressConfig) -> Policies:
    """The limits as the ledger knows them."""
    tiers = {"": _rates(config.caller)} | {name: _rates(tier) for name, tier in config.tiers.items()}
    return Policies(tiers, _rates(config.service))


def _rates(args: CallerArgs | RatesArgs) -> Rates:
    return Rates(_rate(args.requests), _rate(args.pairs))


def _rate(args: RateArgs | None) -> Rate | None:
    return None if args is None else Rate(args.limit, args.window_s * 1_000_000_000, args.burst)
