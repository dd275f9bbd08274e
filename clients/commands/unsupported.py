"""What Ray Serve can do and this service does not: refused by name, with what to do instead.

Left in, each of these would make a service that waits for ever for a place to run, that nobody can call,
or that answers in words which are not its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clients.commands.document import KeyPath, Problem
from clients.commands.parts import APP, application, deployments, mapping, options

OF_A_DEPLOYMENT = (
    "placement_group_bundles",
    "placement_group_strategy",
    "placement_group_bundle_label_selector",
    "gang_scheduling_config",
    "deployment_actors",
)
OF_A_REPLICA = ("label_selector", "fallback_strategy")
TLS_FILES = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs")


def unsupported(data: object) -> Iterator[Problem]:
    """Every value that asks for what this service does not do."""
    yield from _nothing_to_call(data)
    yield from _wrong_http_options(mapping(data, "http_options"))
    if (route := application(data).get("route_prefix", "/")) != "/":
        yield Problem((*APP, 0, "route_prefix"), f"{route!r}; expected /, as the service owns the whole of its port")
    for path, deployment in deployments(data):
        yield from _wrong_deployment(deployment, path)


def _nothing_to_call(data: object) -> Iterator[Problem]:
    top = data if isinstance(data, dict) else {}
    capacity = top.get("target_capacity")
    if capacity == 0 and not isinstance(capacity, bool):
        yield Problem(("target_capacity",), "0 percent of the replicas is none, so nothing would run; remove it")
    if top.get("proxy_location") == "Disabled":
        yield Problem(("proxy_location",), "'Disabled', so nobody could call the service; set HeadOnly or EveryNode")


def _wrong_http_options(http: Mapping[str, Any]) -> Iterator[Problem]:
    if (root := http.get("root_path", "")) != "":
        yield Problem(("http_options", "root_path"), f"{root!r}, but the service owns the whole of its port; remove it")
    if (seconds := http.get("request_timeout_s")) is not None:
        yield Problem(
            ("http_options", "request_timeout_s"),
            f"{seconds!r}, but Serve's own timeout answers in plain text; remove it and set args.deadline.max_s",
        )
    yield from _wrong_tls(http)


def _wrong_tls(http: Mapping[str, Any]) -> Iterator[Problem]:
    for key in TLS_FILES:
        value = http.get(key)
        if isinstance(value, str) and not Path(value).is_file():
            yield Problem(("http_options", key), f"{value!r} names no file on this machine; expected a PEM file")
        elif value is not None and http.get("ssl_certfile") is None:  # the other half Serve refuses itself
            yield Problem(
                ("http_options", key), "without ssl_certfile Serve speaks plain HTTP; set ssl_keyfile and ssl_certfile"
            )


def _wrong_deployment(deployment: Mapping[str, Any], path: KeyPath) -> Iterator[Problem]:
    for key in OF_A_DEPLOYMENT:
        if deployment.get(key) is not None:
            yield Problem(
                (*path, key),
                "not supported, as a replica of this service is one process; remove it and use ray_actor_options",
            )
    for key in OF_A_REPLICA:
        if options(deployment).get(key) is not None:
            yield Problem(
                (*path, "ray_actor_options", key),
                "not supported, as nothing checks that a node fits; remove it and use resources or accelerator_type",
            )
