"""`nli-serve up`: `serve run` under a launcher that can be trusted.

`serve run` alone stays alive with exit code 0 when the deploy fails, answers liveness while the model hangs, and
dies of SIGTERM without draining. Here: check, fetch, start, wait for a real answer, say how to call it, and end
with everything that was started.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import httpx2
import yaml
from rich.console import Console

from deployments.contract.args import AppArgs, ModelArgs
from deployments.engines.refusal import StartRefused
from deployments.engines.resolve import resolve

from . import session
from .cause import cause
from .profile import can_be_fast, environment, taken_ports
from .watch import Status

ANSWER_LIMIT_S = 300.0  # a large model on a slow disk; nothing waits in DEPLOYING for ever
STOP_GRACE_S = 8.0  # then SIGKILL, so that a stop takes less than 10 s
POLL_S = 0.25
EXAMPLE = {"text": "My phone screen is cracked", "labels": ["repair", "billing", "holiday"]}
FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}


class LaunchFailed(Exception):
    """Why there is no service; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the launcher needs to know of a config file that `check` has passed."""

    config: Path
    name: str
    host: str
    port: int
    model: ModelArgs

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def read_service(config: Path) -> Service:
    """The address, application name and model of a config file."""
    data: dict[str, Any] = yaml.safe_load(config.read_text())
    http = data.get("http_options") or {}
    application = data["applications"][0]
    return Service(
        config=config.resolve(),
        name=application.get("name", "default"),
        host=http.get("host", "0.0.0.0"),
        port=http.get("port", 8000),
        model=AppArgs.model_validate(application["args"]).model,
    )


def launch(service: Service, *, plain: bool, console: Console) -> int:
    """Serve until SIGINT or SIGTERM.

    Returns:
        The exit code: 0 after a clean stop.

    Raises:
        LaunchFailed: there is no such model, a port is taken, the deploy failed, or the service ended by itself.
        KeyboardInterrupt: stopped before it answered.
    """
    try:
        resolve(service.model)  # as `build` will, twenty seconds later
    except StartRefused as error:
        raise LaunchFailed(str(error)) from error
    fast = can_be_fast() and not plain
    env = environment(fast=fast, inherited=os.environ)
    if taken := list(taken_ports(service.host, service.port, fast=fast, env=env)):
        raise LaunchFailed("\n".join(f"port {t.port} is taken; it is {t.purpose}" for t in taken))
    log = _log_file(service)
    console.print(f"Starting Ray Serve, {'fast' if fast else 'plain'} profile; its log: {log}", soft_wrap=True)
    with _sigterm_as_sigint(), log.open("wb") as output:
        child = session.start(_serve_run(service), env, output)
        try:
            answer = _wait_for_answer(service, child, env, console)
            _say_how_to_call(service, answer, console)
            return _serve(child, log)
        finally:
            _stop(child, console)


def _serve(child: subprocess.Popen[bytes], log: Path) -> int:
    try:
        code = child.wait()
    except KeyboardInterrupt:
        return 0
    raise LaunchFailed(f"serve run ended by itself with exit code {code}; see {log}")


def _serve_run(service: Service) -> list[str]:
    folder = str(service.config.parent)
    return [sys.executable, "-m", "ray.serve.scripts", "run", "--app-dir", folder, str(service.config)]


def _wait_for_answer(
    service: Service, child: subprocess.Popen[bytes], env: Mapping[str, str], console: Console
) -> dict[str, Any]:
    """Until a classification succeeds, or something says that none will."""
    deadline = time.monotonic() + ANSWER_LIMIT_S
    with _deploy_status(service, env) as latest, console.status("waiting for the first answer"):
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise LaunchFailed(f"serve run ended with exit code {child.returncode}: {_last_words(service)}")
            if (status := latest()) and status["status"] in FAILED:
                raise LaunchFailed(f"the deploy failed: {cause(status['message'])}")
            if answer := _ask(service):
                return answer
            time.sleep(POLL_S)
        status = latest()
        raise LaunchFailed(f"no answer after {ANSWER_LIMIT_S:g} s; Serve says {status or 'nothing'}")


def _ask(service: Service) -> dict[str, Any] | None:
    try:
        response = httpx2.post(f"{service.url}/v1/classify", json=EXAMPLE, timeout=5, trust_env=False)
    except httpx2.HTTPError:
        return None
    if response.status_code != 200:
        return None
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def _deploy_status(service: Service, env: Mapping[str, str]) -> Iterator[Any]:
    """A function that gives Serve's latest status, from a watcher in a process of its own."""
    command = [sys.executable, "-m", "clients.commands.watch", service.name]
    watcher = subprocess.Popen(command, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert watcher.stdout is not None
    seen: list[Status] = []
    reader = threading.Thread(target=_read_statuses, args=(watcher.stdout, seen), daemon=True)
    reader.start()
    try:
        yield lambda: seen[-1] if seen else None
    finally:
        watcher.kill()
        watcher.wait()
        reader.join()
        watcher.stdout.close()


def _read_statuses(lines: IO[str], into: list[Status]) -> None:
    for line in lines:
        if line.startswith("{"):
            into.append(json.loads(line))


def _say_how_to_call(service: Service, answer: Mapping[str, Any], console: Console) -> None:
    where = "the fallback, since the configured model is not on this machine" if answer["fallback"] else "as configured"
    best = answer["results"][0]
    lines = [
        f"\nReady: {service.url}",
        f"Model: {answer['model']} ({answer['engine']}), {where}",
        f"Try:   curl {service.url}/v1/classify --json {shlex.quote(json.dumps(EXAMPLE))}",
        f"       it says: {best['labels'][0]} ({best['scores'][0]:.2f})",
        "Stop:  Ctrl-C\n",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _stop(child: subprocess.Popen[bytes], console: Console) -> None:
    """Not to be interrupted: a second Ctrl-C would leave half of Ray behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with console.status("stopping"):
            session.stop(child, STOP_GRACE_S)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_file(service: Service) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    folder = Path(state, "nli-serve")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"serve-{service.port}.log"


def _last_words(service: Service) -> str:
    return cause(_log_file(service).read_text(errors="replace"))


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Both mean: stop cleanly. SIGINT too: a shell that starts us with `&` has it ignored, which a child inherits."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
