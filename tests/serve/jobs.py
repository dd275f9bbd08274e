"""Ray jobs, as people submit them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray

from .conftest import Cluster, wait_until

ENDS = ("SUCCEEDED", "FAILED", "STOPPED")
_numbers = itertools.count()


def submit(cluster: Cluster, *entrypoint: str | Path) -> str:
    """What `ray job submit -- ...` and the job printed; a cluster takes jobs only some seconds after its start.

    The job is waited for here: the command itself goes on for some five seconds after a job has ended.
    """
    id = f"job{next(_numbers)}"
    tool = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", str(cluster.rest.base_url)]
    tool += ["--no-wait", "--submission-id", id]
    # Where several clusters run on a machine, Ray gives the job the address of any.
    job = ["env", f"RAY_ADDRESS={ray.get_runtime_context().gcs_address}", *map(str, entrypoint)]
    tried: list[subprocess.CompletedProcess[str]] = []

    def taken() -> bool:
        tried.append(subprocess.run([*tool, "--", *job], capture_output=True, text=True, timeout=100))
        return "No available agent to submit job" not in tried[-1].stderr

    def asked(what: str = "") -> dict[str, Any]:
        answer = cluster.rest.get(f"/api/jobs/{id}{what}").raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    wait_until(taken, 60)
    printed = tried[-1].stdout + tried[-1].stderr
    assert tried[-1].returncode == 0, printed
    wait_until(lambda: asked()["status"] in ENDS, 100, lambda: str(asked()), every_s=0.2)
    printed += str(asked("/logs")["logs"])
    assert asked()["status"] == "SUCCEEDED", printed
    return printed
