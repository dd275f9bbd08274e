"""The scheduler through the whole graph, Serve's default mode: what shares a batch, who waits, who never runs."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from .conftest import App, Deploy, answers, hang_up, load, raw_request, wait_until
from .stand_ins import Record

LABELS = [f"label{i}" for i in range(8)]
LIST_BUDGET = 512
N_CALLERS = 200
IN_FLIGHT = 210


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / "engine.jsonl"


@pytest.fixture
def record(log: Path) -> Record:
    return Record(log)


@pytest.fixture
def recorded(borrow: Deploy, log: Path) -> Callable[..., App]:
    """One graph around a `RecordingEngine` for all, with a `user_config` of the Classifier for each."""

    def run(**user_config: int) -> App:
        return borrow(
            "RecordingEngine",
            classifier={"user_config": user_config},
            log=str(log),
            seconds_per_run=0.005,
            seconds_per_pair=0.001,
            app={"caps": {"max_in_flight": IN_FLIGHT}},
        )

    return run


def _ask(app: App, text: str, labels: list[str], **headers: str) -> httpx2.Response:
    return app.http.post("/v1/classify", json={"text": text, "labels": labels}, headers=headers)


@contextmanager
def _busy(app: App, record: Record, text: str) -> Iterator[None]:
    """The engine runs a request with this text, and nothing else; in the end that is answered, too."""
    with ThreadPoolExecutor(1) as pool:
        with record.hold():
            held = pool.submit(_ask, app, f"held {text}", ["yes"])
            wait_until(lambda: record.pairs_with("held") == 1, 20)
            yield
        assert held.result().status_code == 200


@pytest.mark.timeout(180)
def test_batches_grow_with_the_callers(recorded: Callable[..., App], record: Record) -> None:
    app = recorded()

    def sizes(callers: int) -> list[float]:
        """Requests in each batch; 8 labels, since here the front brings fewer requests than the engine serves pairs."""
        before = len(record.batches)
        requests = [raw_request({"text": f"{callers} {i}", "labels": LABELS}) for i in range(6 * callers)]
        asyncio.run(load(app.http.base_url, callers, requests))
        return [len(batch) / len(LABELS) for batch in record.batches[before:]]

    one, eight, many = sizes(1), sizes(8), sizes(64)

    assert set(one) == {1}
    assert 1.5 <= statistics.mean(eight) <= 8, eight
    assert statistics.mean(many) >= 8, many
    assert statistics.median(many) >= 8, many  # not a few large ones among many that were sealed early


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["http", "handle"])
@pytest.mark.parametrize("joined", [True, False])
def test_of_200_callers_who_hang_up_at_most_one_percent_reaches_the_engine(
    recorded: Callable[..., App], record: Record, how: str, joined: bool
) -> None:
    app = recorded()
    labels = ["yes"] if joined else [f"{'long ' * 40}{i}" for i in range(20)]  # too much to travel together
    gone, after = f"gone{how}{joined}", f"after{how}{joined}"
    with _busy(app, record, gone):
        drop = _call_over_http(app, gone, labels) if how == "http" else _call_by_handle(app, gone, labels)
        wait_until(lambda: len(record.tokenised) == 1 + N_CALLERS, 20, lambda: str(len(record.tokenised)))
        drop()
        wait_until(lambda: record.left >= 0.99 * N_CALLERS, 20, lambda: str(record.left))

    for i in range(5):  # turns, so that every tenant has had several
        assert _ask(app, f"{after} {i}", labels).status_code == 200
    assert record.pairs_with(after) == 5 * len(labels)
    assert record.pairs_with(gone) <= 0.01 * N_CALLERS * len(labels)


def test_who_stays_is_answered_though_every_second_of_a_call_hangs_up(
    recorded: Callable[..., App], record: Record
) -> None:
    app = recorded()
    with _busy(app, record, "while some stay"):
        sockets = _connect(app, 40)
        for i, connection in enumerate(sockets):
            word = "leaves" if i % 2 == 0 else "stays"
            connection.sendall(raw_request({"text": f"{word} {i}", "labels": ["yes"]}))
        wait_until(lambda: len(record.tokenised) == 41, 20, lambda: str(len(record.tokenised)))
        hang_up(sockets[::2])
        wait_until(lambda: record.left == 20, 20, lambda: str(record.left))

    assert [answer[:12] for answer in answers(sockets[1::2])] == [b"HTTP/1.1 200"] * 20
    assert record.pairs_with("stays") == 20
    assert record.pairs_with("leaves") == 0


def _connect(app: App, n: int) -> list[socket.socket]:
    url = app.http.base_url
    return [socket.create_connection((url.host, url.port), timeout=20) for _ in range(n)]


def _call_over_http(app: App, word: str, labels: list[str]) -> Callable[[], None]:
    """Requests on connections of their own, and how to drop them."""
    sockets = _connect(app, N_CALLERS)
    for i, connection in enumerate(sockets):
        connection.sendall(raw_request({"text": f"{word} {i}", "labels": labels}))
    return partial(hang_up, sockets)


def _call_by_handle(app: App, word: str, labels: list[str]) -> Callable[[], None]:
    handle = app.handle
    responses = [handle.classify.remote({"text": f"{word} {i}", "labels": labels}) for i in range(N_CALLERS)]

    def cancel() -> None:
        for response in responses:
            response.cancel()  # type: ignore[no-untyped-call]

    return cancel


def test_a_request_past_its_deadline_never_reaches_the_engine(recorded: Callable[..., App], record: Record) -> None:
    app = recorded()
    with ThreadPoolExecutor(20) as pool, _busy(app, record, "while others wait too long"):
        late = [pool.submit(_ask, app, f"late {i}", ["yes"], **{"X-Deadline-Seconds": "0.5"}) for i in range(20)]

        assert {response.result().status_code for response in late} == {504}
    assert _ask(app, "afterwards", LABELS).status_code == 200  # more than was held, so that this speed is what counts
    assert record.pairs_with("late") == 0


def test_a_short_request_does_not_wait_for_a_long_list(recorded: Callable[..., App], record: Record) -> None:
    app = recorded(max_batch_tokens=LIST_BUDGET)
    texts = [f"list {i} {'word ' * (i % 20)}" for i in range(256)]
    body = {"text": texts, "labels": [f"label{i}" for i in range(16)]}
    with ThreadPoolExecutor(1) as pool:
        long_list = pool.submit(app.http.post, "/v1/classify", json=body)
        wait_until(lambda: len(record.batches) >= 3, 20)

        waits = []
        for i in range(20):
            before = len(record.batches)
            assert _ask(app, f"short {i}", ["yes", "no"]).status_code == 200
            waits.append(len(record.batches) - before)

        assert not long_list.done(), "the list was too short to prove anything"
        assert long_list.result().status_code == 200
    # what ran when it was sent and while it travelled, then its own
    assert statistics.quantiles(waits, n=20)[-1] <= 3 + 2


def test_a_full_queue_is_a_503_with_retry_after_and_user_config_widens_it(
    recorded: Callable[..., App], record: Record
) -> None:
    app = recorded(max_queued_tokens=40)
    _ask(app, "to measure the speed by", ["yes"])
    with ThreadPoolExecutor(1) as pool:
        with _busy(app, record, "while the queue is full"):
            waiting = pool.submit(_ask, app, "waiting", LABELS)
            wait_until(lambda: "waiting" in record.tokenised, 20)

            refused = _ask(app, "refused", ["yes", "no"])

            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        assert waiting.result().status_code == 200
    assert record.pairs_with("refused") == 0
    assert _ask(app, "refused", ["yes", "no"]).status_code == 200


def test_whoever_asks_whether_it_is_ready_costs_the_engine_one_text_a_second(
    recorded: Callable[..., App], record: Record
) -> None:
    app = recorded()
    started = time.monotonic()

    statuses = {app.http.get("/readyz").status_code for _ in range(100)}

    assert statuses == {200}
    assert 1 <= record.pairs_with("ready?") <= 1 + (time.monotonic() - started)


def test_too_many_requests_in_flight_are_refused_in_our_own_words(recorded: Callable[..., App], record: Record) -> None:
    app = recorded()
    with _busy(app, record, "while many come"):
        crowd = _connect(app, IN_FLIGHT - 1)
        for i, connection in enumerate(crowd):
            connection.sendall(raw_request({"text": f"crowd {i}", "labels": ["yes"]}))
        wait_until(lambda: len(record.tokenised) == IN_FLIGHT, 20, lambda: str(len(record.tokenised)))

        refused = _ask(app, "one more", ["yes"])

        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"] == "1"
    assert {answer[:12] for answer in answers(crowd)} == {b"HTTP/1.1 200"}
    assert _ask(app, "one more", ["yes"]).status_code == 200


@pytest.mark.timeout(120)
@pytest.mark.parametrize("text", ["hang", "stage 1"])
def test_a_replica_that_hangs_is_replaced(borrow: Deploy, text: str) -> None:
    app = borrow(
        "HangingEngine",
        classifier={
            "user_config": {"max_batch_s": 0.5},
            "health_check_period_s": 0.5,
            "health_check_timeout_s": 5,
        },
    )
    (pid,) = app.pids("Classifier")

    lost = _ask(app, text, ["yes"], **{"X-Deadline-Seconds": "1"})
    wait_until(lambda: bool(app.pids("Classifier")) and pid not in app.pids("Classifier"), 60)

    assert lost.status_code in (200, 503, 504)
    assert _ask(app, "good", ["yes"]).status_code == 200
