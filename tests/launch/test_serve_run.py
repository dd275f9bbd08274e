"""`serve run serve_config.yaml`, as a user types it, in both modes of Serve."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from .conftest import FAST, ROOT, Start, Started, wait_until

CRACKED = {"text": "My phone screen is cracked", "labels": ["billing", "repair", "holiday"]}
BY_HANDLE = """
import json, sys
import ray
from ray import serve
from deployments.contract.errors import InvalidRequest

ray.init("auto", log_to_driver=False)
handle = serve.get_app_handle("nli")
handle._init(_run_router_in_separate_loop=True)  # a synchronous caller, in the mode of the cluster
answer = handle.classify.remote(json.loads(sys.argv[1])).result(timeout_s=20)
try:
    handle.classify.remote({"text": "a", "labels": ["b", "b"]}).result(timeout_s=20)
except InvalidRequest as error:
    answer["refused"] = error.errors[0].pointer
print(json.dumps(answer))
"""


@pytest.mark.parametrize("mode", ["default", "haproxy"])
@pytest.mark.timeout(180)
def test_serves_from_start_to_sigint(start: Start, config: tuple[Path, dict[str, Any]], mode: str) -> None:
    file, data = config
    port = data["http_options"]["port"]
    env = FAST if mode == "haproxy" else {}

    service = start("ray.serve.scripts", "run", "--app-dir", str(ROOT), str(file), port=port, **env)
    wait_until(service.answers, 90, service.said)

    assert _listener(port) == ("haproxy" if mode == "haproxy" else "ray::ProxyActor"), "this mode was not on"
    over_http = service.ask(CRACKED).json()
    by_handle = _by_handle(service)
    assert over_http["model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert over_http["fallback"] is True
    assert over_http["results"][0]["labels"][0] == "repair"
    assert by_handle.pop("refused") == "/labels/1"
    assert {**by_handle, "request_id": ""} == {**over_http, "request_id": ""}
    _check_bad_bodies(service)

    before = service.session()
    assert len(before) > 5
    started = time.monotonic()
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(timeout=30) == 0
    assert time.monotonic() - started < 10
    wait_until(lambda: not any(_runs(p) for p in before), 10, lambda: str([p for p in before if _runs(p)]))


def _check_bad_bodies(service: Started) -> None:
    """Through the real front door: nothing hangs, nothing is a 5xx, the next request is answered."""
    with httpx2.Client(base_url=service.url, timeout=30, trust_env=False) as client:
        json_type = {"Content-Type": "application/json"}
        got = [
            client.post("/v1/classify", content=b"{", headers=json_type).status_code,
            client.post("/v1/classify", content=b"[" * 100_000, headers=json_type).status_code,
            client.post("/v1/classify", content=b" " * 50_000_000, headers=json_type).status_code,
            client.post("/v1/classify", content=iter([b" " * 1_000_000] * 50), headers=json_type).status_code,
            client.post("/v1/classify", content=b"{}").status_code,
            client.post("/v1/classify", json={**CRACKED, "labels": [str(i) for i in range(10_000)]}).status_code,
            client.get("/healthz", headers={"Host": "evil.example.com"}).status_code,
            client.post("/v1/classify", json=CRACKED, headers={"X-Deadline-Seconds": "nan"}).status_code,
            client.post("/v1/classify", json=CRACKED).status_code,
        ]
    assert got == [400, 400, 413, 413, 415, 422, 403, 422, 200]


def _by_handle(service: Started) -> dict[str, Any]:
    command = [sys.executable, "-c", BY_HANDLE, json.dumps(CRACKED)]
    result = subprocess.run(command, env=service.env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def _listener(port: int) -> str:
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    (pid,) = {c.pid for c in listening if c.laddr and c.laddr.port == port}
    assert pid is not None
    return psutil.Process(pid).name() if "haproxy" in psutil.Process(pid).name() else psutil.Process(pid).cmdline()[0]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
