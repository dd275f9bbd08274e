"""`HandleClient` on a real cluster; tests/launch/test_fast_client.py runs this file again in throughput mode."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import serve
from ray.serve.exceptions import BackPressureError

from clients.commands.keys import create
from clients.delivery.future import Future
from clients.errors import NotRunning
from clients.handle import HandleClient
from clients.results import Classification, Failed, classifications
from deployments.contract.errors import (
    DeadlineExceeded,
    InvalidRequest,
    QuotaExceeded,
    RateLimited,
    Unauthorized,
    Unavailable,
)

from .conftest import ROOT, App, Cluster, Deploy, wait_until
from .stand_ins import Record

LABELS = ["billing", "repair", "holiday"]
TEXT = "a cracked screen needs repair"
MODE = os.environ.get("RAY_SERVE_THROUGHPUT_OPTIMIZED", "0")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "engine.jsonl"


@pytest.fixture(scope="module")
def app(deploy: Deploy, record: Path) -> App:
    """For the tests at the top, which leave it as it was."""
    return deploy("RecordingEngine", log=str(record), slow_s=1.0)


@pytest.fixture(scope="module")
def client(app: App) -> Iterator[HandleClient]:
    with HandleClient(app.name) as client:
        yield client


def _own(i: int) -> str:
    """A text whose right answer nobody else has."""
    return f"this is about word{i}"


def _labels(i: int) -> list[str]:
    return ["other", f"word{i}", "nothing"]


def test_the_mode_that_was_asked_for_is_on(app: App) -> None:
    environments = [psutil.Process(pid).environ() for name in ("Ingress", "Classifier") for pid in app.pids(name)]

    assert [env.get("RAY_SERVE_THROUGHPUT_OPTIMIZED", "0") for env in environments] == [MODE, MODE]


def test_a_string_gives_a_classification_and_a_list_a_list(client: HandleClient) -> None:
    one = client.classify(TEXT, LABELS)
    several = client.classify([TEXT, "a bill"], {"money": "bill", "repair": "repair"})

    assert isinstance(one, Classification)
    assert (one.label, one.truncated, next(iter(one.scores))) == ("repair", False, "repair")
    assert one.score == one.scores["repair"] == max(one.scores.values())
    assert [row.label for row in several] == ["repair", "money"]


def test_a_future_tells_how_its_answer_came_about(client: HandleClient) -> None:
    future = client.submit(TEXT, labels=LABELS, deadline_s=5)

    assert future.result(timeout=10).label == "repair"
    assert future.meta is not None
    assert (future.meta.model, future.meta.engine, future.meta.fallback) == ("fake", "torch-fp32", False)
    assert future.meta.request_id
    assert set(future.meta.timings) == {"queue", "engine", "total"}
    assert future.meta.retries == 0


def test_a_callback_may_call_ray_and_submit_again(client: HandleClient) -> None:
    @ray.remote(num_cpus=0)
    def double(n: int) -> int:
        return 2 * n

    ended = threading.Event()
    seen: list[Any] = []

    def again(future: Future[Any]) -> None:
        seen.append(future.result().label)
        ended.set()

    def on_done(future: Future[Any]) -> None:
        seen.append((threading.current_thread().name.startswith("nli-callback"), ray.get(double.remote(21))))
        client.submit(TEXT, LABELS, callback=again)

    client.submit(TEXT, LABELS, callback=on_done)

    assert ended.wait(20)
    assert seen == [(True, 42), "repair"]


@ray.remote(num_cpus=0)
class Collector:
    """Whose method is a callback."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note(self, delivered: Any) -> None:
        self.seen.append((delivered.result().label, delivered.meta.model))

    def fail(self, delivered: Any) -> None:
        raise ValueError("this callback raises")

    def all(self) -> list[Any]:
        return self.seen


def test_an_actor_method_is_a_callback_in_every_way_that_takes_one(app: App) -> None:
    collector = Collector.remote()  # type: ignore[attr-defined]

    with HandleClient(app.name) as client:
        client.submit(TEXT, LABELS, callback=collector.note)
        client.submit(TEXT, LABELS).add_done_callback(collector.note)
        reference = ray.put(client.classify(TEXT, LABELS))
        client.future(reference, callback=collector.note).result(20)

    models = {model for _, model in ray.get(collector.all.remote(), timeout=20)}
    assert len(ray.get(collector.all.remote(), timeout=20)) == 3
    assert models == {"fake", None}  # nothing is told of what another task gave


def test_an_actor_method_is_a_callback_and_what_it_raises_is_counted(client: HandleClient) -> None:
    collector, before = Collector.remote(), client.callback_errors  # type: ignore[attr-defined]

    client.submit(TEXT, LABELS, callback=collector.note).add_done_callback(lambda _: None)
    client.submit(TEXT, LABELS, callback=collector.fail)

    wait_until(lambda: ray.get(collector.all.remote()) == [("repair", "fake")], 20)
    wait_until(lambda: client.callback_errors == before + 1, 20)


def test_a_reference_is_handed_to_a_task_unfetched_and_its_future_calls_back_where_ray_may_be_used(
    client: HandleClient,
) -> None:
    @ray.remote(num_cpus=0)
    def best(answer: Any) -> str:
        return classifications(answer)[0].label

    ended = threading.Event()
    seen: list[Any] = []

    def on_done(future: Future[Any]) -> None:
        seen.append((threading.current_thread().name.startswith("nli-callback"), ray.get(best.remote(future.result()))))
        ended.set()

    ref = client.submit_ref(TEXT, LABELS)
    future = client.future(ref, callback=on_done)

    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(best.remote(ref)) == "repair"
    assert future.result(timeout=10) == ray.get(ref)
    assert ended.wait(20)
    assert seen == [(True, "repair")]
    with pytest.raises(InvalidRequest, match="repeats label 0"):
        client.submit_ref(TEXT, ["a", "a"])
    too_long = client.submit_ref("x" * 200_000, LABELS)  # which only the service knows
    with pytest.raises(InvalidRequest, match="200,000 characters"):
        ray.get(too_long)
    assert isinstance(client.future(too_long).exception(timeout=10), InvalidRequest)


def test_it_works_in_a_task_in_an_actor_and_in_an_async_actor(app: App) -> None:
    @ray.remote(num_cpus=0)
    def task(name: str) -> str:
        with HandleClient(name) as client:
            return client.classify(TEXT, LABELS).label

    @ray.remote(num_cpus=0)
    class Actor:
        def ask(self, name: str) -> list[str]:
            with HandleClient(name) as client:
                return [row.label for row in client.map([TEXT] * 3, LABELS)]

    @ray.remote(num_cpus=0)
    class AsyncActor:
        async def ask(self, name: str) -> list[str]:
            async with HandleClient(name) as client:
                rows = await asyncio.gather(*(client.submit(TEXT, LABELS) for _ in range(3)))
                return [row.label for row in rows]

    actors: list[Any] = [Actor, AsyncActor]
    asked = [task.remote(app.name), *(actor.remote().ask.remote(app.name) for actor in actors)]

    assert ray.get(asked, timeout=60) == ["repair", ["repair"] * 3, ["repair"] * 3]


def test_it_works_in_another_deployment(app: App) -> None:
    @serve.deployment(graceful_shutdown_wait_loop_s=0.1, ray_actor_options={"num_cpus": 0})
    class Caller:
        def __init__(self, name: str) -> None:
            self._client = HandleClient(name)

        async def ask(self) -> str:
            return (await self._client.submit(TEXT, LABELS)).label

    handle = serve.run(Caller.bind(app.name), name="caller", route_prefix=None)  # type: ignore[attr-defined]
    try:
        asker = HandleClient("caller")  # only to see that any application has a front door
        asker.close()
        assert handle.ask.remote().result(timeout_s=20) == "repair"
    finally:
        serve.delete("caller")


def test_what_is_cancelled_never_reaches_the_engine_and_its_neighbours_are_answered(
    client: HandleClient, record: Path
) -> None:
    engine = Record(record)
    slow = client.submit("slow one", LABELS)
    wait_until(lambda: engine.pairs_with("slow") > 0, 20)
    futures = [client.submit(f"{'leaves' if i % 2 else 'stays'} {i}", LABELS) for i in range(100)]
    wait_until(lambda: sum("leaves" in text for text in engine.tokenised) == 50, 20)

    assert all(future.cancel() for future in futures[1::2])
    wait(futures)

    assert slow.result().label
    assert [future.exception() for future in futures[::2]] == [None] * 50
    assert client.classify("the last one", LABELS).label
    assert engine.pairs_with("leaves") == 0


def test_a_wrong_request_fails_alone_whatever_travels_with_it(client: HandleClient) -> None:
    wrong: list[Any] = [None, " ", ["good", ""], "\ud800", "x" * 200_000, 5]
    futures = [client.submit(text, LABELS) for one in wrong for text in (_own(1), one)]
    repeated = client.submit(TEXT, ["a", "a"])

    errors = [future.exception(timeout=20) for future in futures]

    assert errors[::2] == [None] * len(wrong)
    assert all(isinstance(error, InvalidRequest) for error in [*errors[1::2], repeated.exception(timeout=20)])
    rows = list(client.map(["a repair", None, "x" * 200_000, "a holiday"], LABELS, on_error="yield"))  # type: ignore[list-item]
    assert [isinstance(row, Failed) for row in rows] == [False, True, True, False]
    assert (rows[0].label, rows[3].label) == ("repair", "holiday")


def test_the_deadline_travels_to_the_service(client: HandleClient, record: Path) -> None:
    engine = Record(record)
    before = engine.pairs_with("slow")
    slow = client.submit("slow again", LABELS)
    wait_until(lambda: engine.pairs_with("slow") > before, 20)

    with pytest.raises(DeadlineExceeded):
        client.classify("too late", LABELS, deadline_s=0.3)

    assert slow.result().label
    assert client.classify("the next one", LABELS).label
    assert engine.pairs_with("late") == 0


def test_the_snippets_of_the_page_for_python_callers_run(app: App) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}

    for block in blocks:
        exec(block.replace('"nli"', f'"{app.name}"'), names)

    assert len(blocks) >= 6
    assert names["answer"].label == "repair"
    assert names["row"].label == "repair"
    wait_until(lambda: ray.get(names["results"].__ray_call__.remote(lambda self: self.labels)) == ["repair"], 20)


def test_an_application_that_is_not_running_is_named(app: App) -> None:
    with pytest.raises(NotRunning, match="no application 'nil' runs on this Ray cluster; start it"):
        HandleClient("nil")


def test_keys_and_limits_hold_for_it_and_it_keeps_to_them(deploy: Deploy, tmp_path: Path) -> None:
    _, key = create(tmp_path / "keys.json", "acme", None, None, datetime.now(UTC))
    limits = {"requests": {"limit": 30, "burst": 30}, "pairs": None, "max_concurrent": 8}
    app = deploy(
        ingress={"user_config": {"caller": limits}}, app={"auth": "required", "keys_file": str(tmp_path / "keys.json")}
    )

    with HandleClient(app.name) as nobody, HandleClient(app.name, api_key="nli_wrong") as wrong:
        assert isinstance(nobody.submit(TEXT, LABELS).exception(timeout=20), Unauthorized)
        assert isinstance(wrong.submit(TEXT, LABELS).exception(timeout=20), Unauthorized)
    with HandleClient(app.name, api_key=key) as client:
        futures = [client.submit(_own(i), _labels(i)) for i in range(90)]
        assert [future.result(timeout=20).label for future in futures] == [f"word{i}" for i in range(90)]
        metas = [future.meta for future in futures]
        assert sum(meta.retries for meta in metas if meta) <= 9
        assert [quota["name"] for meta in metas if meta for quota in meta.quotas[:1]][:1] == ["caller-requests"]
        with HandleClient(app.name, api_key=key) as other:  # who does not know that the bucket is empty
            storm = [other.submit(TEXT, LABELS, retry=False) for _ in range(60)]
            errors = [future.exception(timeout=20) for future in storm]
        refused = [error for error in errors if error is not None]
        assert refused
        assert all(isinstance(error, RateLimited) and error.retry_after > 0 for error in refused)
        assert any(isinstance(error, QuotaExceeded) for error in refused)


@pytest.fixture(scope="module")
def busy(deploy: Deploy) -> App:
    """Takes more than a second for 200 texts."""
    missed_soon = {"health_check_period_s": 1}  # who is killed
    return deploy(
        classifier={"num_replicas": 2, **missed_soon}, ingress=missed_soon, seconds_per_run=0.02, seconds_per_pair=0.005
    )


@pytest.mark.parametrize("deployment", ["Classifier", "Ingress"])
def test_of_200_outstanding_futures_none_is_lost_or_wrong_when_a_replica_is_killed(busy: App, deployment: str) -> None:
    wait_until(lambda: len(busy.pids(deployment)) >= 1, 60)
    victim = busy.pids(deployment)[0]
    with HandleClient(busy.name, deadline_s=60) as client:
        client.classify(TEXT, LABELS)
        futures = [client.submit(f"{_own(i)}, {deployment}", _labels(i)) for i in range(200)]  # that no cache knows
        wait_until(lambda: any(future.done() for future in futures), 20)
        outstanding = sum(not future.done() for future in futures)
        os.kill(victim, signal.SIGKILL)
        outcomes = [future.exception(timeout=70) or future.result().label for future in futures]
        retries = sum(future.meta.retries for future in futures if future.meta)

    right = [outcome == f"word{i}" for i, outcome in enumerate(outcomes)]
    wrong = [one for one, ok in zip(outcomes, right, strict=True) if not ok and not isinstance(one, Exception)]
    assert outstanding >= 100
    assert wrong == []
    assert sum(right) >= 190, [one for one in outcomes if isinstance(one, Exception)][:3]
    if deployment == "Ingress":  # the only one; what dies with a Classifier is sent again by the Ingress
        assert retries >= 50


def test_calls_that_the_router_sends_back_for_want_of_room_are_sent_again(busy: App) -> None:
    busy.put(ingress={"max_ongoing_requests": 1, "max_queued_requests": 1})
    busy.wait_for("RUNNING")
    pause = threading.Event()  # between submissions: those that are close in time would travel as one call

    def submit(client: HandleClient, n: int, **asking: Any) -> list[Future[Any]]:
        futures = []
        for i in range(n):
            futures.append(client.submit(f"{_own(i)}, crowd {asking}", _labels(i), **asking))
            pause.wait(0.01)
        return futures

    with HandleClient(busy.name) as client:
        client.classify(TEXT, LABELS)
        refused = [future.exception(30) for future in submit(client, 16, retry=False)]
        futures = submit(client, 16)

        assert [future.result(30).label for future in futures] == [f"word{i}" for i in range(16)]
        assert sum(future.meta.retries for future in futures if future.meta) > 0

    assert {type(error.__cause__) for error in refused if error} == {BackPressureError}
    assert all(isinstance(error, Unavailable) for error in refused if error)


def test_a_client_outlives_a_restart_of_its_application_and_says_when_it_is_gone(cluster: Cluster, busy: App) -> None:
    with HandleClient(busy.name, deadline_s=40) as client:
        assert client.classify(TEXT, LABELS).label == "repair"
        before = busy.pids("Ingress")
        busy.put(
            options={"seconds_per_run": 0.011}, ingress={"max_surge_percent": 0}
        )  # each replica ends, then comes anew
        rows, labels = [], []
        while set(before) & set(busy.pids("Ingress")) or not busy.pids("Ingress"):
            rows.append(client.submit(TEXT, LABELS))
            labels.append(rows[-1].result().label)
        busy.wait_for("RUNNING")
        assert set(labels) == {"repair"}
        cluster.rest.put("/api/serve/applications/", json={"applications": []}).raise_for_status()
        wait_until(lambda: busy.status() == {}, 30)
        started = time.monotonic()
        gone = client.submit(TEXT, LABELS, deadline_s=1.5)
        assert isinstance(gone.exception(timeout=20), DeadlineExceeded | Unavailable)
        assert time.monotonic() - started < 5
        busy.put()
        busy.wait_for("RUNNING")
        assert client.classify(TEXT, LABELS).label == "repair"
