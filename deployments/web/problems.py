"""The one place that writes an error: RFC 9457 problem details.

Source: RFC 9457; `code`, `errors`, `request_id` and `retry_after_s` are our extension members. The 429 of a quota:
draft-ietf-httpapi-ratelimit-headers-10; the 401: RFC 6750 section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from deployments.contract.errors import (
    InvalidRequest,
    QuotaExceeded,
    ServiceError,
    TooManyConcurrent,
    Unauthorized,
    Unavailable,
)
from deployments.contract.wire import Problem

from .json import Json

MEDIA_TYPE = "application/problem+json"
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"


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
    if isinstance(error, QuotaExceeded):
        body["type"] = QUOTA_EXCEEDED
        body["violated-policies"] = error.violated
    if (wait_s := _wait_s(error)) is not None:
        body["retry_after_s"] = math.ceil(wait_s * 1_000) / 1_000
    return body


def response(error: ServiceError, request_id: str, headers: Mapping[str, str] | None = None) -> Json:
    """The error as an HTTP response."""
    return Json(problem(error, request_id), error.status, {**(headers or {}), **_headers(error)}, media_type=MEDIA_TYPE)


def _headers(error: ServiceError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    wait_s = _wait_s(error)
    fields = error.fields if isinstance(error, QuotaExceeded) else {}
    return fields if wait_s is None else {**fields, "Retry-After": str(max(1, math.ceil(wait_s)))}


def _wait_s(error: ServiceError) -> float | None:
    return error.retry_after_s if isinstance(error, QuotaExceeded | TooManyConcurrent | Unavailable) else None
