"""One real local cluster for all tests of this folder; a test deploys an application of its own, or borrows one that
others leave in order. Both are done as Kubernetes does: by PUT to Serve's REST API."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
SMALL = {"num_replicas": 1, "max_ongoing_requests": 512, "ray_actor_options": {"num_cpus": 0.1}}
QUICK = {"graceful_shutdown_wait_loop_s": 0.1, "graceful_shutdown_timeout_s": 1}
UNLIMITED = {"caller": {"requests": None, "pairs": None, "max_concurrent": 100_000}}
_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "serve"):
            item.add_marker("serve")


@dataclass(frozen=True)
class Cluster:
    """A running Ray with Serve; `http` speaks to Serve's proxy, `rest` to the dashboard."""

    http: httpx2.Client
    rest: httpx2.Client


class App:
    """One application on the cluster, and how to change it."""

    def __init__(
        self, cluster: Cluster, engine: str, options: dict[str, Any], ingress: dict[str, Any], **classifier: Any
    ) -> None:
        self.name = f"nli{next(_numbers)}"
        self.http = cluster.http
        self._rest = cluster.rest
        self._args = _args(engine, options)
        self._ingress = ingress
        self.put(**classifier)

    def put(
        self, options: dict[str, Any] | None = None, ingress: dict[str, Any] | None = None, **classifier: Any
    ) -> None:
        """Deploy, with these options of the Classifier, of the engine, and of the Ingress."""
        self._args["options"] = options or self._args["options"]
        self._ingress = self._ingress if ingress is None else ingress
        front = {"max_surge_percent": 100, **SMALL, **QUICK, "user_config": UNLIMITED, **self._ingress}
        model = {**SMALL, **QUICK, "user_config": {}, **classifier}  # with none, a replica keeps the one of before
        application = {
            "name": self.name,
            "import_path": "tests.serve.stand_ins:build",
            "args": self._args,
            "deployments": [
                {"name": "Ingress", **front},
                {"name": "Classifier", **model},
            ],
        }
        self._rest.put("/api/serve/applications/", json={"applications": [application]}).raise_for_status()

    def runs(self, engine: str, options: dict[str, Any]) -> bool:
        """Whether it runs, and a new one with these would be the same but for what its deployments are configured."""
        return self._args == _args(engine, options) and self.status().get("status") == "RUNNING"

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._rest.get("/api/serve/applications/").json()["applications"].get(self.name, {})
        return found

    def wait_for(self, *wanted: str) -> dict[str, Any]:
        """Its status, once it is one of these."""
        wait_until(lambda: self.status().get("status") in wanted, 60, lambda: str(self.status()), every_s=0.2)
        return self.status()

    @property
    def handle(self) -> DeploymentHandle[Any]:
        return serve.get_app_handle(self.name)

    def pids(self, deployment: str) -> list[int]:
        """Of the running replicas, as Serve reports them; none while it builds the application anew."""
        replicas = self.status().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]


def _args(engine: str, options: dict[str, Any]) -> dict[str, Any]:
    """Of the application: not all options are the engine's."""
    others = {name: options.get(name, {}) for name in ("app", "admissions")}
    return {**others, "engine": engine, "options": {key: value for key, value in options.items() if key not in others}}


Deploy = Callable[..., App]


def wait_until(
    condition: Callable[[], bool], seconds: float, report: Callable[[], str] = str, every_s: float = 0.05
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s; {report()}"
        time.sleep(every_s)


def raw_request(payload: dict[str, Any], **headers: str) -> bytes:
    """An HTTP request as the bytes that travel, so that a test can hang up on it."""
    body = json.dumps(payload).encode()
    headers |= {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = ["POST /v1/classify HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def load(
    url: httpx2.URL, callers: int, requests: Sequence[bytes], allowed: Container[int] = frozenset({200})
) -> Counter[int]:
    """Send raw requests, so many at a time, each caller on a connection that it keeps; how many got which status.

    By hand, since a client library, or a new connection each time, costs more than the server that is to be kept busy.
    """
    waiting, seen = iter(requests), Counter[int]()

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            for request in waiting:
                writer.write(request)
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError as error:  # a server may close a connection that it keeps, any time
                    if error.partial:
                        raise
                    writer.close()
                    reader, writer = await asyncio.open_connection(url.host, url.port)
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                assert status in allowed, head
                seen[status] += 1
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        finally:
            writer.close()

    await asyncio.gather(*(caller() for _ in range(callers)))
    return seen


def hang_up(sockets: Sequence[socket.socket]) -> None:
    for connection in sockets:
        connection.close()


def answers(sockets: Sequence[socket.socket]) -> list[bytes]:
    """What each connection gets, which then ends."""
    received = [connection.recv(65_536) for connection in sockets]
    hang_up(sockets)
    return received


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    env = {
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.05",
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",  # a constructor that is to fail here fails every time
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_AUTH_MODE": "disabled",
        "FORWARDED_ALLOW_IPS": "",  # as `nli-serve up` sets it
        "PYTHONPATH": str(ROOT),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        port = free_port()
        context = ray.init(
            address="local", num_cpus=8, include_dashboard=True, log_to_driver=False, logging_level=logging.ERROR
        )
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        with (
            httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http,
            httpx2.Client(base_url=f"http://{context.dashboard_url}", timeout=30, trust_env=False) as rest,
        ):
            yield Cluster(http, rest)
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


@pytest.fixture(scope="package")
def deploy(cluster: Cluster) -> Deploy:
    """Deploys the real graph around an engine of stand_ins.py and waits until it runs."""

    def run(
        engine: str = "FakeEngine",
        classifier: dict[str, Any] | None = None,
        ingress: dict[str, Any] | None = None,
        **options: Any,
    ) -> App:
        app = App(cluster, engine, options, ingress or {}, **(classifier or {}))
        app.wait_for("RUNNING")
        return app

    return run


@pytest.fixture(scope="package")
def borrow(deploy: Deploy) -> Deploy:
    """As `deploy`, which starts three processes or more; but the last application that was borrowed is taken over where
    it is the same one and still runs, with what its deployments are configured set anew.

    For tests that leave it in order: nothing under way, and no replica dead that is not replaced. What was asked before
    may be in the cache, and what was spent of a quota stays spent, so texts and keys are to be of one test alone.
    """
    borrowed: list[App] = []

    def run(
        engine: str = "FakeEngine",
        classifier: dict[str, Any] | None = None,
        ingress: dict[str, Any] | None = None,
        **options: Any,
    ) -> App:
        if borrowed and borrowed[-1].runs(engine, options):
            borrowed[-1].put(ingress=ingress or {}, **(classifier or {}))
            borrowed[-1].wait_for("RUNNING")
        else:
            borrowed.append(deploy(engine, classifier, ingress, **options))
        return borrowed[-1]

    return run
