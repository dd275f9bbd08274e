"""What is wrong with a config file of this service, all of it at once.

Serve drops keys that it does not know, and notices other mistakes when a replica fails;
here everything that can be known beforehand is known before anything starts. The questions, each a function
from the data to problems: is the YAML sound (document.py), is each key one that something reads
(spelling.py), does this service do what it asks for (unsupported.py), can the processes of the replicas start
(runtime_env.py), is the code that it names there (imports.py), has each value the right type (values.py), do the
values agree with each other (here, and access.py for keys and limits), and is there a machine for it (capacity.py).
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import ServeDeploySchema

from clients.commands import access, runtime_env
from clients.commands.capacity import Demand, NoSupply, Supply, shortages
from clients.commands.document import KeyPath, Problem, read
from clients.commands.imports import missing_code
from clients.commands.parts import APP, application, args, deployments, mapping, named, number, options
from clients.commands.spelling import Level, level, nearest, unknown_keys
from clients.commands.unsupported import unsupported
from clients.commands.values import stumble, without, wrong_values
from deployments.contract.args import EMBEDDED, AppArgs, CapsArgs, ClassifierConfig, ModelArgs
from deployments.contract.limits import IngressConfig
from deployments.engines.choice import choose, this_machine
from deployments.engines.refusal import StartRefused

IMPORT_PATH = "deployments.graph:build"
USER_CONFIGS: Mapping[str, type[BaseModel]] = {"Ingress": IngressConfig, "Classifier": ClassifierConfig}
DEFAULT_HOST = "0.0.0.0"  # Serve's, where the file names none
DEFAULT_ONGOING = 5  # `max_ongoing_requests`, likewise
MAX_PORT = 65535
COUNTED_ELSEWHERE = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # among `resources` Ray refuses them

_DEPLOYMENT: KeyPath = (*APP, "deployments")


def _levels() -> Level:
    """Serve's schema, with what it calls only `dict` filled in, and less what it has given up."""
    user_configs = {name: inner for name, model in USER_CONFIGS.items() if (inner := level(model))}
    places: dict[KeyPath, Level | None] = {
        (*APP, "args"): level(AppArgs),
        (*APP, "runtime_env"): runtime_env.LEVEL,
        (*APP, "autoscaling_policy"): level(AutoscalingPolicy),
        (*_DEPLOYMENT, "user_config"): Level({}, by_name=user_configs),
        (*_DEPLOYMENT, "ray_actor_options", "runtime_env"): runtime_env.LEVEL,
    }
    gone = {(*APP, "host"), (*APP, "port")}  # Serve refuses them there: http_options has them
    root = level(ServeDeploySchema, places, gone)
    assert root is not None
    return root


def check(file: Path, supply: Callable[[bool], Supply]) -> list[str]:
    """Every problem of a config file, one line each, in the order of the file; empty: nothing to refuse.

    Args:
        file: YAML, as for `serve run`.
        supply: what there is to run on; called with whether the file asks for GPUs.

    Raises:
        OSError: the file cannot be read.
    """
    document = read(file)
    found = list(document.problems)
    if document.data is not None:
        found += _one_each(_problems(document.data, file.parent, supply))
        found = found or list(stumble(ServeDeploySchema, document.data))
    ordered = sorted(found, key=lambda problem: document.line(problem.path))
    return [document.describe(problem) for problem in ordered]


def _problems(data: object, folder: Path, supply: Callable[[bool], Supply]) -> Iterator[Problem]:
    refused = [*unsupported(data), *runtime_env.wrong_runtime_envs(data), *missing_code(data, folder)]
    yield from refused
    yield from unknown_keys(data, _levels())
    yield from _wrong_graph(data)
    yield from _wrong_types(without(data, {problem.path for problem in refused}))
    yield from _contradictions(data)
    yield from _shortages(data, supply)


def _one_each(found: Iterable[Problem]) -> Iterable[Problem]:
    """The first problem of each value: a wrong type needs no second line about what follows from it."""
    first: dict[KeyPath, Problem] = {}
    for problem in found:
        first.setdefault(problem.path, problem)
    return first.values()


# Types: Serve's own models, then ours.


def _wrong_types(data: object) -> Iterator[Problem]:
    yield from wrong_values(ServeDeploySchema, data)
    app = application(data)
    if app:
        yield from wrong_values(AppArgs, app.get("args", {}), (*APP, 0, "args"))
    for path, deployment in deployments(data):
        name = str(deployment.get("name"))
        for key, model in (
            ("user_config", USER_CONFIGS.get(name)),
            ("autoscaling_config", AutoscalingConfig),
            ("request_router_config", RequestRouterConfig),
        ):
            if model is not None and isinstance(value := deployment.get(key), dict):
                yield from wrong_values(model, value, (*path, key))


# The graph: which application, which deployments.


def _wrong_graph(data: object) -> Iterator[Problem]:
    applications = data.get("applications") if isinstance(data, dict) else None
    if isinstance(applications, list) and len(applications) != 1:
        yield Problem(APP, f"{len(applications)} applications, expected exactly one: this service")
    import_path = application(data).get("import_path")
    if import_path not in (None, IMPORT_PATH):
        yield Problem((*APP, 0, "import_path"), f"{import_path!r} is not this service; expected {IMPORT_PATH}")
    yield from _wrong_deployments(deployments(data))


def _wrong_deployments(deployments: Iterable[tuple[KeyPath, Mapping[str, Any]]]) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, deployment in deployments:
        name = deployment.get("name")
        if not isinstance(name, str):
            continue
        if name not in USER_CONFIGS:
            yield Problem((*path, "name"), f"no deployment {name!r} in the graph; {nearest(name, USER_CONFIGS)}")
        if name in seen:
            yield Problem((*path, "name"), f"{name!r} is configured twice; keep one")
        seen.add(name)


# Values that contradict each other.


def _contradictions(data: object) -> Iterator[Problem]:
    yield from _open_door(data)
    yield from _wrong_port(data)
    yield from _serve_refuses_first(data)
    yield from _wrong_device(data)
    yield from _wrong_engine(data)
    yield from access.contradictions(data, datetime.now(UTC))
    for path, deployment in deployments(data):
        yield from _wrong_amounts(options(deployment), (*path, "ray_actor_options"))


def _wrong_device(data: object) -> Iterator[Problem]:
    model = mapping(args(data), "model")
    device, precision = model.get("device"), model.get("precision")
    path, classifier = named("Classifier", data)
    gpus = number(options(classifier).get("num_gpus"), default=0)
    if device == "cuda" and gpus == 0:
        yield Problem(
            (*APP, 0, "args", "model", "device"),
            "cuda, but the Classifier has no num_gpus, so Ray hides every GPU from it; set num_gpus, e.g. 0.25",
        )
    by_torch = model.get("name") != EMBEDDED and model.get("engine") not in (
        "onnx",
        "openvino",
    )  # one ignores fp16, two refuse it
    if by_torch and precision == "fp16" and device not in ("cpu", "cuda") and gpus == 0:
        yield Problem(
            (*APP, 0, "args", "model", "precision"),
            "fp16 is computed on a GPU only, but the Classifier has no num_gpus; set num_gpus, e.g. 0.25, or fp32",
        )
    if device == "cpu" and gpus > 0:
        yield Problem(
            (*path, "ray_actor_options", "num_gpus"),
            f"{gpus:g}, but args.model.device is cpu: a GPU held and not used; set num_gpus: 0 or device: auto",
        )


def _wrong_engine(data: object) -> Iterator[Problem]:
    """What this machine cannot compute with; a combination that no machine can is a wrong value, told as such."""
    path = (*APP, 0, "args", "model")
    try:
        model = ModelArgs.model_validate(mapping(args(data), "model"))
        name = "embedding-fp32" if model.name == EMBEDDED else choose(model, this_machine())
    except ValidationError:
        return
    except StartRefused as refusal:
        yield Problem((*path, "engine" if model.engine != "auto" else "precision"), str(refusal))
        return
    _, classifier = named("Classifier", data)
    gpus = number(options(classifier).get("num_gpus"), default=0)
    if gpus > 0 and name.startswith(("onnx", "openvino")):
        yield Problem(
            path,
            f"{name} computes on the CPU, but the Classifier has num_gpus: {gpus:g}; set num_gpus: 0, or engine: torch",
        )


def _serve_refuses_first(data: object) -> Iterator[Problem]:
    """Beyond its own limit Serve answers 503 in plain text, where a client of this service expects a problem."""
    path, ingress = named("Ingress", data)
    most = number(mapping(args(data), "caps").get("max_in_flight"), default=CapsArgs().max_in_flight)
    ongoing = number(ingress.get("max_ongoing_requests"), default=DEFAULT_ONGOING)
    if application(data) and ongoing <= most:
        yield Problem(
            (*path, "max_ongoing_requests"),
            f"{ongoing} for the Ingress, but args.caps.max_in_flight is {most}, so Serve would refuse before the"
            f" service does; set more than {most}, or lower the cap",
        )


def _open_door(data: object) -> Iterator[Problem]:
    host = str(mapping(data, "http_options").get("host", DEFAULT_HOST))
    if args(data).get("auth") in ("off", False) and not _is_loopback(host):
        yield Problem(
            ("http_options", "host"),
            f"{host!r} lets other machines in while args.auth is off; set host: 127.0.0.1",
        )


def _wrong_port(data: object) -> Iterator[Problem]:
    port = mapping(data, "http_options").get("port")
    if isinstance(port, int) and not 0 < port <= MAX_PORT:
        yield Problem(("http_options", "port"), f"{port}; expected 1 to {MAX_PORT}")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server that listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wrong_amounts(asked: Mapping[str, Any], path: KeyPath) -> Iterator[Problem]:
    gpus = number(asked.get("num_gpus"), default=0)
    if gpus > 1 and gpus % 1:
        yield Problem((*path, "num_gpus"), f"{gpus:g}: a fraction of one GPU, or whole GPUs, but not one and a part")
    for name, amount in mapping(asked, "resources").items():
        here = (*path, "resources", str(name))
        if name in COUNTED_ELSEWHERE:
            yield Problem(here, f"not a custom resource; use ray_actor_options.{COUNTED_ELSEWHERE[name]}")
        elif isinstance(amount, bool) or number(amount, default=-1) < 0:
            yield Problem(here, f"should be a number, 0 or more, got {amount!r}")


# Capacity.


def _shortages(data: object, supply: Callable[[bool], Supply]) -> Iterator[Problem]:
    demands = [_demand(path, deployment) for path, deployment in deployments(data)]
    needs_gpus = any(demand.gpus > 0 or demand.accelerator for demand in demands)
    try:
        yield from shortages(demands, supply(needs_gpus))
    except NoSupply as error:
        yield Problem((), str(error))


def _demand(path: KeyPath, deployment: Mapping[str, Any]) -> Demand:
    asked = options(deployment)
    accelerator = asked.get("accelerator_type")
    return Demand(
        path=path,
        name=str(deployment.get("name")),
        replicas=_replicas(deployment),
        cpus=number(asked.get("num_cpus"), default=1),  # Serve's default
        gpus=number(asked.get("num_gpus"), default=0),
        memory=number(asked.get("memory"), default=0),
        others={str(name): number(amount, default=0) for name, amount in mapping(asked, "resources").items()},
        accelerator=accelerator if isinstance(accelerator, str) else None,
        per_node=number(deployment.get("max_replicas_per_node"), default=math.inf),
    )


def _replicas(deployment: Mapping[str, Any]) -> int:
    """How many start at once: autoscaling begins at the larger of its minimum and its initial number."""
    fixed = deployment.get("num_replicas")
    if isinstance(fixed, int):
        return fixed
    scaling = mapping(deployment, "autoscaling_config")
    least, initial = scaling.get("min_replicas"), scaling.get("initial_replicas")
    return int(max(number(least, default=1), number(initial, default=0)))
