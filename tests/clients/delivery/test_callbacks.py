"""Callbacks: where they run, in which order, how often, and what they may do."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures import Future as PlainFuture
from typing import Any

import pytest

from clients.delivery.callbacks import THREADS, CallbackPool
from clients.delivery.client import Client
from clients.delivery.future import Future
from clients.errors import ClientClosed
from clients.results import Meta
from tests.clients.delivery.fake import LABELS, FakeService, client_of, until

AnyFuture = Future[Any]


class Inline(Executor):
    """Runs what it is given in the thread that gives it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> PlainFuture[Any]:
        running: PlainFuture[Any] = PlainFuture()
        running.set_result(fn(*args, **kwargs))
        return running


class Pickling(Executor):
    """Fails as an executor of processes does: what it is given does not travel."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> PlainFuture[Any]:
        running: PlainFuture[Any] = PlainFuture()
        running.set_exception(TypeError("cannot pickle"))
        return running


class Full(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> PlainFuture[Any]:
        raise queue.Full


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with client_of(service) as client:
        yield client
        service.held.open()


def test_a_callback_receives_the_future_on_a_thread_of_the_clients_own(client: Client) -> None:
    found: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()

    def callback(future: AnyFuture) -> None:
        found.put((future, future.result().label, threading.current_thread().name[:12], asyncio._get_running_loop()))

    future = client.submit("a", LABELS, callback=callback)

    assert found.get(timeout=20) == (future, "a", "nli-callback", None)


def test_so_does_one_of_a_cancelled_future_and_of_one_that_was_refused_at_once(
    service: FakeService, client: Client
) -> None:
    service.held.close()
    found: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()

    def callback(future: AnyFuture) -> None:
        found.put((future, threading.current_thread().name[:12]))

    for text in ("a", ""):
        future = client.submit(text, LABELS, callback=callback)
        assert future.cancel() == bool(text)
        assert found.get(timeout=20) == (future, "nli-callback")


def test_callbacks_run_on_the_executor_that_the_caller_gives_and_it_is_not_shut_down(service: FakeService) -> None:
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as mine:
        names: queue.SimpleQueue[str] = queue.SimpleQueue()
        with client_of(service, callback_executor=mine) as client:
            client.submit("a", LABELS, callback=lambda _: names.put(threading.current_thread().name[:4]))

        assert names.get(timeout=20) == "mine"
        assert mine.submit(lambda: "still there").result(20) == "still there"


def test_they_run_once_each_in_the_order_of_registration_however_late(service: FakeService, client: Client) -> None:
    """While they run, and whichever thread registers them."""
    service.held.close()
    called: list[int] = []
    future = client.submit("a", LABELS, callback=lambda _: called.append(0))
    for i in range(1, 200):
        future.add_done_callback(lambda _, i=i: called.append(i))  # type: ignore[misc]
        if i == 100:
            service.held.open()

    until(lambda: len(called) >= 200)
    future.add_done_callback(lambda _: called.append(200))
    until(lambda: len(called) > 200)
    assert called == list(range(201))


def test_never_two_of_one_future_at_a_time(service: FakeService, client: Client) -> None:
    inside, most, called = 0, 0, 0

    def callback(_: AnyFuture) -> None:
        nonlocal inside, most, called
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.0005)
        inside -= 1
        called += 1

    future = client.submit("a", LABELS)

    def register() -> None:
        for _ in range(5):
            future.add_done_callback(callback)

    threads = [threading.Thread(target=register) for _ in range(3)]
    for thread in threads:
        thread.start()

    until(lambda: called == 15)
    assert most == 1


@pytest.mark.parametrize(
    "error", [ValueError("mine"), SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr
)
def test_one_that_raises_is_logged_and_counted_and_the_rest_still_run(
    client: Client, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    called = threading.Event()
    future = client.submit("a", LABELS, callback=lambda _: _raise(error))
    future.add_done_callback(lambda _: called.set())

    assert called.wait(20)
    assert client.callback_errors == 1
    (record,) = caplog.records
    assert (record.name, record.levelno, record.exc_info and record.exc_info[1]) == ("nli_serve", logging.ERROR, error)


def test_those_that_sleep_hold_up_no_delivery(service: FakeService, client: Client) -> None:
    wake = threading.Event()
    slept: list[bool] = []
    try:
        for i in range(THREADS + 1):
            client.submit(f"t{i}", LABELS, callback=lambda _: slept.append(wake.wait(20)))

        assert [client.classify(f"more {i}", LABELS).label for i in range(3)] == ["more 0", "more 1", "more 2"]
        assert not slept
    finally:
        wake.set()


@pytest.mark.parametrize("max_in_flight", [1, 256])
def test_a_callback_may_submit_again_and_wait_for_it(service: FakeService, max_in_flight: int) -> None:
    found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def again(future: AnyFuture) -> None:
        text = future.result().label
        if len(text) < 5:
            own.submit(text + "a", LABELS, callback=again)
        else:
            found.put(own.classify("the last", LABELS).label)

    with client_of(service, max_in_flight=max_in_flight) as own:
        for _ in range(THREADS + 1):
            own.submit("a", LABELS, callback=again)

        assert [found.get(timeout=20) for _ in range(THREADS + 1)] == ["the last"] * (THREADS + 1)


def test_one_that_is_registered_after_the_end_and_after_closing_still_runs_once(service: FakeService) -> None:
    with client_of(service) as client:
        future = client.submit("a", LABELS)
        future.result()
        called: list[str] = []
        future.add_done_callback(lambda _: called.append("after the end"))
        until(lambda: called)
    future.add_done_callback(lambda _: called.append("after closing"))
    future.add_done_callback(lambda _: called.append("once more"))

    until(lambda: len(called) == 3)
    assert called == ["after the end", "after closing", "once more"]


@pytest.mark.parametrize("wait", [True, False])
def test_a_callback_may_close_the_client_while_others_are_under_way(service: FakeService, wait: bool) -> None:
    service.held.close()
    client = client_of(service)
    called: list[str] = []
    client.submit("other", LABELS, callback=lambda _: called.append("other"))

    def close(_: AnyFuture) -> None:
        client.close(wait=wait)
        service.held.open()
        called.append("closer")

    client.submit("closer", LABELS, callback=close)
    service.held.open("closer")

    until(lambda: len(called) == 2)
    client.close()
    assert sorted(called) == ["closer", "other"]
    assert client._thread.has_ended


def test_closing_returns_when_all_callbacks_have_run(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the delivery is held up just when the last future has left."""
    for _ in range(5):
        called: list[AnyFuture] = []

        def callback(future: AnyFuture, called: list[AnyFuture] = called) -> None:
            threading.Event().wait(0.005)
            called.append(future)

        client = client_of(service)
        leave = client._window.leave

        def left(future: AnyFuture, leave: Callable[[AnyFuture], None] = leave) -> None:
            leave(future)
            threading.Event().wait(0.002)

        monkeypatch.setattr(client._window, "leave", left)
        futures = [client.submit(f"t{i}", LABELS, callback=callback) for i in range(3)]
        client.close()

        assert sorted(called, key=futures.index) == futures


def test_an_executor_that_takes_nothing_hurts_neither_the_callbacks_nor_the_neighbours(service: FakeService) -> None:
    shut = ThreadPoolExecutor(1)
    shut.shutdown()
    for executor in (shut, Full()):
        called: list[AnyFuture] = []
        with client_of(service, callback_executor=executor) as client:
            service.held.close()
            futures = [client.submit(text, LABELS, callback=called.append) for text in "abc"]
            service.held.open()

            assert [future.result(20).label for future in futures] == ["a", "b", "c"]
            until(lambda: len(called) == 3)  # noqa: B023


def test_with_an_executor_that_runs_at_once_callbacks_run_where_the_future_ends(service: FakeService) -> None:
    called: list[str] = []

    def again(future: AnyFuture) -> None:
        called.append(future.result().label)
        if len(called) < 3:
            own.submit("again", LABELS, callback=again)

    with client_of(service, callback_executor=Inline(), max_in_flight=1) as own:
        own.submit("a", LABELS, callback=again)
        until(lambda: len(called) == 3)

    assert called == ["a", "again", "again"]
    assert own.callback_errors == 0


def _slow(client: Client, n: int, wake: threading.Event) -> None:
    """So many have ended, whose callbacks run until they are woken."""
    for i in range(n):
        client.submit(f"t{i}", LABELS, callback=lambda _: wake.wait(20), block=False).result()
    until(lambda: client._pool._backlog == n)


async def test_who_does_not_want_to_wait_does_not_wait_for_callbacks_either(service: FakeService) -> None:
    wake = threading.Event()
    async with client_of(service, max_in_flight=1) as client:
        await asyncio.to_thread(_slow, client, 1, wake)

        assert (await client.submit("b", LABELS)).label == "b"
        assert (await asyncio.to_thread(lambda: client.submit("c", LABELS, block=False).result())).label == "c"
        wake.set()


def test_where_callbacks_pile_up_a_closed_client_still_says_so_at_once(service: FakeService) -> None:
    wake = threading.Event()
    client = client_of(service, max_in_flight=1)
    _slow(client, 1, wake)
    client.close(wait=False)
    try:
        with pytest.raises(ClientClosed):
            client.submit("a", LABELS)
    finally:
        wake.set()
        client.close()


def test_whoever_waits_for_callbacks_while_it_is_closed_is_told(service: FakeService) -> None:
    wake = threading.Event()
    client = client_of(service, max_in_flight=1)
    _slow(client, 1, wake)
    found: list[object] = []

    def submit() -> None:
        try:
            found.append(client.submit("a", LABELS))
        except ClientClosed as error:
            found.append(error)

    waiting = threading.Thread(target=submit)
    waiting.start()
    until(lambda: client._pool._changed._waiters)  # type: ignore[attr-defined]
    client.close(wait=False)
    wake.set()
    waiting.join(20)
    client.close()

    assert [type(one) for one in found] == [ClientClosed]


def test_callbacks_that_an_executor_takes_and_never_runs_run_all_the_same(service: FakeService) -> None:
    wake, called = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as mine, client_of(service, callback_executor=mine, max_in_flight=1) as client:
        mine.submit(wake.wait, 20)
        client.submit("a", LABELS, callback=lambda _: called.set()).result()
        until(lambda: client._pool._backlog)
        mine.shutdown(wait=False, cancel_futures=True)
        wake.set()

        assert called.wait(20)
        until(lambda: not client._pool._backlog)
        assert client.classify("b", LABELS).label == "b"


def test_an_executor_of_processes_cannot_run_them_and_so_they_run_here(service: FakeService) -> None:
    called = threading.Event()
    with client_of(service, callback_executor=Pickling()) as client:
        client.submit("a", LABELS, callback=lambda _: called.set())

        assert called.wait(20)


def test_the_pool_makes_no_thread_before_it_is_needed() -> None:
    before = threading.active_count()
    pool = CallbackPool()
    future: AnyFuture = Future(pool, lambda _: None)
    future.settle("it", Meta())

    assert threading.active_count() == before
    pool.close(wait=True)


def _raise(error: BaseException) -> None:
    raise error


def test_closing_waits_for_a_callback_that_goes_on_elsewhere_and_counts_what_it_raises() -> None:
    pool = CallbackPool()
    pool.goes_away()
    closing = threading.Thread(target=pool.close, kwargs={"wait": True})
    closing.start()
    closing.join(0.1)
    waits = closing.is_alive()
    pool.is_back(ValueError("raised there"))
    closing.join(20)

    assert waits
    assert not closing.is_alive()
    assert pool.errors == 1
