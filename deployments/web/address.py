"""Whose address a request is counted under.

`X-Forwarded-For` is what a caller says, and true only as far as proxies of ours wrote it: it is read from the right,
and only while each hop is one of `args.trusted_proxies`. So whatever a caller puts there stays to the left of the
hop that is counted.

uvicorn, under Serve, has an idea of its own: unless FORWARDED_ALLOW_IPS is empty, it believes the header from a peer on
this machine (uvicorn 0.54, middleware/proxy_headers.py) and puts what it says in place of the peer. Such a peer counts
as unknown: not let in as one of this machine, never trusted, and all of them together are one caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers
from starlette.types import Scope

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS = 32  # looked at; a chain of proxies that are all ours is far shorter
LONGEST = 64  # characters of an address: 45, and the zone of a peer
LOOPBACK = IPv4Address("127.0.0.1")  # stands for every peer that cannot be told
_V6 = r"[0-9a-fA-F:.]+"  # no zone: that of another machine means nothing here
_HOP = re.compile(rf"(?P<v4>[0-9.]+)(:[0-9]{{1,5}})?|\[(?P<v6>{_V6})\](:[0-9]{{1,5}})?|(?P<bare>{_V6})")


def address_of(scope: Scope, trusted: Sequence[Network]) -> Address:
    """The address that an ASGI request is counted under."""
    return client_address(peer(scope), _forwarded(scope), trusted)


def peer(scope: Scope) -> Address | None:
    """The other end of the connection; None where nobody can tell, since uvicorn may have overwritten it.

    It then writes the port that stands beside the address in the header, else 0, which no real peer has. A peer that
    knows its own port can so make itself unknown, which gains it nothing.
    """
    client = scope.get("client")
    if client is None:
        return None
    host, port = client
    if port == 0 or any(_says(hop, host, port) for line in _forwarded(scope) for hop in line.split(",")):
        return None
    return parse(host)


def client_address(peer: Address | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address:
    """The nearest hop that is not one of our proxies.

    Args:
        peer: the other end of the connection; None: unknown, so one address stands for all of these.
        forwarded: every `X-Forwarded-For` line, in order.
        trusted: proxies that write the header truthfully.

    Returns:
        The peer itself when it is not trusted, when a hop that is looked at cannot be read, and when there are more
        than `MAX_HOPS` of them; the leftmost hop when all are trusted.
    """
    if peer is None:
        return LOOPBACK
    client = peer
    # Of more than MAX_HOPS, the leftmost piece holds commas, and of none it is empty: neither can be read.
    hops = ",".join(forwarded).rsplit(",", MAX_HOPS - 1)
    while hops and any(client in network for network in trusted):
        hop = _read(hops.pop())
        if hop is None:
            return peer
        client = hop
    return client


def prefix(address: Address) -> str:
    """What one caller is likely to hold alone: an IPv4 address, `203.0.113.7`, or an IPv6 /64, `2001:db8::/64`."""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def parse(text: str) -> Address | None:
    """An IPv4 address that came as IPv6 (`::ffff:1.2.3.4`) is an IPv4 address; None: no address."""
    return _parse(text) if len(text) <= LONGEST else None


@lru_cache(maxsize=1_024)  # every request names the same few, three times over
def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded(scope: Scope) -> list[str]:
    return Headers(scope=scope).getlist("x-forwarded-for")


def _says(hop: str, host: str, port: int) -> bool:
    """Whether uvicorn reads this address and port in the hop."""
    name, _, number = hop.strip().rpartition(":")
    try:
        return name in (host, f"[{host}]") and int(number) == port
    except ValueError:
        return False


def _read(hop: str) -> Address | None:
    """An address, alone or as `1.2.3.4:567`, `[::1]:567` or `[::1]`."""
    found = _HOP.fullmatch(hop.strip(" \t"))
    return parse(found["v4"] or found["v6"] or found["bare"]) if found else None
