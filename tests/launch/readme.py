"""What the README promises of a service that runs, asked of it as the README says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import httpx2
import psutil
import pytest

from .conftest import ROOT, Started

README = (ROOT / "README.md").read_text()
CRACKED = {"text": "My phone screen is cracked", "labels": ["billing", "repair", "holiday"]}
REFUSED_BY_HANDLE = """
from deployments.contract.errors import InvalidRequest

with HandleClient("nli") as client:
    try:
        client.classify("x" * 200_000, labels=["a", "b"])
    except InvalidRequest as error:
        print(error.errors[0].pointer)
"""


def check_answers(service: Started, port: int, listener: str) -> None:
    """The README's answers by curl and by handle, and clear refusals, from behind this listener."""
    assert _listener(port) == listener, "this mode was not on"
    shown, answer = _of_readme("json"), _by_curl(service)
    expected = json.loads(shown)
    (result,), (expected_result,) = answer.pop("results"), expected.pop("results")
    assert {**answer, "request_id": ""} == {**expected, "request_id": ""}
    assert result == {**expected_result, "scores": pytest.approx(expected_result["scores"], abs=1e-4)}
    best, refusal = _by_handle(service)
    assert best.startswith("repair ")
    assert refusal == "/text"
    _check_bad_bodies(service)


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


def _of_readme(language: str, word: str = "") -> str:
    """The first block in this language that holds the word."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if word in block)


def _by_curl(service: Started) -> dict[str, Any]:
    command = _of_readme("bash", "curl").replace("http://127.0.0.1:8000", service.url)
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def _by_handle(service: Started) -> list[str]:
    command = [sys.executable, "-c", _of_readme("python") + REFUSED_BY_HANDLE]
    result = subprocess.run(command, env=service.env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-2:]


def _listener(port: int) -> str:
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    (pid,) = {c.pid for c in listening if c.laddr and c.laddr.port == port}
    assert pid is not None
    return psutil.Process(pid).name() if "haproxy" in psutil.Process(pid).name() else psutil.Process(pid).cmdline()[0]
