"""The scheduler through the whole graph, Serve's default mode: what shares a batch, who waits, who never runs."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from .conftest import App, Deploy, answers_of_the_odd, load, raw_request, wait_until
from .stand_ins import Record

LABELS = [f"label{i}" for i in range(8)]
LIST_BUDGET = 512


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "engine.jsonl")


@pytest.fixture
def recorded(deploy: Deploy, record: Record, tmp_path: Path) -> Callable[..., App]:
    """Deploys the graph around a `RecordingEngine`."""

    def run(classifier: dict[str, Any] | None = None, **options: Any) -> App:
        return deploy("RecordingEngine", classifier=classifier, log=str(tmp_path / "engine.jsonl"), **options)

    return run


def _ask(app: App, text: str, labels: list[str], **headers: str) -> httpx2.Response:
    return app.http.post("/v1/classify", json={"text": text, "labels": labels}, headers=headers)


@pytest.mark.timeout(180)
def test_batches_grow_with_the_callers(recorded: Callable[..., App], record: Record) -> None:
    app = recorded(seconds_per_run=0.005, seconds_per_pair=0.001)

    def sizes(callers: int) -> list[float]:
        """Requests in each batch; 8 labels, since here the front brings fewer requests than the engine serves pairs."""
        before = len(record.batches)
        requests = [raw_request({"text": f"{callers} {i}", "labels": LABELS}) for i in range(10 * callers)]
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
    app = recorded(slow_s=3.0)
    labels = ["yes"] if joined else [f"{'long ' * 40}{i}" for i in range(20)]  # too much to travel together
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(_ask, app, "slow", ["yes"])
        wait_until(lambda: len(record.batches) == 1, 20)

        hang_up = _call_over_http(app, labels) if how == "http" else _call_by_handle(app, labels)
        wait_until(lambda: len(record.tokenised) == 201, 20, lambda: str(len(record.tokenised)))
        hang_up()

        assert slow.result().status_code == 200
    for i in range(5):  # turns, so that every tenant has had several
        assert _ask(app, f"afterwards {i}", labels).status_code == 200
    assert record.pairs_with("afterwards") == 5 * len(labels)
    assert record.pairs_with("gone") <= 0.01 * 200 * len(labels)


def test_who_stays_is_answered_though_every_second_of_a_call_hangs_up(
    recorded: Callable[..., App], record: Record
) -> None:
    app = recorded(slow_s=3.0)
    url = app.http.base_url
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(_ask, app, "slow", ["yes"])
        wait_until(lambda: len(record.batches) == 1, 20)
        sockets = [socket.create_connection((url.host, url.port), timeout=20) for _ in range(40)]
        for i, connection in enumerate(sockets):
            word = "gone" if i % 2 == 0 else "stays"
            connection.sendall(raw_request({"text": f"{word} {i}", "labels": ["yes"]}))
        wait_until(lambda: len(record.tokenised) == 41, 20, lambda: str(len(record.tokenised)))

        answers = answers_of_the_odd(sockets)

        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 20
        assert slow.result().status_code == 200
    assert record.pairs_with("stays") == 20
    assert record.pairs_with("gone") == 0


def _call_over_http(app: App, labels: list[str]) -> Callable[[], None]:
    """200 requests on connections of their own, and how to drop them."""
    url = app.http.base_url
    sockets = [socket.create_connection((url.host, url.port)) for _ in range(200)]
    for i, connection in enumerate(sockets):
        connection.sendall(raw_request({"text": f"gone {i}", "labels": labels}))

    def hang_up() -> None:
        for connection in sockets:
            connection.close()

    return hang_up


def _call_by_handle(app: App, labels: list[str]) -> Callable[[], None]:
    responses = [app.handle.classify.remote({"text": f"gone {i}", "labels": labels}) for i in range(200)]

    def hang_up() -> None:
        for response in responses:
            response.cancel()  # type: ignore[no-untyped-call]

    return hang_up


def test_a_request_past_its_deadline_never_reaches_the_engine(recorded: Callable[..., App], record: Record) -> None:
    app = recorded(slow_s=2.0)
    with ThreadPoolExecutor(21) as pool:
        slow = pool.submit(_ask, app, "slow", ["yes"])
        wait_until(lambda: len(record.batches) == 1, 20)

        late = [pool.submit(_ask, app, f"late {i}", ["yes"], **{"X-Deadline-Seconds": "0.5"}) for i in range(20)]

        assert {response.result().status_code for response in late} == {504}
        assert slow.result().status_code == 200
    assert _ask(app, "afterwards", ["yes"]).status_code == 200
    assert record.pairs_with("late") == 0


def test_a_short_request_does_not_wait_for_a_long_list(recorded: Callable[..., App], record: Record) -> None:
    app = recorded({"user_config": {"max_batch_tokens": LIST_BUDGET}}, seconds_per_run=0.02)
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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("text", ["hang", "stage 1"])
def test_a_replica_that_hangs_is_replaced(deploy: Deploy, text: str) -> None:
    app = deploy(
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


def test_a_full_queue_is_a_503_with_retry_after_and_user_config_widens_it(
    recorded: Callable[..., App], record: Record
) -> None:
    app = recorded({"user_config": {"max_queued_tokens": 40}}, slow_s=1.5, seconds_per_pair=0.001)
    _ask(app, "to measure the speed by", ["yes"])
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(_ask, app, "slow", ["yes"])
        wait_until(lambda: record.pairs_with("slow") == 1, 20)
        waiting = pool.submit(_ask, app, "waiting", LABELS)
        wait_until(lambda: "waiting" in record.tokenised, 20)

        refused = _ask(app, "refused", ["yes", "no"])

        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert slow.result().status_code == 200
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
    app = recorded(slow_s=1.0, app={"caps": {"max_in_flight": 2}})
    with ThreadPoolExecutor(2) as pool:
        in_flight = [pool.submit(_ask, app, f"slow {i}", ["yes"]) for i in range(2)]
        wait_until(lambda: len(record.tokenised) == 2, 20)

        refused = _ask(app, "one more", ["yes"])

        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["retry-after"] == "1"
        assert {request.result().status_code for request in in_flight} == {200}
    assert _ask(app, "one more", ["yes"]).status_code == 200
