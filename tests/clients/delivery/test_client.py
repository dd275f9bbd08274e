"""What a client promises as a whole: its window, its loops, its end, its process, and 100,000 futures at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import random
import select
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from clients.delivery import client as module
from clients.delivery.client import Client
from clients.delivery.future import Future
from clients.delivery.question import Question
from clients.errors import ClientClosed, InEventLoop, WindowFull
from deployments.contract.errors import EngineFailed, InvalidRequest, QuotaExceeded
from deployments.contract.wire import Ask
from tests.clients.delivery.fake import LABELS, FakeService, client_of, text_of, until


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with client_of(service) as client:
        yield client
        service.terms_held.open()
        service.held.open()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: not _threads())


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nli-")]


# Asking.


def test_a_string_gives_a_classification_and_a_list_a_list(client: Client) -> None:
    one = client.classify("a", LABELS)

    assert (one.label, one.score, one.index, one.truncated, dict(one.scores)) == (
        *("a", 1.0, 0, False),
        {"a": 1.0, "yes": 0.0, "no": 0.0},
    )
    assert [(row.label, row.index) for row in client.classify(("a", "b"), LABELS)] == [("a", 0), ("b", 1)]


def test_options_travel(service: FakeService, client: Client) -> None:
    client.classify("a", {"yes": "It is so."}, multi_label=True, top_k=1, model="m")

    assert service.asks[0]["request"] == {
        "text": "a",
        "labels": {"yes": "It is so."},
        "multi_label": True,
        "top_k": 1,
        "model": "m",
    }


def test_a_wrong_request_is_told_in_the_future_and_never_sent(service: FakeService, client: Client) -> None:
    wrong: list[Callable[[], Future[Any]]] = [
        lambda: client.submit("", LABELS),
        lambda: client.submit(None, LABELS),  # type: ignore[call-overload]
        lambda: client.submit("a", []),
        lambda: client.submit("a", LABELS, top_k=0),
        lambda: client.submit("a", LABELS, topk=1),  # type: ignore[call-overload]
    ]

    assert [type(submit().exception(0)) for submit in wrong] == [InvalidRequest] * 5
    assert service.asks == []
    with pytest.raises(InvalidRequest):
        client.classify(["a", None], LABELS)  # type: ignore[list-item]


@pytest.mark.parametrize("options", [{"deadline_s": 0}, {"deadline_s": float("nan")}, {"max_in_flight": 0}])
def test_a_client_that_could_not_ask_anything_is_not_made(service: FakeService, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)).replace("deadline_s", "default_s")):
        client_of(service, **options)


def test_where_there_is_nobody_to_ask_no_client_is_made_and_no_thread_is_left() -> None:
    def connect() -> Any:
        raise ConnectionError("nobody")

    with pytest.raises(ConnectionError, match="nobody"):
        Client(connect, max_in_flight=1, deadline_s=1, callback_executor=None)
    assert not _threads()


# The window.


def test_so_many_are_outstanding_and_the_next_waits_or_is_refused(service: FakeService) -> None:
    service.held.close()
    with client_of(service, max_in_flight=2) as client:
        for text in ("a", "b"):
            client.submit(text, LABELS)
        with pytest.raises(WindowFull):
            client.submit("c", LABELS, block=False)
        found: list[Future[Any]] = []
        blocked = threading.Thread(target=lambda: found.append(client.submit("d", LABELS)))
        blocked.start()
        until(lambda: client._window._changed._waiters)  # type: ignore[attr-defined]
        before = list(found)
        service.held.open("a")
        blocked.join(20)
        service.held.open()

        assert (before, found[0].result(20).label) == ([], "d")


def test_one_after_the_other_fits_through_a_window_of_one(service: FakeService) -> None:
    """Whoever has seen the end of one finds room for the next."""
    with client_of(service, max_in_flight=1) as client:
        labels = [client.submit(f"t{i}", LABELS, block=False).result().label for i in range(300)]

    assert labels == [f"t{i}" for i in range(300)]


async def test_so_it_does_in_an_event_loop(service: FakeService) -> None:
    async with client_of(service, max_in_flight=1) as client:
        labels = [(await client.submit(f"t{i}", LABELS)).label for i in range(300)]

    assert labels == [f"t{i}" for i in range(300)]


# In an event loop.


async def test_in_an_event_loop_what_would_stop_it_is_refused_and_says_what_to_do(
    service: FakeService, client: Client
) -> None:
    service.held.close()
    future = client.submit("a", LABELS)

    with pytest.raises(InEventLoop, match=r"classify\(\) would stop .* await submit\(...\) instead"):
        client.classify("a", LABELS)
    with pytest.raises(InEventLoop, match="await it instead"):
        future.result()
    service.held.open()
    assert (await future).label == "a"
    assert future.result().label == "a"


async def test_submitting_and_awaiting_several(client: Client) -> None:
    labels = await asyncio.gather(*(client.submit(f"t{i}", LABELS) for i in range(20)))

    assert [found.label for found in labels] == [f"t{i}" for i in range(20)]


async def test_a_full_window_is_refused_in_an_event_loop(service: FakeService) -> None:
    service.held.close()
    async with client_of(service, max_in_flight=1) as client:
        future = client.submit("a", LABELS)
        with pytest.raises(WindowFull):
            client.submit("b", LABELS)
        service.held.open()

        assert (await future).label == "a"


async def test_cancelling_a_task_asks_the_service_to_drop_the_work(service: FakeService, client: Client) -> None:
    service.held.close()

    async def ask() -> Any:
        return await client.submit("a", LABELS)

    task = asyncio.create_task(ask())
    await asyncio.to_thread(until, lambda: service.asks)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    await asyncio.to_thread(until, lambda: service.cancelled)


async def test_closing_in_an_event_loop_is_refused_while_answers_are_awaited(
    service: FakeService, client: Client
) -> None:
    service.held.close()
    client.submit("a", LABELS)

    with pytest.raises(InEventLoop, match="use `async with`"):
        client.close()
    service.held.open()


async def test_leaving_async_with_waits_for_all_answers_and_stops_no_loop(service: FakeService) -> None:
    service.held.close()
    ticks = count()

    async def tick() -> None:
        while True:
            next(ticks)
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    async with client_of(service) as client:
        future = client.submit("a", LABELS)
        asyncio.get_running_loop().call_later(0.02, service.held.open)
    ticking.cancel()

    assert future.result().label == "a"
    assert next(ticks) > 10


# Its end.


def _closing(client: Client, **options: bool) -> threading.Thread:
    thread = threading.Thread(target=lambda: client.close(**options))
    thread.start()
    return thread


def test_closing_waits_for_what_is_outstanding(service: FakeService, client: Client) -> None:
    service.held.close()
    future = client.submit("a", LABELS)
    closing = _closing(client)
    until(lambda: client._window._closed)
    with pytest.raises(ClientClosed, match="make a new one"):
        client.submit("b", LABELS)
    alive = closing.is_alive()
    service.held.open()
    closing.join(20)

    assert (alive, future.done(), _threads()) == (True, True, [])
    assert future.result().label == "a"


def test_or_it_cancels_all_of_it(service: FakeService, client: Client) -> None:
    service.held.close()
    called: list[Future[Any]] = []
    futures = [client.submit(text, LABELS, callback=called.append) for text in "abc"]
    until(lambda: len(service.asks) == 3)
    client.close(cancel_futures=True)

    assert [future.cancelled() for future in futures] == [True] * 3
    assert sorted(called, key=futures.index) == futures
    assert service.cancelled == len(service.calls)
    assert _threads() == []


def test_or_it_returns_at_once_and_the_rest_happens_in_the_background(service: FakeService, client: Client) -> None:
    service.held.close()
    called: list[str] = []
    future = client.submit("a", LABELS, callback=lambda future: called.append(future.result().label))
    client.close(wait=False)
    before = future.done()
    service.held.open()
    until(lambda: not _threads())

    assert (before, called, future.result(20).label) == (False, ["a"], "a")


def test_afterwards_nothing_new_is_taken(client: Client) -> None:
    client.close()
    asks: list[Callable[[], object]] = [
        lambda: client.submit("a", LABELS),
        lambda: client.submit("", LABELS),
        lambda: client.classify("a", LABELS),
        lambda: list(client.map(["a"], LABELS)),
    ]
    for ask in asks:
        with pytest.raises(ClientClosed):
            ask()


def test_whoever_waits_for_room_while_it_is_closed_is_told(service: FakeService) -> None:
    service.held.close()
    client = client_of(service, max_in_flight=1)
    client.submit("a", LABELS)
    found: list[object] = []

    def submit() -> None:
        try:
            client.submit("b", LABELS)
        except ClientClosed as error:
            found.append(error)

    blocked = threading.Thread(target=submit)
    blocked.start()
    until(lambda: client._window._changed._waiters)  # type: ignore[attr-defined]
    client.close(wait=False)
    blocked.join(20)
    service.held.open()

    assert len(found) == 1


def test_it_may_be_closed_again_by_anybody_and_each_waits_until_it_is(service: FakeService, client: Client) -> None:
    service.held.close()
    client.submit("a", LABELS)
    client.close(wait=False)
    closing = [_closing(client), _closing(client, cancel_futures=False)]
    service.held.open()
    for thread in closing:
        thread.join(20)

    assert [thread.is_alive() for thread in closing] == [False, False]
    assert "nli-delivery" not in _threads()
    client.close()
    client.close(wait=False, cancel_futures=True)


def test_an_ended_future_still_says_what_it_was_when_its_client_is_closed(client: Client) -> None:
    future = client.submit("a", LABELS)
    client.close()

    assert (future.result().label, future.cancel(), future.done()) == ("a", False, True)


def test_what_was_cancelled_just_before_is_still_told_to_the_service(service: FakeService, client: Client) -> None:
    service.held.close()
    service.terms_held.close()
    gone, kept = client.submit("gone", LABELS), client.submit("kept", LABELS)
    service.terms_held.open()
    until(lambda: len(service.asks) == 2)
    client._thread.run(asyncio.sleep(0), 20)
    gone.cancel()
    service.held.open("kept")
    kept.result(20)
    client.close()

    assert service.forgotten == [ask["id"] for ask in service.asks if text_of(ask) == "gone"]


def test_closing_leaves_no_task_behind(service: FakeService, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it waits for: the terms, an answer, a time to send once more, the forgetting."""
    service.behave = lambda ask: {"wait": QuotaExceeded(["q"], 20), "never": None}.get(text_of(ask), 0.0)
    client.classify("a", LABELS)
    futures = [client.submit(text, LABELS) for text in ("never", "never", "wait")]
    until(lambda: len(service.asks) == 4)
    futures[0].cancel()
    client.close(cancel_futures=True)
    service.terms_held.close()
    with client_of(service) as other:
        waiting = other.submit("b", LABELS)
        until(lambda: service.terms_asked == 2)
        waiting.cancel()
    gc.collect()

    assert [record.getMessage() for record in caplog.records] == []


def test_a_transport_that_does_not_let_go_is_left_behind(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.02)

    async def holds(ids: Sequence[str]) -> None:
        await asyncio.sleep(20)

    service.forget = holds  # type: ignore[method-assign]
    service.held.close()
    service.terms_held.close()
    futures = [client.submit(text, LABELS) for text in "ab"]
    service.terms_held.open()
    until(lambda: len(service.asks) == 2)
    client._thread.run(asyncio.sleep(0), 20)
    began = time.monotonic()
    futures[0].cancel()
    client.close(cancel_futures=True)

    assert time.monotonic() - began < 5
    assert _threads() == []


# Its process.


def test_in_a_forked_process_it_says_so_instead_of_hanging(service: FakeService, client: Client) -> None:
    service.held.close()
    pending = client.submit("a", LABELS)
    rows = client.map(["a"], LABELS)
    completed = client.as_completed([pending])
    uses: list[Callable[[], object]] = [
        lambda: client.submit("b", LABELS),
        lambda: client.classify("b", LABELS),
        lambda: client.map(["b"], LABELS),
        lambda: list(rows),
        lambda: client.as_completed([pending]),
        client.close,
        pending.result,
        pending.exception,
        lambda: asyncio.run(_await(pending)),
    ]

    assert _in_a_fork(uses) == ["Forked"] * len(uses)
    service.held.open()
    assert next(completed).result().label == "a"


async def _await(future: Future[Any]) -> Any:
    return await future


def _in_a_fork(uses: Sequence[Callable[[], object]]) -> list[str]:
    """The class of what each raises there."""
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what the test is about
        child = os.fork()
    if child == 0:
        try:
            os.write(writes, " ".join(_raised(use) for use in uses).encode())
        finally:
            os._exit(0)
    os.close(writes)
    ready, _, _ = select.select([reads], [], [], 20)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = os.read(reads, 65_536).decode() if ready else "it hangs"
    os.close(reads)
    return said.split()


def _raised(use: Callable[[], object]) -> str:
    try:
        use()
    except Exception as error:
        return type(error).__name__
    return "nothing"


def test_pickling_a_client_says_what_to_do_instead(client: Client) -> None:
    with pytest.raises(TypeError, match="does not travel; make one where it is used"):
        pickle.dumps(client)


# All at once.


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """It would take half of the time, for 100,000 futures that all live."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_of_100_000_futures_with_racing_cancels_each_ends_once_and_is_called_back_once(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, n_threads = 100_000, 2
    chance = random.Random(5)
    fates = [chance.choice([0.0] * 90 + [0.001] * 3 + [EngineFailed("")] * 7) for _ in range(997)]
    turn = count()

    def behave(ask: Ask) -> float | EngineFailed:
        fate = fates[next(turn) % 997]
        return fate if isinstance(fate, float) else EngineFailed(text_of(ask))

    def question(text: str, labels: Any, asking: Any) -> tuple[Question, float]:
        return Question({"text": text, "labels": LABELS}, 2, 9), 30.0

    calls: Counter[int] = Counter()
    where: set[str] = set()
    futures: list[list[Future[Any]]] = [[] for _ in range(n_threads)]
    pause = threading.Event()

    def callback(future: Future[Any]) -> None:
        calls[id(future)] += 1
        where.add(threading.current_thread().name.rsplit("_")[0])

    def submit(mine: list[Future[Any]], first: int) -> None:
        for i in range(first, n, n_threads):
            mine.append(client.submit(f"t{i}", LABELS, callback=callback))

    def cancel(some: list[Future[Any]], mine: random.Random) -> None:
        """Every fifth, at whatever moment: before it is sent, under way, answered just now."""
        i = 0
        while i < n // n_threads:
            if i < len(some):
                some[i].cancel()
                i += mine.randint(1, 9)
            else:
                pause.wait(0.001)

    service.behave = behave
    service.calls = deque(maxlen=1)
    monkeypatch.setattr(client, "_question", question)  # a third of the time, and proven elsewhere
    threads = [threading.Thread(target=submit, args=(mine, i)) for i, mine in enumerate(futures)]
    threads += [threading.Thread(target=cancel, args=(some, random.Random(i))) for i, some in enumerate(futures)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    client.close()

    outcomes: Counter[str] = Counter()
    for first, some in enumerate(futures):
        for i, future in zip(range(first, n, n_threads), some, strict=True):
            outcomes[_outcome(future, f"t{i}")] += 1
    assert (outcomes["wrong"], sum(outcomes.values())) == (0, n)
    assert min(outcomes["answered"], outcomes["failed"], outcomes["cancelled"]) > n // 100
    assert (len(calls), set(calls.values())) == (n, {1})
    assert (where, client.callback_errors) == ({"nli-callback"}, 0)
    assert not client._window._inside


def _outcome(future: Future[Any], text: str) -> str:
    if not future.done():
        return "wrong"
    if future.cancelled():
        return "cancelled"
    if error := future.exception():
        return "failed" if str(error) == text else "wrong"
    return "answered" if future.result().label == text else "wrong"


def test_slow_callbacks_hold_up_whoever_submits_so_that_they_do_not_pile_up() -> None:
    gate, seen = threading.Event(), deque[Any]()

    def slow(future: Any) -> None:
        gate.wait(20)
        seen.append(future.result().label)

    with client_of(FakeService(), max_in_flight=8) as client:
        submitted = deque[int]()

        def submit() -> None:
            for i in range(40):
                client.submit(f"t{i}", LABELS, callback=slow)
                submitted.append(i)

        thread = threading.Thread(target=submit)
        thread.start()
        until(lambda: client._pool._changed._waiters)  # type: ignore[attr-defined]
        assert len(submitted) <= 16
        assert client.submit("not held up", LABELS, block=False).result(20).label == "not held up"
        gate.set()
        thread.join(20)
    assert sorted(seen) == sorted(f"t{i}" for i in range(40))


def test_an_interrupt_in_the_midst_of_submitting_costs_nobody_else_an_answer(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.classify("before", LABELS)
    hand_on = client._thread.do

    def interrupt(*_: object) -> None:
        monkeypatch.setattr(client._thread, "do", hand_on)
        raise KeyboardInterrupt

    monkeypatch.setattr(client._thread, "do", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.submit("interrupted", LABELS)

    assert client.submit("after", LABELS).result(20).label == "after"
    client.close()
    assert not client._window._inside


def test_a_thread_of_the_callers_own_executor_may_submit_more_than_the_window_holds(service: FakeService) -> None:
    seen: list[str] = []
    with ThreadPoolExecutor(1) as executor, client_of(service, max_in_flight=4, callback_executor=executor) as client:

        def submit() -> None:
            for i in range(20):
                client.submit(f"t{i}", LABELS, callback=lambda future: seen.append(future.result().label))

        executor.submit(submit).result(20)

    assert sorted(seen) == sorted(f"t{i}" for i in range(20))


def test_as_completed_says_whose_futures_it_takes(client: Client) -> None:
    with pytest.raises(TypeError, match="a client's own futures"):
        client.as_completed([concurrent.futures.Future()])  # type: ignore[arg-type]
