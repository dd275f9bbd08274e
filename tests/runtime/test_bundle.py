"""Joined calls on a real event loop; requests are answered by the test."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from deployments.contract.errors import QuotaExceeded, ServiceError, from_wire
from deployments.contract.wire import Ask, Telling, Told
from deployments.runtime.bundle import Bundles


class Service:
    """Answers a request when the test says so; its timings say which it was."""

    def __init__(self) -> None:
        self.begun: dict[str, asyncio.Future[Telling]] = {}
        self.stopped: list[str] = []

    async def answer(self, ask: Ask) -> Telling:
        self.begun[ask["id"]] = asyncio.get_running_loop().create_future()
        try:
            return await self.begun[ask["id"]]
        except asyncio.CancelledError:
            self.stopped.append(ask["id"])
            raise

    def tell(self, id: str, error: Exception | None = None) -> None:
        if error is not None:
            self.begun[id].set_exception(error)
        else:
            self.begun[id].set_result(_telling(id))


def _telling(id: str) -> Telling:
    return {"timings": {id: 0.0}}


def _asks(*ids: str) -> list[Ask]:
    return [{"request": f"the text of {id}", "deadline_s": 1.0, "id": id} for id in ids]


def _ids(told: list[Told]) -> set[str]:
    return {next(iter(one["timings"])) for one in told}


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.fixture
def bundles() -> Bundles:
    return Bundles()


@pytest.fixture
def service() -> Service:
    return Service()


async def _begin(bundles: Bundles, service: Service, *ids: str) -> tuple[AsyncIterator[list[Told]], asyncio.Task[Any]]:
    """A call under way, and what it tells first."""
    call = bundles.tell(_asks(*ids), service.answer)
    first = asyncio.ensure_future(anext(call))
    await _until(lambda: set(ids) <= set(service.begun))
    return call, first


async def test_each_is_told_as_soon_as_it_is_known(bundles: Bundles, service: Service) -> None:
    call, first = await _begin(bundles, service, "a", "b", "c")
    service.tell("b")
    told = [await first]
    service.tell("c")
    told.append(await anext(call))
    service.tell("a")
    told.append(await anext(call))

    assert told == [
        [{**_telling("b"), "index": 1}],
        [{**_telling("c"), "index": 2}],
        [{**_telling("a"), "index": 0}],
    ]
    with pytest.raises(StopAsyncIteration):
        await anext(call)
    assert not bundles._tasks


async def test_what_ends_together_is_told_together(bundles: Bundles, service: Service) -> None:
    call, first = await _begin(bundles, service, "a", "b", "c", "d")
    for id in "abc":
        service.tell(id)
    told = await first
    service.tell("d")

    assert (_ids(told), _ids(await anext(call))) == ({"a", "b", "c"}, {"d"})


async def test_what_ends_while_nobody_iterates_is_told_next(bundles: Bundles, service: Service) -> None:
    call, first = await _begin(bundles, service, "a", "b", "c")
    service.tell("a")
    await first
    for id in "bc":
        service.tell(id)
    await _until(lambda: not bundles._tasks)

    assert _ids(await anext(call)) == {"b", "c"}


async def test_the_error_of_one_is_told_of_that_one(bundles: Bundles, service: Service) -> None:
    call, first = await _begin(bundles, service, "good", "bad")
    service.tell("bad", QuotaExceeded(["caller-requests"], 2.5))
    (bad,) = await first
    service.tell("good")
    (good,) = await anext(call)

    error = from_wire(bad["error"])
    assert (bad["index"], type(error), error.args) == (1, QuotaExceeded, (["caller-requests"], 2.5, None))
    assert good == {**_telling("good"), "index": 0}


async def test_so_is_what_nobody_foresaw_and_the_log_knows_why_but_no_text(
    bundles: Bundles, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    call, first = await _begin(bundles, service, "good", "bad")
    service.tell("bad", ZeroDivisionError("mine"))
    (bad,) = await first
    service.tell("good")

    error = from_wire(bad["error"])
    assert (type(error), str(error)) == (ServiceError, "an error in the server; its log says which")
    assert _ids(await anext(call)) == {"good"}
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ray.serve", logging.ERROR)
    assert "ZeroDivisionError: mine" in caplog.text
    assert "the text of" not in caplog.text


async def test_one_that_is_forgotten_is_stopped_and_not_told(bundles: Bundles, service: Service) -> None:
    call, first = await _begin(bundles, service, "gone", "kept")
    bundles.forget(["gone", "nobody's"])
    await _until(lambda: service.stopped == ["gone"])
    before = first.done()
    service.tell("kept")

    assert (before, _ids(await first)) == (False, {"kept"})
    with pytest.raises(StopAsyncIteration):
        await anext(call)
    assert not bundles._tasks


async def test_when_all_are_forgotten_the_call_ends_without_a_word(bundles: Bundles, service: Service) -> None:
    _, first = await _begin(bundles, service, "a", "b")
    bundles.forget(["a", "b"])

    with pytest.raises(StopAsyncIteration):
        await first
    assert not bundles._tasks


async def test_one_may_be_forgotten_before_it_has_begun_and_after_it_has_ended(
    bundles: Bundles, service: Service
) -> None:
    call = bundles.tell(_asks("a", "b"), service.answer)
    first = asyncio.ensure_future(anext(call))
    await asyncio.sleep(0)  # the call is there, its requests have not begun
    assert set(bundles._tasks) == {"a", "b"}
    bundles.forget(["a"])
    await _until(lambda: "b" in service.begun)
    service.tell("b")
    told = await first
    bundles.forget(["a", "b"])

    assert (_ids(told), "a" in service.begun) == ({"b"}, False)


async def test_whoever_stops_iterating_calls_off_what_is_left(bundles: Bundles, service: Service) -> None:
    call, first = await _begin(bundles, service, "a", "b", "c")
    service.tell("a")
    await first
    await call.aclose()  # type: ignore[attr-defined]

    await _until(lambda: sorted(service.stopped) == ["b", "c"])
    assert not bundles._tasks


async def test_so_does_whoever_is_cancelled_while_waiting(bundles: Bundles, service: Service) -> None:
    _, first = await _begin(bundles, service, "a", "b")
    first.cancel()

    await _until(lambda: sorted(service.stopped) == ["a", "b"])
    assert not bundles._tasks


async def test_a_request_that_is_sent_once_more_can_be_forgotten_when_its_first_sending_ends(
    bundles: Bundles, service: Service
) -> None:
    """The first call was lost on its way back, and runs on here."""
    _, first = await _begin(bundles, service, "a")
    lost = service.begun.pop("a")
    _, again = await _begin(bundles, service, "a")
    lost.set_result(_telling("a"))
    await first
    bundles.forget(["a"])

    with pytest.raises(StopAsyncIteration):
        await again
    assert (service.stopped, bundles._tasks) == (["a"], {})


async def test_a_call_that_makes_no_sense_leaves_nothing_behind(bundles: Bundles, service: Service) -> None:
    nameless: Any = {"request": "x", "deadline_s": 1.0}

    with pytest.raises(KeyError):
        await anext(bundles.tell([*_asks("a", "b"), nameless], service.answer))
    await _until(lambda: not bundles._tasks)
    assert not service.begun


async def test_a_request_knows_nothing_of_the_call_that_it_came_in(bundles: Bundles) -> None:
    caller = contextvars.ContextVar("caller", default="nobody")
    seen: list[str] = []

    async def answer(ask: Ask) -> Telling:
        seen.append(caller.get())
        return _telling(ask["id"])

    caller.set("the call")
    async for _ in bundles.tell(_asks("a", "b"), answer):
        pass

    assert seen == ["nobody", "nobody"]


async def test_of_no_requests_there_is_nothing_to_tell(bundles: Bundles, service: Service) -> None:
    assert [told async for told in bundles.tell([], service.answer)] == []
