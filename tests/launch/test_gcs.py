"""The head ends, as on Kubernetes: with Ray's state in Redis the workers go on answering, and a new head takes over.

`ray start --block` is what KubeRay has in its pods. It ends with the GCS, and with it the pod; KubeRay then makes
another head pod, which has nothing of the first but its address and Redis.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.ports import free_port
from tests.serve.conftest import QUICK, SMALL

from .conftest import Start, Started, _session, wait_until

WITHOUT_HEAD = 10  # answers at least while there is no head


@dataclass
class Nodes:
    """A head and a worker, each with a folder of its own, as pods have; a head takes no replica."""

    start: Start
    folder: Path
    redis: dict[str, str]
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("gcs", "rest", "head", "on")})
    token: str = field(default_factory=lambda: secrets.token_hex(32))

    def head(self, name: str) -> Started:
        """Redis' password is an option, since KubeRay passes it so."""
        env = {"RAY_REDIS_ADDRESS": self.redis["address"], "RAY_external_storage_namespace": "a-raycluster"}
        where = ["--port", self.ports["gcs"], "--dashboard-port", self.ports["rest"], "--num-cpus", 0]
        password = ["--redis-password", self.redis["password"]]
        return self._node(name, "--head", *where, "--ray-client-server-port", free_port(), *password, **env)

    def worker(self) -> Started:
        env = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}  # as KubeRay sets it beside Redis
        env["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(self.ports["on"])  # one machine, two proxies
        return self._node("worker", "--address", f"127.0.0.1:{self.ports['gcs']}", "--num-cpus", 4, **env)

    def _node(self, name: str, *options: object, **env: str) -> Started:
        folder = self.folder / name
        folder.mkdir()
        ours = ["--node-ip-address", "127.0.0.1", "--dashboard-agent-listen-port", free_port()]
        small = ["--object-store-memory", 100_000_000, "--min-worker-port", 0, "--max-worker-port", 0]
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_TMPDIR": str(folder)}
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "FORWARDED_ALLOW_IPS": ""}
        command = [*options, *ours, *small, "--block"]
        return self.start("ray.scripts.scripts", "start", *map(str, command), port=self.ports["on"], **env)

    @property
    def rest(self) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"http://127.0.0.1:{self.ports['rest']}"
        return httpx2.Client(base_url=url, headers=headers, timeout=30, trust_env=False)

    def put(self, limit: int, seconds_per_run: float = 0.0) -> bool:
        front = {"user_config": {"caller": {"requests": {"limit": limit, "window_s": 1, "burst": 100}}}}
        application = {
            "name": "nli",
            "import_path": "tests.serve.stand_ins:build",
            "args": {"engine": "FakeEngine", "options": {"seconds_per_run": seconds_per_run}},
            "deployments": [
                {"name": "Ingress", **SMALL, **QUICK, "max_surge_percent": 100, **front},
                {"name": "Classifier", **SMALL, **QUICK, "max_surge_percent": 100},
            ],
        }
        http = {"host": "127.0.0.1", "port": self.ports["head"]}
        config = {"proxy_location": "EveryNode", "http_options": http, "applications": [application]}
        with self.rest as rest:
            return _true(lambda: rest.put("/api/serve/applications/", json=config).status_code == 200)

    def status(self) -> dict[str, Any]:
        with self.rest as rest:
            found: dict[str, Any] = rest.get("/api/serve/applications/").json()["applications"].get("nli", {})
            return found

    def runs(self) -> bool:
        return _true(lambda: self.status().get("status") == "RUNNING")

    def replicas(self) -> set[str]:
        deployments = self.status()["deployments"].values()
        return {replica["replica_id"] for deployment in deployments for replica in deployment["replicas"]}


def _true(ask: Callable[[], bool]) -> bool:
    """Whether it is so; not, where nobody answers."""
    try:
        return ask()
    except httpx2.HTTPError:
        return False


def need_redis() -> None:
    """Without redis-server: a failure in CI, elsewhere the test is skipped."""
    if shutil.which("redis-server") is None:
        reason = "redis-server is not on this machine: apt-get install redis-server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def redis(tmp_path: Path, long: bool) -> Iterator[dict[str, str]]:
    """Where it listens, and the password without which it answers nobody."""
    if not long:
        pytest.skip("half a minute: make test-long")
    need_redis()
    port, password = free_port(), secrets.token_hex(16)
    options = {"port": port, "bind": "127.0.0.1", "requirepass": password, "dir": tmp_path, "save": ""}
    command = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    with (tmp_path / "redis.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        yield {"address": f"127.0.0.1:{port}", "password": password}
        server.kill()


@pytest.fixture
def nodes(start: Start, redis: dict[str, str]) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="nli", ignore_cleanup_errors=True) as short:  # Ray's sockets lie here
        yield Nodes(start, Path(short), redis)


@dataclass
class Asked:
    """What the requests to the worker came to, in order: a status, or the name of the error."""

    seen: list[int | str] = field(default_factory=list)

    def answers(self, n: int) -> None:
        """So many more of them."""
        before = len(self.seen)
        wait_until(lambda: len(self.seen) >= before + n, 60, lambda: str(self.seen))


@contextmanager
def asking(url: str) -> Iterator[Asked]:
    """One after the other, ten a second, within the limits, which the ledger holds."""
    asked, enough = Asked(), threading.Event()

    def run() -> None:
        with httpx2.Client(base_url=url, timeout=30, trust_env=False) as http:
            while not enough.wait(0.1):
                body = {"text": f"text {len(asked.seen)}", "labels": ["a", "b"]}
                try:
                    asked.seen.append(http.post("/v1/classify", json=body).status_code)
                except httpx2.HTTPError as error:
                    asked.seen.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield asked
    finally:
        enough.set()
        thread.join()


@pytest.mark.timeout(240)
def test_with_redis_the_worker_answers_while_the_head_is_away_and_a_new_one_goes_on(nodes: Nodes) -> None:
    head, worker = nodes.head("head"), nodes.worker()
    wait_until(lambda: nodes.put(limit=50), 60, head.said)
    wait_until(nodes.runs, 60, head.said)
    wait_until(worker.answers, 30, worker.said)
    replicas = nodes.replicas()
    (ledger,) = worker.called("ray::Quota")  # not the head's

    with asking(worker.url) as asked:
        asked.answers(5)
        (gcs,) = head.called("gcs_server")
        gcs.kill()
        assert head.wait(30) == 1, "`ray start --block` ends with the GCS"
        assert "gcs_server" in head.said()
        head.kill()  # Ray's agents would linger; a container takes them with it
        asked.answers(WITHOUT_HEAD)

        again = nodes.head("head2")
        wait_until(nodes.runs, 60, again.said)
        assert nodes.replicas() == replicas
        wait_until(lambda: nodes.put(limit=40), 60, again.said)
        wait_until(lambda: "q=40;" in _policy(worker), 30, again.said)
        assert nodes.replicas() == replicas
        nodes.put(limit=40, seconds_per_run=0.001)  # another code, and with it other replicas
        wait_until(lambda: nodes.runs() and not nodes.replicas() & replicas, 60, lambda: str(nodes.status()))
        asked.answers(5)

    assert set(asked.seen) == {200}, asked.seen
    assert worker.process.poll() is None
    assert psutil.pid_exists(ledger.pid)
    assert _session(ledger.pid) == worker.process.pid


def _policy(worker: Started) -> str:
    return str(worker.ask({"text": "limits?", "labels": ["a"]}).headers.get("RateLimit-Policy"))


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_redis_server_nothing_passes_in_silence(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match="redis-server is not on this machine"):
        need_redis()
