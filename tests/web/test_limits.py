"""How an answer tells what is left, and a refusal when to come again; read back by an independent parser."""

from __future__ import annotations

from typing import Any

import http_sf
import httpx2
import pytest

from deployments.contract.errors import CostTooLarge, QuotaExceeded, ServiceError, TooManyConcurrent
from deployments.core.quota import Quota
from deployments.web.app import create_app
from deployments.web.ratelimit import fields

from .test_app import ARGS, GOOD, MODEL, Backend

REQUESTS = Quota("caller-requests", "requests", limit=20, window_s=1, burst=100, remaining=0, next_s=3)
PAIRS = Quota("caller-pairs", "pairs", limit=2_000, window_s=1, burst=8_192, remaining=8_000, next_s=1)
FIELDS = fields([PAIRS, REQUESTS])


async def _classify(backend: Backend) -> httpx2.Response:
    app = create_app(ARGS, MODEL, classify=backend.classify, probe=backend.probe)
    transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1234))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/v1/classify", json=GOOD, headers={"X-Request-ID": "abc-1"})


async def _refusal(error: ServiceError) -> httpx2.Response:
    backend = Backend()
    backend.error = error
    return await _classify(backend)


def _parsed(response: httpx2.Response, name: str) -> Any:
    return http_sf.parse(response.headers[name].encode(), tltype="list")


def _assert_tells_both_quotas(response: httpx2.Response) -> None:
    assert _parsed(response, "RateLimit") == [
        ("caller-requests", {"r": 0, "t": 3}),
        ("caller-pairs", {"r": 8_000, "t": 1}),
    ]
    assert _parsed(response, "RateLimit-Policy") == [
        ("caller-requests", {"q": 20, "w": 1, "nli-burst": 100}),
        ("caller-pairs", {"q": 2_000, "w": 1, "nli-burst": 8_192, "nli-unit": "pairs"}),
    ]


async def test_an_answer_tells_what_is_left_of_each_quota() -> None:
    backend = Backend()
    backend.quotas = [PAIRS, REQUESTS]

    response = await _classify(backend)

    assert response.status_code == 200
    _assert_tells_both_quotas(response)
    assert "retry-after" not in response.headers


async def test_without_limits_an_answer_tells_nothing_of_them() -> None:
    response = await _classify(Backend())

    assert response.status_code == 200
    assert not {"ratelimit", "ratelimit-policy", "retry-after"} & set(response.headers)


@pytest.mark.parametrize(
    ("wait_s", "told_s", "header"),
    [(2.4001, 2.401, "3"), (0.05, 0.05, "1"), (3.0, 3.0, "3"), (1 / 3, 0.334, "1"), (0.0, 0.0, "1")],
)
async def test_a_used_up_quota_is_a_429_that_names_it_and_says_when_to_come_again(
    wait_s: float, told_s: float, header: str
) -> None:
    response = await _refusal(QuotaExceeded(["caller-requests", "service-pairs"], wait_s, FIELDS))

    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == header
    _assert_tells_both_quotas(response)
    assert response.json() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "code": "quota_exceeded",
        "detail": f"the quota caller-requests and service-pairs is used up; try again in {told_s:.3f} s",
        "violated-policies": ["caller-requests", "service-pairs"],
        "retry_after_s": told_s,
        "request_id": "abc-1",
    }


async def test_a_quota_of_the_service_alone_tells_nothing_of_the_callers() -> None:
    response = await _refusal(QuotaExceeded(["service-pairs"], 1.0))

    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert not {"ratelimit", "ratelimit-policy"} & set(response.headers)


async def test_too_many_at_a_time_is_a_429_without_a_quota() -> None:
    response = await _refusal(TooManyConcurrent(64))

    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.json()["code"] == "too_many_concurrent"
    assert "violated-policies" not in response.json()


async def test_what_can_never_pass_is_a_413_that_says_how_much_can_and_not_to_come_again() -> None:
    response = await _refusal(CostTooLarge("9,000 pairs, but your quota lets at most 8,192 pass at once"))

    assert (response.status_code, response.json()["code"]) == (413, "cost_too_large")
    assert "at most 8,192" in response.json()["detail"]
    assert "retry-after" not in response.headers
