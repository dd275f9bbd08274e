"""The operator's own rules, those of KubeRay 1.7, `controllers/ray/utils/validation.go`, written anew.

A RayService that breaks one is accepted by the API server, and refused only when the operator reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.k8s.manifests import NAMESPACE, Doc, Manifests, env

PORTS = {"gcs-server": 6379, "dashboard": 8265, "serve": 8000}  # what the head's Service offers inside the cluster
RBAC = {("", "pods", verb) for verb in ("get", "list", "watch", "patch")} | {
    ("", "pods/resize", "patch"),
    ("ray.io", "rayclusters", "get"),
    ("ray.io", "rayclusters", "patch"),
}


def name(manifests: Manifests) -> Iterator[str]:
    """DNS-1035, and short enough for what the operator appends."""
    found = manifests.service["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", found):
        yield f"{found} cannot be the name of a RayService"


def ray_containers(manifests: Manifests) -> Iterator[str]:
    """KubeRay takes the first container for Ray's."""
    if len(manifests.cluster["workerGroupSpecs"]) != 1:
        yield "the rules know one worker group"
    for role, group in manifests.groups.items():
        first = group["template"]["spec"]["containers"][0]["name"]
        if first != f"ray-{role}":
            yield f"the first container of the {role} is {first}"


def resources_once(manifests: Manifests) -> Iterator[str]:
    """Either `rayStartParams` or `resources` of the group; labels never as a parameter."""
    for role, group in manifests.groups.items():
        params = group["rayStartParams"].keys()
        if params & {"num-cpus", "num-gpus", "memory", "resources"} and "resources" in group:
            yield f"{role}: resources of the group beside those of ray start"
        if "labels" in params:
            yield f"{role}: labels as a parameter of ray start"


def worker_bounds(manifests: Manifests) -> Iterator[str]:
    """Both said, since the CRD's own maximum is 2147483647; `replicas` is the autoscaler's."""
    group = manifests.group
    if not 0 <= group.get("minReplicas", -1) <= group.get("maxReplicas", -1):
        yield "minReplicas and maxReplicas are no bounds"
    if "replicas" in group:
        yield "replicas is set, which the autoscaler would fight"


def autoscaler(manifests: Manifests) -> Iterator[str]:
    """v2, said explicitly; it needs pods that are not restarted in place."""
    options = manifests.cluster.get("autoscalerOptions", {})
    if not manifests.cluster.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        yield "the autoscaler is not v2"
    if options.get("idleTimeoutSeconds", 0) < 300:
        yield "workers come and go in every dip"
    for role, group in manifests.groups.items():
        if group["template"]["spec"].get("restartPolicy") != "Never":
            yield f"{role}: restartPolicy is not Never"
        if "RAY_enable_autoscaler_v2" in env(group):
            yield f"{role}: the autoscaler's version is set twice"


def token(manifests: Manifests) -> Iterator[str]:
    """Whoever reaches Ray's ports can run code; KubeRay refuses enableK8sTokenAuth in a RayService."""
    options = manifests.cluster.get("authOptions", {})
    if options.get("mode") != "token" or "enableK8sTokenAuth" in options:
        yield "Ray's ports are open without a token"
    if tuple(map(int, manifests.cluster.get("rayVersion", "0").split("."))) < (2, 52, 0):
        yield "rayVersion is not said, or knows no token"


def gcs_state(manifests: Manifests) -> Iterator[str]:
    """By `gcsFaultToleranceOptions` alone, with a password from a Secret, and a storage namespace for each cluster."""
    options = manifests.cluster.get("gcsFaultToleranceOptions")
    for role, group in manifests.groups.items():
        if {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"} & env(group).keys():
            yield f"{role}: Redis by environment"
    if "ray.io/ft-enabled" in manifests.service["metadata"].get("annotations", {}):
        yield "Redis by annotation"
    if options is not None:
        if "secretKeyRef" not in options.get("redisPassword", {}).get("valueFrom", {}):
            yield "the password of Redis is not in a Secret"
        if "externalStorageNamespace" in options:
            yield "a new cluster would read the state of the old one"


def upgrades(manifests: Manifests) -> Iterator[str]:
    """The CRD takes any word as the type, and the deprecated thresholds, which do nothing."""
    spec = manifests.service["spec"]
    if spec.get("upgradeStrategy", {}).get("type") not in ("NewCluster", "None"):
        yield "upgradeStrategy.type is none that this folder supports"
    if "upgradeStrategy" in manifests.cluster or "name" in manifests.head.get("headService", {}):
        yield "a field that a RayService must leave to the operator"
    if {"serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold"} & spec.keys():
        yield "a threshold that is ignored"


def head_ports(manifests: Manifests) -> Iterator[str]:
    """By these names the operator finds them; Ray Client, 10001, is not among them."""
    listed = {
        port["name"]: port["containerPort"] for port in manifests.head["template"]["spec"]["containers"][0]["ports"]
    }
    if listed != PORTS:
        yield f"the head lists {listed}, not {PORTS}"


def accounts(manifests: Manifests) -> Iterator[str]:
    """An account that is named is not made by KubeRay, nor are its rights."""
    for role, group in manifests.groups.items():
        account = group["template"]["spec"].get("serviceAccountName")
        if manifests.named("ServiceAccount", account) is None:
            yield f"{role}: there is no ServiceAccount {account}"
    subject = {
        "kind": "ServiceAccount",
        "name": manifests.head["template"]["spec"].get("serviceAccountName"),
        "namespace": NAMESPACE,
    }
    granted = set()
    for binding in manifests.of("RoleBinding"):
        rights = manifests.named(binding["roleRef"]["kind"], binding["roleRef"]["name"])
        if rights and binding["subjects"] == [subject]:
            granted |= _granted(rights)
    if granted != RBAC:
        yield f"the autoscaler's rights differ: {sorted(granted ^ RBAC)}"
    if manifests.group["template"]["spec"].get("automountServiceAccountToken") is not False:
        yield "workers carry a token of the API server"


def _granted(role: Doc) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


RULES = (
    name,
    ray_containers,
    resources_once,
    worker_bounds,
    autoscaler,
    token,
    gcs_state,
    upgrades,
    head_ports,
    accounts,
)
