"""One future by itself: the contract of `concurrent.futures.Future`, state by state, and where ours differs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures import Future as PlainFuture
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from clients.delivery.callbacks import CallbackPool
from clients.delivery.future import Future
from clients.errors import InEventLoop
from clients.results import Meta
from tests.clients.delivery.fake import until

META = Meta(request_id="r1")
AnyFuture = PlainFuture[Any]


@pytest.fixture
def pool() -> Iterator[CallbackPool]:
    pool = CallbackPool()
    yield pool
    pool.close(wait=True)


@pytest.fixture
def future(pool: CallbackPool) -> Future[Any]:
    return Future(pool, lambda _: None)


# State by state.


def _pending(_: AnyFuture) -> None: ...


def _running(future: AnyFuture) -> None:
    future.set_running_or_notify_cancel()


def _cancelled(future: AnyFuture) -> None:
    """And told so, as an executor does with what it takes out of its queue; ours does it at once."""
    future.cancel()
    if not isinstance(future, Future):
        future.set_running_or_notify_cancel()


def _answered(future: AnyFuture) -> None:
    future.settle("it", META) if isinstance(future, Future) else future.set_result("it")


def _failed(future: AnyFuture) -> None:
    error = ValueError("no")
    future.settle(error, META) if isinstance(future, Future) else future.set_exception(error)


ENDS = [_answered, _failed, _cancelled]
STATES = [_pending, _running, *ENDS]
METHODS: dict[str, Callable[[AnyFuture], object]] = {
    "cancel": lambda future: future.cancel(),
    "cancelled": lambda future: future.cancelled(),
    "running": lambda future: future.running(),
    "done": lambda future: future.done(),
    "result at once": lambda future: future.result(timeout=0),
    "result": lambda future: future.result(timeout=0.001),
    "exception": lambda future: future.exception(timeout=0),
    "set_running_or_notify_cancel": lambda future: future.set_running_or_notify_cancel(),
    "set_result": lambda future: future.set_result("another"),
    "set_result to an error": lambda future: future.set_result(ValueError("a result")),
    "set_exception": lambda future: future.set_exception(KeyError("another")),
}


def _outcome(call: Callable[[], object]) -> object:
    try:
        return repr(call())
    except (TimeoutError, CancelledError, InvalidStateError, RuntimeError, ValueError, KeyError) as error:
        return type(error), str(error) if isinstance(error, ValueError | KeyError) else ""


def _look(future: AnyFuture) -> list[object]:
    return [
        _outcome(future.cancelled),
        _outcome(future.running),
        _outcome(future.done),
        _outcome(lambda: future.result(timeout=0)),
        _outcome(lambda: future.exception(timeout=0)),
    ]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_does_in_every_state_what_the_standard_future_does(
    pool: CallbackPool, state: Callable[[AnyFuture], None], method: str
) -> None:
    found = []
    both: list[AnyFuture] = [PlainFuture(), Future(pool, lambda _: None)]
    for future in both:
        called: list[AnyFuture] = []
        future.add_done_callback(called.append)
        state(future)
        said = _outcome(partial(METHODS[method], future))
        if future.done():
            until(partial(bool, called))
        found.append((said, _look(future), [one is future for one in called]))

    assert found[0] == found[1]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("after", ENDS)
def test_the_service_may_answer_in_every_state_and_what_has_ended_stays_as_it_is(
    future: Future[Any], state: Callable[[AnyFuture], None], after: Callable[[AnyFuture], None]
) -> None:
    state(future)
    before, was_done = _look(future), future.done()
    after(future)

    assert future.done() or (state, after) == (_running, _cancelled)
    if was_done:
        assert _look(future) == before


def test_what_a_user_sets_counts_and_the_answer_that_comes_later_is_dropped(future: Future[Any]) -> None:
    future.set_result("mine")

    assert not future.settle("the service's", META)
    assert (future.result(), future.meta) == ("mine", Meta())


def test_stays_pending_until_the_answer_is_here(future: Future[Any]) -> None:
    before = (future.running(), future.done())
    settled = future.settle("it", META)

    assert (before, settled, future.result(), future.meta) == ((False, False), True, "it", META)


def test_a_cancelled_future_has_no_meta_and_an_answer_after_it_is_refused(future: Future[Any]) -> None:
    future.cancel()

    assert not future.settle("it", META)
    assert (future.cancelled(), future.meta) == (True, None)


def test_cancelling_twice_is_as_once(pool: CallbackPool) -> None:
    ended: list[Future[Any]] = []
    future: Future[Any] = Future(pool, ended.append)

    assert [future.cancel(), future.cancel()] == [True, True]
    assert ended == [future]


def test_who_is_woken_by_the_end_may_touch_the_future(future: Future[Any]) -> None:
    """So may what the garbage collector runs in the midst of it: the end of an abandoned `map`, which cancels."""
    found: list[bool] = []
    future.on_end(lambda: found.append(future.cancel()))

    _in_time(lambda: future.settle("it", META))

    assert (found, future.result()) == ([False], "it")


@pytest.mark.parametrize("rounds", [300])
def test_of_an_answer_and_many_cancels_at_the_same_time_exactly_one_wins(pool: CallbackPool, rounds: int) -> None:
    ready = threading.Barrier(4)
    futures: list[Future[Any]] = []
    ended: list[Future[Any]] = []
    settled: list[bool] = []
    cancelled: list[tuple[int, bool]] = []

    def race(act: Callable[[int], None]) -> None:
        for i in range(rounds):
            ready.wait(20)
            act(i)

    def cancel(i: int) -> None:
        cancelled.append((i, futures[i].cancel()))

    def make() -> None:
        for _ in range(rounds):
            futures.append(Future(pool, ended.append))
            ready.wait(20)

    acts = [lambda i: settled.append(futures[i].settle(i, META)), cancel, cancel]
    threads = [threading.Thread(target=race, args=(act,)) for act in acts] + [threading.Thread(target=make)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(ended, key=futures.index) == futures
    for i, future in enumerate(futures):
        assert future.cancelled() == (not settled[i])
        assert {said for j, said in cancelled if j == i} == {future.cancelled()}


def test_an_error_that_was_raised_does_not_keep_its_future(pool: CallbackPool) -> None:
    """As that of the standard one, which is gone at once, before any garbage is collected."""
    gc.disable()
    try:
        for make in (PlainFuture, partial(Future, pool, lambda _: None)):
            future: AnyFuture = make()
            _failed(future)
            gone = weakref.ref(future)
            waits = [future.result]
            del future
            with suppress(ValueError):
                waits.pop()()

            assert gone() is None
    finally:
        gc.enable()


# Waiting.


def test_a_timeout_ends_the_waiting_and_nothing_else(future: Future[Any]) -> None:
    for wait in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            wait(timeout=0.001)

    assert not future.done()
    future.settle("it", META)
    assert future.result() == "it"


def test_the_standard_wait_sees_each_kind_of_end(pool: CallbackPool) -> None:
    futures: list[AnyFuture] = [Future(pool, lambda _: None) for _ in range(4)]
    ends = [threading.Timer(0.01, end, (future,)) for future, end in zip(futures, ENDS, strict=False)]
    for end in ends:
        end.start()

    done, left = concurrent.futures.wait(futures[:3], timeout=20)
    assert (done, left) == (set(futures[:3]), set())
    done, left = concurrent.futures.wait(futures, timeout=0.001)
    assert (done, left) == (set(futures[:3]), {futures[3]})
    done, _ = concurrent.futures.wait(futures[1:], return_when=concurrent.futures.FIRST_EXCEPTION, timeout=20)
    assert futures[1] in done
    for end in ends:
        end.join()


def test_the_standard_as_completed_gives_each_as_it_ends(pool: CallbackPool) -> None:
    futures: list[AnyFuture] = [Future(pool, lambda _: None) for _ in range(3)]
    ends = iter([_failed, _cancelled, _answered])
    _answered(futures[2])
    seen = []

    for future in concurrent.futures.as_completed(futures, timeout=20):
        seen.append(future)
        if len(seen) < 3:
            next(ends)(futures[len(seen) - 1])

    assert seen == [futures[2], futures[0], futures[1]]


async def test_waiting_in_an_event_loop_is_refused_and_says_what_to_do(future: Future[Any]) -> None:
    for wait in (future.result, future.exception):
        with pytest.raises(InEventLoop, match=r"waiting for a future would stop .* await it instead"):
            wait()
        with pytest.raises(TimeoutError):
            wait(timeout=0)

    future.settle("it", META)
    assert (future.result(), future.exception()) == ("it", None)


# In an event loop.


async def test_awaiting_gives_the_answer_the_error_or_the_cancelling(pool: CallbackPool) -> None:
    for end, expected in ((_answered, None), (_failed, ValueError), (_cancelled, asyncio.CancelledError)):
        for early in (True, False):
            future: Future[Any] = Future(pool, lambda _: None)
            task = asyncio.ensure_future(_await(future))
            if not early:
                await asyncio.sleep(0)
            await asyncio.to_thread(end, future)
            if expected is None:
                assert await task == "it"
            else:
                with pytest.raises(expected):
                    await task


async def _await(future: Future[Any]) -> Any:
    return await future


async def test_cancelling_the_task_that_awaits_cancels_the_future(future: Future[Any]) -> None:
    task = asyncio.create_task(_await(future))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()


async def test_a_timeout_of_asyncio_cancels_the_future(pool: CallbackPool) -> None:
    waits: list[Callable[[Future[Any]], Any]] = [lambda future: future, _await, asyncio.wrap_future]
    for awaitable in waits:
        future: Future[Any] = Future(pool, lambda _: None)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(awaitable(future), 0.001)
        assert future.cancelled()


async def test_several_are_gathered(pool: CallbackPool) -> None:
    futures: list[Future[Any]] = [Future(pool, lambda _: None) for _ in range(3)]
    both = asyncio.gather(*futures, return_exceptions=True)
    await asyncio.to_thread(lambda: [end(f) for f, end in zip(futures, (_failed, _answered, _cancelled), strict=True)])

    error, it, cancelled = await both
    assert (type(error), it, type(cancelled)) == (ValueError, "it", asyncio.CancelledError)


async def test_asyncio_wraps_it(pool: CallbackPool) -> None:
    futures: list[Future[Any]] = [Future(pool, lambda _: None) for _ in range(3)]
    wrapped = [asyncio.wrap_future(future) for future in futures]
    for future, end in zip(futures, ENDS, strict=True):
        await asyncio.to_thread(end, future)

    assert await wrapped[0] == "it"
    with pytest.raises(ValueError, match="no"):
        await wrapped[1]
    with pytest.raises(asyncio.CancelledError):
        await wrapped[2]


async def test_several_tasks_may_await_the_same_one(future: Future[Any]) -> None:
    tasks = [asyncio.create_task(_await(future)) for _ in range(3)]
    await asyncio.sleep(0)
    future.settle("it", META)

    assert await asyncio.gather(*tasks) == ["it"] * 3


def test_the_end_of_a_loop_that_awaited_is_nobodys_trouble(
    future: Future[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def begin() -> None:
        waiting = future.__await__()
        next(waiting)
        waits.append(waiting)

    waits: list[Any] = []
    asyncio.run(begin())

    assert future.settle("it", META)
    assert not caplog.records


# What it refuses.


def test_pickling_says_what_to_send_instead(future: Future[Any]) -> None:
    with pytest.raises(TypeError, match=r"send its result\(\), or use submit_ref"):
        pickle.dumps(future)


def _in_time(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "it waits for itself"
