"""Whether a service that was started has begun to answer, or why it never will.

`serve run` says neither. The service is asked over HTTP, as its callers will; Serve's own status, which alone
knows of a failed deploy, is read by a watcher in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2

from . import session
from .capacity import running_cluster
from .cause import cause
from .service import Service
from .watch import Status

READY_LIMIT_S = 300.0  # a large model on a slow disk; nothing waits in DEPLOYING for ever
POLL_S = 0.25
HTTP_LIMIT_S = 5.0  # of one request; a stop waits for it
EXAMPLE = {"text": "My phone screen is cracked", "labels": ["repair", "billing", "holiday"]}
FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}


class LaunchFailed(Exception):
    """Why there is no service; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Which model answers, and what it said to the example."""

    model: str
    engine: str
    fallback: bool
    example: str


def wait_until_ready(
    service: Service, child: subprocess.Popen[bytes], env: Mapping[str, str], log: Path, stop: threading.Event
) -> Ready:
    """Until the model has answered through the front door.

    Raises:
        LaunchFailed: the command ended, the deploy failed, or it took longer than `READY_LIMIT_S`.
        KeyboardInterrupt: `stop` was set.
    """
    deadline = time.monotonic() + READY_LIMIT_S
    with _deploy_status(service, child, env) as latest:
        while time.monotonic() < deadline:
            if child.poll() is not None:
                words = cause(log.read_text(errors="replace"))
                raise LaunchFailed(f"serve run ended with exit code {child.returncode}: {words}")
            if (status := latest()) and status["status"] in FAILED:
                raise LaunchFailed(f"the deploy failed: {cause(status['message'])}")
            if ready := _ready(service):
                return ready
            if stop.wait(POLL_S):
                raise KeyboardInterrupt
        raise LaunchFailed(f"no answer after {READY_LIMIT_S:g} s; Serve says {latest() or 'nothing'}")


def _ready(service: Service) -> Ready | None:
    with httpx2.Client(base_url=service.url, timeout=HTTP_LIMIT_S, trust_env=False) as http:
        try:
            state = http.get("/readyz")
            if state.status_code != 200:
                return None
            said = state.json()
            return Ready(said["model"], said["engine"], said["fallback"], _example(http))
        except (httpx2.HTTPError, ValueError, KeyError):  # not there yet, or not ours
            return None


def _example(http: httpx2.Client) -> str:
    """The best label; where the caps of this service are too narrow for the example, its own words."""
    try:
        response = http.post("/v1/classify", json=EXAMPLE)
    except httpx2.TimeoutException:
        return f"nothing within {HTTP_LIMIT_S:g} s"
    body = response.json()
    if response.status_code != 200:
        return f"{response.status_code}, {body['detail']}"
    best = body["results"][0]
    return f"{best['labels'][0]} ({best['scores'][0]:.2f})"


@contextmanager
def _deploy_status(
    service: Service, child: subprocess.Popen[bytes], env: Mapping[str, str]
) -> Iterator[Callable[[], Status | None]]:
    """A function that gives Serve's latest status; None before there is one."""
    with ExitStack() as stack:
        watchers: list[Callable[[], Status | None]] = []

        def latest() -> Status | None:
            if not watchers and (address := _cluster(child)):
                watchers.append(stack.enter_context(_watch(service.name, address, env)))
            return watchers[0]() if watchers else None

        yield latest


def _cluster(child: subprocess.Popen[bytes]) -> str | None:
    """The Ray cluster that the command joined or started; any other on this machine is none of ours."""
    return running_cluster() or session.argument(child.pid, "--gcs-address")


@contextmanager
def _watch(application: str, address: str, env: Mapping[str, str]) -> Iterator[Callable[[], Status | None]]:
    command = [sys.executable, "-m", "clients.commands.watch", application, address]
    if running_cluster() is None:  # Ray asks for a token in a cluster that it starts itself, and tells no other process
        env = {"RAY_AUTH_MODE": "token", **env}
    watcher = session.start(command, env, subprocess.PIPE, subprocess.DEVNULL)
    assert watcher.stdout is not None
    seen: list[Status] = []
    reader = threading.Thread(target=_read_statuses, args=(watcher.stdout, seen), daemon=True)
    reader.start()
    try:
        yield lambda: seen[-1] if seen else None
    finally:
        session.stop(watcher, grace_s=0)
        reader.join()
        watcher.stdout.close()


def _read_statuses(lines: IO[bytes], into: list[Status]) -> None:
    for line in lines:
        if line.startswith(b"{"):
            into.append(json.loads(line))
