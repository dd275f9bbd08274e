"""Every error that a caller can see, in one tree.

    ServiceError
    +-- MalformedJson          400  the body is not JSON
    +-- RepeatedAuthorization  400  the Authorization header stands twice
    +-- Unauthorized           401  no API key, or one that does not open the door
    +-- HostNotAllowed         403  the Host header names neither loopback nor an allowed host
    +-- PeerNotAllowed         403  a caller from another machine while `auth` is off
    +-- NotFound               404  no such route
    |   +-- ModelNotFound      404  the request asks for a model that is not served
    +-- MethodNotAllowed       405
    +-- BodyTooLarge           413
    +-- CostTooLarge           413  costs more than the caller's burst, so it can never pass
    +-- UnsupportedMediaType   415
    +-- InvalidRequest         422  wrong fields, each named by a JSON pointer
    +-- HypothesisTooLong      422  longer than the model takes (raised by the engine, which alone can count tokens)
    +-- RateLimited            429  too much for now; `retry_after` says when to come again
    |   +-- QuotaExceeded      429  the caller's quota is used up
    |   +-- TooManyConcurrent  429  the caller has too many requests under way
    +-- EngineFailed           500  the engine raised on this text
    +-- Unavailable            503  no replica can answer now
    +-- DeadlineExceeded       504

Only the standard library is imported: a process without torch must be able to unpickle what the model
raised. Each class passes all its arguments to `super().__init__`, so a copy survives the pickling between
Ray processes. A message says what was wrong, what was allowed and what to do; it never holds a text.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple


class FieldError(NamedTuple):
    """One field of a request that is wrong."""

    pointer: str
    """RFC 6901 pointer into the request, "" for the whole of it."""

    detail: str


class ServiceError(Exception):
    """The root: an HTTP status, a stable `code` and a short `title`."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"


class MalformedJson(ServiceError):
    status = 400
    code = "malformed_json"
    title = "The body is not JSON"


class RepeatedAuthorization(ServiceError):
    status = 400
    code = "repeated_authorization"
    title = "Two Authorization headers"

    def __init__(self, detail: str = "the Authorization header stands more than once; send it once") -> None:
        super().__init__(detail)


class Unauthorized(ServiceError):
    status = 401
    code = "unauthorized"
    title = "A valid API key is required"


class HostNotAllowed(ServiceError):
    status = 403
    code = "host_not_allowed"
    title = "Host not allowed"


class PeerNotAllowed(ServiceError):
    status = 403
    code = "peer_not_allowed"
    title = "Caller not allowed"


class NotFound(ServiceError):
    status = 404
    code = "not_found"
    title = "Not found"


class ModelNotFound(NotFound):
    code = "model_not_found"
    title = "Model not served here"


class MethodNotAllowed(ServiceError):
    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"


class BodyTooLarge(ServiceError):
    status = 413
    code = "body_too_large"
    title = "Request too large"


class CostTooLarge(ServiceError):
    status = 413
    code = "cost_too_large"
    title = "Request too large for the quota"


class UnsupportedMediaType(ServiceError):
    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class InvalidRequest(ServiceError):
    """The request is JSON, but not a valid request; `errors` names each wrong field."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__(errors)
        self.errors = errors

    def __str__(self) -> str:
        return "; ".join(f"{e.pointer}: {e.detail}" if e.pointer else e.detail for e in self.errors)


class HypothesisTooLong(ServiceError):
    """The hypothesis at `index` is `n_tokens` long; the model takes `max_tokens` beside one token of text."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"

    def __init__(self, index: int, n_tokens: int, max_tokens: int) -> None:
        super().__init__(index, n_tokens, max_tokens)
        self.index = index
        self.n_tokens = n_tokens
        self.max_tokens = max_tokens

    def __str__(self) -> str:
        return f"the hypothesis has {self.n_tokens} tokens, the model takes at most {self.max_tokens}; shorten it"


class RateLimited(ServiceError):
    """Too much for now; each kind of it says for how long, in `retry_after` seconds."""

    status = 429
    code = "rate_limited"
    title = "Too many requests"
    retry_after_s: float

    @property
    def retry_after(self) -> float:
        return self.retry_after_s


class QuotaExceeded(RateLimited):
    """The same request passes after exactly `retry_after_s` seconds, unless others of the same quota come before.

    `violated` names the policies, as the field `RateLimit-Policy` does; `fields` are those header fields.
    """

    code = "quota_exceeded"
    title = "Request cannot be satisfied as assigned quota has been exceeded"

    def __init__(self, violated: list[str], retry_after_s: float, fields: dict[str, str] | None = None) -> None:
        super().__init__(violated, retry_after_s, fields)
        self.violated = violated
        self.retry_after_s = retry_after_s
        self.fields = fields or {}

    def __str__(self) -> str:
        seconds = math.ceil(self.retry_after_s * 1e3) / 1e3
        return f"the quota {' and '.join(self.violated)} is used up; try again in {seconds:.3f} s"


class TooManyConcurrent(RateLimited):
    """The caller has `most` requests under way in this replica of the front door."""

    code = "too_many_concurrent"
    title = "Too many requests at the same time"

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most
        self.retry_after_s = 1.0  # nobody knows when one of them ends

    def __str__(self) -> str:
        return f"{self.most:,} requests under way, at most {self.most:,} at a time; wait for one of them to end"


class EngineFailed(ServiceError):
    status = 500
    code = "engine_failed"
    title = "The model failed on this text"


class Unavailable(ServiceError):
    """Nobody can answer now; try again after `retry_after_s` seconds, where that is known."""

    status = 503
    code = "unavailable"
    title = "Not available now"

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail, retry_after_s)
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.detail


class DeadlineExceeded(ServiceError):
    status = 504
    code = "deadline_exceeded"
    title = "Deadline exceeded"

    def __init__(
        self, detail: str = "no answer from the model within the deadline; ask for less, or wait longer"
    ) -> None:
        super().__init__(detail)


def to_wire(error: ServiceError) -> dict[str, Any]:
    """The error as plain values, which a process of another version can read too."""
    return {"class": type(error).__name__, "args": list(error.args), "detail": str(error)}


def from_wire(value: dict[str, Any]) -> ServiceError:
    """The error again; one that this version does not know is a `ServiceError` with the same message."""
    known = {cls.__name__: cls for cls in _tree(ServiceError)}
    try:
        return known[value["class"]](*value["args"])
    except (KeyError, TypeError):
        return ServiceError(value["detail"])


def _tree(root: type[ServiceError]) -> list[type[ServiceError]]:
    return [root, *(cls for child in root.__subclasses__() for cls in _tree(child))]
