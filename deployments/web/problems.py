"""The one place that writes an error: RFC 9457 problem details.

Source: RFC 9457; `code`, `errors` and `request_id` are our extension members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import JSONResponse

from deployments.contract.errors import InvalidRequest, ServiceError, Unavailable
from deployments.contract.wire import Problem

MEDIA_TYPE = "application/problem+json"


def problem(error: ServiceError, request_id: str) -> Problem:
    """The error as the value that callers see."""
    body: Problem = {
        "type": f"urn:nli-serve:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": str(error) or error.title,
        "request_id": request_id,
    }
    if isinstance(error, InvalidRequest):
        body["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in error.errors]
    return body


def response(error: ServiceError, request_id: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The error as an HTTP response."""
    if isinstance(error, Unavailable) and error.retry_after_s is not None:
        headers = {**(headers or {}), "Retry-After": str(math.ceil(error.retry_after_s))}
    return JSONResponse(problem(error, request_id), error.status, headers, MEDIA_TYPE)
