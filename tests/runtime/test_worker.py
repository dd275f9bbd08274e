"""Stage 2 on a real event loop and real threads, around the fake engine; time is a number that tests set."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from deployments.contract.args import ClassifierConfig
from deployments.core.cache import Scored
from deployments.core.work import Reply, Work
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import FloatArray, OutOfMemory, Pair
from deployments.runtime.worker import MAX_FAILED_RUNS, Ticket, Unhealthy, Worker
from tests.asking import ask, outcome, work, worker

DEADLINE_S = 20.0


class SlowTokeniser(FakeEngine):
    """Tokenises a text that says "slow" only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.begun: list[str] = []

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        self.begun += texts
        if any(text.startswith("slow") for text in texts):
            assert self.gate.acquire(timeout=DEADLINE_S)
        return super().pairs(texts, hypotheses)


class Gated(FakeEngine):
    """Runs a batch only when the test lets it, and remembers each."""

    def __init__(self, streams: int = 1) -> None:
        super().__init__(streams=streams)
        self.batches: list[list[Pair]] = []
        self.tokenised: list[str] = []
        self.gate = threading.Semaphore(0)

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        self.tokenised += texts
        return super().pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        self.batches.append(list(pairs))
        assert self.gate.acquire(timeout=DEADLINE_S)
        return super().logits(pairs)

    def open(self) -> None:
        """For all batches to come."""
        self.gate.release(10_000)

    @property
    def n_pairs(self) -> int:
        return sum(len(batch) for batch in self.batches)


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def _busy(engine: Gated, service: Worker) -> asyncio.Task[list[Reply]]:
    """A request that the engine has begun with."""
    task = asyncio.create_task(ask(service, work("busy", tenant="other")))
    await _until(lambda: engine.n_pairs > 0)
    return task


async def _admit(service: Worker, *works: Work) -> list[Ticket]:
    tickets = [service.ticket(one) for one in works]
    await service.admit(tickets)
    return tickets


def _expected(one: Work) -> FloatArray:
    engine = FakeEngine()
    grid = engine.pairs(one["texts"], one["hypotheses"])
    return np.stack([engine.logits(row) for row in grid])


async def test_every_request_gets_its_own_logits_in_its_own_shape() -> None:
    works = [work(f"text {i}", *(["more"] * (i % 3)), hypotheses=[f"h{i}", "refund"][: i % 2 + 1]) for i in range(50)]

    replies = await ask(worker(FakeEngine(), max_batch_tokens=40), *works)

    for one, reply in zip(works, replies, strict=True):
        np.testing.assert_array_equal(outcome(reply)["logits"], _expected(one))
        assert outcome(reply)["failed"] == [False] * len(one["texts"])


async def test_usage_and_truncation_are_the_same_known_or_not() -> None:
    service = worker(FakeEngine())
    one = work("short", "long " * 100)

    first, second = [outcome((await ask(service, one))[0]) for _ in range(2)]

    assert first["truncated"] == second["truncated"] == [False, True]
    assert first["tokens"] == second["tokens"] == 2 * (1 + 1 + 3) + 2 * 64
    assert second["queued_s"] == second["engine_s"] == 0


async def test_a_known_pair_is_neither_tokenised_nor_run_again() -> None:
    engine = Gated()
    engine.open()
    service = worker(engine)
    await ask(service, work("one", "two"))

    replies = await ask(service, work("two", "one"), work("two", "three"))

    assert engine.tokenised == ["one", "two", "three"]
    assert engine.n_pairs == 6
    np.testing.assert_array_equal(outcome(replies[0])["logits"], _expected(work("two", "one")))
    np.testing.assert_array_equal(outcome(replies[1])["logits"], _expected(work("two", "three")))


@pytest.mark.parametrize(("share", "n_pairs"), [(False, 4), (True, 2)])
async def test_a_tenant_profits_from_anothers_pairs_only_where_they_share(share: bool, n_pairs: int) -> None:
    engine = Gated()
    engine.open()
    service = worker(engine, share_cache=share)

    await ask(service, work("one", tenant="a"))
    await ask(service, work("one", tenant="b"))

    assert engine.n_pairs == n_pairs


async def test_equal_pairs_of_two_tenants_run_once_in_one_batch() -> None:
    engine = Gated()
    service = worker(engine)
    busy = await _busy(engine, service)
    tickets = await _admit(service, work("one", tenant="a"), work("one", tenant="b"))

    engine.open()

    assert [outcome(await service.reply(t))["failed"] for t in tickets] == [[False], [False]]
    assert [len(batch) for batch in engine.batches] == [2, 2]
    await busy


async def test_what_waits_while_the_engine_runs_makes_one_batch() -> None:
    engine = Gated()
    service = worker(engine)
    busy = await _busy(engine, service)

    tickets = [ticket for i in range(64) for ticket in await _admit(service, work(f"word{i}"))]
    engine.open()
    for ticket in tickets:
        await service.reply(ticket)

    assert [len(batch) for batch in engine.batches] == [2, 128]
    await busy


async def test_free_streams_share_one_request_and_each_takes_another_when_it_is_done() -> None:
    engine = Gated(streams=2)
    service = worker(engine)

    whole = asyncio.create_task(ask(service, work("one", "two", "three")))
    await _until(lambda: len(engine.batches) == 2)
    others = asyncio.create_task(ask(service, work("four"), work("five")))
    engine.gate.release()
    await _until(lambda: len(engine.batches) == 3)
    engine.open()

    assert [len(batch) for batch in engine.batches] == [3, 3, 4]
    np.testing.assert_array_equal(outcome((await whole)[0])["logits"], _expected(work("one", "two", "three")))
    np.testing.assert_array_equal(outcome((await others)[1])["logits"], _expected(work("five")))


@pytest.mark.parametrize(("streams", "batches"), [(1, [5]), (2, [2, 3])])
async def test_free_streams_share_pairs_of_unequal_length_by_their_number(streams: int, batches: list[int]) -> None:
    engine = Gated(streams)
    service = worker(engine)
    claims = ["of twenty words " + "and so on " * n for n in (9, 9, 9, 8, 8)]

    asked = asyncio.create_task(
        ask(service, work("text", hypotheses=[f"{claim}{i}" for i, claim in enumerate(claims)]))
    )
    await _until(lambda: len(engine.batches) == streams)
    engine.open()
    await asked

    assert sorted(len(batch) for batch in engine.batches) == batches


async def test_streams_share_the_tokens_that_may_be_in_the_engine_at_a_time() -> None:
    engine = Gated(streams=2)
    engine.open()

    await ask(worker(engine, max_batch_tokens=40), work(*(f"text {i}" for i in range(20))))

    assert max(sum(pair.n_tokens for pair in batch) for batch in engine.batches) <= 20


async def test_a_cancelled_request_never_reaches_the_engine() -> None:
    engine = Gated()
    service = worker(engine)
    busy = await _busy(engine, service)
    tickets = await _admit(service, *(work(f"word{i}") for i in range(200)))

    service.cancel(tickets[:199])
    engine.open()
    await service.reply(tickets[199])

    assert engine.n_pairs == 4
    await busy


async def test_a_request_that_was_cancelled_before_it_was_queued_is_forgotten() -> None:
    engine = Gated()
    service = worker(engine)
    tickets = [service.ticket(work("one"))]

    service.cancel(tickets)
    await service.admit(tickets)

    assert engine.tokenised == []


async def test_a_request_past_its_deadline_never_reaches_the_engine_and_is_told() -> None:
    now = 0.0
    engine = Gated()
    service = Worker(engine, ClassifierConfig(), b"s", clock=lambda: now)
    busy = await _busy(engine, service)
    late, kept = await _admit(service, work("late", deadline_s=5), work("kept", deadline_s=50))

    now = 6.0
    stale = service.ticket(work("stale", deadline_s=-1))
    await service.admit([stale])
    engine.open()

    assert (await service.reply(late)).get("error", {}).get("class") == "DeadlineExceeded"
    assert (await service.reply(stale)).get("error", {}).get("class") == "DeadlineExceeded"
    assert outcome(await service.reply(kept))["failed"] == [False]
    assert [len(batch) for batch in engine.batches] == [2, 2]
    await busy


async def test_one_text_that_the_engine_fails_on_among_63_good_ones() -> None:
    class Poisoned(FakeEngine):
        def logits(self, pairs: Sequence[Pair]) -> FloatArray:
            if any(len(pair.premise) == 13 for pair in pairs):
                raise RuntimeError("poison")
            return super().logits(pairs)

    service = worker(Poisoned())
    works = [work(f"word{i}") for i in range(63)]

    replies = await ask(service, *works[:30], work("bad " * 13), *works[30:])

    bad = outcome(replies.pop(30))
    assert bad["failed"] == [True]
    assert np.isnan(bad["logits"]).all()
    for one, reply in zip(works, replies, strict=True):
        np.testing.assert_array_equal(outcome(reply)["logits"], _expected(one))


async def test_a_request_that_cannot_be_tokenised_fails_alone() -> None:
    replies = await ask(worker(FakeEngine()), work("good"), work("x", hypotheses=["word " * 100]), work("fine"))

    assert [reply.get("error", {}).get("class") for reply in replies] == [None, "HypothesisTooLong", None]


async def test_the_budget_shrinks_where_memory_ends_and_nobody_fails() -> None:
    sizes: list[int] = []

    class Small(FakeEngine):
        def logits(self, pairs: Sequence[Pair]) -> FloatArray:
            sizes.append(len(pairs))
            if len(pairs) > 8:
                raise OutOfMemory("8 pairs at most")
            return super().logits(pairs)

    service = worker(Small())
    works = [work(*(f"word{i}x{j}" for j in range(16)), hypotheses=["refund"]) for i in range(8)]

    replies = [(await ask(service, one))[0] for one in works]

    assert not any(True in outcome(reply)["failed"] for reply in replies)
    assert max(sizes[-4:]) <= 8, "it goes on with batches that fit"


async def test_a_full_queue_is_a_503_that_says_so() -> None:
    engine = Gated()
    service = worker(engine, max_queued_tokens=20)
    busy = await _busy(engine, service)
    await _admit(service, work("one"))

    (refused,) = await ask(service, work(*(f"word{i}" for i in range(2))))
    service.configure(ClassifierConfig(max_queued_tokens=1_000))
    (ticket,) = await _admit(service, work(*(f"word{i}" for i in range(2))))
    engine.open()

    assert refused.get("error", {}).get("class") == "Unavailable"
    assert "10 tokens are waiting already, at most 20" in refused.get("error", {}).get("detail", "")
    assert outcome(await service.reply(ticket))["failed"] == [False, False]
    await busy


@pytest.mark.parametrize("streams", [1, 2])
async def test_an_engine_that_hangs_makes_it_unhealthy(streams: int) -> None:
    now = 0.0
    engine = Gated(streams)
    service = Worker(engine, ClassifierConfig(max_batch_s=60), b"s", clock=lambda: now)
    service.check()
    busy = asyncio.create_task(ask(service, work("busy", hypotheses=["refund"], deadline_s=600)))
    await _until(lambda: len(engine.batches) == 1)

    now = 59.0
    service.check()
    others = asyncio.create_task(ask(service, work("later", hypotheses=["refund"], deadline_s=600)))
    await _until(lambda: len(engine.batches) == streams)
    now = 61.0
    with pytest.raises(Unhealthy, match="running one batch for 61 s"):
        service.check()

    engine.open()
    await asyncio.gather(busy, others)
    service.check()


@pytest.mark.parametrize("streams", [1, 2])
async def test_a_loop_that_has_ended_is_unhealthy_and_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    engine = Gated(streams)
    service = worker(engine)
    busy = await _busy(engine, service)
    (ticket,) = await _admit(service, work("one"))
    monkeypatch.setattr(service._scheduler, "complete", lambda *_, **__: 1 / 0)

    engine.open()

    assert (await service.reply(ticket)).get("error", {}).get("class") == "Unavailable"
    assert (await busy)[0].get("error", {}).get("class") == "Unavailable"
    with pytest.raises(Unhealthy, match="has ended"):
        service.check()
    (newcomer,) = await ask(service, work("two"))
    assert newcomer.get("error", {}).get("class") == "Unavailable"


async def test_where_one_stream_has_ended_the_others_end_with_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")
    engine = Gated(streams=2)
    service = worker(engine)
    complete = service._scheduler.complete
    broken = iter([True])
    monkeypatch.setattr(
        service._scheduler,
        "complete",
        lambda *args, **named: 1 / 0 if next(broken, False) else complete(*args, **named),
    )
    asked = asyncio.create_task(ask(service, work("one")))
    await _until(lambda: len(engine.batches) == 2)

    engine.gate.release()
    assert (await asked)[0].get("error", {}).get("class") == "Unavailable"
    engine.open()
    await _until(lambda: all(loop.done() for loop in service._loops))

    assert [record.message for record in caplog.records] == ["the loop that feeds the engine has ended"]


async def test_a_smaller_cache_and_budget_take_effect_at_once() -> None:
    engine = Gated()
    engine.open()
    service = worker(engine)
    texts = [f"word{i}" for i in range(10)]
    await ask(service, work(*texts, hypotheses=["refund"]))

    service.configure(ClassifierConfig(max_batch_tokens=10, max_cache_bytes=0))
    await ask(service, work(*texts, hypotheses=["refund"]))

    assert [len(batch) for batch in engine.batches] == [10, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("seed", range(10))
async def test_under_random_arrivals_and_cancellations_everybody_gets_his_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    service = worker(FakeEngine(seconds_per_run=0.001), max_batch_tokens=60)

    async def one(i: int) -> None:
        await asyncio.sleep(float(rng.random()) * 0.05)
        request = work(*(f"word{rng.integers(40)}" for _ in range(rng.integers(1, 5))), tenant=f"t{i % 3}")
        (ticket,) = await _admit(service, request)
        if rng.random() < 0.3:
            await asyncio.sleep(float(rng.random()) * 0.01)
            service.cancel([ticket])
        else:
            np.testing.assert_array_equal(outcome(await service.reply(ticket))["logits"], _expected(request))

    await asyncio.gather(*(one(i) for i in range(100)))

    assert service._tickets == {}
    assert service._scheduler.waiting_tokens == 0


async def test_a_request_that_is_cancelled_or_late_while_it_is_tokenised_is_not_queued() -> None:
    now = 0.0
    engine = SlowTokeniser()
    service = Worker(engine, ClassifierConfig(), b"s", clock=lambda: now)
    gone, late = (service.ticket(work(f"slow {i}", deadline_s=5)) for i in range(2))
    admission = asyncio.create_task(service.admit([gone, late]))
    await _until(lambda: bool(engine.begun))

    service.cancel([gone])
    now = 6.0
    engine.gate.release(2)
    await admission

    assert service._scheduler.waiting_tokens == 0
    assert (await service.reply(late)).get("error", {}).get("class") == "DeadlineExceeded"


async def test_a_large_request_keeps_nobody_waiting_while_it_is_tokenised() -> None:
    engine = SlowTokeniser()
    service = worker(engine)
    large = service.ticket(work(*(f"text {i} {'x' * 30_000}" for i in range(6)), "slow", hypotheses=["a"]))
    small = service.ticket(work("small"))

    service.accept([large, small])
    assert outcome(await service.reply(small))["failed"] == [False]
    assert not large.reply.done()

    await _until(lambda: "slow" in engine.begun)
    other = service.ticket(work("other"))
    service.accept([other])
    engine.gate.release()
    assert outcome(await service.reply(large))["failed"] == [False] * 7
    assert outcome(await service.reply(other))["failed"] == [False]
    assert not service._admissions


async def test_a_large_request_is_tokenised_in_pieces_between_which_it_can_be_cancelled() -> None:
    engine = SlowTokeniser()
    service = worker(engine)
    texts = ["slow " + "x" * 60_000, *(f"text {i} {'x' * 60_000}" for i in range(5))]
    ticket = service.ticket(work(*texts))
    service.accept([ticket])
    await _until(lambda: bool(engine.begun))

    service.cancel([ticket])
    engine.gate.release()
    await _until(lambda: not service._admissions)

    assert engine.begun == texts[:1]


async def test_what_is_wrong_with_one_request_is_nobody_elses_error() -> None:
    broken: Any = {"texts": ["a"], "hypotheses": ["b"], "deadline_s": 5.0}  # of another version: no tenant

    first, second, third = await ask(worker(FakeEngine()), work("good"), broken, work("fine"))

    assert outcome(first)["failed"] == outcome(third)["failed"] == [False]
    assert second.get("error", {}).get("class") == "EngineFailed"


@pytest.mark.parametrize("missing", ["texts", "hypotheses", "tenant", "deadline_s"])
async def test_a_request_that_lacks_a_key_hurts_nobody_that_came_with_it(missing: str) -> None:
    service = worker(FakeEngine())
    whole = work("broken")
    broken: Any = {key: value for key, value in whole.items() if key != missing}
    good, bad = service.ticket(work("good")), service.ticket(broken)

    service.accept([bad, good])

    assert outcome(await service.reply(good))["failed"] == [False]
    assert (await service.reply(bad)).get("error", {}).get("class") == "EngineFailed"


async def test_a_request_is_called_off_by_its_id_and_its_neighbours_are_not() -> None:
    engine = Gated()
    service = worker(engine)
    busy = await _busy(engine, service)
    gone, kept = await _admit(service, {**work("gone"), "id": "1"}, {**work("kept"), "id": "2"})

    service.forget(["1", "unknown"])
    engine.open()

    assert outcome(await service.reply(kept))["failed"] == [False]
    assert (await service.reply(gone)).get("error", {}).get("class") == "Unavailable"
    assert engine.n_pairs == 4
    assert not service._by_id
    await busy


async def test_other_tenants_pairs_and_longer_runs_are_allowed_when_the_config_says_so() -> None:
    now = 0.0
    engine = Gated()
    service = Worker(engine, ClassifierConfig(max_batch_s=60), b"s", clock=lambda: now)
    busy = await _busy(engine, service)
    now = 61.0

    service.configure(ClassifierConfig(max_batch_s=100, share_cache=True))
    service.check()
    engine.open()
    await busy
    await ask(service, work("one", tenant="a"))
    await ask(service, work("one", tenant="b"))

    assert engine.n_pairs == 4


async def test_an_engine_that_fails_on_everything_is_unhealthy_until_it_succeeds() -> None:
    class Lost(FakeEngine):
        lost = True

        def logits(self, pairs: Sequence[Pair]) -> FloatArray:
            if self.lost:
                raise RuntimeError("CUDA error: device-side assert triggered")
            return super().logits(pairs)

    engine = Lost()
    service = worker(engine)
    for i in range(MAX_FAILED_RUNS):
        service.check()
        await ask(service, work(f"word{i}"))

    with pytest.raises(Unhealthy, match="failed on every pair of its last 20 batches"):
        service.check()
    engine.lost = False
    await ask(service, work("good"))
    service.check()


async def test_a_tokeniser_that_hangs_makes_it_unhealthy() -> None:
    now = 0.0
    engine = SlowTokeniser()
    service = Worker(engine, ClassifierConfig(max_batch_s=60), b"s", clock=lambda: now)
    ticket = service.ticket(work("slow", deadline_s=1_000))
    service.accept([ticket])
    await _until(lambda: bool(engine.begun))

    now = 61.0
    with pytest.raises(Unhealthy, match="tokenising"):
        service.check()

    engine.gate.release()
    await service.reply(ticket)
    service.check()


async def test_who_waits_in_vain_turns_nobody_away() -> None:
    now = 0.0
    engine = Gated()
    service = Worker(engine, ClassifierConfig(max_queued_tokens=20), b"s", clock=lambda: now)
    busy = await _busy(engine, service)
    (late,) = await _admit(service, work("late", deadline_s=5))

    now = 6.0
    (ticket,) = await _admit(service, work("one", "two"))
    engine.open()

    assert outcome(await service.reply(ticket))["failed"] == [False, False]
    assert (await service.reply(late)).get("error", {}).get("class") == "DeadlineExceeded"
    await busy


async def test_what_became_known_while_a_request_was_tokenised_is_not_computed_again() -> None:
    engine = Gated()
    engine.open()
    service = worker(engine)
    arrival = service._look_up(service.ticket(work("one")))
    arrival.pairs = engine.pairs(["one"], arrival.ticket.work["hypotheses"])

    await ask(service, work("one"))

    assert all(isinstance(one, Scored) for one in arrival.grid(service._cache)[0])


async def test_a_text_is_truncated_when_any_of_its_pairs_is() -> None:
    (reply,) = await ask(worker(FakeEngine()), work("word " * 55, hypotheses=["a", "b " * 20]))

    assert outcome(reply)["truncated"] == [True]
