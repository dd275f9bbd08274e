"""The app held against its own OpenAPI document: whatever Schemathesis makes of it, no 5xx and no surprise."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.contract.args import AppArgs
from deployments.web.app import create_app

from .test_app import MODEL, Backend

STATUSES: Counter[tuple[str, int]] = Counter()


class _OnThisMachine:
    """The app as a caller on this machine reaches it; the test client names itself `testclient`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"] = ("127.0.0.1", 1234)
        await self._app(scope, receive, send)


def _app() -> ASGIApp:
    args = AppArgs.model_validate(
        {
            "auth": "off",
            "allowed_hosts": ["testserver"],  # what the test client calls it
            "caps": {"max_pairs": 65_536, "max_body_bytes": 8_000_000},  # JSON Schema cannot state these two
        }
    )
    backend = Backend(args.caps)
    return _OnThisMachine(create_app(args, MODEL, classify=backend.classify, probe=backend.probe))


schema = schemathesis.openapi.from_asgi("/openapi.json", _app())


@schema.parametrize()
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_no_request_gets_a_5xx_or_an_answer_that_is_not_documented(case: Case[Any]) -> None:
    response = case.call_and_validate()

    STATUSES[case.path, response.status_code] += 1


def test_both_good_and_bad_requests_were_tried() -> None:
    if not STATUSES:
        pytest.skip("needs the test above in the same run")

    seen = {status for path, status in STATUSES if path == "/v1/classify"}
    assert {200, 422} <= seen, STATUSES
    assert {status for path, status in STATUSES if path == "/v1/models"} >= {200}
