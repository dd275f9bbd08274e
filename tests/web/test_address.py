"""Whose address counts, whatever a caller writes into X-Forwarded-For; with uvicorn's own middleware in front."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from deployments.web.address import (
    LONGEST,
    LOOPBACK,
    MAX_HOPS,
    Address,
    _parse,
    address_of,
    client_address,
    parse,
    peer,
    prefix,
)

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
PROXY = ip_address("10.0.0.1")
STRANGER = ip_address("203.0.113.7")
BELIEVED = ["127.0.0.1,::1", "127.0.0.1"]  # by uvicorn: what 0.54 defaults to, and what older versions did

hosts = st.sampled_from(
    ["203.0.113.7", "10.0.0.2", "127.0.0.1", "127.0.0.2", "::1", "2001:db8::7", "::ffff:203.0.113.7", "x", ""]
)
ports = st.sampled_from(["", "1", "567", "0567", "+567", "5_6", " 567", "0", "-1", "x", "99999", "²"])
hops = st.builds(
    lambda form, host, port: form.format(host, port),
    st.sampled_from(["{}", "{}:{}", "[{}]", "[{}]:{}", "[{}]x:{}", " {}:{} ", "\xa0{}:{}\x85", "[[{}]:{}"]),
    hosts,
    ports,
)
headers = st.lists(st.lists(hops, max_size=4).map(",".join), max_size=3) | st.lists(st.text("1.2:[],f \t%"), max_size=2)
addresses = st.ip_addresses().filter(lambda address: parse(str(address)) == address)  # less IPv4 written as IPv6


def _scope(client: tuple[str, int] | None, *forwarded: str) -> dict[str, Any]:
    lines = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    return {"type": "http", "scheme": "http", "client": client, "headers": [(b"host", b"localhost"), *lines]}


def _through_uvicorn(scope: dict[str, Any], believed: str) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    middleware = ProxyHeadersMiddleware(app, trusted_hosts=believed)
    asyncio.run(cast(Any, middleware)(scope, None, None))
    return seen[0]


@given(headers, st.sampled_from(BELIEVED), st.sampled_from(["127.0.0.1", "::1"]))
@example(["203.0.113.7:567"], BELIEVED[0], "127.0.0.1")
@example(["[2001:db8::7]:567, 127.0.0.1"], BELIEVED[0], "127.0.0.1")
def test_no_header_gives_a_peer_on_this_machine_another_address(
    forwarded: list[str], believed: str, local: str
) -> None:
    scope = _through_uvicorn(_scope((local, 1234), *forwarded), believed)

    assert peer(scope) in (None, ip_address(local))
    assert address_of(scope, []) in (LOOPBACK, ip_address(local))


def test_uvicorn_does_overwrite_the_client_with_a_port_of_the_callers_choice() -> None:
    plain = _through_uvicorn(_scope(("127.0.0.1", 1234), "203.0.113.7"), BELIEVED[0])
    with_port = _through_uvicorn(_scope(("127.0.0.1", 1234), "203.0.113.7:567"), BELIEVED[0])

    assert (plain["client"], with_port["client"]) == (("203.0.113.7", 0), ("203.0.113.7", 567))
    assert (peer(plain), peer(with_port)) == (None, None)


@given(headers)
def test_no_header_makes_a_stranger_a_peer_on_this_machine(forwarded: list[str]) -> None:
    scope = _through_uvicorn(_scope(("203.0.113.7", 567), *forwarded), BELIEVED[0])

    assert peer(scope) in (None, STRANGER)


def test_a_thousand_forged_headers_are_one_caller() -> None:
    forged = [f"198.51.{i // 250}.{i % 250}{port}" for i in range(500) for port in ("", ":567")]
    scopes = [_through_uvicorn(_scope(("127.0.0.1", 1234), header), BELIEVED[0]) for header in forged]

    assert {prefix(address_of(scope, [])) for scope in scopes} == {"127.0.0.1"}
    assert {address_of(_scope(("203.0.113.7", 1234), header), TRUSTED) for header in forged} == {STRANGER}
    assert {address_of(_scope(("10.0.0.1", 1234), header, "203.0.113.7"), TRUSTED) for header in forged} == {STRANGER}


def test_an_unknown_peer_is_not_trusted_even_where_this_machine_is() -> None:
    scope = _through_uvicorn(_scope(("127.0.0.1", 1234), "203.0.113.7"), BELIEVED[0])

    assert address_of(scope, [ip_network("127.0.0.0/8")]) == LOOPBACK


@pytest.mark.parametrize(
    ("client", "found"),
    [
        (None, None),
        (("testclient", 1234), None),
        (("203.0.113.7", 0), None),
        (("203.0.113.7", 1234), STRANGER),
        (("::ffff:203.0.113.7", 1234), STRANGER),
        (("2001:db8::7", 1234), IPv6Address("2001:db8::7")),
    ],
)
def test_the_peer_is_the_other_end_of_the_connection(
    client: tuple[str, int] | None, found: IPv4Address | IPv6Address | None
) -> None:
    assert peer(_scope(client)) == found


def test_a_peer_may_stand_in_its_own_header() -> None:
    assert peer(_scope(("203.0.113.7", 1234), "203.0.113.7, 203.0.113.7:5")) == STRANGER


@pytest.mark.parametrize(
    ("forwarded", "counted"),
    [
        ([], "10.0.0.1"),
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        (["junk, 203.0.113.7,10.9.9.9\t,  fd00::1"], "203.0.113.7"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["203.0.113.7:567"], "203.0.113.7"),
        (["[2001:db8::7]:567"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["2001:DB8::7"], "2001:db8::7"),
        (["::ffff:203.0.113.7, ::ffff:10.0.0.2"], "203.0.113.7"),
    ],
)
def test_the_first_hop_from_the_right_that_is_not_ours_is_the_client(forwarded: list[str], counted: str) -> None:
    assert client_address(PROXY, forwarded, TRUSTED) == ip_address(counted)


@pytest.mark.parametrize(
    "hop",
    [
        "",
        " ",
        "x",
        "unknown",
        "203.0.113.7:",
        "203.0.113.7:x",
        "203.0.113.7:123456",
        "203.0.113.7:-1",
        "203.0.113.07",
        "203.0.113",
        "203.0.113.7/32",
        "[::1",
        "::1]",
        "[::1]:",
        "[::1]5",
        "fe80::1%eth0",
        "[fe80::1%1]:5",
        "[x]",
        "203.0.113.7 203.0.113.8",
        '"203.0.113.7"',
        "for=203.0.113.7",
        "\xa0203.0.113.7",
        "٣.1.1.1",
        "203.0.113.7\n",
    ],
)
def test_a_hop_that_cannot_be_read_leaves_the_peer(hop: str) -> None:
    assert client_address(PROXY, ["203.0.113.7, " + hop], TRUSTED) == PROXY
    assert client_address(PROXY, ["203.0.113.7", hop, "10.0.0.2"], TRUSTED) == PROXY


def test_looks_at_no_more_than_so_many_hops() -> None:
    ours = ["10.0.0.2"] * (MAX_HOPS - 1)

    assert client_address(PROXY, ["203.0.113.7", *ours], TRUSTED) == STRANGER
    assert client_address(PROXY, ["203.0.113.7", *ours, "10.0.0.2"], TRUSTED) == PROXY
    assert client_address(PROXY, ["x", "198.51.100.1", *ours[1:], "203.0.113.7"], TRUSTED) == STRANGER


@given(addresses, headers)
def test_without_trusted_proxies_the_header_changes_nothing(address: Address, forwarded: list[str]) -> None:
    assert client_address(address, forwarded, []) == address


@given(headers, addresses.filter(lambda address: not any(address in network for network in TRUSTED)))
def test_what_a_caller_writes_never_changes_what_a_trusted_proxy_adds(forged: list[str], real: Address) -> None:
    assert client_address(PROXY, [*forged, str(real)], TRUSTED) == real
    assert client_address(PROXY, [*forged, f"{real}, 10.0.0.2"], TRUSTED) == real


@given(st.lists(addresses, max_size=40), st.lists(addresses, max_size=3))
def test_the_client_is_the_peer_or_a_hop(forwarded: list[Address], proxies: list[Address]) -> None:
    found = client_address(PROXY, list(map(str, forwarded)), [*TRUSTED, *(ip_network(proxy) for proxy in proxies)])

    assert found in [PROXY, *forwarded]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8::", "2001:db8::/64"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("2001:db8:0:1::", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_one_ipv4_address_or_one_ipv6_64_is_one_caller(address: str, counted: str) -> None:
    assert prefix(ip_address(address)) == counted


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_two_ipv6_addresses_are_one_caller_exactly_when_the_first_64_bits_agree(a: IPv6Address, b: IPv6Address) -> None:
    same = IPv6Address((int(a) >> 64 << 64) | (int(b) & (1 << 64) - 1))

    assert prefix(a) == prefix(same)
    assert (prefix(a) == prefix(b)) == (int(a) >> 64 == int(b) >> 64)


def test_what_is_too_long_for_an_address_is_none_and_is_not_remembered() -> None:
    known = _parse.cache_info().currsize

    assert parse("1" * (LONGEST + 1)) is None
    assert _parse.cache_info().currsize == known
