"""The scheduler behind HAProxy, in Serve's throughput mode, which is on only when it was set before Ray started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx2
import pytest
import yaml

from tests.serve.conftest import QUICK, SMALL, UNLIMITED, answers_of_the_odd, load, raw_request
from tests.serve.stand_ins import Record

from .conftest import FAST, ROOT, Started, free_port, starter, wait_until

LABELS = [f"label{i}" for i in range(8)]
N_CALLERS = 200
IN_FLIGHT = 210
SLOW_S = 4.0
CANCEL = """
import json, sys
import ray
from ray import serve

ray.init("auto", log_to_driver=False)
handle = serve.get_app_handle("nli")
handle._init(_run_router_in_separate_loop=True)
handle.classify.remote({"text": "connected", "labels": ["yes"]}).result()
print("connected", flush=True)
word, labels = json.loads(sys.stdin.readline())
responses = [handle.classify.remote({"text": f"{word} {i}", "labels": labels}) for i in range(200)]
sys.stdin.readline()
for response in responses:
    response.cancel()
print("cancelled", flush=True)
sys.stdin.readline()
"""
RECONFIGURE = """
import json, sys
import ray
from ray import serve

ray.init("auto", log_to_driver=False)
handle = serve.get_app_handle("nli")
handle._init(_run_router_in_separate_loop=True)
handle.reconfigure.remote(json.loads(sys.argv[1])).result()
"""


@dataclass(frozen=True)
class Service:
    """A graph around a `RecordingEngine`, and what it wrote down."""

    started: Started
    record: Record
    http: httpx2.Client

    def ask(self, text: str, labels: list[str]) -> httpx2.Response:
        return self.http.post("/v1/classify", json={"text": text, "labels": labels})

    def connect(self, n: int) -> list[socket.socket]:
        address = ("127.0.0.1", int(self.started.url.rpartition(":")[2]))
        return [socket.create_connection(address, timeout=30) for _ in range(n)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("fast")
    port, log = free_port(), folder / "engine.jsonl"
    options = {"log": str(log), "slow_s": SLOW_S, "seconds_per_run": 0.005, "seconds_per_pair": 0.001}
    classifier = {"user_config": {"max_batch_tokens": 1_024}}
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "nli",
                "import_path": "tests.serve.stand_ins:build",
                "runtime_env": {"env_vars": {"FORWARDED_ALLOW_IPS": ""}},  # as serve_config.yaml has it
                "args": {
                    "engine": "RecordingEngine",
                    "options": options,
                    "app": {"caps": {"max_in_flight": IN_FLIGHT}},
                },
                "deployments": [
                    {"name": "Ingress", **SMALL, **QUICK, "user_config": UNLIMITED},
                    {"name": "Classifier", **SMALL, **QUICK, **classifier},
                ],
            }
        ],
    }
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    with starter(folder) as start:
        started = start("ray.serve.scripts", "run", "--app-dir", str(ROOT), str(file), port=port, **FAST)
        wait_until(started.answers, 90, started.said)
        with httpx2.Client(base_url=started.url, timeout=60, trust_env=False) as http:
            yield Service(started, Record(log), http)


@pytest.fixture(autouse=True)
def _mode_is_on(service: Service) -> None:
    replicas = [p for p in service.started.family() if "ServeReplica" in " ".join(p.cmdline())]
    assert any("haproxy" in p.name() for p in service.started.family())
    assert len(replicas) == 2, replicas
    assert all(p.environ()["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1" for p in replicas)


@pytest.mark.parametrize(("callers", "least", "most"), [(1, 1, 1), (8, 2.5, 8), (64, 24, 64)])
def test_batches_grow_with_the_callers(service: Service, callers: int, least: float, most: float) -> None:
    before = len(service.record.batches)
    requests = [raw_request({"text": f"{callers} {i}", "labels": ["yes"]}) for i in range(40 * callers)]

    asyncio.run(load(httpx2.URL(service.started.url), callers, requests))

    sizes = [len(batch) for batch in service.record.batches[before:]]  # a pair is a request here
    sizes = sizes[len(sizes) // 10 : -(len(sizes) // 10)]  # while all callers are at it
    assert least <= statistics.mean(sizes) <= most, sizes
    assert least <= statistics.median(sizes) <= most, sizes


def _busy(service: Service, pool: ThreadPoolExecutor) -> Future[httpx2.Response]:
    """A request that keeps the engine busy for `SLOW_S`."""
    before = service.record.pairs_with("slow")
    slow = pool.submit(service.ask, f"slow {before}", ["yes"])
    wait_until(lambda: service.record.pairs_with("slow") > before, 20)
    return slow


def _arrived(service: Service, word: str) -> int:
    return sum(word in text.split() for text in service.record.tokenised)


def _settled(service: Service, slow: Future[httpx2.Response], word: str) -> int:
    """Pairs with the word that had reached the engine once it had served everything that was left."""
    assert slow.result().status_code == 200
    for i in range(5):  # turns, so that every tenant has had several
        assert service.ask(f"after{word} {i}", ["yes"]).status_code == 200
    return service.record.pairs_with(word)


@pytest.mark.parametrize(
    ("word", "labels"),
    [("joined", ["yes"]), ("alone", [f"{'long ' * 40}{i}" for i in range(20)])],  # too much to travel together
)
def test_of_200_handle_callers_who_cancel_at_most_one_percent_reaches_the_engine(
    service: Service, word: str, labels: list[str]
) -> None:
    command = [sys.executable, "-c", CANCEL]
    with (
        ThreadPoolExecutor(1) as pool,
        subprocess.Popen(
            command, env=service.started.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as driver,
    ):
        assert driver.stdin
        assert driver.stdout
        assert driver.stdout.readline() == "connected\n"
        slow = _busy(service, pool)
        print(json.dumps([word, labels]), file=driver.stdin, flush=True)
        wait_until(lambda: _arrived(service, word) == N_CALLERS, 40)
        assert not slow.done(), "the engine was free before all had arrived"
        print(file=driver.stdin, flush=True)
        assert driver.stdout.readline() == "cancelled\n"

        reached = _settled(service, slow, word)
        print(file=driver.stdin, flush=True)

    assert reached <= 0.01 * N_CALLERS * len(labels)


@pytest.mark.parametrize(
    ("parts", "deadline_s", "most"),
    [
        (1, 60, 0.01 * N_CALLERS),  # HAProxy sees a hang-up where the request came in one part,
        (2, 2.5, 0),  # and hides it where the body came after the head: there the deadline does the work
    ],
)
def test_of_200_http_callers_who_hang_up_none_reaches_the_engine_past_the_deadline(
    service: Service, parts: int, deadline_s: float, most: float
) -> None:
    word = f"hung{parts}"
    with ThreadPoolExecutor(1) as pool:
        slow = _busy(service, pool)
        sockets = service.connect(N_CALLERS)
        headers = {"X-Deadline-Seconds": str(deadline_s)}
        requests = [raw_request({"text": f"{word} {i}", "labels": ["yes"]}, **headers) for i in range(N_CALLERS)]
        cut = 100_000 if parts == 1 else requests[0].index(b"\r\n\r\n") + 4
        for connection, request in zip(sockets, requests, strict=True):
            connection.sendall(request[:cut])
        for connection, request in zip(sockets, requests, strict=True):
            connection.sendall(request[cut:])
        wait_until(lambda: _arrived(service, word) == N_CALLERS, 20)
        for connection in sockets:
            connection.close()

        assert _settled(service, slow, word) <= most


def test_who_stays_is_answered_though_every_second_of_a_call_hangs_up(service: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = _busy(service, pool)
        sockets = service.connect(40)
        for i, connection in enumerate(sockets):
            word = "leaves" if i % 2 == 0 else "stays"
            connection.sendall(raw_request({"text": f"{word} {i}", "labels": ["yes"]}))
        wait_until(lambda: _arrived(service, "leaves") + _arrived(service, "stays") == 40, 20)
        answers = answers_of_the_odd(sockets)

        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 20
        assert _settled(service, slow, "leaves") == 0


def test_too_many_requests_in_flight_are_refused_in_our_own_words(service: Service) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = _busy(service, pool)
        sockets = service.connect(IN_FLIGHT + 20)
        for i, connection in enumerate(sockets):
            connection.sendall(raw_request({"text": f"crowd {i}", "labels": ["yes"]}))
        assert slow.result().status_code == 200
        answers = [connection.recv(65_536).decode() for connection in sockets]
        for connection in sockets:
            connection.close()

    refused = [answer for answer in answers if not answer.startswith("HTTP/1.1 200")]
    assert len(refused) == 21  # the slow one is in flight too
    for answer in refused:
        assert answer.startswith("HTTP/1.1 503")
        assert "retry-after: 1\r\n" in answer
        assert json.loads(answer.partition("\r\n\r\n")[2])["code"] == "unavailable"


def test_a_classifier_killed_under_load_costs_nobody_an_answer(service: Service) -> None:
    (victim,) = [p for p in service.started.family() if "ServeReplica:nli:Classifier" in " ".join(p.cmdline())]

    def ask(i: int) -> int:
        if i == 60:
            os.kill(victim.pid, signal.SIGKILL)
        return service.ask(f"text {i} killed", ["yes", "no"]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(200))) == {200}


def test_forged_forwarded_addresses_are_one_caller(service: Service) -> None:
    """The last one here, as it changes the limits of the service."""
    pairs = {"limit": 1, "window_s": 600, "burst": 4_096}
    limits = json.dumps({"caller": {"requests": None, "pairs": pairs}})
    run = subprocess.run([sys.executable, "-c", RECONFIGURE, limits], env=service.started.env, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()

    labels = [f"label{i}" for i in range(64)]
    payload = {"text": "forged", "labels": labels}
    forged = [{"X-Forwarded-For": f"203.0.113.{i % 250}, 10.0.{i // 250}.1"} for i in range(1_000)]
    seen = Counter(service.http.post("/v1/classify", json=payload, headers=one).status_code for one in forged)

    assert seen == {200: 64, 429: 936}
