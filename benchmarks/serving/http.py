"""JSON over kept connections, as cheap as Python's own library makes it."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection
from typing import Any

LIMIT_S = 600.0


class HttpFailed(Exception):
    """Not answered with 200."""


class Http:
    """One connection for each thread that asks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._own = threading.local()

    def post(self, path: str, body: object) -> Any:
        """
        Raises:
            HttpFailed: another status than 200.
            OSError: nobody there.
        """
        if not hasattr(self._own, "connection"):
            self._own.connection = HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_S)
        connection: HTTPConnection = self._own.connection
        try:
            connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except Exception:
            connection.close()
            raise
        if response.status != 200:
            raise HttpFailed(f"{response.status}: {content[:300]!r}")
        return json.loads(content)
