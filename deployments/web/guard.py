"""Who may talk to the service at all: callers on this machine, by a name that is ours.

A web page can point its own host name at 127.0.0.1 and so reach a local service through its visitor's browser
(DNS rebinding); the Host header gives it away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.contract.errors import HostNotAllowed, PeerNotAllowed, ServiceError

from .problems import response
from .request_id import request_id


class Guard:
    """ASGI middleware: 403 for a foreign peer or a foreign Host."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._allowed = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if error := self._refusal(scope.get("client"), headers.get("host", "")):
                app = response(error, request_id(headers))
        await app(scope, receive, send)

    def _refusal(self, client: tuple[str, int] | None, host: str) -> ServiceError | None:
        if client is None or not is_loopback(client[0]):
            return PeerNotAllowed("auth is off, so only callers on the server's own machine are let in")
        name = _hostname(host)
        if name is None or not (name in self._allowed or is_loopback(name)):
            return HostNotAllowed("the Host header must be localhost, a loopback address or one of args.allowed_hosts")
        return None


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _hostname(host: str) -> str | None:
    """Without port and brackets, in lower case; None when it is no host at all."""
    try:
        parts = urlsplit(f"//{host}")
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and parts.username is None else None
