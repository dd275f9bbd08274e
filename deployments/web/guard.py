"""Who may talk to the service at all: while auth is off, callers on this machine; always, by a name that is ours.

A web page can point its own host name at 127.0.0.1 and so reach a local service through its visitor's browser
(DNS rebinding); the Host header gives it away.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.contract.errors import HostNotAllowed, PeerNotAllowed, ServiceError

from .address import Address, parse, peer
from .problems import response
from .request_id import request_id


class Guard:
    """ASGI middleware: 403 for a foreign Host and, where `local_only`, for a peer not known to be on this machine."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str], *, local_only: bool) -> None:
        self._app = app
        self._local_only = local_only
        self._allowed = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if error := self._refusal(peer(scope), headers.get("host", "")):
                app = response(error, request_id(headers))
        await app(scope, receive, send)

    def _refusal(self, peer: Address | None, host: str) -> ServiceError | None:
        if self._local_only and (peer is None or not peer.is_loopback):
            return PeerNotAllowed("auth is off, so only callers on the server's own machine are let in")
        name = _hostname(host)
        if name is None or not (name in self._allowed or _is_loopback(name)):
            return HostNotAllowed("the Host header must be localhost, a loopback address or one of args.allowed_hosts")
        return None


def _is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    address = parse(host)
    return host == "localhost" if address is None else address.is_loopback


def _hostname(host: str) -> str | None:
    """Without port and brackets, in lower case; None when it is no host at all."""
    try:
        parts = urlsplit(f"//{host}")
    except ValueError:
        return None
    return parts.hostname if parts.netloc == host and parts.username is None else None
