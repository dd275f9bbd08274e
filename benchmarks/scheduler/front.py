"""The front: requests a second through the whole graph around a model that does nothing, beside a plain graph.

Each graph is started as users start it, `serve run`, and loaded by wrk on the same machine: rounds of one after
rounds of the other, so that a noisy minute hits both.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import yaml

from clients.commands import session
from clients.commands.profile import HAPROXY_PORTS, environment
from tests.ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CONNECTIONS = 64
ROUND_S = 5
ROUNDS = 3
READY_LIMIT_S = 90
NEVER = {"limit": 1_000_000, "burst": 1_000_000}
LIMITS = {"caller": {"requests": NEVER, "pairs": NEVER, "max_concurrent": 10_000}}  # counted, and never reached
OPTIONS = {"num_replicas": 1, "max_ongoing_requests": 2048, "ray_actor_options": {"num_cpus": 0.5}}


@dataclass(frozen=True, slots=True)
class Rate:
    """Medians over the rounds."""

    per_s: float
    p50_ms: float
    p99_ms: float


def rates() -> dict[str, Rate]:
    """By graph: the plain one, ours in both modes, and ours where the cache has the answer."""
    found: dict[str, Rate] = {}
    with _served("plain", {}, fast=False) as url:
        found["plain graph, default mode"] = _measure(url)
    with _served("ours", {"auth": "off"}, fast=False) as url:
        found["ours, --plain"] = _measure(url)
    with _served("ours", {"auth": "off"}, fast=True) as url:
        found["ours, fast profile"] = _measure(url)
        found["ours, fast profile, cached"] = _measure(url, same=True)
    return found


def _measure(url: str, *, same: bool = False) -> Rate:
    rounds = [_wrk(url, same=same) for _ in range(ROUNDS + 1)][1:]  # the first warms up
    return Rate(*(statistics.median(getattr(one, name) for one in rounds) for name in ("per_s", "p50_ms", "p99_ms")))


@contextmanager
def _served(graph: str, args: Mapping[str, object], *, fast: bool) -> Iterator[str]:
    port = free_port()
    ours = [{"name": "Ingress", **OPTIONS, "user_config": LIMITS}, {"name": "Classifier", **OPTIONS}]
    deployments = [] if graph == "plain" else ours
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"encoding": "JSON"},
        "applications": [
            {
                "name": "bench",
                "import_path": f"benchmarks.scheduler.graphs:{graph}",
                "args": dict(args),
                "deployments": deployments,
            }
        ],
    }
    with tempfile.TemporaryDirectory(prefix="nb", ignore_cleanup_errors=True) as folder:
        file = Path(folder, "serve.yaml")
        file.write_text(yaml.safe_dump(config))
        env = environment(fast=fast, inherited=os.environ) | {"RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        env |= {name: str(free_port()) for name in HAPROXY_PORTS}
        command = [sys.executable, "-m", "ray.serve.scripts", "run", "--app-dir", str(ROOT), str(file)]
        with Path(folder, "log").open("wb") as log:
            child = session.start(command, env, log)
            try:
                _wait_for_answer(f"http://127.0.0.1:{port}")
                yield f"http://127.0.0.1:{port}"
            finally:
                session.stop(child, grace_s=15)


def _wait_for_answer(url: str) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        try:
            body = {"text": "ready?", "labels": ["yes", "no"]}
            if httpx2.post(f"{url}/v1/classify", json=body, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.25)
    raise TimeoutError(f"{url} does not answer")


def _wrk(url: str, *, same: bool) -> Rate:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{ROUND_S}s", "--latency", "-s", str(HERE / "post.lua"), url]
    env = {**os.environ, "SAME": "1" if same else "0"}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=ROUND_S + 30).stdout
    if failed := re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors:.*", said):
        raise RuntimeError(f"not all requests were answered: {failed[0]}")
    return Rate(float(_found(r"Requests/sec:\s+([\d.]+)", said)), _ms(said, "50%"), _ms(said, "99%"))


def _ms(said: str, percentile: str) -> float:
    number, unit = re.findall(rf"{percentile}\s+([\d.]+)(us|ms|s)", said)[0]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1_000.0}[unit]


def _found(pattern: str, said: str) -> str:
    match = re.search(pattern, said)
    if match is None:
        raise RuntimeError(f"wrk said {said!r}")
    return match[1]
