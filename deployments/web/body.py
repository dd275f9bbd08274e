"""Reading a request's body: only JSON, never more than the cap, whatever Content-Length says."""

from __future__ import annotations

from starlette.requests import Request

from deployments.contract.errors import BodyTooLarge, UnsupportedMediaType

# What is read and thrown away past the cap, so that a client which sends before it reads sees the 413
# instead of a broken pipe.
DRAIN_BYTES = 64 * 1024 * 1024


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The raw body.

    Raises:
        UnsupportedMediaType: the content is not `application/json`, or is compressed.
        BodyTooLarge: more than `max_bytes`, declared or sent.
    """
    _check_media_type(request)
    parts: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= max_bytes:
            parts.append(chunk)
        elif size > DRAIN_BYTES:
            break
    if size > max_bytes:
        raise BodyTooLarge(f"the body exceeds {max_bytes:,} bytes; send fewer texts at a time")
    return b"".join(parts)


def _check_media_type(request: Request) -> None:
    sent = request.headers.get("content-type", "")
    if sent.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("send JSON with the header Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not taken; send the JSON without Content-Encoding")
