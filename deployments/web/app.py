"""The HTTP app: routes in front of two async callables, with no Ray in it.

Plain Starlette: on this path FastAPI costs a third of the requests per second (docs/adr/0003-starlette.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.contract.args import AppArgs
from deployments.contract.decode import deadline_s, parse_json
from deployments.contract.errors import DeadlineExceeded, MethodNotAllowed, NotFound, ServiceError
from deployments.contract.model import ServedModel
from deployments.core.lease import ADDRESS

from .address import address_of, prefix
from .answers import Answer
from .body import read_json_body
from .guard import Guard
from .json import Json
from .openapi import document
from .problems import response
from .ratelimit import fields
from .request_id import request_id
from .visitor import Visitor

Read = Callable[[], Awaitable[tuple[object, float]]]
"""-> decoded JSON and the seconds that are left for the answer; raises `ServiceError`."""

Classify = Callable[[Visitor, Read], Awaitable[Answer]]
"""Reads the request once it has let the visitor in; raises `ServiceError`."""

Probe = Callable[[], Awaitable[None]]
"""Makes a round trip through the model; raises `ServiceError`."""


def create_app(args: AppArgs, model: ServedModel, *, classify: Classify, probe: Probe) -> Starlette:
    """The routes of docs/architecture.md, every error as a problem."""
    routes = _Routes(args, model, classify, probe)
    app = Starlette(
        routes=[
            Route("/v1/classify", routes.classify, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/healthz", routes.healthz),
            Route("/readyz", routes.readyz),
            Route("/openapi.json", routes.openapi),
        ],
        middleware=[Middleware(Guard, allowed_hosts=args.allowed_hosts, local_only=args.auth == "off")],
        exception_handlers={ServiceError: _service_error, HTTPException: _http_error, Exception: _bug},
    )
    app.router.redirect_slashes = False  # `/v1/classify/` is a 404 problem, like any other unknown path
    return app


class _Routes:
    def __init__(self, args: AppArgs, model: ServedModel, classify: Classify, probe: Probe) -> None:
        self._args = args
        self._model = model
        self._classify = classify
        self._probe = probe
        self._openapi = document(args)

    async def classify(self, request: Request) -> Response:
        started = time.perf_counter()
        address = ADDRESS + prefix(address_of(request.scope, self._args.trusted_proxies))
        visitor = Visitor(address, request.headers.getlist("authorization"), request_id(request.headers))
        try:
            answer = await self._classify(visitor, partial(self._read, request, started))
        except ClientDisconnect:
            return Response(status_code=499)  # nginx's code for it; nobody is left to read it
        timings = {**answer.timings, "total": time.perf_counter() - started}
        headers = {"Server-Timing": _server_timing(timings), **fields(answer.quotas)}
        return Json(answer.body, headers=headers)

    async def _read(self, request: Request, started: float) -> tuple[object, float]:
        seconds = deadline_s(request.headers.get("x-deadline-seconds"), self._args.deadline)
        try:
            async with asyncio.timeout(seconds):
                body = await read_json_body(request, self._args.caps.max_body_bytes)
        except TimeoutError:
            raise DeadlineExceeded(f"the body did not arrive within {seconds:g} s") from None
        return parse_json(body), seconds - (time.perf_counter() - started)

    async def models(self, _: Request) -> Response:
        return Json({"models": [self._model.model_dump()]})

    async def healthz(self, _: Request) -> Response:
        return Json({"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        await self._probe()
        return Json(
            {"status": "ready", "model": self._model.name, **self._model.model_dump(include={"engine", "fallback"})}
        )

    async def openapi(self, _: Request) -> Response:
        return Json(self._openapi)


def _server_timing(seconds: Mapping[str, float]) -> str:
    """Source: W3C Server Timing; durations in milliseconds."""
    return ", ".join(f"{name};dur={value * 1e3:.1f}" for name, value in seconds.items())


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return response(error, request_id(request.headers))


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, no such method."""
    assert isinstance(error, HTTPException)
    known = {404: NotFound("no such path; see /openapi.json"), 405: MethodNotAllowed("see the Allow header")}
    return response(known[error.status_code], request_id(request.headers), error.headers)


async def _bug(request: Request, _: Exception) -> Response:
    """Ours. Starlette raises it again after this answer, so that the log has the traceback."""
    return response(ServiceError("an error in the server; its log says which"), request_id(request.headers))
