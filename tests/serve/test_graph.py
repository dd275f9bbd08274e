"""The graph on a real cluster, Serve's default mode: HTTP and handle callers, errors, failures, kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deployments.contract.errors import DeadlineExceeded, EngineFailed, InvalidRequest, ModelNotFound, ServiceError
from tests.tiny import save_roberta

from .conftest import App, Cluster, Deploy, wait_until
from .stand_ins import held

GOOD: dict[str, Any] = {"text": "a cracked screen needs repair", "labels": ["billing", "repair"]}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine") / "gate"


@pytest.fixture
def app(borrow: Deploy, gate: Path) -> App:
    """One for most tests here; the engine fails on 13 words, and is busy where it says so."""
    return borrow("PoisonedEngine", gate=str(gate), seconds_per_run=0.01)


def _best(answer: dict[str, Any]) -> list[str]:
    return [result["labels"][0] for result in answer["results"]]


def test_http_and_handle_callers_get_the_same_answer(app: App) -> None:
    over_http = app.http.post("/v1/classify", json=GOOD)
    by_handle = app.handle.classify.remote(GOOD).result(timeout_s=20)

    assert over_http.status_code == 200
    assert over_http.json()["request_id"] == over_http.headers["x-request-id"]
    assert {**over_http.json(), "request_id": ""} == {**by_handle, "request_id": ""}
    assert _best(by_handle) == ["repair"]
    assert app.http.get("/readyz").json()["status"] == "ready"


def test_a_hypothesis_that_is_too_long_is_a_422_at_its_label(app: App) -> None:
    response = app.http.post("/v1/classify", json={"text": "a", "labels": {"short": "b", "long": "word " * 100}})

    assert response.status_code == 422
    assert response.json()["errors"] == [
        {"pointer": "/labels/long", "detail": "the hypothesis has 100 tokens, the model takes at most 60; shorten it"}
    ]


def test_a_text_longer_than_the_model_takes_is_truncated_and_says_so(app: App) -> None:
    results = app.http.post("/v1/classify", json={**GOOD, "text": ["short", "word " * 100]}).json()["results"]

    assert [result["truncated"] for result in results] == [False, True]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_50_mb_body_is_a_413_and_the_service_lives_on(app: App, chunked: bool) -> None:
    body = b" " * 50_000_000
    content = (body[i : i + 1_000_000] for i in range(0, len(body), 1_000_000)) if chunked else body

    response = app.http.post("/v1/classify", content=content, headers={"Content-Type": "application/json"})

    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert app.http.post("/v1/classify", json=GOOD).status_code == 200


def test_a_foreign_host_is_refused_behind_the_proxy_too(app: App) -> None:
    response = app.http.get("/healthz", headers={"Host": "evil.example.com"})

    assert (response.status_code, response.json()["code"]) == (403, "host_not_allowed")


def test_a_handle_caller_gets_the_error_classes_of_the_contract(app: App, gate: Path) -> None:
    def error(payload: object, **options: Any) -> ServiceError:
        with pytest.raises(ServiceError) as caught:
            app.handle.classify.remote(payload, **options).result(timeout_s=20)
        return caught.value

    invalid = error({**GOOD, "labels": ["a", "a"]})
    assert isinstance(invalid, InvalidRequest)
    assert invalid.errors[0].pointer == "/labels/1"
    assert isinstance(error({**GOOD, "model": "other"}), ModelNotFound)
    assert isinstance(error(GOOD, deadline_s=-1), InvalidRequest)
    assert isinstance(error(None), InvalidRequest)
    with held(gate):
        assert isinstance(error({**GOOD, "text": "held for a handle"}, deadline_s=0.1), DeadlineExceeded)


def test_a_text_that_the_engine_fails_on_fails_alone(app: App) -> None:
    poison = "bad " * 13

    mixed = app.http.post("/v1/classify", json={**GOOD, "text": [GOOD["text"], poison, GOOD["text"]]})
    alone = app.http.post("/v1/classify", json={**GOOD, "text": poison})

    assert mixed.status_code == 200
    assert [result.get("labels", [""])[0] for result in mixed.json()["results"]] == ["repair", "", "repair"]
    assert mixed.json()["results"][1]["error"]["code"] == "engine_failed"
    assert (alone.status_code, alone.json()["code"]) == (500, "engine_failed")
    with pytest.raises(EngineFailed):
        app.handle.classify.remote({**GOOD, "text": poison}).result(timeout_s=20)


def test_many_callers_each_get_their_own_answer(app: App) -> None:
    words = [f"word{i}" for i in range(200)]

    def ask(i: int) -> str:
        labels = [words[(i + shift) % 200] for shift in (3, 0, 7)]
        return _best(app.http.post("/v1/classify", json={"text": f"it is {words[i]}", "labels": labels}).json())[0]

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(200))) == words


def test_the_deadline_holds_while_the_engine_is_busy(app: App, gate: Path) -> None:
    started = time.monotonic()

    with held(gate):
        body = {**GOOD, "text": "held over HTTP"}
        response = app.http.post("/v1/classify", json=body, headers={"X-Deadline-Seconds": "0.3"})

    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert time.monotonic() - started < 10  # not the default, 30 s


def test_user_config_changes_without_a_restart(app: App) -> None:
    pids = app.pids("Classifier")

    app.put(user_config={"max_batch_tokens": 200})
    app.wait_for("RUNNING")

    assert app.pids("Classifier") == pids
    assert app.http.post("/v1/classify", json=GOOD).status_code == 200


def test_a_classifier_killed_under_load_costs_nobody_an_answer(app: App) -> None:
    app.put(num_replicas=2, health_check_period_s=1)
    app.wait_for("RUNNING")
    before = app.pids("Classifier")

    def ask(i: int) -> list[str]:
        if i == 60:
            os.kill(before[0], signal.SIGKILL)
        response = app.http.post("/v1/classify", json={**GOOD, "text": f"number {i} of the killed needs repair"})
        assert response.status_code == 200, response.text
        return _best(response.json())

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(200)))

    assert answers == [["repair"]] * 200
    wait_until(lambda: len(set(app.pids("Classifier")) - {before[0]}) == 2, 60)


@pytest.mark.timeout(120)
def test_a_roll_out_under_load_loses_nobody(app: App) -> None:
    before = app.pids("Classifier")
    stop = threading.Event()

    def ask(caller: int) -> int:
        answered = 0
        while not stop.is_set():
            response = app.http.post("/v1/classify", json={**GOOD, "text": f"number {answered} of {caller}"})
            assert response.status_code == 200, response.text
            answered += 1
        return answered

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(ask, i) for i in range(8)]
        app.put(max_surge_percent=100, options={"seconds_per_run": 0.02})  # other args: every replica is new
        try:
            wait_until(lambda: bool(app.pids("Classifier")) and not set(before) & set(app.pids("Classifier")), 60)
            app.wait_for("RUNNING")
        finally:
            stop.set()

    assert sum(caller.result() for caller in callers) > 20


def test_a_real_model_folder_answers_through_the_graph(deploy: Deploy, tmp_path: Path) -> None:
    folder = save_roberta(tmp_path)

    answer = deploy(str(folder)).http.post("/v1/classify", json=GOOD).json()

    assert (answer["model"], answer["engine"], answer["fallback"]) == (str(folder), "torch-fp32", False)
    assert sum(answer["results"][0]["scores"]) == pytest.approx(1)


def test_while_the_classifier_cannot_start_nothing_hangs_beyond_its_deadline(cluster: Cluster, gate: Path) -> None:
    with held(gate):
        app = App(cluster, "RefusingEngine", {"gate": str(gate)}, {})
        wait_until(lambda: app.status().get("deployments", {}).get("Ingress", {}).get("status") == "HEALTHY", 30)

        with pytest.raises(DeadlineExceeded):
            app.handle.classify.remote(GOOD, deadline_s=0.5).result(timeout_s=10)
    app.wait_for("DEPLOY_FAILED")
    failed = app.http.post("/v1/classify", json=GOOD, headers={"X-Deadline-Seconds": "0.5"})

    assert failed.status_code in (503, 504)
    assert app.http.get("/readyz").status_code in (503, 504)
    assert "no such weights on this machine" in app.status()["deployments"]["Classifier"]["message"]


def test_an_unknown_key_of_user_config_fails_the_deploy_by_name(cluster: Cluster) -> None:
    app = App(cluster, "FakeEngine", {}, {}, user_config={"max_batch_token": 100})

    app.wait_for("DEPLOY_FAILED")

    assert "max_batch_token" in app.status()["deployments"]["Classifier"]["message"]
