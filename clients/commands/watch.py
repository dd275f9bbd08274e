"""What Serve says of an application while it deploys, one JSON line per change.

Use: `python -m clients.commands.watch APPLICATION HOST:PORT`, the address being that of the Ray cluster.

A process of its own: a Ray driver takes over SIGTERM, and dies with its cluster, neither of which a launcher may.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TypedDict

import ray
from ray import serve

POLL_S = 0.5


class Status(TypedDict):
    """Of one application; `message` is Serve's own, often a whole traceback."""

    status: str
    message: str


def main(application: str, cluster: str) -> None:
    """Watch until killed, or until the cluster goes away."""
    _connect(cluster)
    last: Status | None = None
    while True:
        now = _status(application)
        if now != last:
            sys.stdout.write(json.dumps(now) + "\n")
            sys.stdout.flush()
        last = now
        time.sleep(POLL_S)


def _connect(cluster: str) -> None:
    while True:
        try:
            ray.init(address=cluster, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:  # not up yet
            time.sleep(POLL_S)
        else:
            return


def _status(application: str) -> Status:
    found = serve.status().applications.get(application)
    if found is None:
        return {"status": "NOT_STARTED", "message": ""}
    messages = [found.message, *(deployment.message for deployment in found.deployments.values())]
    return {"status": str(found.status.value), "message": "\n".join(message for message in messages if message)}


if __name__ == "__main__":
    main(*sys.argv[1:])
