"""The app held against its own OpenAPI document: whatever Schemathesis makes of it, no 5xx and no surprise."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.contract.args import AppArgs
from deployments.web.app import create_app

from .test_app import MODEL, Backend


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


@pytest.mark.parametrize(
    ("path", "method", "modes", "statuses"),
    [
        ("/v1/classify", "POST", list(GenerationMode), {200, 422}),
        ("/v1/models", "GET", [GenerationMode.POSITIVE], {200}),
        ("/healthz", "GET", [GenerationMode.POSITIVE], {200}),
        ("/readyz", "GET", [GenerationMode.POSITIVE], {200}),
        ("/openapi.json", "GET", [GenerationMode.POSITIVE], {200}),
    ],
)
def test_no_request_gets_a_5xx_or_an_answer_that_is_not_documented(
    path: str, method: str, modes: list[GenerationMode], statuses: set[int]
) -> None:
    cases = st.one_of([schema[path][method].as_strategy(generation_mode=mode) for mode in modes])
    seen: set[int] = set()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(cases)
    def ask(case: Case[Any]) -> None:
        seen.add(case.call_and_validate().status_code)

    ask()

    assert statuses <= seen  # good requests were tried, and bad ones


def test_every_operation_is_tried() -> None:
    assert {path for path in schema} == {"/v1/classify", "/v1/models", "/healthz", "/readyz", "/openapi.json"}
