"""What keeps the service up: through drains, roll-outs, upgrades and the end of a node."""

from __future__ import annotations

import math
from collections.abc import Iterator

from clients.commands.capacity import Demand
from deployments.runtime.joiner import MIN_CALLS
from tests.k8s.manifests import PRODUCTION, Doc, Manifests, amount, env, replicas, supply

KEEP_ALIVE_S = 90  # Serve's default of http_options.keep_alive_timeout_s
FAST_DRAIN_S = 45  # docs/operations.md: graceful_shutdown_timeout_s where roll-outs happen under load
SHUTDOWN_S = 15  # for Ray to end its processes after the drain
LEAST_HEAD_BYTES = 4 * 2**30  # the head keeps the cluster's history, and grows: ray-project/ray#63118
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
MIN_DRAINING = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"


def head_serves_nothing(manifests: Manifests) -> Iterator[str]:
    """So its end ends no request: kuberay#1153."""
    if manifests.head["rayStartParams"].get("num-cpus") != "0":
        yield "replicas may run on the head"
    if manifests.service["spec"].get("excludeHeadPodFromServeSvc") is not True:
        yield "the head gets requests"
    if manifests.serve["proxy_location"] != "EveryNode":
        yield "workers without a proxy stay NotReady"


def grace(manifests: Manifests) -> Iterator[str]:
    """Each wait outlasts the one inside it, up to the kill by Kubernetes."""
    deadline = manifests.args["deadline"]["max_s"]
    for role, group in manifests.groups.items():
        spec, said = group["template"]["spec"], env(group)
        kill = spec.get("terminationGracePeriodSeconds", 30)
        drain = float(said.get(DRAIN, 0))
        if kill < _pre_stop(spec) + drain + SHUTDOWN_S:
            yield f"{role}: killed after {kill} s, while it drains"
        for called, deployment in manifests.deployments.items():
            ends = deployment["graceful_shutdown_timeout_s"]
            if not max(deadline, float(said.get(MIN_DRAINING, math.inf)), FAST_DRAIN_S - 1) < ends < drain:
                yield f"{role}: {called} ends its requests in {ends} s, of a drain of {drain:g} s"
    if _pre_stop(manifests.group["template"]["spec"]) < 5:
        yield "workers stop before all have heard that they are no endpoint any more"
    if manifests.service["spec"].get("rayClusterDeletionDelaySeconds", 60) < KEEP_ALIVE_S + deadline:
        yield "the old cluster of an upgrade goes while callers keep connections to it"


def enough_of_each(manifests: Manifests) -> Iterator[str]:
    """Two of each in production, one of which a budget keeps."""
    if manifests.overlay not in PRODUCTION:
        return
    least = manifests.group["minReplicas"]
    if least < 2:
        yield f"{least} worker"
    yield from (f"{called}: one replica" for called, each in manifests.deployments.items() if replicas(each)[0] < 2)
    labels = manifests.group["template"]["metadata"]["labels"]
    budgets = [doc["spec"] for doc in manifests.of("PodDisruptionBudget")]
    if len(budgets) != 1 or not budgets[0]["selector"]["matchLabels"].items() <= labels.items():
        yield "no one budget is about the workers"
    elif not (isinstance(kept := budgets[0].get("minAvailable"), int) and 0 < kept < least):
        yield f"minAvailable is {kept}, no integer below minReplicas (RayCluster has no scale subresource)"


def resources(manifests: Manifests) -> Iterator[str]:
    """Requests are limits: KubeRay tells Ray the limits, and the node keeps only the requests."""
    for called, container in manifests.containers:
        asked = container.get("resources", {})
        if asked.get("requests") != asked.get("limits") or not {"cpu", "memory"} <= asked.get("limits", {}).keys():
            yield f"{called}: its requests are not its limits"
    if amount(manifests.head["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]) < LEAST_HEAD_BYTES:
        yield "the head has less than 4 GiB"
    for role, group in manifests.groups.items():
        store = float(group["rayStartParams"].get("object-store-memory", math.inf))
        if store > amount(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]) / 8:
            yield f"{role}: the object store takes more than an eighth of the memory"


def spread(manifests: Manifests) -> Iterator[str]:
    """Over nodes, each cluster of an upgrade for itself."""
    template = manifests.group["template"]
    constraints = {each["topologyKey"]: each for each in template["spec"].get("topologySpreadConstraints", [])}
    if "kubernetes.io/hostname" not in constraints:
        yield "all workers may be on one node"
    for each in constraints.values():
        if each.get("matchLabelKeys") != ["ray.io/cluster"]:
            yield "the old and the new cluster disturb each other"
        if not each["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items():
            yield "the spread is not about the workers"


def priority(manifests: Manifests) -> Iterator[str]:
    """Of both, by a class that is there."""
    for role, group in manifests.groups.items():
        called = group["template"]["spec"].get("priorityClassName")
        if manifests.named("PriorityClass", called) is None:
            yield f"{role}: there is no PriorityClass {called}"
    annotations = manifests.head["template"]["metadata"].get("annotations", {})
    if annotations.get("cluster-autoscaler.kubernetes.io/safe-to-evict") != "false":
        yield "the head may be moved to save a node"


def fits(manifests: Manifests) -> Iterator[str]:
    """All replicas at their most on all workers at their most, and those of one worker on it."""
    most = manifests.group["maxReplicas"]
    cpus, gpus = supply(manifests)
    demands = [_demand(called, each, replicas(each)[1]) for called, each in manifests.deployments.items()]
    here = [_demand(called, each, each["max_replicas_per_node"]) for called, each in manifests.deployments.items()]
    if sum(each.total_cpus for each in demands) > most * cpus:
        yield "the replicas ask for more CPUs than the workers have at their most"
    if sum(each.total_gpus for each in demands) > most * gpus:
        yield "the replicas ask for more GPUs than the workers have at their most"
    if sum(each.total_cpus for each in here) > cpus or sum(each.total_gpus for each in here) > gpus:
        yield "the replicas that may share a worker do not fit on it"
    for called, each in manifests.deployments.items():
        if replicas(each)[1] > most * each["max_replicas_per_node"]:
            yield f"{called}: at its most it finds no node"


def every_worker_serves(manifests: Manifests) -> Iterator[str]:
    """A worker without a replica has no proxy, and is NotReady for ever."""
    least = manifests.group["minReplicas"]
    if all(replicas(each)[0] <= (least - 1) * each["max_replicas_per_node"] for each in manifests.deployments.values()):
        yield f"{least} workers, and the fewest replicas need not reach all of them"


def roll_outs(manifests: Manifests) -> Iterator[str]:
    """A new replica finds room beside the old ones, or an old one goes first and others are left."""
    for called, each in manifests.deployments.items():
        least, most = replicas(each)
        surge = each["max_surge_percent"]
        if surge == 0 and least < 2:
            yield f"{called}: nobody answers during a roll-out"
        if surge > 0 and most * (1 + surge / 100) > manifests.group["maxReplicas"] * each["max_replicas_per_node"]:
            yield f"{called}: a roll-out finds no room for the new replicas, and stands still"


def threads(manifests: Manifests) -> Iterator[str]:
    """As Ray sets OMP_NUM_THREADS; left out, a replica would use every core of its node."""
    wanted = max(1, int(manifests.deployments["Classifier"]["ray_actor_options"]["num_cpus"]))
    if manifests.args["model"].get("threads") != wanted:
        yield f"args.model.threads is not {wanted}, the Classifier's CPUs"


def scaling(manifests: Manifests) -> Iterator[str]:
    """More replicas when calls wait: each Ingress has so many under way before it holds any back."""
    least, most = replicas(manifests.deployments["Classifier"])
    target = manifests.deployments["Classifier"].get("autoscaling_config", {}).get("target_ongoing_requests")
    if least > most or target != 2 * MIN_CALLS:
        yield "the Classifier does not follow what waits"


def gpus(manifests: Manifests) -> Iterator[str]:
    """A fraction of a GPU is 1/n, on a worker that has one and is let near it; without GPUs nothing is asked."""
    classifier = manifests.deployments["Classifier"]["ray_actor_options"]
    share, device = classifier["num_gpus"], manifests.args["model"]["device"]
    spec = manifests.group["template"]["spec"]
    has = "nvidia.com/gpu" in spec["containers"][0]["resources"]["limits"]
    if has != (share > 0) or device != ("cuda" if has else "cpu"):
        yield f"num_gpus {share:g} and device {device}, on workers {'with' if has else 'without'} a GPU"
    if share and not (1 / share).is_integer():
        yield f"{share:g} of a GPU leaves a rest that nobody can use"
    if has and ("nvidia.com/gpu.present" not in spec.get("nodeSelector", {}) or not _tolerates_gpus(spec)):
        yield "workers with a GPU find no node with one"


def _demand(called: str, deployment: Doc, replicas: int) -> Demand:
    asked = deployment["ray_actor_options"]
    return Demand((), called, replicas, asked["num_cpus"], asked.get("num_gpus", 0))


def _pre_stop(spec: Doc) -> float:
    command = (
        spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    )
    assert command[0] == "sleep", "`ray stop` would end the replicas before their requests"
    return float(command[1])


def _tolerates_gpus(spec: Doc) -> bool:
    return any(each["key"] == "nvidia.com/gpu" for each in spec.get("tolerations", []))


RULES = (
    head_serves_nothing,
    grace,
    enough_of_each,
    resources,
    spread,
    priority,
    fits,
    every_worker_serves,
    roll_outs,
    threads,
    scaling,
    gpus,
)
