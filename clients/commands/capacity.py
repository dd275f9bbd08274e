"""What a config asks of a machine or cluster, and whether there is enough of it.

Ray waits for ever for a CPU or GPU that does not exist, with a warning in its logs, so the demand is
compared with the supply before anything starts. What a roll-out needs on top (`max_surge_percent`) is
not counted: where there is no room for it Serve keeps the old replicas.

Units: whole CPUs and GPUs, and fractions of them, as in `ray_actor_options`.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.commands.document import KeyPath, Problem

ROUNDING = 1e-9  # 1 / (1 / 93) must be 93 replicas, not 92
SMALLEST_PART = 1e-4  # of a GPU; Ray rounds to it
REACH_S = 3.0  # to connect to a cluster; Ray itself tries for two minutes


@dataclass(frozen=True)
class Supply:
    """What can be had; None: not known, so nothing is refused for it."""

    where: str
    cpus: float | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Demand:
    """The replicas of one deployment that start at once."""

    path: KeyPath  # of the deployment
    name: str
    replicas: int
    cpus: float
    gpus: float

    @property
    def total_cpus(self) -> float:
        return self.replicas * self.cpus

    @property
    def total_gpus(self) -> float:
        """Whole GPUs: a replica never spans two, so 0.4 fits twice on each."""
        if self.gpus <= 0 or self.gpus >= 1:
            return self.replicas * self.gpus
        return math.ceil(self.replicas / math.floor(1 / max(self.gpus, SMALLEST_PART) + ROUNDING))


def shortages(demands: Sequence[Demand], supply: Supply) -> Iterator[Problem]:
    """One problem for each resource that runs out, at the deployment that asks for most of it."""
    cpus, gpus = sum(demand.total_cpus for demand in demands), sum(demand.total_gpus for demand in demands)
    if supply.cpus is not None and cpus > supply.cpus + ROUNDING:
        largest = max(demands, key=lambda demand: demand.total_cpus)
        yield Problem(
            (*largest.path, "ray_actor_options", "num_cpus"),
            f"the deployments ask for {cpus:g} CPUs together ({_sum(demands)}), {supply.where} has {supply.cpus:g};"
            " lower num_cpus or num_replicas",
        )
    if supply.gpus is not None and gpus > supply.gpus:
        largest = max(demands, key=lambda demand: demand.total_gpus)
        yield Problem(
            (*largest.path, "ray_actor_options", "num_gpus"),
            f"{largest.replicas} replicas of {largest.gpus:g} need {gpus:g} GPUs (a replica never spans two),"
            f" {supply.where} has {supply.gpus:g}; lower num_gpus or num_replicas",
        )


def supply(*, needs_gpus: bool) -> Supply:
    """What the Ray cluster that `serve run` will join has, else what this machine has.

    Args:
        needs_gpus: whether to count this machine's GPUs; a driver takes its time to answer.

    Raises:
        OSError: the cluster does not answer.
        ValueError: RAY_ADDRESS is no address.
    """
    address = running_cluster()
    return _of_cluster(address) if address else _of_machine(needs_gpus=needs_gpus)


def running_cluster() -> str | None:
    """The address of the cluster that `serve run` would join; None: it starts one of its own.

    As Ray decides it: RAY_ADDRESS, else what the last `ray start` on this machine wrote down.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named not in ("", "auto"):
        return None if named == "local" else named
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    written = Path(folder, "ray", "ray_current_cluster")
    return written.read_text().strip() if written.is_file() else None


def _of_machine(*, needs_gpus: bool) -> Supply:
    # Ray's own detection: it respects cgroup limits and CUDA_VISIBLE_DEVICES, as `ray.init` will.
    from ray._private.accelerators import NvidiaGPUAcceleratorManager
    from ray._private.utils import get_num_cpus

    if not needs_gpus:
        return Supply("this machine", get_num_cpus())
    visible = NvidiaGPUAcceleratorManager.get_current_process_visible_accelerator_ids()
    gpus = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return Supply("this machine", get_num_cpus(), gpus if visible is None else min(gpus, len(visible)))


def _of_cluster(address: str) -> Supply:
    host, _, port = address.rpartition("/")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    import ray  # after that, as a dead cluster needs none

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
    return Supply(f"the Ray cluster at {address}", total.get("CPU", 0), total.get("GPU", 0))


def _sum(demands: Iterable[Demand]) -> str:
    return ", ".join(f"{demand.name} {demand.replicas} x {demand.cpus:g}" for demand in demands)
