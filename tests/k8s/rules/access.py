"""What keeps the service closed: who reaches it, as whom it runs, and what it answers with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.k8s.manifests import NAMESPACE, Doc, Manifests
from tests.k8s.network import Pod, passes

CLUSTER_SCOPED = {"Namespace", "PriorityClass"}
UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
IDENTITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,  # of Ray's images
    "runAsGroup": 100,
    "fsGroup": 100,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_security(manifests: Manifests) -> Iterator[str]:
    """The restricted standard, which the namespace enforces, also for the autoscaler's container."""
    labels = manifests.of("Namespace")[0]["metadata"].get("labels", {})
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce the restricted standard"
    for role, group in manifests.groups.items():
        if group["template"]["spec"].get("securityContext") != IDENTITY:
            yield f"{role}: not the user of the image"
    for called, container in manifests.containers:
        if container.get("securityContext") != UNPRIVILEGED:
            yield f"{called}: may gain privileges"


def network(manifests: Manifests) -> Iterator[str]:
    """Who reaches whom: what is needed, and nothing else."""
    policies = manifests.of("NetworkPolicy")
    roles = {role: Pod(group["template"]["metadata"]["labels"]) for role, group in manifests.groups.items()}
    head, worker = roles["head"], roles["worker"]
    operator = Pod({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-system")
    caller = Pod({}, "shop", {"nli-serve/caller": "true"})
    prometheus = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")
    dns = Pod({"k8s-app": "kube-dns"}, "kube-system")
    api, redis, stranger = Pod({}, "default"), Pod({}, "redis"), Pod({}, "elsewhere")
    needs_redis = "gcsFaultToleranceOptions" in manifests.cluster
    for what, source, target, port, wanted in (
        ("the operator puts the config", operator, head, 8265, True),
        ("the operator runs no code on workers", operator, worker, 8265, False),
        ("callers ask", caller, worker, 8000, True),
        ("callers do not ask the head", caller, head, 8000, False),
        ("callers do not reach the dashboard", caller, head, 8265, False),
        ("callers do not reach replicas", caller, worker, 30000, False),
        ("HAProxy's statistics are closed", caller, worker, 8404, False),
        ("Prometheus reads the head", prometheus, head, 8080, True),
        ("Prometheus reads workers", prometheus, worker, 8080, True),
        ("Prometheus reads nothing else", prometheus, head, 8265, False),
        ("workers join the head", worker, head, 6379, True),
        ("the head tells workers", head, worker, 10002, True),
        ("workers speak to workers", worker, Pod(worker.labels), 30000, True),
        ("others in the namespace are strangers", Pod(), head, 8265, False),
        ("nothing else in the namespace is asked", caller, Pod(), 8000, False),
        ("strangers do not ask", stranger, worker, 8000, False),
        ("strangers do not reach the dashboard", stranger, head, 8265, False),
        ("the autoscaler asks for pods", head, api, 443, True),
        ("workers do not reach the API server", worker, api, 443, False),
        ("workers send nothing out", worker, stranger, 80, False),
        ("the head keeps its state in Redis", head, redis, 6379, needs_redis),
        ("workers do not reach Redis", worker, redis, 6379, False),
    ):
        if passes(policies, source, target, port) != wanted:
            yield f"{what}: does not hold"
    if not all(passes(policies, pod, dns, 53, protocol) for pod in (head, worker) for protocol in ("UDP", "TCP")):
        yield "names are not resolved"


def only_8000(manifests: Manifests) -> Iterator[str]:
    """No Service of ours, nor a Service of the operator's that leaves the cluster; routes only to 8000."""
    for kind in ("Service", "Ingress", "Gateway"):
        yield from (f"a {kind}: {doc['metadata']['name']}" for doc in manifests.of(kind))
    if manifests.head.get("serviceType") != "ClusterIP" or "serveService" in manifests.service["spec"]:
        yield "Ray's Services leave the cluster"
    http = manifests.serve["http_options"]
    if (http["host"], http["port"]) != ("0.0.0.0", 8000):
        yield "the service is not where the policies open the door"
    for route in manifests.of("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            if rule["backendRefs"] != [{"name": f"{manifests.service['metadata']['name']}-serve-svc", "port": 8000}]:
                yield "a route to something else"
            if not all(
                match["path"]["value"].startswith(("/v1", "/healthz", "/readyz", "/openapi"))
                for match in rule["matches"]
            ):
                yield "a route to what is not for callers"


def route(manifests: Manifests) -> Iterator[str]:
    """Its name is one that the service answers to, and it waits longer than the service does."""
    hosts = manifests.args["allowed_hosts"]
    service = f"{manifests.service['metadata']['name']}-serve-svc"
    for host in (
        service,
        f"{service}.{NAMESPACE}",
        f"{service}.{NAMESPACE}.svc",
        f"{service}.{NAMESPACE}.svc.cluster.local",
    ):
        if host not in hosts:
            yield f"{host} gets a 403"
    for route in manifests.of("HTTPRoute"):
        yield from (f"{host} gets a 403" for host in route["spec"]["hostnames"] if host not in hosts)
        for rule in route["spec"]["rules"]:
            if float(rule["timeouts"]["request"].removesuffix("s")) <= manifests.args["deadline"]["max_s"]:
                yield "the gateway gives up before the service says that it was too slow"


def keys(manifests: Manifests) -> Iterator[str]:
    """Callers need a key; the file is a Secret's, in a folder (a subPath never changes), readable by the group."""
    args = manifests.args
    if args["auth"] != "required":
        yield "callers need no key"
    spec = manifests.group["template"]["spec"]
    mounts = {mount["mountPath"]: mount for mount in spec["containers"][0].get("volumeMounts", [])}
    file = Path(args["keys_file"])
    mount = mounts.get(str(file.parent), {})
    volume: Doc = next((each for each in spec.get("volumes", []) if each["name"] == mount.get("name")), {})
    secret = volume.get("secret", {})
    if file.name not in {item["path"] for item in secret.get("items", [])} or secret.get("optional"):
        yield f"no Secret brings {file}"
    if "subPath" in mount or not mount.get("readOnly"):
        yield "a changed key would never arrive, or could be changed by a replica"
    if secret.get("defaultMode") != 0o440:
        yield "the key file is not for user and group alone"


def volumes(manifests: Manifests) -> Iterator[str]:
    """Every mount has a volume, every volume a mount."""
    for role, group in manifests.groups.items():
        spec = group["template"]["spec"]
        mounted = {mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", [])}
        there = {volume["name"] for volume in spec.get("volumes", [])}
        yield from (f"{role}: {each} is not both mounted and there" for each in mounted ^ there)


def no_secrets(manifests: Manifests) -> Iterator[str]:
    """They are made on the cluster, never from this repository."""
    yield from (f"a Secret: {doc['metadata']['name']}" for doc in manifests.of("Secret"))


def one_namespace(manifests: Manifests) -> Iterator[str]:
    for doc in manifests.docs:
        if doc["kind"] not in CLUSTER_SCOPED and doc["metadata"].get("namespace") != NAMESPACE:
            yield f"{doc['kind']} {doc['metadata']['name']} is elsewhere"


def one_image(manifests: Manifests) -> Iterator[str]:
    """The graph is built on the head, and the model looked for there; so both have it."""
    images = {each["image"] for group in manifests.groups.values() for each in group["template"]["spec"]["containers"]}
    if len(images) != 1:
        yield f"different images: {sorted(images)}"
    for image in images:
        if not re.fullmatch(r"[^:@]+(:\d+\.\d+\.\d+-(cpu|gpu)|@sha256:[0-9a-f]{64})", image):
            yield f"{image} has no version"


def the_named_model(manifests: Manifests) -> Iterator[str]:
    """Or nothing: an answer from another model is no answer."""
    if manifests.args["model"].get("fallback") is not None:
        yield "another model may answer"
    if not all(each.get("max_queued_requests", -1) > 0 for each in manifests.deployments.values()):
        yield "a queue without an end"


RULES = (
    pod_security,
    network,
    only_8000,
    route,
    keys,
    volumes,
    no_secrets,
    one_namespace,
    one_image,
    the_named_model,
)
