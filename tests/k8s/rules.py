"""What must hold of every overlay and no schema says: the operator's own rules, and what keeps it up and closed.

Each rule is a function from the manifests to what is wrong, one sentence each. The operator's rules are those of
KubeRay 1.7, `controllers/ray/utils/validation.go`, written anew; a RayService that breaks one is only seen to
be refused when the operator reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from clients.commands.capacity import Demand
from deployments.runtime.joiner import MIN_CALLS
from tests.k8s.manifests import NAMESPACE, PRODUCTION, Doc, Manifests, amount, replicas
from tests.k8s.network import Pod, passes

Rule = Callable[[Manifests], Iterator[str]]

KEEP_ALIVE_S = 90  # Serve's default of http_options.keep_alive_timeout_s
FAST_DRAIN_S = 45  # docs/operations.md: graceful_shutdown_timeout_s where roll-outs happen under load
SHUTDOWN_S = 15  # for Ray to end its processes after the drain
LEAST_HEAD_BYTES = 4 * 2**30  # the head keeps the cluster's history, and grows: ray-project/ray#63118
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
MIN_DRAINING = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
PORTS = {"gcs-server": 6379, "dashboard": 8265, "serve": 8000}  # what the head's Service offers inside the cluster
CLUSTER_SCOPED = {"Namespace", "PriorityClass"}
RBAC = {("", "pods", verb) for verb in ("get", "list", "watch", "patch")} | {
    ("", "pods/resize", "patch"),
    ("ray.io", "rayclusters", "get"),
    ("ray.io", "rayclusters", "patch"),
}
UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
IDENTITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,  # of Ray's images
    "runAsGroup": 100,
    "fsGroup": 100,
    "seccompProfile": {"type": "RuntimeDefault"},
}


# The operator's rules.


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
        if "RAY_enable_autoscaler_v2" in _env(group):
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
        if {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"} & _env(group).keys():
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


# It stays up.


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
        spec, env = group["template"]["spec"], _env(group)
        kill = spec.get("terminationGracePeriodSeconds", 30)
        drain = float(env.get(DRAIN, 0))
        if kill < _pre_stop(spec) + drain + SHUTDOWN_S:
            yield f"{role}: killed after {kill} s, while it drains"
        for called, deployment in manifests.deployments.items():
            ends = deployment["graceful_shutdown_timeout_s"]
            if not max(deadline, float(env.get(MIN_DRAINING, math.inf)), FAST_DRAIN_S - 1) < ends < drain:
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
    demands = [demand(called, each, replicas(each)[1]) for called, each in manifests.deployments.items()]
    here = [demand(called, each, each["max_replicas_per_node"]) for called, each in manifests.deployments.items()]
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


# It stays closed.


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


RULES: tuple[Rule, ...] = (
    *(
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
    ),
    *(head_serves_nothing, grace, enough_of_each, resources, spread, priority, fits, every_worker_serves, roll_outs),
    *(threads, scaling, gpus, pod_security, network, only_8000, route, keys, volumes, no_secrets, one_namespace),
    *(one_image, the_named_model),
)


def supply(manifests: Manifests) -> tuple[float, float]:
    """CPUs and GPUs of one worker, as KubeRay tells Ray."""
    limits = manifests.group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return math.ceil(amount(limits["cpu"])), amount(limits.get("nvidia.com/gpu", 0))


def demand(called: str, deployment: Doc, replicas: int) -> Demand:
    asked = deployment["ray_actor_options"]
    return Demand((), called, replicas, asked["num_cpus"], asked.get("num_gpus", 0))


def _env(group: Doc) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in group["template"]["spec"]["containers"][0].get("env", [])}


def _pre_stop(spec: Doc) -> float:
    command = (
        spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    )
    assert command[0] == "sleep", "`ray stop` would end the replicas before their requests"
    return float(command[1])


def _granted(role: Doc) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _tolerates_gpus(spec: Doc) -> bool:
    return any(each["key"] == "nvidia.com/gpu" for each in spec.get("tolerations", []))
