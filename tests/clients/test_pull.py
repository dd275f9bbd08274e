"""`nli-serve pull` against a loopback server that speaks the part of the Hub's API that a download needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = os.urandom(1 << 20) * 12  # some chunks of the client's 10 MB
FILES = {"config.json": b'{"model_type": "roberta"}', "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
PULL = """
import sys
from rich.console import Console
from deployments.contract.args import ModelArgs
from clients.pull import PullFailed, pull
try:
    pull(ModelArgs(name="owner/model", revision=sys.argv[1]), Console(), reach_s=float(sys.argv[2]))
except PullFailed as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Hub(ThreadingHTTPServer):
    """One model; `cut` lets the next download of the weights stall after that many bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stated = hashlib.sha256(WEIGHTS).hexdigest()
        self.cut: int | None = None
        self.stalled = threading.Event()
        self.silent = False
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.silent:
            self.server.closing.wait()
        elif f"/api/models/owner/model/revision/{COMMIT}" in self.path:
            self._send(json.dumps(self._info()).encode(), {"Content-Type": "application/json"})
        elif f"/api/models/owner/model/tree/{COMMIT}" in self.path:
            self._send(json.dumps([{"type": "file", **self._sibling(n), "path": n} for n in FILES]).encode(), {})
        elif match := re.fullmatch(rf"/owner/model/resolve/{COMMIT}/(.+)", self.path.partition("?")[0]):
            self._file(match[1])
        else:
            self._send(b"{}", {"X-Error-Code": "RevisionNotFound"}, 404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _info(self) -> dict[str, object]:
        return {"id": "owner/model", "sha": COMMIT, "siblings": [self._sibling(name) for name in FILES]}

    def _sibling(self, name: str) -> dict[str, object]:
        content = FILES[name]
        found: dict[str, object] = {"rfilename": name, "size": len(content), "oid": "0" * 40, "blobId": "0" * 40}
        if name == "model.safetensors":
            found["lfs"] = {
                "sha256": self.server.stated,
                "oid": self.server.stated,
                "size": len(content),
                "pointerSize": 1,
            }
        return found

    def _file(self, name: str) -> None:
        content, weights = FILES[name], name == "model.safetensors"
        etag = hashlib.sha256(content).hexdigest() if not weights else self.server.stated
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if weights:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        start, status = 0, 200
        if (wanted := self.headers.get("Range")) and self.command == "GET":
            self.server.ranges.append(wanted)
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.server.cut if weights and self.command == "GET" else None
        self._send(content[start:], headers, status, cut)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut])
        if cut is not None:
            self.server.stalled.set()
            self.server.closing.wait()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.closing.set()
        hub.shutdown()
        thread.join()


def _start(endpoint: str, cache: Path, revision: str = COMMIT, reach_s: float = 5) -> subprocess.Popen[str]:
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", PULL, revision, str(reach_s)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _pull(endpoint: str, cache: Path, revision: str = COMMIT, reach_s: float = 5) -> tuple[int, str]:
    with _start(endpoint, cache, revision, reach_s) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def _weights(cache: Path) -> Path:
    return cache / "models--owner--model" / "snapshots" / COMMIT / "model.safetensors"


def test_fetches_a_model_once_and_then_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    first = _pull(hub.url, tmp_path)
    asked = len(hub.requests)
    second = _pull(hub.url, tmp_path)

    assert first[0] == 0, first
    assert _weights(tmp_path).read_bytes() == WEIGHTS
    assert (second[0], len(hub.requests)) == (0, asked)
    assert "is here already" in second[1]


def test_a_download_that_was_killed_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.cut = len(WEIGHTS) - 1_000
    blobs = tmp_path / "models--owner--model" / "blobs"
    process = _start(hub.url, tmp_path)
    assert hub.stalled.wait(30)
    deadline = time.monotonic() + 30
    while not any(f.stat().st_size for f in blobs.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    partial = sum(f.stat().st_size for f in blobs.glob("*.part"))
    hub.cut = None

    code, said = _pull(hub.url, tmp_path)

    assert code == 0, said
    assert partial > 0
    assert hub.ranges == [f"bytes={partial}-"]
    assert _weights(tmp_path).read_bytes() == WEIGHTS


def test_weights_that_are_not_what_the_hub_states_are_refused_and_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.stated = "f" * 64

    code, said = _pull(hub.url, tmp_path)

    assert code == 1
    assert "PullFailed: model.safetensors is deleted: it came with sha256" in said
    assert not _weights(tmp_path).exists()
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.stat().st_size == len(WEIGHTS)]


def test_an_unknown_commit_is_refused(hub: Hub, tmp_path: Path) -> None:
    code, said = _pull(hub.url, tmp_path, revision="f" * 40)

    assert code == 1
    assert f"PullFailed: owner/model has no commit {'f' * 40}" in said


def test_a_hub_that_cannot_be_reached_is_told_so(tmp_path: Path) -> None:
    code, said = _pull("http://127.0.0.1:9", tmp_path)

    assert code == 1
    assert "HubUnreachable: the Hub, http://127.0.0.1:9, did not answer" in said
    assert "Traceback" not in said


def test_a_hub_that_never_answers_is_given_up_in_time(hub: Hub, tmp_path: Path) -> None:
    hub.silent = True

    code, said = _pull(hub.url, tmp_path, reach_s=0.5)

    assert code == 1
    assert "HubUnreachable" in said
    assert "within 0.5 s" in said
