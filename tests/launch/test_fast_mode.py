"""The scheduler behind HAProxy, in Serve's throughput mode, which is on only when it was set before Ray started.

The service runs under the launcher of `nli-serve up`, and the last test here is the launcher's own: it is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.ports import free_port
from tests.serve.conftest import QUICK, SMALL, UNLIMITED, answers, hang_up, load, raw_request
from tests.serve.stand_ins import Record

from .conftest import FAST, ROOT, Started, starter, wait_until

N_CALLERS = 200
IN_FLIGHT = 210
DRIVER = """
import json, sys
import ray
from ray import serve

ray.init("auto", log_to_driver=False)
handle = serve.get_app_handle("nli")
handle._init(_run_router_in_separate_loop=True)
handle.classify.remote({"text": "connected", "labels": ["yes"]}).result()
print("done", flush=True)
for line in sys.stdin:
    what, *args = json.loads(line)
    if what == "call":
        n, word, labels = args
        requests = [{"text": f"{word} {i}", "labels": labels} for i in range(n)]
        responses = [handle.classify.remote(one, deadline_s=60) for one in requests]  # enough for all of them
    elif what == "cancel":
        for response in responses:
            response.cancel()
    elif what == "reconfigure":
        handle.reconfigure.remote(*args).result()
    elif what == "leave":
        ray.shutdown()
    print("done", flush=True)
"""


@dataclass(frozen=True)
class Service:
    """A graph around a `RecordingEngine`, and where that writes."""

    started: Started
    log: Path
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
    options = {"log": str(log), "seconds_per_run": 0.02, "seconds_per_pair": 0.001}  # callers wait for nothing else
    both = {**SMALL, **QUICK, "health_check_period_s": 1}  # who is killed is missed soon
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
                    {"name": "Ingress", **both, "user_config": UNLIMITED},
                    {"name": "Classifier", **both, "user_config": {"max_batch_tokens": 1_024}},
                ],
            }
        ],
    }
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    with starter(folder) as start:
        started = start("tests.launch.launcher", str(file), str(port), port=port, **FAST)
        wait_until(lambda: "Stop:" in started.said() or started.process.poll() is not None, 90, started.said)
        assert f"Ready: {started.url}\nModel: fake (torch-fp32), as configured\n" in started.said(), started.said()
        with httpx2.Client(base_url=started.url, timeout=60, trust_env=False) as http:
            yield Service(started, log, http)


@pytest.fixture
def record(service: Service) -> Record:
    return Record(service.log)


@pytest.fixture(scope="module")
def tell(service: Service) -> Iterator[Callable[..., None]]:
    """Has a driver of the cluster, a process of its own, do something by handle."""
    command = [sys.executable, "-c", DRIVER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=service.started.env, stdin=pipe, stdout=pipe, text=True) as driver:
        requests, replies = driver.stdin, driver.stdout
        assert requests
        assert replies

        def run(*what: object) -> None:
            print(json.dumps(what), file=requests, flush=True)
            assert replies.readline() == "done\n"

        assert replies.readline() == "done\n"
        yield run
        requests.close()


@pytest.fixture(autouse=True)
def _mode_is_on(service: Service) -> None:
    replicas = [p for p in service.started.family() if "ServeReplica" in " ".join(p.cmdline())]
    assert any("haproxy" in p.name() for p in service.started.family())
    assert len(replicas) == 2, replicas
    assert all(p.environ()["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1" for p in replicas)


@pytest.mark.parametrize(("callers", "least", "most"), [(1, 1, 1), (8, 3, 8), (64, 26, 64)])
def test_batches_grow_with_the_callers(
    service: Service, record: Record, callers: int, least: float, most: float
) -> None:
    requests = [raw_request({"text": f"{callers} {i}", "labels": ["yes"]}) for i in range(40 * callers)]

    asyncio.run(load(httpx2.URL(service.started.url), callers, requests))

    sizes = [len(batch) for batch in record.batches]  # a pair is a request here
    sizes = sizes[len(sizes) // 10 : -(len(sizes) // 10)]  # while all callers are at it
    assert least <= statistics.mean(sizes) <= most, sizes
    # By twos: who came during one run goes with the next, so that 1 and 7 of 8 callers may take turns. Half of all is
    # the mean then.
    assert least <= statistics.median(map(statistics.mean, itertools.pairwise(sizes))) <= most, sizes


@contextmanager
def _busy(service: Service, record: Record, text: str) -> Iterator[None]:
    """The engine runs a request with this text, and nothing else; in the end that is answered, too."""
    with ThreadPoolExecutor(1) as pool:
        with record.hold():
            held = pool.submit(service.ask, f"held {text}", ["yes"])
            wait_until(lambda: record.pairs_with("held") == 1, 20)
            yield
        assert held.result().status_code == 200


def _arrived(record: Record, word: str) -> int:
    return sum(word in text.split() for text in record.tokenised)


def _settled(service: Service, record: Record, word: str) -> int:
    """Pairs with the word that had reached the engine once it had served everything that was left."""
    for i in range(5):  # turns, so that every tenant has had several
        assert service.ask(f"after{word} {i}", ["yes"]).status_code == 200
    return record.pairs_with(word)


@pytest.mark.parametrize(
    ("word", "labels"),
    [("joined", ["yes"]), ("alone", [f"{'long ' * 40}{i}" for i in range(20)])],  # too much to travel together
)
def test_of_200_handle_callers_who_cancel_at_most_one_percent_reaches_the_engine(
    service: Service, record: Record, tell: Callable[..., None], word: str, labels: list[str]
) -> None:
    with _busy(service, record, f"while some cancel who are {word[::-1]}"):
        tell("call", N_CALLERS, word, labels)
        wait_until(lambda: _arrived(record, word) == N_CALLERS, 20)
        tell("cancel")
        wait_until(lambda: record.left >= 0.99 * N_CALLERS, 20, lambda: str(record.left))

    assert _settled(service, record, word) <= 0.01 * N_CALLERS * len(labels)


@pytest.mark.parametrize(
    ("parts", "deadline_s", "most"),
    [
        (1, 60, 0.01 * N_CALLERS),  # HAProxy sees a hang-up where the request came in one part,
        (2, 2.5, 0),  # and hides it where the body came after the head: there the deadline does the work
    ],
)
def test_of_200_http_callers_who_hang_up_none_reaches_the_engine_past_the_deadline(
    service: Service, record: Record, parts: int, deadline_s: float, most: float
) -> None:
    word = f"hung{parts}"
    headers = {"X-Deadline-Seconds": str(deadline_s)}
    requests = [raw_request({"text": f"{word} {i}", "labels": ["yes"]}, **headers) for i in range(N_CALLERS)]
    cut = 100_000 if parts == 1 else requests[0].index(b"\r\n\r\n") + 4
    with _busy(service, record, f"while some hang up in {parts}"):
        sockets = service.connect(N_CALLERS)
        for connection, request in zip(sockets, requests, strict=True):
            connection.sendall(request[:cut])
        for connection, request in zip(sockets, requests, strict=True):
            connection.sendall(request[cut:])
        wait_until(lambda: _arrived(record, word) == N_CALLERS, 20)
        past = time.monotonic() + deadline_s
        hang_up(sockets)
        wait_until(lambda: record.left >= 0.99 * N_CALLERS or time.monotonic() > past, 20, lambda: str(record.left))

    assert _settled(service, record, word) <= most


def test_who_stays_is_answered_though_every_second_of_a_call_hangs_up(service: Service, record: Record) -> None:
    with _busy(service, record, "while some stay"):
        sockets = service.connect(40)
        for i, connection in enumerate(sockets):
            word = "leaves" if i % 2 == 0 else "stays"
            connection.sendall(raw_request({"text": f"{word} {i}", "labels": ["yes"]}))
        wait_until(lambda: _arrived(record, "leaves") + _arrived(record, "stays") == 40, 20)
        hang_up(sockets[::2])
        wait_until(lambda: record.left == 20, 20, lambda: str(record.left))

    assert [answer[:12] for answer in answers(sockets[1::2])] == [b"HTTP/1.1 200"] * 20
    assert _settled(service, record, "leaves") == 0


def test_too_many_requests_in_flight_are_refused_in_our_own_words(service: Service, record: Record) -> None:
    with _busy(service, record, "while many come"):
        crowd = service.connect(IN_FLIGHT + 20)
        for i, connection in enumerate(crowd):
            connection.sendall(raw_request({"text": f"crowd {i}", "labels": ["yes"]}))
        wait_until(lambda: _arrived(record, "crowd") == IN_FLIGHT - 1, 20)  # the one that is held is in flight too
        wait_until(lambda: len(_readable(crowd)) == 21, 20, lambda: str(len(_readable(crowd))))
        refused = _readable(crowd)

    for answer in answers(refused):
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "unavailable"
    assert {answer[:12] for answer in answers([one for one in crowd if one not in refused])} == {b"HTTP/1.1 200"}


def _readable(sockets: list[socket.socket]) -> list[socket.socket]:
    return select.select(sockets, [], [], 0)[0]


def test_a_classifier_killed_under_load_costs_nobody_an_answer(service: Service) -> None:
    (victim,) = [p for p in service.started.family() if "ServeReplica:nli:Classifier" in " ".join(p.cmdline())]

    def ask(i: int) -> int:
        if i == 60:
            os.kill(victim.pid, signal.SIGKILL)
        return service.ask(f"text {i} killed", ["yes", "no"]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(200))) == {200}


def _client_job(service: Service, *args: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.launch.client_job", *args]
    run = subprocess.run(command, cwd=ROOT, env=service.started.env, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr[-4_000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_a_python_caller_gets_his_answers_by_every_way_that_the_client_has(service: Service) -> None:
    found = _client_job(service)

    assert {found[way] for way in ("one", "by reference", "its future")} == {"repair"}
    assert found["several"] == ["repair", "billing"]
    assert found["mapped"] == {"repair": 300}
    assert [one for one in found["labels"] if one != "cancelled"] == [
        f"word{i}" for i, one in enumerate(found["labels"]) if one != "cancelled"
    ]
    assert found["labels"].count("cancelled") == found["cancelled"] > 0
    assert (found["threads"], set(found["called"])) == (["nli-callback"], {1})


@pytest.mark.parametrize("deployment", ["Classifier", "Ingress"])
def test_of_200_outstanding_futures_none_is_lost_or_wrong_when_a_replica_is_killed(
    service: Service, deployment: str
) -> None:
    (victim,) = [p for p in service.started.family() if f"ServeReplica:nli:{deployment}" in " ".join(p.cmdline())]

    found = _client_job(service, str(victim.pid))

    right = [end == f"word{i}" for i, end in enumerate(found["ends"])]
    wrong = [end for end, ok in zip(found["ends"], right, strict=True) if not ok and "(" not in end]
    assert found["outstanding"] >= 100
    assert wrong == []
    assert sum(right) >= 190, found["ends"]


def test_forged_forwarded_addresses_are_one_caller(service: Service, tell: Callable[..., None]) -> None:
    """The last one that asks, as it changes the limits of the service."""
    pairs = {"limit": 1, "window_s": 600, "burst": 4_096}
    tell("reconfigure", {"caller": {"requests": None, "pairs": pairs}})

    payload = {"text": "forged", "labels": [f"label{i}" for i in range(256)]}
    forged = [{"X-Forwarded-For": f"203.0.113.{i % 250}, 10.0.{i // 250}.1"} for i in range(300)]
    seen = Counter(service.http.post("/v1/classify", json=payload, headers=one).status_code for one in forged)

    assert seen == {200: 16, 429: 284}


def test_a_killed_launcher_leaves_nothing_behind(service: Service, tell: Callable[..., None]) -> None:
    """The very last one: it ends the service."""
    assert len(service.started.family()) > 5
    tell("leave")

    service.started.process.kill()

    wait_until(lambda: service.started.family() == [], 30, lambda: str(service.started.family()))
