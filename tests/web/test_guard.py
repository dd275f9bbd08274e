"""Who is let in, with auth and without."""

from __future__ import annotations

import httpx2
import pytest
from starlette.responses import PlainTextResponse
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from deployments.web.guard import Guard


async def _status(
    peer: str, *, local_only: bool, host: str = "localhost", forwarded: str = "", believed: str = "127.0.0.1,::1"
) -> int:
    guard = Guard(PlainTextResponse("in"), ["nli.example.org"], local_only=local_only)
    app = ProxyHeadersMiddleware(guard, trusted_hosts=believed)  # type: ignore[arg-type]
    transport = httpx2.ASGITransport(app, client=(peer, 1234))  # type: ignore[arg-type]
    headers = {"Host": host, **({"X-Forwarded-For": forwarded} if forwarded else {})}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return (await client.get("/", headers=headers)).status_code


@pytest.mark.parametrize("peer", ["127.0.0.1", "203.0.113.7", "2001:db8::7"])
async def test_where_the_key_decides_any_peer_may_come(peer: str) -> None:
    assert await _status(peer, local_only=False, host="nli.example.org") == 200
    assert await _status(peer, local_only=False, forwarded="198.51.100.1", host="nli.example.org") == 200


async def test_where_the_key_decides_a_foreign_host_is_refused_still() -> None:
    assert await _status("127.0.0.1", local_only=False, host="evil.example.org") == 403


@pytest.mark.parametrize(("peer", "status"), [("127.0.0.1", 200), ("::1", 200), ("203.0.113.7", 403)])
async def test_without_auth_only_this_machine_is_let_in(peer: str, status: int) -> None:
    assert await _status(peer, local_only=True) == status


@pytest.mark.parametrize("forwarded", ["127.0.0.1", "127.0.0.1:567", "[::1]:567", "203.0.113.7:1234", "x"])
@pytest.mark.parametrize("believed", ["", "127.0.0.1,::1", "*"])
async def test_without_auth_no_header_lets_another_machine_in(forwarded: str, believed: str) -> None:
    assert await _status("203.0.113.7", local_only=True, forwarded=forwarded, believed=believed) == 403


async def test_without_auth_the_header_changes_nothing_where_uvicorn_does_not_believe_it() -> None:
    assert await _status("127.0.0.1", local_only=True, forwarded="203.0.113.7", believed="") == 200
