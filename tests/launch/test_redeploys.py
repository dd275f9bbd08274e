"""Ten redeploys, and a front door that grows and shrinks, while 30 requests a second come in over HTTP.

By PUT to Serve's REST API, as KubeRay does it, in the shape of the production overlays: two of each deployment, of
which one is replaced at a time. Only the drain of a replica behind HAProxy is shorter here: 5 s for 30.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from tests.ports import free_port
from tests.serve.conftest import SMALL

from .conftest import FAST, Start, Started, wait_until

RATE = 30  # requests a second
REDEPLOYS = 10
MODES: dict[str, dict[str, str]] = {
    "haproxy": FAST | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5"},
    "without-haproxy": {},
}


_log = logging.getLogger(__name__)  # --log-cli-level INFO shows the numbers


@dataclass
class Service:
    """The graph around a `FakeEngine`, and what it is now configured to be."""

    node: Started
    rest: httpx2.Client
    port: int
    limit: int = 1_000
    doors: int = 2
    seconds_per_run: float = 0.001

    def put(self) -> None:
        """What is now configured, as soon as the dashboard takes it, and until it runs."""
        user_config = {"caller": {"requests": {"limit": self.limit, "window_s": 1, "burst": 1_000}}}
        rolled = {**SMALL, "graceful_shutdown_timeout_s": 45, "num_replicas": 2, "max_surge_percent": 0}
        application = {
            "name": "nli",
            "import_path": "tests.serve.stand_ins:build",
            "args": {"engine": "FakeEngine", "options": {"seconds_per_run": self.seconds_per_run}},
            "deployments": [
                {"name": "Ingress", **rolled, "num_replicas": self.doors, "user_config": user_config},
                {"name": "Classifier", **rolled},
            ],
        }
        http = {"host": "127.0.0.1", "port": self.port}
        config = {"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}

        def taken() -> bool:
            try:
                return self.rest.put("/api/serve/applications/", json=config).status_code == 200
            except httpx2.HTTPError:
                return False

        wait_until(taken, 60, self.node.said)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.rest.get("/api/serve/applications/").json()["applications"].get("nli", {})
        return found

    def replicas(self, deployment: str) -> set[str]:
        found = self.status().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return {each["replica_id"] for each in found}

    def settled(self, deployment: str, n: int, *, without: Set[str] = frozenset()) -> None:
        """It runs, with so many replicas of this deployment, none of which is one of those."""

        def so() -> bool:
            now = self.replicas(deployment)
            return self.status().get("status") == "RUNNING" and len(now) == n and not now & without

        wait_until(so, 150, lambda: str(self.status()))

    def in_force(self, limit: int) -> bool:
        """At every replica, as far as some requests on connections of their own can tell."""
        answers = [self.node.ask({"text": "limits?", "labels": ["a"]}) for _ in range(6)]
        return all(f";q={limit};" in str(answer.headers.get("RateLimit-Policy")) for answer in answers)


@dataclass
class Load:
    """What came of the requests: a status, or the name of the error."""

    seen: Counter[int | str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    start: float = field(default_factory=time.monotonic)


@contextmanager
def load(url: str) -> Iterator[Load]:
    """So many requests a second, whether those before are answered or not, on connections that are kept."""
    came, enough = Load(), threading.Event()
    start = came.start

    async def one(http: httpx2.AsyncClient, i: int) -> None:
        asked = time.monotonic()
        try:
            answer = await http.post("/v1/classify", json={"text": f"text {i}", "labels": ["a", "b"]})
            outcome: int | str = answer.status_code
            said = answer.text
        except httpx2.HTTPError as error:
            outcome, said = type(error).__name__, str(error)
        came.seen[outcome] += 1
        came.slowest_s = max(came.slowest_s, time.monotonic() - asked)
        if outcome not in (200, 429):
            came.failed.append(f"at {asked - start:.1f} s: {outcome} {said[:200]}")

    async def run() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as http, asyncio.TaskGroup() as tasks:
            i = 0
            while not enough.is_set():
                tasks.create_task(one(http, i))
                i += 1
                await asyncio.sleep(max(0, start + i / RATE - time.monotonic()))

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    try:
        yield came
    finally:
        enough.set()
        thread.join()


@pytest.fixture
def service(start: Start, request: pytest.FixtureRequest, long: bool) -> Iterator[Service]:
    if not long:
        pytest.skip("takes minutes: make test-long")
    port, rest_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="nli", ignore_cleanup_errors=True) as short:
        ports = ["--port", free_port(), "--dashboard-port", rest_port, "--ray-client-server-port", free_port()]
        ports += ["--dashboard-agent-listen-port", free_port(), "--min-worker-port", 0, "--max-worker-port", 0]
        options = [*ports, "--node-ip-address", "127.0.0.1", "--num-cpus", 8, "--object-store-memory", 100_000_000]
        env = MODES[request.param] | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        env |= {"FORWARDED_ALLOW_IPS": "", "RAY_TMPDIR": short}
        command = ["ray.scripts.scripts", "start", "--head", "--block", *map(str, options)]
        node = start(*command, port=port, **env)
        with httpx2.Client(base_url=f"http://127.0.0.1:{rest_port}", timeout=30, trust_env=False) as rest:
            yield Service(node, rest, port)
            node.family()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", MODES, indirect=True)
def test_no_request_fails_through_ten_redeploys_and_a_front_door_of_one_three_and_one(
    service: Service,
) -> None:
    service.put()
    wait_until(service.node.answers, 90, service.node.said)
    service.settled("Ingress", 2)
    assert any("haproxy" in each.name() for each in service.node.family()) == bool(_haproxy(service))

    with load(service.node.url) as came:
        for i in range(REDEPLOYS):
            _log.info("redeploy %d after %.1f s: %s", i, time.monotonic() - came.start, dict(came.seen))
            before = service.replicas("Ingress") | service.replicas("Classifier")
            if i % 2:
                service.limit += 1
                service.put()
                wait_until(lambda: service.in_force(service.limit), 30)
                assert service.replicas("Ingress") | service.replicas("Classifier") == before
            else:
                service.seconds_per_run += 0.0001
                service.put()
                service.settled("Ingress", 2, without=before)
                service.settled("Classifier", 2, without=before)
        for doors in (1, 3, 1):
            service.doors = doors
            service.put()
            service.settled("Ingress", doors)
            _log.info("%d replicas after %.1f s: %s", doors, time.monotonic() - came.start, dict(came.seen))

    _log.info("%s, slowest %.2f s, in %.0f s", dict(came.seen), came.slowest_s, time.monotonic() - came.start)
    assert came.failed == [], dict(came.seen)
    assert came.seen[200] > RATE * 10  # five roll-outs alone take longer than ten seconds


def _haproxy(service: Service) -> str:
    return service.node.env.get("RAY_SERVE_ENABLE_HA_PROXY", "")
