"""The id under which a request is found in answers and logs."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers

_SAFE = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(headers: Headers) -> str:
    """`X-Request-ID`, which Serve sets when the caller did not; a new one when it could not stand in a log."""
    sent = headers.get("x-request-id", "")
    return sent if _SAFE.fullmatch(sent) else str(uuid.uuid4())
