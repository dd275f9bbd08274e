"""What a config asks of a machine or cluster, and whether there is enough of it.

Ray waits for ever for a CPU, a GPU or anything else that does not exist, with a warning in its logs, so the demand
is compared with the supply before anything starts. What a roll-out needs on top (`max_surge_percent`) is
not counted: where there is no room for it Serve keeps the old replicas.

Units: whole CPUs and GPUs, and fractions of them, and bytes, as in `ray_actor_options`.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clients.commands.document import KeyPath, Problem

ROUNDING = 1e-9  # 1 / (1 / 93) must be 93 replicas, not 92
SMALLEST_PART = 1e-4  # of a GPU; Ray rounds to it
REACH_S = 3.0  # to connect to a cluster; Ray itself tries for two minutes
ACCELERATOR = "accelerator_type:"  # the resource of a node that has an accelerator of the type after it
NODE = "node:"  # the resource of each node, its address after it
HEAD = "node:__internal_head__"  # another resource of the first one
IMPLICIT = "node:__internal_implicit_resource_"  # every node has what begins so
GIB = 2**30


class NoSupply(Exception):
    """There is no telling what can be had: the cluster does not answer, or Ray could not start on this machine."""


@dataclass(frozen=True)
class Supply:
    """What can be had; None: not known, so nothing is refused for it."""

    where: str
    cpus: float | None = None
    gpus: float | None = None
    memory: float | None = None  # bytes
    others: Mapping[str, float] | None = None  # custom resources, accelerator types and nodes, as Ray names them


@dataclass(frozen=True)
class Demand:
    """The replicas of one deployment that start at once, and what each asks for."""

    path: KeyPath  # of the deployment
    name: str
    replicas: int
    cpus: float
    gpus: float
    memory: float = 0  # bytes
    others: Mapping[str, float] = field(default_factory=dict)  # custom resources
    accelerator: str | None = None  # the type of it
    per_node: float = math.inf  # replicas, at most

    @property
    def total_cpus(self) -> float:
        return self.replicas * self.cpus

    @property
    def total_gpus(self) -> float:
        """Whole GPUs: a replica never spans two, so 0.4 fits twice on each."""
        if self.gpus <= 0 or self.gpus >= 1:
            return self.replicas * self.gpus
        return math.ceil(self.replicas / math.floor(1 / max(self.gpus, SMALLEST_PART) + ROUNDING))

    @property
    def total_memory(self) -> float:
        return self.replicas * self.memory

    def total_of(self, resource: str) -> float:
        return self.replicas * self.others.get(resource, 0)


def shortages(demands: Sequence[Demand], supply: Supply) -> Iterator[Problem]:
    """One problem for each resource that runs out, at the deployment that asks for most of it."""
    yield from _short_of_cpus(demands, supply)
    yield from _short_of_gpus(demands, supply)
    yield from _short_of_memory(demands, supply)
    if supply.others is not None:
        yield from _short_of_resources(demands, supply.others, supply.where)
        yield from _short_of_accelerators(demands, supply.others, supply.where)
        yield from _short_of_nodes(demands, supply.others, supply.where)


def supply(needs_gpus: bool) -> Supply:
    """What the Ray cluster that `serve run` will join has, else what this machine has.

    Args:
        needs_gpus: whether to count this machine's GPUs; a driver takes its time to answer.

    Raises:
        NoSupply: the cluster does not answer, or RAY_ADDRESS is no address, or Ray refuses this machine.
    """
    address = running_cluster()
    try:
        return _of_cluster(address) if address else _of_machine(needs_gpus)
    except (OSError, RuntimeError, ValueError) as error:
        cluster = "the Ray cluster of RAY_ADDRESS, or of `ray start` (`ray stop` forgets it), does not answer"
        what = cluster if address else "Ray cannot start on this machine"
        raise NoSupply(f"{what}: {' '.join(str(error).split())}") from error


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


def _short_of_cpus(demands: Sequence[Demand], supply: Supply) -> Iterator[Problem]:
    cpus = sum(demand.total_cpus for demand in demands)
    if supply.cpus is not None and cpus > supply.cpus + ROUNDING:
        yield Problem(
            (*max(demands, key=lambda demand: demand.total_cpus).path, "ray_actor_options", "num_cpus"),
            f"the deployments ask for {cpus:g} CPUs together ({_sum(demands, lambda demand: f'{demand.cpus:g}')}),"
            f" {supply.where} has {supply.cpus:g}; lower num_cpus or num_replicas",
        )


def _short_of_gpus(demands: Sequence[Demand], supply: Supply) -> Iterator[Problem]:
    gpus = sum(demand.total_gpus for demand in demands)
    if supply.gpus is not None and gpus > supply.gpus:
        largest = max(demands, key=lambda demand: demand.total_gpus)
        yield Problem(
            (*largest.path, "ray_actor_options", "num_gpus"),
            f"{largest.replicas} replicas of {largest.gpus:g} need {gpus:g} GPUs (a replica never spans two),"
            f" {supply.where} has {supply.gpus:g}; lower num_gpus or num_replicas",
        )


def _short_of_memory(demands: Sequence[Demand], supply: Supply) -> Iterator[Problem]:
    memory = sum(demand.total_memory for demand in demands)
    if supply.memory is not None and memory > supply.memory:
        each = _sum(demands, lambda demand: f"{demand.memory / GIB:.4g}")
        yield Problem(
            (*max(demands, key=lambda demand: demand.total_memory).path, "ray_actor_options", "memory"),
            f"the deployments ask for {memory / GIB:.4g} GiB together ({each}), {supply.where} has"
            f" {supply.memory / GIB:.4g} GiB for replicas; lower memory (bytes) or num_replicas",
        )


def _short_of_resources(demands: Sequence[Demand], there: Mapping[str, float], where: str) -> Iterator[Problem]:
    for name in {name for demand in demands for name in demand.others if not name.startswith(IMPLICIT)}:
        asked = sum(demand.total_of(name) for demand in demands)
        if asked > there.get(name, 0) + ROUNDING:
            largest = max(demands, key=lambda demand: demand.total_of(name))
            yield Problem(
                (*largest.path, "ray_actor_options", "resources", name),
                f"the deployments ask for {asked:g} {name} together, {where} has {there.get(name, 0):g};"
                " remove it, or start Ray with it (`ray start --resources`)",
            )


def _short_of_accelerators(demands: Sequence[Demand], there: Mapping[str, float], where: str) -> Iterator[Problem]:
    types = sorted(name.removeprefix(ACCELERATOR) for name in there if name.startswith(ACCELERATOR))
    for demand in demands:
        if demand.accelerator is not None and demand.accelerator not in types:
            yield Problem(
                (*demand.path, "ray_actor_options", "accelerator_type"),
                f"{where} has no {demand.accelerator!r}; allowed: {', '.join(types) or 'none, so remove it'}",
            )


def _short_of_nodes(demands: Sequence[Demand], there: Mapping[str, float], where: str) -> Iterator[Problem]:
    nodes = sum(name.startswith(NODE) and name != HEAD for name in there)
    for demand in demands:
        if demand.replicas > demand.per_node * nodes:
            yield Problem(
                (*demand.path, "max_replicas_per_node"),
                f"{demand.per_node:g}, but there are {demand.replicas} replicas, and {where} has {nodes} nodes;"
                " raise it, or lower num_replicas",
            )


def _of_machine(needs_gpus: bool) -> Supply:
    # Ray's own detection, as `ray.init` will: cgroup limits, CUDA_VISIBLE_DEVICES, the memory that is free now.
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    here = ResourceAndLabelSpec(num_gpus=None if needs_gpus else 0).resolve(is_head=True)
    return _counted("this machine", here.to_resource_dict())  # type: ignore[no-untyped-call]


def _of_cluster(address: str) -> Supply:
    host, _, port = address.rpartition("/")[2].rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    import ray  # after that, as a dead cluster needs none

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()
    return _counted(f"the Ray cluster at {address}", total)


def _counted(where: str, total: Mapping[str, float]) -> Supply:
    """From Ray's own account, which leaves out what there is none of."""
    return Supply(where, total.get("CPU", 0), total.get("GPU", 0), total.get("memory", 0), total)


def _sum(demands: Sequence[Demand], each: Callable[[Demand], str]) -> str:
    return ", ".join(f"{demand.name} {demand.replicas} x {each(demand)}" for demand in demands)
