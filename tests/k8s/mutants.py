"""Wrong manifests: one thing broken in an overlay that is right, and who must notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from tests.k8s.manifests import Doc, Manifests, build
from tests.k8s.rules import Rule, access, operator, uptime

Change = Callable[[Any], Any]
Step = str | int


class Gone:
    """Stands for a key that is taken out."""


class Mutant(NamedTuple):
    """The value at a path; where it starts: serve, head, worker, cluster, or the kind, and name, of a document."""

    found_by: Rule | str
    where: str
    path: tuple[Step, ...]
    value: object = Gone
    overlay: str = "prod-gpu"

    def __str__(self) -> str:
        by = self.found_by if isinstance(self.found_by, str) else self.found_by.__name__
        value = "gone" if self.value is Gone else str(self.value)
        return f"{by}: {self.where}.{'.'.join(map(str, self.path))} {value}"[:100]


POD = ("template", "spec")
CONTAINER = (*POD, "containers", 0)
LIMITS = (*CONTAINER, "resources", "limits")
META = ("template", "metadata")
INGRESS = ("applications", 0, "deployments", 0)
CLASSIFIER = ("applications", 0, "deployments", 1)
ARGS = ("applications", 0, "args")
SERVICE = "RayService nli"
ROLE = "Role nli-autoscaler"
DRAIN = (*CONTAINER, "env", 0, "value")

BREAK_A_RULE = (
    Mutant(operator.name, SERVICE, ("metadata", "name"), "n" * 48),
    Mutant(operator.name, SERVICE, ("metadata", "name"), "1nli"),
    Mutant(operator.ray_containers, "head", (*CONTAINER, "name"), "sidecar"),
    Mutant(operator.ray_containers, "worker", (*POD, "containers"), [{"name": "sidecar"}, {"name": "ray-worker"}]),
    Mutant(operator.resources_once, "head", ("resources",), {"CPU": "1"}),
    Mutant(operator.resources_once, "worker", ("rayStartParams", "labels"), "a=b"),
    Mutant(operator.worker_bounds, "worker", ("minReplicas",), 5),
    Mutant(operator.worker_bounds, "worker", ("minReplicas",), -1),
    Mutant(operator.worker_bounds, "worker", ("maxReplicas",)),
    Mutant(operator.worker_bounds, "worker", ("replicas",), 2),
    Mutant(operator.autoscaler, "cluster", ("autoscalerOptions", "version")),
    Mutant(operator.autoscaler, "cluster", ("autoscalerOptions", "version"), "v1"),
    Mutant(operator.autoscaler, "cluster", ("enableInTreeAutoscaling",), False),
    Mutant(operator.autoscaler, "cluster", ("autoscalerOptions", "idleTimeoutSeconds"), 60),
    Mutant(operator.autoscaler, "worker", (*POD, "restartPolicy"), "Always"),
    Mutant(operator.autoscaler, "head", (*CONTAINER, "env", 0), {"name": "RAY_enable_autoscaler_v2", "value": "1"}),
    Mutant(operator.token, "cluster", ("authOptions",)),
    Mutant(operator.token, "cluster", ("authOptions", "mode"), "disabled"),
    Mutant(operator.token, "cluster", ("authOptions", "enableK8sTokenAuth"), True),
    Mutant(operator.token, "cluster", ("rayVersion",)),
    Mutant(operator.token, "cluster", ("rayVersion",), "2.51.0"),
    Mutant(operator.gcs_state, "head", (*CONTAINER, "env", 0), {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}),
    Mutant(operator.gcs_state, "cluster", ("gcsFaultToleranceOptions", "redisPassword"), {"value": "secret"}),
    Mutant(operator.gcs_state, "cluster", ("gcsFaultToleranceOptions", "externalStorageNamespace"), "nli"),
    Mutant(operator.gcs_state, SERVICE, ("metadata", "annotations"), {"ray.io/ft-enabled": "true"}),
    Mutant(operator.upgrades, SERVICE, ("spec", "upgradeStrategy", "type"), "RollingUpdate"),
    Mutant(operator.upgrades, SERVICE, ("spec", "upgradeStrategy")),
    Mutant(operator.upgrades, SERVICE, ("spec", "deploymentUnhealthySecondThreshold"), 300),
    Mutant(operator.upgrades, "cluster", ("upgradeStrategy",), {"type": "Recreate"}),
    Mutant(operator.upgrades, "head", ("headService",), {"name": "mine"}),
    Mutant(operator.head_ports, "head", (*CONTAINER, "ports", 2, "name"), "http"),
    Mutant(operator.head_ports, "head", (*CONTAINER, "ports", 1)),
    Mutant(operator.head_ports, "head", (*CONTAINER, "ports", 0), {"name": "client", "containerPort": 10001}),
    Mutant(operator.accounts, "head", (*POD, "serviceAccountName"), "nli-haed"),
    Mutant(operator.accounts, "worker", (*POD, "serviceAccountName")),
    Mutant(operator.accounts, "worker", (*POD, "automountServiceAccountToken"), True),
    Mutant(operator.accounts, ROLE, ("rules", 0, "verbs"), ["get", "list", "watch"]),
    Mutant(operator.accounts, ROLE, ("rules", 0, "verbs"), ["*"]),
    Mutant(operator.accounts, "RoleBinding nli-autoscaler", ("subjects", 0, "name"), "nli-worker"),
    Mutant(uptime.head_serves_nothing, "head", ("rayStartParams", "num-cpus")),
    Mutant(uptime.head_serves_nothing, SERVICE, ("spec", "excludeHeadPodFromServeSvc")),
    Mutant(uptime.head_serves_nothing, "serve", ("proxy_location",), "HeadOnly"),
    Mutant(uptime.grace, "worker", (*POD, "terminationGracePeriodSeconds")),
    Mutant(uptime.grace, "worker", (*POD, "terminationGracePeriodSeconds"), 80),
    Mutant(uptime.grace, "head", (*POD, "terminationGracePeriodSeconds"), 60),
    Mutant(uptime.grace, "worker", (*CONTAINER, "lifecycle")),
    Mutant(uptime.grace, "worker", (*CONTAINER, "env")),
    Mutant(uptime.grace, "worker", DRAIN, "45"),
    Mutant(uptime.grace, "worker", DRAIN, "0"),
    Mutant(uptime.grace, "worker", (*CONTAINER, "env", 1, "value"), "60"),
    Mutant(uptime.grace, "serve", (*INGRESS, "graceful_shutdown_timeout_s"), 4),
    Mutant(uptime.grace, "serve", (*CLASSIFIER, "graceful_shutdown_timeout_s"), 60),
    Mutant(uptime.grace, "serve", (*ARGS, "deadline", "max_s"), 45),
    Mutant(uptime.grace, SERVICE, ("spec", "rayClusterDeletionDelaySeconds")),
    Mutant(uptime.enough_of_each, "worker", ("minReplicas",), 1),
    Mutant(uptime.enough_of_each, "serve", (*INGRESS, "num_replicas"), 1),
    Mutant(uptime.enough_of_each, "serve", (*CLASSIFIER, "autoscaling_config", "min_replicas"), 1, "cpu"),
    Mutant(uptime.enough_of_each, "PodDisruptionBudget nli-worker", ("spec", "minAvailable"), "50%"),
    Mutant(uptime.enough_of_each, "PodDisruptionBudget nli-worker", ("spec", "minAvailable"), 2),
    Mutant(
        uptime.enough_of_each,
        "PodDisruptionBudget nli-worker",
        ("spec",),
        {"maxUnavailable": 1, "selector": {"matchLabels": {}}},
    ),
    Mutant(
        uptime.enough_of_each, "PodDisruptionBudget nli-worker", ("spec", "selector", "matchLabels"), {"app": "nli"}
    ),
    Mutant(uptime.resources, "worker", (*LIMITS, "memory"), "8Gi"),
    Mutant(uptime.resources, "worker", (*LIMITS, "nvidia.com/gpu"), 2),
    Mutant(uptime.resources, "head", (*CONTAINER, "resources", "requests", "cpu"), "1"),
    Mutant(uptime.resources, "cluster", ("autoscalerOptions", "resources")),
    Mutant(
        uptime.resources,
        "head",
        (*CONTAINER, "resources"),
        {key: {"cpu": "1", "memory": "2Gi"} for key in ("requests", "limits")},
    ),
    Mutant(uptime.resources, "worker", ("rayStartParams", "object-store-memory")),
    Mutant(uptime.spread, "worker", (*POD, "topologySpreadConstraints")),
    Mutant(uptime.spread, "worker", (*POD, "topologySpreadConstraints", 0, "matchLabelKeys")),
    Mutant(uptime.spread, "worker", (*META, "labels", "nli-serve/role"), "wroker"),
    Mutant(uptime.priority, "worker", (*POD, "priorityClassName"), "nli-sreve"),
    Mutant(uptime.priority, "head", (*META, "annotations")),
    Mutant(uptime.fits, "worker", (*LIMITS, "cpu"), "2"),
    Mutant(uptime.fits, "worker", ("maxReplicas",), 3),
    Mutant(uptime.fits, "serve", (*CLASSIFIER, "ray_actor_options", "num_cpus"), 3.6, "cpu"),
    Mutant(uptime.fits, "serve", (*CLASSIFIER, "ray_actor_options", "num_gpus"), 1),
    Mutant(uptime.fits, "serve", (*CLASSIFIER, "autoscaling_config", "max_replicas"), 9),
    Mutant(uptime.fits, "serve", (*INGRESS, "num_replicas"), 5),
    Mutant(uptime.every_worker_serves, "worker", ("minReplicas",), 4),
    Mutant(uptime.every_worker_serves, "worker", ("minReplicas",), 3, "cpu"),
    Mutant(uptime.roll_outs, "serve", (*INGRESS, "max_surge_percent"), 0, "dev"),
    Mutant(uptime.roll_outs, "serve", (*CLASSIFIER, "max_surge_percent"), 100),
    Mutant(uptime.roll_outs, "serve", (*CLASSIFIER, "max_replicas_per_node"), 1, "dev"),
    Mutant(uptime.threads, "serve", (*ARGS, "model", "threads")),
    Mutant(uptime.threads, "serve", (*ARGS, "model", "threads"), 4, "cpu"),
    Mutant(uptime.scaling, "serve", (*CLASSIFIER, "autoscaling_config", "target_ongoing_requests")),
    Mutant(uptime.scaling, "serve", (*CLASSIFIER, "autoscaling_config", "min_replicas"), 9),
    Mutant(uptime.gpus, "serve", (*CLASSIFIER, "ray_actor_options", "num_gpus"), 0.6),
    Mutant(uptime.gpus, "serve", (*CLASSIFIER, "ray_actor_options", "num_gpus"), 0),
    Mutant(uptime.gpus, "serve", (*CLASSIFIER, "ray_actor_options", "num_gpus"), 0.25, "cpu"),
    Mutant(uptime.gpus, "serve", (*ARGS, "model", "device"), "auto"),
    Mutant(uptime.gpus, "worker", (*LIMITS, "nvidia.com/gpu")),
    Mutant(uptime.gpus, "worker", (*POD, "tolerations")),
    Mutant(uptime.gpus, "worker", (*POD, "nodeSelector")),
    Mutant(access.pod_security, "Namespace nli", ("metadata", "labels")),
    Mutant(access.pod_security, "head", (*POD, "securityContext", "runAsUser"), 0),
    Mutant(access.pod_security, "worker", (*CONTAINER, "securityContext")),
    Mutant(access.pod_security, "cluster", ("autoscalerOptions", "securityContext")),
    Mutant(access.network, "NetworkPolicy default-deny", ("spec", "policyTypes"), ["Egress"]),
    Mutant(access.network, "NetworkPolicy operator", ("spec", "ingress", 0, "ports", 0, "port"), 8000),
    Mutant(access.network, "NetworkPolicy operator", ("spec", "podSelector"), {}),
    Mutant(access.network, "NetworkPolicy callers", ("spec", "ingress", 0, "ports")),
    Mutant(access.network, "NetworkPolicy callers", ("spec", "ingress", 0, "from")),
    Mutant(access.network, "NetworkPolicy callers", ("spec", "ingress", 0, "from", 0), {"podSelector": {}}),
    Mutant(access.network, "NetworkPolicy ray-cluster", ("spec", "ingress", 0, "from", 0), {"namespaceSelector": {}}),
    Mutant(access.network, "NetworkPolicy ray-cluster", ("spec", "egress")),
    Mutant(access.network, "NetworkPolicy prometheus", ("spec", "ingress", 0, "ports", 0, "port"), 9090),
    Mutant(access.network, "NetworkPolicy dns", ("spec", "egress", 0, "ports", 0)),
    Mutant(access.network, "NetworkPolicy api-server", ("spec", "podSelector"), {}),
    Mutant(access.network, "NetworkPolicy redis", ("spec", "podSelector", "matchLabels"), {"nli-serve/role": "worker"}),
    Mutant(access.only_8000, "head", ("serviceType",), "LoadBalancer"),
    Mutant(access.only_8000, "head", ("serviceType",)),
    Mutant(access.only_8000, SERVICE, ("spec", "serveService"), {"spec": {"type": "NodePort"}}),
    Mutant(access.only_8000, "serve", ("http_options", "host"), "127.0.0.1"),
    Mutant(access.only_8000, "HTTPRoute nli", ("spec", "rules", 0, "backendRefs", 0, "port"), 8265),
    Mutant(access.only_8000, "HTTPRoute nli", ("spec", "rules", 0, "backendRefs", 0, "name"), "nli-head-svc"),
    Mutant(access.only_8000, "HTTPRoute nli", ("spec", "rules", 0, "matches", 0, "path", "value"), "/"),
    Mutant(access.only_8000, "PriorityClass nli-serve", ("kind",), "Service"),
    Mutant(access.route, "HTTPRoute nli", ("spec", "hostnames"), ["nli.example.org"]),
    Mutant(access.route, "HTTPRoute nli", ("spec", "rules", 0, "timeouts", "request"), "30s"),
    Mutant(access.route, "serve", (*ARGS, "allowed_hosts"), ["nli.example.com"]),
    Mutant(access.keys, "serve", (*ARGS, "auth"), "off"),
    Mutant(access.keys, "serve", (*ARGS, "keys_file"), "/etc/nli/key.json"),
    Mutant(access.keys, "serve", (*ARGS, "keys_file"), "/etc/keys.json"),
    Mutant(access.keys, "worker", (*CONTAINER, "volumeMounts", 0, "subPath"), "keys.json"),
    Mutant(access.keys, "worker", (*CONTAINER, "volumeMounts", 0, "readOnly")),
    Mutant(access.keys, "worker", (*POD, "volumes", 0), {"name": "keys", "emptyDir": {}}),
    Mutant(access.keys, "worker", (*POD, "volumes", 0, "secret", "optional"), True),
    Mutant(access.keys, "worker", (*POD, "volumes", 0, "secret", "defaultMode"), 0o444),
    Mutant(access.volumes, "worker", (*POD, "volumes")),
    Mutant(access.volumes, "worker", (*CONTAINER, "volumeMounts")),
    Mutant(access.no_secrets, "PriorityClass nli-serve", ("kind",), "Secret"),
    Mutant(access.one_namespace, "NetworkPolicy dns", ("metadata", "namespace"), "default"),
    Mutant(access.one_image, "head", (*CONTAINER, "image"), "registry.example.com/nli-serve:0.1.0-cpu"),
    Mutant(access.one_image, "worker", (*CONTAINER, "image"), "registry.example.com/nli-serve:latest"),
    Mutant(access.one_image, "worker", (*CONTAINER, "image"), "nli-serve"),
    Mutant(access.the_named_model, "serve", (*ARGS, "model", "fallback"), "embedded"),
    Mutant(access.the_named_model, "serve", (*INGRESS, "max_queued_requests"), -1),
)

# What the shape alone gives away: by the list of keys, the CRDs, or the schemas of Kubernetes.
MISSHAPEN = (
    Mutant("keys", SERVICE, ("spec", "excludeHeadPodFromServeService"), True),
    Mutant("keys", SERVICE, ("sepc",), {}),
    Mutant("keys", SERVICE, ("metadata", "label"), {}),
    Mutant("keys", "cluster", ("rayversion",), "2.60.0"),
    Mutant("keys", "cluster", ("enableInTreeAutoScaling",), True),
    Mutant("keys", "cluster", ("autoscalerOptions", "idleTimeoutSecond"), 300),
    Mutant("keys", "cluster", ("authOptions", "token"), "abc"),
    Mutant("keys", "cluster", ("gcsFaultToleranceOptions", "redisAdress"), "redis:6379"),
    Mutant("keys", "head", ("servicetype",), "ClusterIP"),
    Mutant("keys", "worker", ("minReplica",), 2),
    Mutant("keys", "head", ("rayStartParams", "num_cpus"), "0"),
    Mutant("crds", "worker", ("minReplicas",), "2"),
    Mutant("crds", "worker", ("minReplicas",)),
    Mutant("crds", "worker", ("groupName",)),
    Mutant("crds", "worker", ("template",)),
    Mutant("crds", "head", ("rayStartParams", "num-cpus"), 0),
    Mutant("crds", "cluster", ("authOptions", "mode"), "Token"),
    Mutant("crds", "cluster", ("autoscalerOptions", "version"), "v3"),
    Mutant("crds", "cluster", ("rayVersion",), 2.6),
    Mutant("crds", SERVICE, ("spec", "rayClusterDeletionDelaySeconds"), -1),
    Mutant("crds", SERVICE, ("spec", "serveConfigV2"), {}),
    Mutant("crds", "HTTPRoute nli", ("spec", "rules", 0, "backendRefs", 0, "prot"), 8000),
    Mutant("crds", "HTTPRoute nli", ("spec", "rules", 0, "timeouts", "request"), "45 seconds"),
    Mutant("crds", "HTTPRoute nli", ("spec", "rules", 0, "matches", 0, "path", "type"), "Prefix"),
    Mutant("crds", "HTTPRoute nli", ("metadata", "lables"), {}),
    Mutant("core", "worker", (*CONTAINER, "volumeMount"), []),
    Mutant("core", "worker", (*CONTAINER, "imagePullpolicy"), "Always"),
    Mutant("core", "worker", (*POD, "terminationGracePeriodSecond"), 90),
    Mutant("core", "worker", (*POD, "terminationGracePeriodSeconds"), "90"),
    Mutant("core", "head", (*CONTAINER, "ports", 0, "containerPort"), "6379"),
    Mutant("core", "head", (*CONTAINER, "name")),
    Mutant("core", "worker", (*POD, "topologySpreadConstraints", 0, "maxSkew")),
    Mutant("core", "NetworkPolicy callers", ("spec", "ingres"), []),
    Mutant("core", "NetworkPolicy dns", ("spec", "podSelectors"), {}),
    Mutant("core", "PodDisruptionBudget nli-worker", ("spec", "minAvailabel"), 1),
    Mutant("core", "PriorityClass nli-serve", ("value",), "high"),
    Mutant("core", ROLE, ("rules", 0, "verb"), ["get"]),
    Mutant("core", "ServiceAccount nli-worker", ("automountServiceAccountToken",), "false"),
    Mutant("core", "Namespace nli", ("kind",), "Namespaze"),
)


def broken(mutant: Mutant) -> Manifests:
    """The overlay with this one thing broken."""
    manifests = build(mutant.overlay)
    if mutant.where == "serve":
        serve = manifests.serve
        _put(serve, mutant.path, mutant.value)
        manifests.service["spec"]["serveConfigV2"] = yaml.safe_dump(serve)
    else:
        _put(_start(manifests, mutant.where), mutant.path, mutant.value)
    return manifests


def _start(manifests: Manifests, where: str) -> Doc:
    if where in ("head", "worker"):
        return manifests.groups[where]
    if where == "cluster":
        return manifests.cluster
    found = manifests.named(*where.split())
    assert found is not None, where
    return found


def _put(holder: Any, path: tuple[Step, ...], value: object) -> None:
    for step in path[:-1]:
        holder = holder[step]
    if value is Gone:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
