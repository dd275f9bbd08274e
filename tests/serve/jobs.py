"""Ray jobs, as people submit them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ray

from .conftest import Cluster, wait_until


def submit(cluster: Cluster, *entrypoint: str | Path) -> str:
    """What `ray job submit -- ...` and the job printed; a cluster takes jobs only some seconds after its start."""
    tool = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", str(cluster.rest.base_url)]
    # Where several clusters run on a machine, Ray gives the job the address of any.
    job = ["env", f"RAY_ADDRESS={ray.get_runtime_context().gcs_address}", *map(str, entrypoint)]
    tried: list[subprocess.CompletedProcess[str]] = []

    def taken() -> bool:
        tried.append(subprocess.run([*tool, "--", *job], capture_output=True, text=True, timeout=100))
        return "No available agent to submit job" not in tried[-1].stderr

    wait_until(taken, 60)
    printed = tried[-1].stdout + tried[-1].stderr
    assert tried[-1].returncode == 0, printed
    return printed
