"""One replica's limits, with a real ledger that a test can hold, lose or kill."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from deployments.contract.errors import CostTooLarge, Unavailable
from deployments.contract.limits import CallerArgs, IngressConfig, RateArgs, RatesArgs
from deployments.core.lease import ALONE_NS, LEASE_NS, MS, QUIET_NS, Message, Reply
from deployments.core.ledger import Ledger
from deployments.core.lessee import IDLE_NS
from deployments.core.quota import Quota
from deployments.runtime.limiter import LONG_PATIENCE_S, PATIENCE_S, Admission, Limiter, Refusal

SECOND = 1_000 * MS
DEADLINE_S = 5.0
UNTIL_UNAVAILABLE_S = PATIENCE_S + LONG_PATIENCE_S + 0.05


@pytest.fixture(autouse=True)
def _talks_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that simulated time may pass between heartbeats without a wait for it."""
    monkeypatch.setattr("deployments.runtime.limiter.HEARTBEAT_S", 0.001)
    monkeypatch.setattr("deployments.runtime.limiter.PROBE_S", 0.001)


class Around:
    """A limiter, its ledger, and what lies between them; the time stands still unless a test moves it."""

    def __init__(self, config: IngressConfig) -> None:
        self.now = 3_600 * SECOND
        self.ledger = Ledger(1, 0, restarted=False, secret=b"secret")
        self.messages: list[Message] = []
        self.under_way = self.most_under_way = 0
        self.error: Exception | None = None
        self.holds_good_bye = False
        self.open = asyncio.Event()
        self.open.set()
        self.answered = asyncio.Event()
        """A check that somebody waits for."""

        self.limiter = Limiter("replica", self._ask, lambda: self.now)
        self.limiter.configure(config, told_at=1)

    async def _ask(self, message: Message) -> Reply:
        self.messages.append(message)
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        if self.holds_good_bye and not message.stays:
            self.open.clear()
        try:
            await asyncio.sleep(0)
            await self.open.wait()
            if self.error is not None:
                raise self.error
            if any(check.cost != (0, 0) for check in message.checks):
                self.answered.set()
            return self.ledger.handle(message, self.now)
        finally:
            self.under_way -= 1

    async def admit(self, subject: str = "a", pairs: int = 1) -> Admission | Refusal:
        return await self.limiter.admit(subject, None, pairs)

    async def meet(self) -> None:
        """So that the replica has heard from the ledger, and holds a share."""
        await self.admit("the first")

    async def pass_time(self, ns: int) -> None:
        """While the replica and the ledger keep in touch."""
        end = self.now + ns
        while self.now < end:
            self.now = min(end, self.now + 40 * MS)
            await self.talk()

    async def talk(self) -> None:
        """One message that is sent from now on, and its reply."""
        before = len(self.messages)
        await until(lambda: len(self.messages) >= before + 2)

    async def seconds_until_unavailable(self) -> float:
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        with pytest.raises(Unavailable, match="cannot be checked at this moment; try again") as caught:
            await self.admit()
        assert caught.value.retry_after_s == 1
        return clock() - asked_at

    async def hold(self) -> None:
        """From now on the ledger answers nothing, and a message is under way."""
        self.open.clear()
        await until(lambda: self.under_way == 1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # many conditions, and no event for most
            await asyncio.sleep(0.001)


def limits(
    limit: int = 10, burst: int = 20, pairs: RateArgs | None = None, service: RateArgs | None = None
) -> IngressConfig:
    caller = CallerArgs(requests=RateArgs(limit=limit, burst=burst), pairs=pairs)
    return IngressConfig(caller=caller, service=RatesArgs(requests=service))


UNLIMITED = IngressConfig(caller=CallerArgs(requests=None, pairs=None))


def passed(answers: list[Admission | Refusal]) -> int:
    return sum(isinstance(answer, Admission) for answer in answers)


async def test_admits_what_the_burst_holds_and_refuses_the_rest() -> None:
    around = Around(limits(burst=20))

    answers = await asyncio.gather(*(around.admit() for _ in range(30)))
    answers += [await around.admit() for _ in range(30)]  # of the first, some were refused for what was leased ahead

    assert passed(answers) == 20
    assert isinstance(await around.admit("another"), Admission)


async def test_an_admission_tells_what_is_left_of_the_callers_own_quotas() -> None:
    around = Around(limits(pairs=RateArgs(limit=5, window_s=60, burst=40), service=RateArgs(limit=1, burst=1_000)))

    answer = await around.admit(pairs=3)

    assert isinstance(answer, Admission)
    assert [(one.name, one.unit, one.limit, one.window_s, one.burst, one.remaining) for one in answer.quotas] == [
        ("caller-requests", "requests", 10, 1, 20, 19),
        ("caller-pairs", "pairs", 5, 60, 40, 37),
    ]


async def test_a_refusal_names_the_quota_and_passes_exactly_when_told() -> None:
    around = Around(limits(limit=3, burst=2))
    refused: Admission | Refusal | None = None
    while not isinstance(refused, Refusal):
        refused = await around.admit()

    assert refused.violated == ["caller-requests"]
    assert refused.quotas == [Quota("caller-requests", "requests", 3, 1, 2, 0, math.ceil(refused.retry_after_s))]
    await around.pass_time(round(refused.retry_after_s * 1e9) - 1)
    assert isinstance(await around.admit(), Refusal)
    around.now += 1
    assert isinstance(await around.admit(), Admission)


async def test_a_cost_above_the_burst_is_refused_for_good_with_the_maximum() -> None:
    around = Around(limits(pairs=RateArgs(limit=5, burst=4_000)))

    with pytest.raises(CostTooLarge, match=r"4,001 pairs, but your quota lets at most 4,000 pass at once"):
        await around.admit(pairs=4_001)

    assert isinstance(await around.admit(pairs=4_000), Admission)


async def test_a_cost_above_the_burst_costs_one_request_and_no_pairs() -> None:
    around = Around(limits(burst=2, pairs=RateArgs(limit=5, burst=4_000)))
    for _ in range(2):
        with pytest.raises(CostTooLarge):
            await around.admit(pairs=4_001)
    asked = {check.cost for message in around.messages for check in message.checks}

    assert (1, 0) in asked
    assert asked <= {(1, 0), (0, 0)}
    refused = await around.admit(pairs=4_001)
    assert isinstance(refused, Refusal)
    assert refused.violated == ["caller-requests"]


async def test_who_is_not_to_touch_the_services_quota_uses_up_none_of_it() -> None:
    around = Around(limits(service=RateArgs(limit=1, burst=2)))

    spared = [await around.limiter.admit("a", None, 1, service=False) for _ in range(5)]
    counted = [await around.admit(subject) for subject in "bcd"]
    after = await around.limiter.admit("d", None, 1, service=False)

    assert passed(spared) == 5
    assert [type(answer) for answer in counted] == [Admission, Admission, Refusal]
    assert isinstance(after, Admission)


async def test_without_limits_the_ledger_is_never_asked() -> None:
    around = Around(UNLIMITED)
    around.limiter.greet()

    answer = await around.admit(pairs=10**6)

    assert isinstance(answer, Admission)
    assert (answer.passed, answer.quotas, around.messages) == (None, [], [])
    around.limiter.refund(answer)


async def test_a_tier_has_limits_of_its_own() -> None:
    config = limits(burst=2)
    gold = config.caller.model_copy(update={"requests": RateArgs(limit=1, burst=5), "max_concurrent": 7})
    around = Around(config.model_copy(update={"tiers": {"gold": gold}}))

    answers = await asyncio.gather(*(around.limiter.admit("g", "gold", 1) for _ in range(9)))

    assert passed(answers) == 5
    assert [around.limiter.max_concurrent(tier) for tier in ("gold", None, "lead")] == [7, 64, 64]


async def test_one_message_at_a_time_carries_all_checks_that_wait() -> None:
    around = Around(limits(burst=100))
    await around.meet()
    await around.hold()
    before = len(around.messages)
    waiting = [asyncio.create_task(around.admit(f"key {i}")) for i in range(10)]
    await until(lambda: len(around.limiter._waiting) == 10)
    around.open.set()

    answers = await asyncio.gather(*waiting)

    assert passed(answers) == 10
    assert around.most_under_way == 1
    assert [check.subject for check in around.messages[before].checks] == [f"key {i}" for i in range(10)]


async def test_a_check_goes_out_at_once_and_not_with_the_next_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.runtime.limiter.HEARTBEAT_S", 10 * DEADLINE_S)
    around = Around(limits())

    answers = [await around.admit(subject) for subject in "abc"]

    assert passed(answers) == 3
    assert [[check.subject for check in message.checks] for message in around.messages] == [["a"], ["b"], ["c"]]


async def test_a_busy_key_is_decided_without_a_message() -> None:
    around = Around(limits(limit=1_000, burst=1_000))
    for _ in range(20):
        await around.admit()
    await around.pass_time(LEASE_NS - 10 * MS)
    await around.hold()
    before = len(around.messages)

    answers = [await around.admit() for _ in range(5)]

    assert passed(answers) == 5
    assert len(around.messages) == before


async def test_leases_are_renewed_while_nothing_waits() -> None:
    around = Around(limits(limit=1_000, burst=1_000))
    for _ in range(3):
        await around.admit()
    before = len(around.messages)
    await around.pass_time(LEASE_NS - 10 * MS)

    assert all(check.cost == (0, 0) for message in around.messages[before:] for check in message.checks)
    assert any(check.ahead[0] for message in around.messages[before:] for check in message.checks)


# A ledger that does not answer.


async def test_a_ledger_that_falls_silent_is_unavailable_when_patience_ends_and_then_the_replica_counts_alone() -> None:
    around = Around(limits())
    await around.meet()
    await around.hold()
    seconds = [await around.seconds_until_unavailable()]
    while min(seconds) >= UNTIL_UNAVAILABLE_S and len(seconds) < 5:  # a loaded machine is late
        seconds.append(await around.seconds_until_unavailable())

    assert min(seconds) < UNTIL_UNAVAILABLE_S
    around.now += QUIET_NS
    refused = await around.admit()
    around.now += SECOND // 10
    answers = [refused, await around.admit(), await around.admit()]
    assert [type(answer) for answer in answers] == [Refusal, Admission, Refusal]
    assert refused == Refusal(["caller-requests"], 0.1, [])
    around.now += ALONE_NS
    with pytest.raises(Unavailable):
        await around.admit()


async def test_who_waits_when_the_replica_comes_to_count_alone_waits_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deployments.runtime.limiter.LONG_PATIENCE_S", 10 * DEADLINE_S)
    around = Around(limits())
    await around.meet()
    await around.hold()
    waiting = asyncio.create_task(around.admit())
    await until(lambda: len(around.limiter._waiting) == 1)
    around.now += QUIET_NS + SECOND

    assert isinstance(await asyncio.wait_for(waiting, DEADLINE_S), Admission)


async def test_a_message_that_gets_no_reply_is_given_up_for_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deployments.runtime.limiter.ABANDON_NS", MS)
    caplog.set_level(logging.INFO, "ray.serve")  # libraries that other tests load raise the level of what captures
    around = Around(limits())
    await around.meet()
    around.open.clear()
    before = len(around.messages)
    await until(lambda: len(around.messages) >= before + 3)
    around.open.set()

    assert isinstance(await around.admit(), Admission)
    assert around.most_under_way == 1
    assert "each replica counts alone: TimeoutError()" in caplog.text


async def test_the_first_request_waits_longer_for_a_ledger_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("PATIENCE_S", "LONG_PATIENCE_S"):
        monkeypatch.setattr(f"deployments.runtime.limiter.{patience}", 0.001)
    around = Around(limits())
    around.open.clear()
    waiting = asyncio.create_task(around.admit())
    await asyncio.wait([waiting], timeout=0.1)
    around.open.set()

    assert isinstance(await waiting, Admission)


async def test_a_ledger_that_fails_is_logged_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    around = Around(limits())
    await around.meet()
    around.error = RuntimeError("no such actor")
    before = len(around.messages)
    await until(lambda: len(around.messages) >= before + 3)
    around.error = None
    assert isinstance(await around.admit(), Admission)

    assert [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "ray.serve"] == [
        (
            "WARNING",
            "the ledger of the limits cannot be reached, each replica counts alone: RuntimeError('no such actor')",
        ),
        ("INFO", "the ledger of the limits can be reached again"),
    ]


async def test_a_check_whose_message_failed_goes_out_again_with_the_next() -> None:
    around = Around(limits())
    around.error = RuntimeError("lost")
    waiting = asyncio.create_task(around.admit())
    await until(lambda: len(around.messages) >= 3)
    around.error = None

    assert isinstance(await waiting, Admission)
    assert [len(message.checks) for message in around.messages[:3]] == [1, 1, 1]


async def test_a_ledger_that_cannot_be_reached_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.runtime.limiter.PROBE_S", 10 * DEADLINE_S)
    around = Around(limits())
    around.error = RuntimeError("lost")
    waiting = [asyncio.create_task(around.admit()) for _ in range(2)]
    await until(lambda: bool(around.messages))
    for _ in range(100):
        await asyncio.sleep(0)

    assert len(around.messages) == 1
    for one in waiting:
        one.cancel()


async def test_an_answer_that_came_too_late_is_asked_for_again() -> None:
    around = Around(limits())
    around.open.clear()
    waiting = asyncio.create_task(around.admit())
    await until(lambda: bool(around.messages))
    around.now += LEASE_NS
    around.open.set()

    assert isinstance(await waiting, Admission)
    await until(lambda: [message.checks for message in around.messages[:2]] == 2 * [around.messages[0].checks])
    assert passed([await around.admit() for _ in range(20)]) == 19  # the first grant came back


# Whoever waits goes away, or the limits change.


@pytest.mark.parametrize("n_turns", [None, 0, 1, 2, 3, 4])
async def test_the_grant_of_who_hangs_up_comes_back_whenever_that_is(n_turns: int | None) -> None:
    """So many turns of the loop after the ledger has answered; None: before it has."""
    around = Around(limits(burst=5))
    await around.meet()
    await around.hold()
    waiting = [asyncio.create_task(around.admit()) for _ in range(5)]
    await until(lambda: len(around.limiter._waiting) == 5)
    around.open.set()
    if n_turns is None:
        around.open.clear()
        await until(lambda: len(around.messages[-1].checks) == 5)
    else:
        around.answered.clear()
        await around.answered.wait()
        for _ in range(n_turns):
            await asyncio.sleep(0)
    for one in waiting[1:]:
        one.cancel()
    around.open.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    n_gone = sum(isinstance(answer, asyncio.CancelledError) for answer in answers)

    assert n_turns is not None or n_gone == 4
    assert passed([await around.admit() for _ in range(9)]) == n_gone


async def test_who_has_hung_up_before_the_message_goes_out_is_not_asked_for() -> None:
    around = Around(limits(burst=5))
    await around.meet()
    await around.hold()
    before = len(around.messages)
    waiting = [asyncio.create_task(around.admit(f"key {i}")) for i in range(2)]
    await until(lambda: len(around.limiter._waiting) == 2)
    waiting[0].cancel()
    around.open.set()
    await waiting[1]

    assert [check.subject for check in around.messages[before].checks] == ["key 1"]


async def test_a_refund_brings_the_tokens_back() -> None:
    around = Around(limits(burst=3))
    for answer in [await around.admit() for _ in range(3)][:2]:
        assert isinstance(answer, Admission)
        around.limiter.refund(answer)

    assert passed([await around.admit() for _ in range(3)]) == 2


async def test_a_refund_of_the_pairs_alone_keeps_the_request() -> None:
    around = Around(limits(burst=3, pairs=RateArgs(limit=10, burst=8)))
    paid = await around.admit(pairs=8)
    assert isinstance(paid, Admission)

    around.limiter.refund(paid, requests=False)

    again = await around.admit(pairs=8)
    assert isinstance(again, Admission)
    assert [quota.remaining for quota in again.quotas] == [1, 0]


async def test_a_refund_reaches_the_ledger_though_nobody_asks_any_more() -> None:
    around = Around(limits(burst=3))
    paid = await around.admit()
    assert isinstance(paid, Admission)
    around.now += 2 * IDLE_NS
    await until(lambda: around.limiter._talk is not None and around.limiter._talk.done())

    around.limiter.refund(paid)

    await until(lambda: any(message.refunds for message in around.messages))


@pytest.mark.parametrize(("config", "n_passed"), [(limits(burst=2), 2), (limits(burst=100), 10), (UNLIMITED, 10)])
async def test_limits_that_change_while_requests_wait_count_for_them(config: IngressConfig, n_passed: int) -> None:
    around = Around(limits(burst=20))
    await around.meet()
    await around.hold()
    waiting = [asyncio.create_task(around.admit()) for _ in range(10)]
    await until(lambda: len(around.limiter._waiting) == 10)
    around.limiter.configure(config, told_at=2)
    around.open.set()

    assert passed(await asyncio.gather(*waiting)) == n_passed


async def test_a_tier_that_goes_while_its_callers_wait_leaves_them_the_limits_of_all() -> None:
    config = limits(burst=2)
    gold = config.caller.model_copy(update={"requests": RateArgs(limit=1, burst=5)})
    around = Around(config.model_copy(update={"tiers": {"gold": gold}}))
    await around.meet()
    await around.hold()
    waiting = [asyncio.create_task(around.limiter.admit("g", "gold", 1)) for _ in range(5)]
    await until(lambda: len(around.limiter._waiting) == 5)
    around.limiter.configure(config, told_at=2)
    around.open.set()

    assert passed(await asyncio.gather(*waiting)) == 2


# The talk.


async def test_the_talk_ends_after_the_last_request_with_a_good_bye_and_starts_again() -> None:
    around = Around(limits())
    await around.meet()
    await around.pass_time(IDLE_NS - MS)
    talk = around.limiter._talk
    assert talk is not None
    stays = {message.stays for message in around.messages}
    around.now += MS + 1
    await asyncio.wait_for(talk, DEADLINE_S)

    assert stays == {True}
    assert [message.stays for message in around.messages[-2:]] == [True, False]
    assert isinstance(await around.admit(), Admission)
    assert around.limiter._talk is not talk
    assert around.messages[-1].stays


async def test_a_request_that_comes_during_the_good_bye_is_answered() -> None:
    around = Around(limits())
    await around.meet()
    around.holds_good_bye = True
    await around.pass_time(IDLE_NS - MS)
    around.now += MS + 1
    await until(lambda: not around.open.is_set())
    waiting = asyncio.create_task(around.admit())
    await until(lambda: bool(around.limiter._waiting))
    around.open.set()

    assert isinstance(await waiting, Admission)
    assert [message.stays for message in around.messages[-2:]] == [False, True]


async def test_greets_the_ledger_before_the_first_request_and_only_then() -> None:
    around = Around(limits())
    around.limiter.greet()
    talk = around.limiter._talk
    assert talk is not None
    await asyncio.wait_for(talk, DEADLINE_S)
    around.limiter.greet()

    assert [(message.stays, message.checks) for message in around.messages] == [(True, []), (False, [])]
    assert around.limiter._talk is talk


async def test_the_clock_is_the_machines_unless_told_otherwise() -> None:
    around = Around(limits())
    limiter = Limiter("replica", around._ask)
    limiter.configure(limits(), told_at=1)
    around.now = time.monotonic_ns() + 3_600 * SECOND

    assert isinstance(await limiter.admit("a", None, 1), Admission)


async def test_the_talk_has_nothing_of_the_context_of_whoever_began_it() -> None:
    """Serve keeps there what is to be cancelled when the caller hangs up."""
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    around = Around(limits())
    seen: list[str] = []

    async def ask(message: Message) -> Reply:
        seen.append(caller.get())
        return await around._ask(message)

    limiter = Limiter("replica", ask, lambda: around.now)
    limiter.configure(limits(), told_at=1)
    caller.set("somebody")
    await limiter.admit("a", None, 1)

    assert set(seen) == {"nobody"}


async def test_the_talk_ends_whenever_it_is_cancelled() -> None:
    for n_turns in range(30):
        around = Around(limits())
        await around.meet()
        talk = around.limiter._talk
        assert talk is not None
        for _ in range(n_turns):
            await asyncio.sleep(0)
        talk.cancel()
        await asyncio.wait([talk], timeout=DEADLINE_S)

        assert talk.cancelled()
