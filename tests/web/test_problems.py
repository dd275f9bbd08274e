"""Errors as answers: what each says beside the members that all have."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.responses import Response

from deployments.contract.errors import QuotaExceeded, ServiceError, TooManyConcurrent, Unauthorized, Unavailable
from deployments.contract.wire import Problem
from deployments.web.problems import problem, response


def _body(answer: Response) -> Any:
    return json.loads(bytes(answer.body))


def test_a_used_up_quota_names_the_policies_and_the_exact_wait() -> None:
    answer = response(QuotaExceeded(["key-requests", "key-pairs"], 2.1401), "abc-1", {"RateLimit": "x"})

    assert _body(answer) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "code": "quota_exceeded",
        "detail": str(QuotaExceeded(["key-requests", "key-pairs"], 2.1401)),
        "request_id": "abc-1",
        "violated-policies": ["key-requests", "key-pairs"],
        "retry_after_s": 2.141,
    }
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["ratelimit"]) == (429, "3", "x")
    assert answer.headers["content-type"] == "application/problem+json"


def test_too_many_at_a_time_may_come_again_after_a_second() -> None:
    answer = response(TooManyConcurrent(8), "abc-1")

    body = _body(answer)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert (body["type"], body["retry_after_s"]) == ("urn:nli-serve:too_many_concurrent", 1.0)
    assert "violated-policies" not in body


@given(st.integers(0, 10**14))  # nanoseconds, up to a day and more
@example(1_100_000_000)  # times 1,000 it is a hair above 1,100 in floats
def test_who_waits_as_told_has_waited_long_enough_and_hardly_longer(nanoseconds: int) -> None:
    wait_s = nanoseconds / 1e9
    error = QuotaExceeded(["key-requests"], wait_s)

    told = problem(error, "abc-1")["retry_after_s"]
    header = response(error, "abc-1").headers["retry-after"]
    assert wait_s <= told <= wait_s + 0.001_000_1
    assert max(1.0, wait_s) <= int(header) < max(1.0, wait_s) + 1


@pytest.mark.parametrize("error", [Unavailable("down"), ServiceError("bug"), Unauthorized("no key")])
def test_where_nobody_knows_how_long_nothing_is_said(error: ServiceError) -> None:
    answer = response(error, "abc-1")

    assert "retry-after" not in answer.headers
    assert "retry_after_s" not in _body(answer)


def test_a_missing_key_is_asked_for() -> None:
    answer = response(Unauthorized("send a key"), "abc-1")

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "www-authenticate" not in response(TooManyConcurrent(8), "abc-1").headers


def test_the_schema_of_a_problem_states_the_members_of_a_quota() -> None:
    adapter: TypeAdapter[Problem] = TypeAdapter(Problem)

    schema = adapter.json_schema()
    assert {"violated-policies", "retry_after_s", "errors"} == schema["properties"].keys() - set(schema["required"])
