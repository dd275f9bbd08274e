"""The RateLimit fields, read back by an independent parser of structured fields."""

from __future__ import annotations

import http_sf
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.quota import Quota
from deployments.web.ratelimit import fields

MOST = 10**15 - 1  # RFC 9651 section 3.3.1


@st.composite
def _quota(draw: st.DrawFn) -> Quota:
    burst = draw(st.integers(1, MOST))
    return Quota(
        name=draw(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)),
        unit=draw(st.sampled_from(["requests", "pairs"])),
        limit=draw(st.integers(1, MOST)),
        window_s=draw(st.integers(1, 86_400)),
        burst=burst,
        remaining=draw(st.integers(0, burst)),
        next_s=draw(st.integers(0, 86_400)),
    )


@given(st.lists(_quota(), min_size=1, max_size=4))
def test_a_parser_reads_back_every_value_the_nearest_to_exhaustion_first(quotas: list[Quota]) -> None:
    found = {name: http_sf.parse(value.encode(), tltype="list") for name, value in fields(quotas).items()}

    nearest_first = sorted(quotas, key=lambda quota: quota.remaining / quota.burst)
    assert found == {
        "RateLimit-Policy": [
            (
                quota.name,
                {"q": quota.limit, "w": quota.window_s, "nli-burst": quota.burst}
                | ({"nli-unit": "pairs"} if quota.unit == "pairs" else {}),
            )
            for quota in nearest_first
        ],
        "RateLimit": [(quota.name, {"r": quota.remaining, "t": quota.next_s}) for quota in nearest_first],
    }


def test_the_fields_as_they_are_sent() -> None:
    requests = Quota("key-requests", "requests", limit=20, window_s=1, burst=100, remaining=42, next_s=1)
    pairs = Quota("key-pairs", "pairs", limit=2_000, window_s=1, burst=8_192, remaining=0, next_s=3)

    assert fields([requests, pairs]) == {
        "RateLimit-Policy": '"key-pairs";q=2000;w=1;nli-burst=8192;nli-unit="pairs", '
        '"key-requests";q=20;w=1;nli-burst=100',
        "RateLimit": '"key-pairs";r=0;t=3, "key-requests";r=42;t=1',
    }


def test_the_nearest_is_the_one_with_the_smallest_share_left_not_the_smallest_number() -> None:
    few = Quota("few", "requests", limit=1, window_s=1, burst=4, remaining=4, next_s=0)
    many = Quota("many", "pairs", limit=1, window_s=1, burst=1_000, remaining=5, next_s=1)

    assert fields([few, many])["RateLimit"] == '"many";r=5;t=1, "few";r=4;t=0'


def test_no_quotas_no_fields() -> None:
    assert fields([]) == {}
