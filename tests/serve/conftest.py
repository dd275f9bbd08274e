"""One real local cluster for all tests of this folder; each test deploys its own application, as Kubernetes does:
by PUT to Serve's REST API."""

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
        self._args = {name: options.pop(name, {}) for name in ("app", "admissions")}
        self._args |= {"engine": engine, "options": options}
        self._ingress = ingress
        self.put(**classifier)

    def put(
        self, options: dict[str, Any] | None = None, ingress: dict[str, Any] | None = None, **classifier: Any
    ) -> None:
        """Deploy, with these options of the Classifier, of the engine, and of the Ingress."""
        self._args["options"] = options or self._args["options"]
        self._ingress = ingress or self._ingress
        front = {"max_surge_percent": 100, **SMALL, **QUICK, "user_config": UNLIMITED, **self._ingress}
        application = {
            "name": self.name,
            "import_path": "tests.serve.stand_ins:build",
            "args": self._args,
            "deployments": [
                {"name": "Ingress", **front},
                {"name": "Classifier", **SMALL, **QUICK, **classifier},
            ],
        }
        self._rest.put("/api/serve/applications/", json={"applications": [application]}).raise_for_status()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._rest.get("/api/serve/applications/").json()["applications"].get(self.name, {})
        return found

    def wait_for(self, *wanted: str) -> dict[str, Any]:
        """Its status, once it is one of these."""
        wait_until(lambda: self.status().get("status") in wanted, 60, lambda: str(self.status()))
        return self.status()

    @property
    def handle(self) -> DeploymentHandle[Any]:
        return serve.get_app_handle(self.name)

    def pids(self, deployment: str) -> list[int]:
        """Of the running replicas, as Serve reports them; none while it builds the application anew."""
        replicas = self.status().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING"]


Deploy = Callable[..., App]


def wait_until(condition: Callable[[], bool], seconds: float, report: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s; {report()}"
        time.sleep(0.05)


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


def answers_of_the_odd(sockets: Sequence[socket.socket]) -> list[bytes]:
    """Hang up on every second connection, and read what the others get."""
    for connection in sockets[::2]:
        connection.close()
    answers = [connection.recv(65_536) for connection in sockets[1::2]]
    for connection in sockets[1::2]:
        connection.close()
    return answers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    env = {
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.05",
        "RAY_USAGE_STATS_ENABLED": "0",
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
