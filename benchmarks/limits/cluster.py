"""A local cluster, and our graph around a no-op model deployed on it as Kubernetes does: by Serve's REST API."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import ray
from ray import serve

from clients.commands.profile import environment
from deployments.contract.keys import KeyFile, dump, new_key

ROOT = Path(__file__).parent.parent.parent
READY_LIMIT_S = 60
OPTIONS = {"num_replicas": 1, "max_ongoing_requests": 2048, "ray_actor_options": {"num_cpus": 0.1}}
NEVER = {"limit": 1_000_000, "burst": 1_000_000}
ON = {
    "caller": {"requests": NEVER, "pairs": NEVER, "max_concurrent": 10_000},
    "service": {"requests": NEVER, "pairs": NEVER},
}
OFF = {"caller": {"requests": None, "pairs": None, "max_concurrent": 10_000}}


def fast_environment() -> dict[str, str]:
    """The fast profile, but for HAProxy: all callers here come by a handle."""
    own = {
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.05",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
    }
    return environment(fast=True, inherited=os.environ) | own


@contextmanager
def cluster() -> Iterator[httpx2.Client]:
    """Serve's REST API."""
    context = ray.init(
        address="local", num_cpus=8, include_dashboard=True, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        serve.start(proxy_location="Disabled")
        with httpx2.Client(base_url=f"http://{context.dashboard_url}", timeout=30, trust_env=False) as rest:
            yield rest
    finally:
        ray.shutdown()


def write_keys(file: Path, n: int) -> list[str]:
    """A key file, and the tokens of its keys."""
    made = [new_key("bench", now=datetime.now(UTC)) for _ in range(n)]
    file.write_text(dump(KeyFile(keys=tuple(record for record, _ in made))))
    return [token for _, token in made]


def deploy(rest: httpx2.Client, applications: Sequence[Mapping[str, Any]]) -> None:
    """These and no others; returns when all run."""
    rest.put("/api/serve/applications/", json={"applications": list(applications)}).raise_for_status()
    wanted = {str(one["name"]) for one in applications}
    deadline = time.monotonic() + READY_LIMIT_S
    while True:
        found = rest.get("/api/serve/applications/").json()["applications"]
        if {name for name, one in found.items() if one["status"] == "RUNNING"} == wanted == set(found):
            return
        states = {name: one["status"] for name, one in found.items()}
        if "DEPLOY_FAILED" in states.values() or time.monotonic() > deadline:
            raise RuntimeError(f"not running: {states}")
        time.sleep(0.1)


def application(name: str, keys_file: Path, limits: Mapping[str, Any], n_ingress: int = 1) -> dict[str, Any]:
    """Our graph, with API keys."""
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": "benchmarks.scheduler.graphs:ours",
        "args": {"auth": "required", "keys_file": str(keys_file)},
        "deployments": [
            {"name": "Ingress", **OPTIONS, "num_replicas": n_ingress, "user_config": limits},
            {"name": "Classifier", **OPTIONS},
        ],
    }
