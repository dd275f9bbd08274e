"""What is wrong with a config file of this service, all of it at once.

Serve drops keys that it does not know, and notices other mistakes when a replica fails;
here everything that can be known beforehand is known before anything starts. Five questions, each a function
from the data to problems: is the YAML sound (document.py), is each key one that something reads
(spelling.py), has each value the right type (values.py), do the values agree with each other (here), and is
there a machine for it (capacity.py).
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ray.runtime_env import RuntimeEnv
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import ServeDeploySchema

from clients.commands.capacity import Demand, Supply, shortages
from clients.commands.document import KeyPath, Problem, read
from clients.commands.spelling import Level, close, level, nearest, unknown_keys
from clients.commands.values import wrong_values
from deployments.contract.args import AppArgs, ClassifierConfig

IMPORT_PATH = "deployments.graph:build"
USER_CONFIGS: Mapping[str, type[BaseModel] | None] = {"Ingress": None, "Classifier": ClassifierConfig}
ENV_VARS = ("HF_HUB_OFFLINE", "FORWARDED_ALLOW_IPS")  # free names, but nothing else says that one of these is misspelt
DEFAULT_HOST = "0.0.0.0"  # Serve's, where the file names none
MAX_PORT = 65535

_APP: KeyPath = ("applications",)
_DEPLOYMENT: KeyPath = (*_APP, "deployments")


def _levels() -> Level:
    """Serve's schema, with what it calls only `dict` filled in, and less what it has given up."""
    runtime_env = Level({name: None for name in sorted(RuntimeEnv.known_fields) if not name.startswith("_")})
    places: dict[KeyPath, Level | None] = {
        (*_APP, "args"): level(AppArgs),
        (*_APP, "runtime_env"): runtime_env,
        (*_APP, "autoscaling_policy"): level(AutoscalingPolicy),
        (*_DEPLOYMENT, "user_config"): level(ClassifierConfig),
        (*_DEPLOYMENT, "ray_actor_options", "runtime_env"): runtime_env,
    }
    gone = {(*_APP, "host"), (*_APP, "port")}  # Serve refuses them there: http_options has them
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
        found += _one_each(_problems(document.data, supply))
    ordered = sorted(found, key=lambda problem: document.line(problem.path))
    return [document.describe(problem) for problem in ordered]


def _problems(data: object, supply: Callable[[bool], Supply]) -> Iterator[Problem]:
    yield from unknown_keys(data, _levels())
    yield from _wrong_graph(data)
    yield from _wrong_types(data)
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
    application = _application(data)
    if application:
        yield from wrong_values(AppArgs, application.get("args", {}), (*_APP, 0, "args"))
    for path, deployment in _deployments(data):
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
        yield Problem(_APP, f"{len(applications)} applications, expected exactly one: this service")
    import_path = _application(data).get("import_path")
    if import_path not in (None, IMPORT_PATH):
        yield Problem((*_APP, 0, "import_path"), f"{import_path!r} is not this service; expected {IMPORT_PATH}")
    if (route := _application(data).get("route_prefix", "/")) != "/":
        yield Problem((*_APP, 0, "route_prefix"), f"{route!r}; expected /, as the service owns the whole of its port")
    yield from _wrong_deployments(_deployments(data))
    for path, env_vars in _env_vars(data):
        yield from _wrong_env_vars(env_vars, path)


def _wrong_deployments(deployments: Iterable[tuple[KeyPath, Mapping[str, Any]]]) -> Iterator[Problem]:
    seen: set[str] = set()
    for path, deployment in deployments:
        name = deployment.get("name")
        if not isinstance(name, str):
            continue
        if name not in USER_CONFIGS:
            yield Problem((*path, "name"), f"no deployment {name!r} in the graph; {nearest(name, USER_CONFIGS)}")
        elif USER_CONFIGS[name] is None and "user_config" in deployment:
            yield Problem((*path, "user_config"), f"{name} takes no user_config; remove it")
        if name in seen:
            yield Problem((*path, "name"), f"{name!r} is configured twice; keep one")
        seen.add(name)


def _wrong_env_vars(env_vars: Mapping[str, Any], path: KeyPath) -> Iterator[Problem]:
    for name, value in env_vars.items():
        near = close(str(name), ENV_VARS, cutoff=0.85)
        if near not in (None, name):
            yield Problem((*path, str(name)), f"nothing reads this variable; did you mean {near}?")
        elif not isinstance(value, str):
            yield Problem((*path, str(name)), f"should be a string, got {value!r}; put it in quotes")


# Values that contradict each other.


def _contradictions(data: object) -> Iterator[Problem]:
    yield from _open_door(data)
    yield from _wrong_port(data)
    device = _mapping(_args(data), "model").get("device")
    classifiers = [(path, d) for path, d in _deployments(data) if d.get("name") == "Classifier"]
    path, classifier = classifiers[0] if classifiers else (_DEPLOYMENT, {})
    gpus = _number(_options(classifier).get("num_gpus"), default=0)
    if device == "cuda" and gpus == 0:
        yield Problem(
            (*_APP, 0, "args", "model", "device"),
            "cuda, but the Classifier has no num_gpus, so Ray hides every GPU from it; set num_gpus, e.g. 0.25",
        )
    if device == "cpu" and gpus > 0:
        yield Problem(
            (*path, "ray_actor_options", "num_gpus"),
            f"{gpus:g}, but args.model.device is cpu: a GPU held and not used; set num_gpus: 0 or device: auto",
        )
    yield from _broken_gpus(data)


def _open_door(data: object) -> Iterator[Problem]:
    host = str(_mapping(data, "http_options").get("host", DEFAULT_HOST))
    if _args(data).get("auth") in ("off", False) and not _is_loopback(host):
        yield Problem(
            ("http_options", "host"),
            f"{host!r} lets other machines in while args.auth is off; set host: 127.0.0.1",
        )


def _wrong_port(data: object) -> Iterator[Problem]:
    port = _mapping(data, "http_options").get("port")
    if isinstance(port, int) and not 0 < port <= MAX_PORT:
        yield Problem(("http_options", "port"), f"{port}; expected 1 to {MAX_PORT}")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server that listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _broken_gpus(data: object) -> Iterator[Problem]:
    for path, deployment in _deployments(data):
        gpus = _number(_options(deployment).get("num_gpus"), default=0)
        here = (*path, "ray_actor_options", "num_gpus")
        if gpus > 1 and gpus % 1:
            yield Problem(here, f"{gpus:g}: a fraction of one GPU, or whole GPUs, but not one and a part")


# Capacity.


def _shortages(data: object, supply: Callable[[bool], Supply]) -> Iterator[Problem]:
    demands = [_demand(path, deployment) for path, deployment in _deployments(data)]
    needs_gpus = any(demand.gpus > 0 for demand in demands)
    try:
        yield from shortages(demands, supply(needs_gpus))
    except (OSError, ValueError) as error:
        yield Problem(
            (), f"the Ray cluster of RAY_ADDRESS, or of `ray start`, does not answer: {' '.join(str(error).split())}"
        )


def _demand(path: KeyPath, deployment: Mapping[str, Any]) -> Demand:
    options = _options(deployment)
    return Demand(
        path=path,
        name=str(deployment.get("name")),
        replicas=_replicas(deployment),
        cpus=_number(options.get("num_cpus"), default=1),  # Serve's default
        gpus=_number(options.get("num_gpus"), default=0),
    )


def _replicas(deployment: Mapping[str, Any]) -> int:
    """How many start at once: autoscaling begins at the larger of its minimum and its initial number."""
    fixed = deployment.get("num_replicas")
    if isinstance(fixed, int):
        return fixed
    scaling = _mapping(deployment, "autoscaling_config")
    least, initial = scaling.get("min_replicas"), scaling.get("initial_replicas")
    return int(max(_number(least, default=1), _number(initial, default=0)))


# Reading data that may have any shape.


def _mapping(holder: object, key: str) -> Mapping[str, Any]:
    inner = holder.get(key) if isinstance(holder, Mapping) else None
    return inner if isinstance(inner, dict) else {}


def _application(data: object) -> Mapping[str, Any]:
    applications = data.get("applications") if isinstance(data, dict) else None
    first = applications[0] if isinstance(applications, list) and applications else None
    return first if isinstance(first, dict) else {}


def _args(data: object) -> Mapping[str, Any]:
    return _mapping(_application(data), "args")


def _deployments(data: object) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    listed = _application(data).get("deployments")
    for index, deployment in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(deployment, dict):
            yield (*_APP, 0, "deployments", index), deployment


def _env_vars(data: object) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    holders: list[tuple[KeyPath, Mapping[str, Any]]] = [((*_APP, 0), _application(data))]
    holders += [((*path, "ray_actor_options"), _options(deployment)) for path, deployment in _deployments(data)]
    for path, holder in holders:
        yield (*path, "runtime_env", "env_vars"), _mapping(_mapping(holder, "runtime_env"), "env_vars")


def _options(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(deployment, "ray_actor_options")


def _number(value: object, *, default: float) -> float:
    return value if isinstance(value, int | float) and not math.isnan(value) else default
