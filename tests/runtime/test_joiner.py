"""Joined sending on a real event loop; the calls are made to a stand-in that the test answers."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from deployments.contract.errors import EngineFailed, HypothesisTooLong, Unavailable, to_wire
from deployments.core.work import Outcome, Reply, Work
from deployments.runtime import joiner as module
from deployments.runtime.joiner import MIN_CALLS, Joiner
from tests.asking import work


class Dead(Exception):
    """What a call raises when its replica has died."""


class Sent:
    """A call under way, which the test answers or fails."""

    def __init__(self, works: list[Work]) -> None:
        self.works = works
        self.future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, list[Reply]]:
        return self.future.__await__()

    def cancel(self) -> None:
        self.cancelled = True
        if not self.future.done():
            self.future.set_exception(RuntimeError("Request was cancelled."))

    @property
    def texts(self) -> list[str]:
        return [one["texts"][0] for one in self.works]

    def answer(self) -> None:
        """Each with its own text's length."""
        self.future.set_result([{"outcome": _outcome(len(one["texts"][0]))} for one in self.works])


class Classifier:
    """Remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[Sent] = []
        self.forgotten: list[str] = []

    async def forget(self, ids: list[str]) -> None:
        self.forgotten += ids

    def send(self, works: list[Work]) -> Sent:
        self.calls.append(Sent(works))
        return self.calls[-1]


def _outcome(tokens: int) -> Outcome:
    logits = np.zeros((1, 1, 2), np.float32)
    return {
        "logits": logits,
        "truncated": [False],
        "failed": [False],
        "tokens": tokens,
        "queued_s": 0.0,
        "engine_s": 0.0,
    }


@pytest.fixture
def classifier() -> Classifier:
    return Classifier()


@pytest.fixture
def joiner(classifier: Classifier) -> Joiner:
    return Joiner(classifier.send, classifier.forget, dead=Dead)


def _ask(joiner: Joiner, *texts: str, **options: Any) -> list[asyncio.Task[Outcome]]:
    return [asyncio.create_task(joiner.ask(work(text, hypotheses=["x"], **options))) for text in texts]


async def _sent(classifier: Classifier, n: int) -> list[Sent]:
    await _until(lambda: sum(len(call.works) for call in classifier.calls) >= n)
    return classifier.calls


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_what_arrives_together_travels_together_and_each_gets_its_own(
    joiner: Joiner, classifier: Classifier
) -> None:
    tasks = _ask(joiner, "a", "bb", "ccc")

    (call,) = await _sent(classifier, 3)
    call.answer()

    assert call.texts == ["a", "bb", "ccc"]
    assert [outcome["tokens"] for outcome in await asyncio.gather(*tasks)] == [1, 2, 3]


async def test_calls_are_under_way_side_by_side_and_nothing_is_held_for_long(
    joiner: Joiner, classifier: Classifier
) -> None:
    tasks = []
    for i in range(MIN_CALLS + 3):
        tasks += _ask(joiner, f"text{i}")
        await _sent(classifier, i + 1)  # though none is answered

    assert len(classifier.calls) == MIN_CALLS + 3
    for call in classifier.calls:
        call.answer()
    await asyncio.gather(*tasks)


async def test_a_call_holds_64_items_a_mebibyte_and_a_batch_of_work_at_most(
    joiner: Joiner, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = _ask(joiner, *(str(i) for i in range(130)))
    await _sent(classifier, 130)
    assert [len(call.works) for call in classifier.calls] == [64, 64, 2]

    classifier.calls.clear()
    for i in range(6):
        tasks += _ask(joiner, "x" * 1_200, tenant=f"b{i}")  # 300 tokens each
    await _sent(classifier, 6)
    assert [len(call.works) for call in classifier.calls] == [3, 3]

    classifier.calls.clear()
    monkeypatch.setattr(module, "MAX_BYTES", 1_000)
    tasks += _ask(joiner, *("ü" * 200 for _ in range(5)), tenant="c")  # 400 bytes each
    await _sent(classifier, 5)
    assert [len(call.works) for call in classifier.calls] == [2, 2, 1]
    for task in tasks:
        task.cancel()


async def test_a_large_request_travels_alone(joiner: Joiner, classifier: Classifier) -> None:
    tasks = _ask(joiner, "a") + _ask(joiner, "x" * 10_000, tenant="b") + _ask(joiner, "b")

    await _sent(classifier, 3)

    assert sorted(call.texts for call in classifier.calls) == [["a", "b"], ["x" * 10_000]]
    for call in classifier.calls:
        call.answer()
    await asyncio.gather(*tasks)


async def test_who_has_much_under_way_does_not_travel_with_who_has_little(
    joiner: Joiner, classifier: Classifier
) -> None:
    tasks = _ask(joiner, "x" * 10_000, tenant="heavy")
    await _sent(classifier, 1)

    tasks += _ask(joiner, "one", "two", tenant="heavy") + _ask(joiner, "three", tenant="light")
    tasks += _ask(joiner, "four", tenant="other")
    await _sent(classifier, 5)

    assert [call.texts for call in classifier.calls[1:]] == [["one", "two"], ["three", "four"]]
    for call in classifier.calls:
        call.answer()
    await asyncio.gather(*tasks)
    assert not joiner._under_way


async def test_the_error_of_one_is_the_error_of_that_one(joiner: Joiner, classifier: Classifier) -> None:
    good, bad = _ask(joiner, "good", "bad")

    (call,) = await _sent(classifier, 2)
    call.future.set_result([{"outcome": _outcome(4)}, {"error": to_wire(HypothesisTooLong(0, 9, 5))}])

    assert (await good)["tokens"] == 4
    with pytest.raises(HypothesisTooLong) as caught:
        await bad
    assert caught.value.args == (0, 9, 5)


async def test_when_the_replica_dies_each_is_asked_once_more_and_only_once(
    joiner: Joiner, classifier: Classifier
) -> None:
    first, second = _ask(joiner, "first", "second")
    (call,) = await _sent(classifier, 2)

    call.future.set_exception(Dead("killed"))
    await _sent(classifier, 4)
    _, again, once_more = classifier.calls
    assert (again.texts, once_more.texts) == (["first"], ["second"])
    again.answer()
    once_more.future.set_exception(Dead("killed again"))

    assert (await first)["tokens"] == 5
    with pytest.raises(Dead, match="killed again"):
        await second


async def test_any_other_failure_of_a_call_is_everybodys_in_it(joiner: Joiner, classifier: Classifier) -> None:
    tasks = _ask(joiner, "a", "b")
    (call,) = await _sent(classifier, 2)

    call.future.set_exception(EngineFailed("no"))

    for task in tasks:
        with pytest.raises(EngineFailed):
            await task


async def test_a_call_that_cannot_be_made_leaves_nobody_waiting() -> None:
    def send(works: list[Work]) -> Sent:
        raise RuntimeError("no router")

    (task,) = _ask(Joiner(send, Classifier().forget, dead=Dead), "a")

    with pytest.raises(RuntimeError, match="no router"):
        await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("replies", [[], [{"outcome": _outcome(1)}], [{}, {}]])
async def test_an_answer_that_makes_no_sense_leaves_nobody_waiting(
    joiner: Joiner, classifier: Classifier, replies: list[Reply]
) -> None:
    tasks = _ask(joiner, "a", "b")
    (call,) = await _sent(classifier, 2)

    call.future.set_result(replies)

    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert isinstance(results[1], Exception)


async def test_who_leaves_a_call_is_called_off_and_the_call_when_all_have_left(
    joiner: Joiner, classifier: Classifier
) -> None:
    first, second, third = _ask(joiner, "a", "b", "c")
    (call,) = await _sent(classifier, 3)

    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    await _until(lambda: len(classifier.forgotten) == 2)
    assert classifier.forgotten == [one["id"] for one in call.works[:2]]
    assert not call.cancelled
    third.cancel()
    await asyncio.wait([third])

    assert call.cancelled
    assert len(classifier.forgotten) == 2


async def test_that_the_classifier_cannot_be_told_hurts_nobody(classifier: Classifier) -> None:
    async def fails(ids: list[str]) -> None:
        classifier.forgotten += ids
        raise RuntimeError("no replica")

    joiner = Joiner(classifier.send, fails, dead=Dead)
    gone, kept = _ask(joiner, "gone", "kept")
    (call,) = await _sent(classifier, 2)

    gone.cancel()
    await _until(lambda: bool(classifier.forgotten))
    call.answer()

    assert (await kept)["tokens"] == 4


async def test_a_call_that_is_cancelled_from_elsewhere_is_made_again_for_those_who_wait(
    joiner: Joiner, classifier: Classifier
) -> None:
    gone, kept = _ask(joiner, "gone", "kept")
    (call,) = await _sent(classifier, 2)
    gone.cancel()
    await asyncio.wait([gone])

    call.future.cancel()  # as Ray does to what a cancelled request has sent
    await _sent(classifier, 3)
    assert classifier.calls[1].texts == ["kept"]
    classifier.calls[1].future.cancel()

    with pytest.raises(Unavailable):
        await asyncio.wait_for(kept, 5)


async def test_a_call_knows_nothing_of_the_caller_in_whose_time_it_is_made(classifier: Classifier) -> None:
    caller = contextvars.ContextVar("caller", default="nobody")
    seen: list[str] = []

    def send(works: list[Work]) -> Sent:
        seen.append(caller.get())
        return classifier.send(works)

    caller.set("the first")
    joiner = Joiner(send, classifier.forget, dead=Dead)
    tasks = _ask(joiner, "a") + _ask(joiner, "x" * 10_000)
    for call in await _sent(classifier, 2):
        call.answer()
    await asyncio.gather(*tasks)

    assert seen == ["nobody", "nobody"]


async def test_while_calls_are_under_way_what_follows_shortly_travels_together(
    joiner: Joiner, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HOLD_S", 0.05)
    tasks = []
    for i in range(MIN_CALLS + 1):
        tasks += _ask(joiner, f"text{i}")
        await asyncio.sleep(0.005)
    tasks += _ask(joiner, "more")
    await _sent(classifier, MIN_CALLS + 2)

    assert [call.texts for call in classifier.calls] == [
        *([f"text{i}"] for i in range(MIN_CALLS)),
        [f"text{MIN_CALLS}", "more"],
    ]
    for call in classifier.calls:
        call.answer()
    await asyncio.gather(*tasks)
    assert not joiner._calls


async def test_who_is_gone_before_the_sending_is_not_sent(joiner: Joiner, classifier: Classifier) -> None:
    gone, kept = _ask(joiner, "gone", "kept")
    await asyncio.sleep(0)  # both are held

    gone.cancel()
    (call,) = await _sent(classifier, 1)
    call.answer()

    assert call.texts == ["kept"]
    assert (await kept)["tokens"] == 4


async def test_the_deadline_that_travels_is_what_is_left_of_it(classifier: Classifier) -> None:
    now = 100.0
    joiner = Joiner(classifier.send, classifier.forget, dead=Dead, clock=lambda: now)
    (task,) = _ask(joiner, "a", deadline_s=7.0)
    await asyncio.sleep(0)

    now = 102.0
    (call,) = await _sent(classifier, 1)
    assert call.works[0]["deadline_s"] == 5.0
    now = 104.0
    call.future.set_exception(Dead("killed"))
    await _sent(classifier, 2)

    assert classifier.calls[1].works[0]["deadline_s"] == 3.0
    classifier.calls[1].answer()
    await task
