"""What travels, when, how often, and what becomes of it: a client against the fake service."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import wait
from itertools import pairwise
from typing import Any

import pytest

from clients.delivery import sender as module
from clients.delivery.client import Client
from clients.delivery.future import Future
from clients.delivery.sender import GRACE_S
from deployments.contract.errors import (
    CostTooLarge,
    DeadlineExceeded,
    EngineFailed,
    QuotaExceeded,
    ServiceError,
    TooManyConcurrent,
    Unauthorized,
    Unavailable,
)
from deployments.contract.wire import Ask, Told
from tests.clients.delivery.fake import LABELS, FakeService, Lost, client_of, text_of, until
from tests.clients.delivery.test_pacer import quota

SLACK_S = 2.0  # that a loaded machine may take longer


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with client_of(service) as client:
        yield client
        service.terms_held.open()
        service.held.open()
        client.close(cancel_futures=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.002)


def _together(service: FakeService, client: Client, *texts: Any, **options: Any) -> list[Future[Any]]:
    """Submitted while nothing can be sent yet, and so sent at the same time."""
    service.terms_held.close()
    futures = [client.submit(text, LABELS, **options) for text in texts]
    until(lambda: service.terms_asked)
    client._thread.run(asyncio.sleep(0), 20)  # what was submitted is there
    service.terms_held.open()
    return futures


def _labels(futures: Sequence[Future[Any]]) -> list[str]:
    return [future.result(20).label for future in futures]


# Travelling together.


def test_what_is_submitted_at_the_same_time_travels_as_one_call_and_each_gets_its_own(
    service: FakeService, client: Client
) -> None:
    futures = _together(service, client, "a", "b", "c")

    assert _labels(futures) == ["a", "b", "c"]
    assert [len(call) for call in service.calls] == [3]


def test_a_string_gives_a_classification_and_a_list_gives_a_list(service: FakeService, client: Client) -> None:
    one, several, single = _together(service, client, "a", ["b", "c"], ["d"])

    assert one.result(20).label == "a"
    assert [(found.label, found.index) for found in several.result(20)] == [("b", 0), ("c", 1)]
    assert [found.label for found in single.result(20)] == ["d"]


def test_a_call_holds_64_requests_at_most(service: FakeService, client: Client) -> None:
    futures = _together(service, client, *(str(i) for i in range(130)))

    assert _labels(futures) == [str(i) for i in range(130)]
    assert [len(call) for call in service.calls] == [64, 64, 2]


@pytest.mark.parametrize("letter", ["a", "ü", "語", "🙂"])
def test_a_call_holds_a_mebibyte_at_most_whatever_the_letters(
    service: FakeService, client: Client, letter: str
) -> None:
    half = letter * (((1 << 19) - 100) // len(letter.encode()))
    more = letter * (((1 << 19) + 100) // len(letter.encode()))
    futures = _together(service, client, half, half, more, more, [half] * 3, "a")
    wait(futures, 20)

    sizes = [[len(text_of(ask)) for ask in call] for call in service.calls]
    assert sizes == [[len(half)] * 2, [len(more)], [len(more)], [3], [1]]


def test_while_calls_are_under_way_what_follows_shortly_travels_together(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless an answer makes room before."""
    monkeypatch.setattr(module, "HOLD_S", 20.0)
    service.held.close()
    for i in range(4):
        client.submit(f"t{i}", LABELS)
        until(lambda i=i: len(service.calls) > i)  # type: ignore[misc]
    for i in range(3):
        client.submit(f"more {i}", LABELS)
        for _ in range(3):
            client._thread.run(asyncio.sleep(0), 20)
    before = len(service.asks)
    service.held.open("t0")
    until(lambda: len(service.asks) == 7)

    assert before == 4
    assert [len(call) for call in service.calls] == [1, 1, 1, 1, 3]


def test_submitting_never_waits_for_the_transport(service: FakeService, client: Client) -> None:
    go_on = threading.Event()
    send = service.send
    service.send = lambda asks: go_on.wait(20) and send(asks)  # type: ignore[assignment, method-assign, return-value]
    futures = [client.submit(f"t{i}", LABELS) for i in range(100)]

    assert not any(future.done() for future in futures)
    go_on.set()
    assert _labels(futures) == [f"t{i}" for i in range(100)]


# Each by itself.


def test_the_error_of_one_is_the_error_of_that_one(service: FakeService, client: Client) -> None:
    service.behave = lambda ask: EngineFailed("no") if text_of(ask) == "bad" else 0.0
    good, bad, other = _together(service, client, "good", "bad", "other")

    assert _labels([good, other]) == ["good", "other"]
    assert (type(bad.exception(20)), str(bad.exception())) == (EngineFailed, "no")
    assert len(service.calls) == 1


def test_one_text_that_failed_is_an_error_alone_and_a_row_among_others(service: FakeService, client: Client) -> None:
    def fail(ask: Ask) -> Any:
        answer: Any = service.answer(ask)
        answer["results"] = [
            {"error": {"detail": "no number"}} if found["labels"][0] == "bad" else found for found in answer["results"]
        ]
        return {"answer": answer}

    service.behave = fail
    alone, among = _together(service, client, "bad", ["good", "bad"])

    assert (type(alone.exception(20)), str(alone.exception())) == (EngineFailed, "no number")
    good, bad = among.result(20)
    assert (good.label, bad.index, type(bad.error)) == ("good", 1, EngineFailed)


def test_a_slow_one_holds_up_no_other(service: FakeService, client: Client) -> None:
    service.held.close()
    slow, quick = _together(service, client, "slow", "quick")
    service.held.open("quick")

    assert quick.result(20).label == "quick"
    assert not slow.done()


def test_a_cancelled_one_is_forgotten_by_the_service_and_touches_no_other(service: FakeService, client: Client) -> None:
    service.held.close()
    gone, kept, also = _together(service, client, "gone", "kept", "also")
    until(lambda: len(service.asks) == 3)
    cancelled = [gone.cancel(), also.cancel()]
    until(lambda: len(service.forgotten) == 2)
    service.held.open()

    assert (cancelled, kept.result(20).label) == ([True, True], "kept")
    assert service.forgotten == [service.asks[0]["id"], service.asks[2]["id"]]
    assert (service.cancelled, gone.cancelled(), len(service.calls)) == (0, True, 1)


def test_when_nobody_waits_for_any_of_a_call_the_call_is_cancelled(service: FakeService, client: Client) -> None:
    service.held.close()
    answered, *gone = _together(service, client, "answered", "b", "c")
    until(lambda: len(service.asks) == 3)
    other = client.submit("other", LABELS)
    service.held.open("answered")
    answered.result(20)
    until(lambda: len(service.asks) == 4)
    for future in gone:
        future.cancel()

    until(lambda: service.cancelled)
    assert service.cancelled == 1
    service.held.open()
    assert other.result(20).label == "other"


def test_what_is_cancelled_before_it_is_sent_is_never_sent(service: FakeService, client: Client) -> None:
    service.terms_held.close()
    gone, kept = [client.submit(text, LABELS) for text in ("gone", "kept")]
    gone.cancel()
    service.terms_held.open()

    assert kept.result(20).label == "kept"
    assert (service.texts, service.forgotten) == (["kept"], [])


def test_who_is_dropped_is_answered_all_the_same(service: FakeService, client: Client) -> None:
    seen: list[str] = []
    client.submit("dropped", LABELS, callback=lambda future: seen.append(future.result().label))

    until(lambda: seen)
    assert (seen, service.cancelled, service.forgotten) == (["dropped"], 0, [])


def test_that_the_service_cannot_be_told_hurts_nobody(service: FakeService, client: Client) -> None:
    tried = threading.Event()

    async def fails(ids: Sequence[str]) -> None:
        tried.set()
        raise RuntimeError("no replica")

    service.forget = fails  # type: ignore[method-assign]
    service.held.close()
    gone, kept = _together(service, client, "gone", "kept")
    until(lambda: service.asks)
    gone.cancel()
    assert tried.wait(20)
    service.held.open()

    assert kept.result(20).label == "kept"


# How it came about.


def test_an_answer_says_how_it_came_about(service: FakeService, client: Client) -> None:
    left = quota("requests", 10, 1, 5, remaining=3)
    service.behave = lambda ask: {"answer": service.answer(ask), "timings": {"queue": 0.25}, "quotas": [left]}
    future = client.submit("a", LABELS)
    future.result(20)
    meta = future.meta

    assert meta is not None
    assert (meta.request_id, meta.model, meta.engine, meta.fallback) == ("r0", "fake", "fake", False)
    assert (meta.quotas, meta.retries, meta.timings["queue"], set(meta.timings)) == (
        (left,),
        0,
        0.25,
        {"queue", "total"},
    )
    assert 0 < meta.timings["total"] < 20


@pytest.mark.usefixtures("quick")
def test_an_error_says_how_often_it_was_tried(service: FakeService, client: Client) -> None:
    errors = iter([Unavailable("wait", 0.001), Unavailable("wait", 0.001), EngineFailed("no")])
    service.behave = lambda _: next(errors)
    future = client.submit("a", LABELS)
    future.exception(20)

    assert future.meta is not None
    assert (future.meta.request_id, future.meta.retries, set(future.meta.timings)) == (None, 2, {"total"})


# Deadlines.


def test_the_deadline_that_travels_is_what_is_left_of_it(service: FakeService, client: Client) -> None:
    service.behave = lambda _: Unavailable("wait", 0.05) if len(service.asks) < 2 else 0.0
    service.terms_held.close()
    asked = time.monotonic()
    future = client.submit("a", LABELS, deadline_s=7.0)
    threading.Event().wait(0.02)
    service.terms_held.open()
    future.result(20)

    first, second = [ask["deadline_s"] for ask in service.asks]
    assert 7.0 - SLACK_S < first <= 7.0 - 0.02
    assert first - SLACK_S < second <= first - 0.05
    assert second >= 7.0 - (time.monotonic() - asked)


def test_the_default_deadline_is_cut_to_what_the_service_allows_and_an_explicit_one_is_not(
    service: FakeService, client: Client
) -> None:
    assert isinstance(service.granted, dict)
    service.granted["max_deadline_s"] = 8.0
    wait([client.submit("default", LABELS), client.submit("explicit", LABELS, deadline_s=20.0)], 20)

    default, explicit = [ask["deadline_s"] for ask in sorted(service.asks, key=text_of, reverse=False)]
    assert (default, 20.0 - SLACK_S < explicit <= 20.0) == (8.0, True)


def test_a_default_below_it_travels_as_it_is(service: FakeService) -> None:
    with client_of(service, deadline_s=3.0) as client:
        client.classify("a", LABELS)

    assert 3.0 - SLACK_S < service.asks[0]["deadline_s"] <= 3.0


def test_shortly_after_its_deadline_the_client_ends_a_future_that_the_service_does_not(
    service: FakeService, client: Client
) -> None:
    service.behave = lambda ask: None if text_of(ask) == "never" else 0.0
    asked = time.monotonic()
    never, good = _together(service, client, "never", "good", deadline_s=0.05)
    error = never.exception(20)

    assert isinstance(error, DeadlineExceeded)
    assert 0.05 <= time.monotonic() - asked < 0.05 + GRACE_S + SLACK_S
    assert good.result(20).label == "good"
    until(lambda: service.cancelled)  # and is told that nobody waits


def test_so_it_does_with_what_could_not_even_be_sent(service: FakeService, client: Client) -> None:
    service.terms_held.close()

    assert isinstance(client.submit("a", LABELS, deadline_s=0.01).exception(20), DeadlineExceeded)
    assert service.asks == []


def test_the_services_own_word_on_a_deadline_is_waited_for(service: FakeService, client: Client) -> None:
    def late(ask: Ask) -> float:
        return ask["deadline_s"] + GRACE_S / 4

    service.behave = late
    assert client.submit("a", LABELS, deadline_s=0.01).result(20).label == "a"


@pytest.mark.parametrize("wish", ["x", float("nan"), -1, 0, True, float("inf"), [], 1e300])
def test_a_deadline_that_is_none_is_an_invalid_request(service: FakeService, client: Client, wish: Any) -> None:
    error = client.submit("a", LABELS, deadline_s=wish).exception(20)

    assert "must be a number of seconds above 0" in str(error)
    assert service.asks == []


# Sending once more.


@pytest.mark.usefixtures("quick")
def test_when_a_replica_dies_what_it_had_is_sent_once_more(service: FakeService, client: Client) -> None:
    service.lost = 1
    futures = _together(service, client, "a", "b")

    assert _labels(futures) == ["a", "b"]
    assert [future.meta.retries for future in futures if future.meta] == [1, 1]
    assert Counter(service.texts) == {"a": 2, "b": 2}


@pytest.mark.usefixtures("quick")
def test_what_was_answered_before_the_replica_died_is_not_sent_again(service: FakeService, client: Client) -> None:
    send = service.send
    service.send = lambda asks: _Dying(service, asks) if len(service.calls) < 1 else send(asks)  # type: ignore
    futures = _together(service, client, "first", "second", "third")

    assert _labels(futures) == ["first", "second", "third"]
    assert Counter(service.texts) == {"first": 1, "second": 2, "third": 2}


class _Dying:
    """Answers the first request, then its replica dies."""

    def __init__(self, service: FakeService, asks: Sequence[Ask]) -> None:
        service.calls.append(list(asks))
        self._told: Told = {"index": 0, "answer": service.answer(asks[0])}

    async def __aiter__(self) -> AsyncIterator[list[Told]]:
        yield [self._told]
        raise Lost

    def cancel(self) -> None: ...


@pytest.mark.usefixtures("quick")
def test_a_call_that_ends_without_a_word_or_is_cancelled_from_elsewhere_is_made_again(
    service: FakeService, client: Client
) -> None:
    send = service.send
    calls = iter([_Ending(None), _Ending(asyncio.CancelledError())])
    service.send = lambda asks: next(calls, None) or send(asks)  # type: ignore

    future = client.submit("a", LABELS)
    assert future.result(20).label == "a"
    assert future.meta is not None
    assert future.meta.retries == 2


class _Ending:
    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    async def __aiter__(self) -> AsyncIterator[list[Told]]:
        if self._error is not None:
            raise self._error
        return
        yield

    def cancel(self) -> None: ...


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("max_concurrent", [1, 1_000])
def test_a_call_that_cannot_even_be_made_is_made_again_and_takes_nobodys_place(max_concurrent: int) -> None:
    service = FakeService(max_concurrent=max_concurrent)
    service.refused = 3
    with client_of(service) as client:
        assert client.classify("a", LABELS, deadline_s=20).label == "a"
        assert client.classify("b", LABELS, deadline_s=20).label == "b"


@pytest.mark.parametrize(
    "error",
    [EngineFailed("no"), CostTooLarge("too many"), DeadlineExceeded(), ServiceError("?"), Unauthorized("no key")],
    ids=lambda error: type(error).__name__,
)
def test_what_would_fail_again_is_not_sent_again(service: FakeService, client: Client, error: ServiceError) -> None:
    service.behave = lambda _: error

    assert type(client.submit("a", LABELS).exception(20)) is type(error)
    assert len(service.asks) == 1


def test_an_error_of_the_transport_that_nobody_foresaw_is_told_with_its_cause(
    service: FakeService, client: Client
) -> None:
    service.send = lambda asks: _Ending(ZeroDivisionError("mine"))  # type: ignore
    error = client.submit("a", LABELS).exception(20)

    assert (type(error), str(error)) == (ServiceError, "the call failed, ZeroDivisionError: mine")
    assert error is not None
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_what_is_lost_and_not_to_be_sent_again_is_unavailable_with_its_cause(
    service: FakeService, client: Client
) -> None:
    service.lost = 1
    error = client.submit("a", LABELS, retry=False).exception(20)

    assert isinstance(error, Unavailable)
    assert "no replica of the service" in str(error)
    assert isinstance(error.__cause__, Lost)


@pytest.mark.parametrize("nonsense", [{}, {"answer": {}}, {"error": {}}, {"answer": None}])
def test_an_answer_that_makes_no_sense_leaves_nobody_waiting(
    service: FakeService, client: Client, nonsense: Any
) -> None:
    service.behave = lambda ask: nonsense
    futures = _together(service, client, "a", "b")

    assert [type(future.exception(20)) for future in futures] == [ServiceError] * 2
    service.behave = lambda ask: 0.0
    assert client.classify("c", LABELS).label == "c"


def test_a_call_that_tells_of_a_request_that_was_not_in_it_leaves_nobody_waiting(
    service: FakeService, client: Client
) -> None:
    service.send = lambda asks: _Telling([{"index": 7, "answer": service.answer(asks[0])}])  # type: ignore

    assert isinstance(client.submit("a", LABELS).exception(20), ServiceError)


class _Telling:
    def __init__(self, told: list[Told]) -> None:
        self._told = told

    async def __aiter__(self) -> AsyncIterator[list[Told]]:
        yield self._told

    def cancel(self) -> None: ...


# Limits.


def _times(service: FakeService, *errors: ServiceError) -> list[float]:
    """When each request comes, the first of which are refused."""
    times: list[float] = []

    def refuse(_: Ask) -> ServiceError | float:
        times.append(time.monotonic())
        return errors[len(times) - 1] if len(times) <= len(errors) else 0.0

    service.behave = refuse
    return times


@pytest.mark.parametrize(
    "error", [QuotaExceeded(["caller-requests"], 0.1), Unavailable("busy", 0.1)], ids=lambda error: type(error).__name__
)
def test_what_is_refused_for_a_time_waits_for_as_long_as_it_is_told(
    service: FakeService, client: Client, error: ServiceError
) -> None:
    first, second, third = 0.0, 0.0, 0.0
    times = _times(service, error, error)
    assert client.classify("a", LABELS).label == "a"

    first, second, third = times
    assert 0.1 <= second - first < 0.1 + SLACK_S
    assert 0.1 <= third - second < 0.1 + SLACK_S


def test_without_a_time_it_waits_longer_each_time(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", 0.02)
    monkeypatch.setattr(module, "MAX_BACKOFF_S", 0.08)
    times = _times(service, *[Unavailable("busy")] * 4)
    client.classify("a", LABELS)

    waits = [after - before for before, after in pairwise(times)]
    assert all(wait_s >= least for wait_s, least in zip(waits, (0.01, 0.02, 0.04, 0.04), strict=True))
    assert sum(waits) < 0.02 + 0.04 + 0.08 + 0.08 + SLACK_S


def test_it_may_be_sent_again_very_often(service: FakeService) -> None:
    """Not only until 2**retries is no float any more."""
    _times(service, *[Unavailable("busy", 0.0)] * 1_100)
    with client_of(service, max_in_flight=2_000) as client:
        assert client.classify("a", LABELS).label == "a"

    assert len(service.asks) == 1_101


def test_nothing_else_is_sent_while_the_quota_is_used_up(service: FakeService, client: Client) -> None:
    times = _times(service, QuotaExceeded(["caller-requests"], 0.1))
    first = client.submit("a", LABELS)
    until(lambda: times)
    client._thread.run(asyncio.sleep(0), 20)
    second = client.submit("b", LABELS)
    wait([first, second], 20)

    assert times[1] - times[0] >= 0.1
    assert _labels([first, second]) == ["a", "b"]


def test_who_does_not_want_to_wait_is_told_at_once_when_to_come_again(service: FakeService, client: Client) -> None:
    service.behave = lambda _: QuotaExceeded(["caller-requests"], 60.0)
    error = client.submit("a", LABELS, retry=False).exception(5)

    assert isinstance(error, QuotaExceeded)
    assert (error.retry_after, error.violated, len(service.asks)) == (60.0, ["caller-requests"], 1)


def test_so_is_whoever_would_wait_beyond_the_deadline(service: FakeService, client: Client) -> None:
    service.behave = lambda _: QuotaExceeded(["caller-requests"], 60.0)
    error = client.submit("a", LABELS, deadline_s=30).exception(5)

    assert isinstance(error, QuotaExceeded)
    assert (error.retry_after, len(service.asks)) == (60.0, 1)


def test_of_too_many_at_a_time_the_client_keeps_to_the_number_that_it_is_told(
    service: FakeService, client: Client
) -> None:
    most = 0

    def crowded(ask: Ask) -> TooManyConcurrent | float:
        nonlocal most
        most = max(most, client._sender._sent)
        return TooManyConcurrent(2) if len(service.asks) <= 8 else 0.001

    service.behave = crowded
    futures = _together(service, client, *"abcdefgh")
    until(lambda: len(service.asks) == 8)
    client._thread.run(asyncio.sleep(0), 20)
    most = 0

    assert _labels(futures) == list("abcdefgh")
    assert most == 2


def test_no_more_are_under_way_than_the_terms_allow() -> None:
    service = FakeService(max_concurrent=3)
    most = 0

    def watch(_: Ask) -> float:
        nonlocal most
        most = max(most, own._sender._sent)
        return 0.0005

    service.behave = watch
    with client_of(service) as own:
        texts = [f"t{i}" for i in range(60)]
        assert _labels([own.submit(text, LABELS) for text in texts]) == texts

    assert most == 3


def test_requests_are_paced_so_that_the_service_has_no_cause_to_refuse() -> None:
    service = FakeService([quota("requests", 400, 1, 20), quota("pairs", 10_000, 1, 1_000)])
    bucket = _Bucket(rate=400, burst=20)
    service.behave = bucket.decide
    with client_of(service) as client:
        futures = [client.submit(f"t{i}", LABELS) for i in range(80)]

        assert _labels(futures) == [f"t{i}" for i in range(80)]
    assert bucket.refused <= 8  # of 60 that come too early without it; messages do not all take the same time
    assert bucket.elapsed >= 0.9 * 60 / 400


class _Bucket:
    """A quota, as the service counts it; the journey of a message is a moment of slack."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst, self._level, self._at = rate, burst, float(burst), time.monotonic()
        self._began = self._at
        self.refused = 0

    @property
    def elapsed(self) -> float:
        return self._at - self._began

    def decide(self, _: Ask) -> QuotaExceeded | float:
        now = time.monotonic()
        self._level = min(self._burst + 1e-6, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1 - 1e-6:
            self.refused += 1
            return QuotaExceeded(["caller-requests"], (1 - self._level) / self._rate)
        self._level -= 1
        return 0.0


def test_in_a_storm_of_refusals_nothing_is_lost_and_no_more_than_the_budget_is_sent_again() -> None:
    """The client is not told of the quota before, so nothing paces it but the refusals."""
    service, most = FakeService(), 50
    bucket = _Bucket(rate=2_000, burst=5)
    service.behave = bucket.decide
    texts = [f"t{i}" for i in range(300)]
    with client_of(service, max_in_flight=most) as client:
        futures = [client.submit(text, LABELS) for text in texts]
        wait(futures, 20)

    outcomes = [type(error) if (error := future.exception()) else future.result().label for future in futures]
    assert all(found in (text, QuotaExceeded) for text, found in zip(texts, outcomes, strict=True))
    assert bucket.refused > most
    assert len(service.asks) == 300 - outcomes.count(QuotaExceeded) + bucket.refused
    assert 300 < len(service.asks) <= 300 + most + 300 // 10


@pytest.mark.usefixtures("quick")
def test_when_every_replica_dies_no_more_than_the_budget_is_sent_again() -> None:
    service = FakeService()
    service.lost = 1_000
    with client_of(service, max_in_flight=4) as client:
        errors = [client.submit(f"t{i}", LABELS).exception(20) for i in range(30)]

    assert [type(error) for error in errors] == [Unavailable] * 30
    assert 30 + 32 <= len(service.asks) <= 30 + 32 + 3  # a small window has a budget of 32 all the same


def test_one_that_ends_while_it_waits_for_its_turn_lets_the_next_go() -> None:
    service = FakeService([quota("pairs", 1, 10, 10)])
    with client_of(service) as client:
        client.classify(["a"] * 4, LABELS)
        dear = [client.submit(["b"] * 4, LABELS, deadline_s=wish) for wish in (0.01, 60)]
        cheap = client.submit("c", LABELS)
        assert isinstance(dear[0].exception(20), DeadlineExceeded)
        dear[1].cancel()

        assert cheap.result(5).label == "c"
        assert service.texts == [["a"] * 4, "c"]


def test_what_costs_more_than_a_burst_is_sent_to_be_told_so() -> None:
    service = FakeService([quota("pairs", 1, 10, 10)])
    service.behave = lambda _: CostTooLarge("12 pairs")
    with client_of(service) as client:
        assert isinstance(client.submit(["a"] * 6, LABELS).exception(5), CostTooLarge)


# Terms.


def test_the_terms_are_asked_for_once_and_before_anything_is_sent(service: FakeService, client: Client) -> None:
    service.terms_held.close()
    futures = [client.submit(text, LABELS) for text in "ab"]
    until(lambda: service.terms_asked)
    sent_before = len(service.asks)
    service.terms_held.open()
    _labels(futures)
    client.classify("c", LABELS)

    assert (sent_before, service.terms_asked) == (0, 1)


def test_without_a_valid_key_all_that_wait_are_told_and_later_ones_ask_again(
    service: FakeService, client: Client
) -> None:
    terms, service.granted = service.granted, Unauthorized("no such key")
    futures = _together(service, client, "a", "b")
    assert [type(future.exception(20)) for future in futures] == [Unauthorized] * 2
    assert isinstance(client.submit("c", LABELS).exception(20), Unauthorized)
    service.granted = terms

    assert client.classify("d", LABELS).label == "d"
    assert (service.terms_asked, service.texts) == (3, ["d"])


@pytest.mark.parametrize(
    "granted", [Lost(), Unavailable("starting"), RuntimeError("no such method"), {}, {"max_concurrent": 5}]
)
def test_a_service_that_cannot_tell_its_terms_is_used_all_the_same(
    service: FakeService, client: Client, granted: Any
) -> None:
    service.granted = granted

    assert [client.classify(text, LABELS).label for text in "abc"] == ["a", "b", "c"]
    assert service.terms_asked == 1


def test_so_is_one_that_does_not_answer_and_it_is_asked_again_in_passing(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TERMS_S", 0.02)
    service.terms_held.close()
    assert client.classify("a", LABELS).label == "a"

    def asked_again() -> bool:
        assert client.classify("b", LABELS).label == "b"
        return service.terms_asked > 1

    until(asked_again)
    service.terms_held.open()
    until(lambda: client.classify("c", LABELS) and client._sender._max_deadline_s == 120.0)


def test_the_terms_are_still_asked_for_after_a_refusal_of_too_many(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TERMS_S", 0.0)
    terms, service.granted = service.granted, Unavailable("starting")
    service.behave = lambda _: TooManyConcurrent(5)
    client.submit("a", LABELS, retry=False).exception(20)
    service.granted, service.behave = terms, lambda _: 0.0

    monkeypatch.setattr(module, "TERMS_S", 5.0)
    until(lambda: client.classify("b", LABELS) and client._sender._max_deadline_s == 120.0)


def test_who_waits_for_his_quota_until_his_deadline_is_told_so() -> None:
    service = FakeService([quota("requests", 1, 10, 1)])
    with client_of(service) as client:
        client.classify("a", LABELS)
        with pytest.raises(DeadlineExceeded, match="it waited for its turn, by your quota"):
            client.classify("b", LABELS, deadline_s=0.05)

    assert service.texts == ["a"]


def test_limits_that_are_lifted_are_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.01)
    service = FakeService([quota("requests", 1, 3_600, 1)], max_concurrent=1)
    with client_of(service) as client:
        client.classify("a", LABELS)
        service.granted = {"max_concurrent": 9, "max_deadline_s": 5.0, "quotas": []}
        until(lambda: client.submit("b", LABELS, deadline_s=0.05).exception(20) is None)

        assert client._sender.max_deadline_s == 5
        assert client._sender._pacer.max_concurrent == 9
