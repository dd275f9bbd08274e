"""`nli-serve pull` against a loopback server that speaks the part of the Hub's API that a download needs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from clients.commands.pull import PullFailed, pull
from deployments.contract.args import ModelArgs

ROOT = Path(__file__).parent.parent.parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = os.urandom(1 << 20) * 12  # some chunks of the client's 10 MB
FILES = {"config.json": b'{"model_type": "roberta"}', "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
UNWANTED = {"README.md": b"# a model", "pytorch_model.bin": b"a pickle", "tokenizer.pkl": b"a pickle"}
PULL = """
import resource, sys
from rich.console import Console
from deployments.contract.args import ModelArgs
from clients.commands.pull import PullFailed, pull
if len(sys.argv) > 3:  # the largest file that the disk takes
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    pull(ModelArgs(name="owner/model", revision=sys.argv[1]), Console(), reach_s=float(sys.argv[2]))
except PullFailed as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Hub(ThreadingHTTPServer):
    """One model; `cut` lets the next download of the weights stall after that many bytes, or end if it `drops`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stated = hashlib.sha256(WEIGHTS).hexdigest()
        self.repo, self.commit = "owner/model", COMMIT
        self.cut: int | None = None
        self.stalled = threading.Event()
        self.drops = False
        self.silent = self.trickles = False
        self.files = FILES | UNWANTED
        self.refusal: tuple[int, dict[str, str]] | None = None  # status and headers instead of the model's card
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
        elif self.server.trickles:
            self.send_response(200)
            while not self.server.closing.wait(0.05):
                self.send_header("X-More", "to come")
                self.flush_headers()
        elif self.server.refusal and "/api/models/" in self.path:
            status, headers = self.server.refusal
            self._send(b"<html>not the Hub</html>", headers, status)
        elif f"/api/models/{self.server.repo}/revision/{self.server.commit}" in self.path:
            self._send(json.dumps(self._info()).encode(), {"Content-Type": "application/json"})
        elif match := re.fullmatch(self._place + "(.+)", self.path.partition("?")[0]):
            self._file(match[1])
        else:
            self._send(b"{}", {"X-Error-Code": "RevisionNotFound"}, 404)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    @property
    def _place(self) -> str:
        return f"/{self.server.repo}/resolve/{self.server.commit}/"

    def _info(self) -> dict[str, object]:
        return {
            "id": self.server.repo,
            "sha": self.server.commit,
            "siblings": [self._sibling(name) for name in self.server.files],
        }

    def _sibling(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
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
        content, weights = self.server.files[name], name == "model.safetensors"
        etag = hashlib.sha256(content).hexdigest() if not weights else self.server.stated
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.commit, "Accept-Ranges": "bytes"}
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
            self.close_connection = True
            if not self.server.drops:
                self.server.closing.wait()
            self.server.cut = None


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.closing.set()
        hub.shutdown()
        thread.join()


def _start(endpoint: str, cache: Path, *more: str, offline: str = "0", **named: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HUB_OFFLINE": offline, "HF_HOME": str(cache / "home"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", PULL, COMMIT, named.get("reach_s", "5"), *more]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _pull(endpoint: str, cache: Path, *more: str, **named: str) -> tuple[int, str]:
    with _start(endpoint, cache, *more, **named) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out + err


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """What `pull` says, in this process, which is quicker than one of its own."""

    def refusal(endpoint: str, revision: str = COMMIT) -> str:
        named = {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        }
        for name, value in {**named, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(constants, name, value)
        with pytest.raises(PullFailed) as failed:
            pull(ModelArgs(name="owner/model", revision=revision), Console(file=io.StringIO()), reach_s=5)
        return f"{type(failed.value).__name__}: {failed.value}"

    return refusal


def _weights(cache: Path) -> Path:
    return cache / "models--owner--model" / "snapshots" / COMMIT / "model.safetensors"


def test_fetches_a_model_once_and_then_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    first = _pull(hub.url, tmp_path)
    asked = len(hub.requests)
    second = _pull(hub.url, tmp_path)

    assert first[0] == 0, first
    assert {file.name for file in _weights(tmp_path).parent.iterdir()} == set(FILES)
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


def test_a_connection_that_drops_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut, hub.drops = len(WEIGHTS) // 2, True

    code, said = _pull(hub.url, tmp_path)

    assert code == 0, said
    assert [wanted[:6] for wanted in hub.ranges] == ["bytes="]
    assert _weights(tmp_path).read_bytes() == WEIGHTS


def test_a_full_disk_is_told_and_the_rest_is_fetched_later(hub: Hub, tmp_path: Path) -> None:
    code, said = _pull(hub.url, tmp_path, str(len(WEIGHTS) // 2))

    assert code == 1
    assert "PullFailed: the download stopped: [Errno 27] File too large" in said
    assert "Traceback" not in said
    assert _pull(hub.url, tmp_path)[0] == 0
    assert hub.ranges == [f"bytes={len(WEIGHTS) // 2}-"]


def test_weights_that_are_not_what_the_hub_states_are_refused_and_deleted(
    hub: Hub, refusal: Callable[..., str], tmp_path: Path
) -> None:
    hub.stated = "f" * 64

    assert "PullFailed: model.safetensors is deleted: it came with sha256" in refusal(hub.url)
    assert not _weights(tmp_path).exists()
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.stat().st_size == len(WEIGHTS)]


def test_an_unknown_commit_is_refused(hub: Hub, refusal: Callable[..., str]) -> None:
    assert f"PullFailed: owner/model has no commit {'f' * 40}" in refusal(hub.url, "f" * 40)


@pytest.mark.parametrize(
    ("status", "header", "said"),
    [
        (404, "RepoNotFound", "PullFailed: the Hub has no owner/model, or it is private"),
        (401, "", "PullFailed: the Hub answers 401 for owner/model"),
        (401, "GatedRepo", "PullFailed: owner/model is gated"),
        (403, "GatedRepo", "PullFailed: owner/model is gated"),
        (403, "", "PullFailed: the Hub answers 403 for owner/model"),
        (429, "", "HubUnreachable: the Hub, http://127.0.0.1:"),
        (503, "", "cannot be reached: it answers 503; set HTTPS_PROXY, or HF_ENDPOINT"),
        (200, "", "HubUnreachable: the Hub, http://127.0.0.1:"),  # the page of a guest network
    ],
)
def test_what_the_hub_refuses_is_told_in_one_line(
    hub: Hub, refusal: Callable[..., str], status: int, header: str, said: str
) -> None:
    hub.refusal = status, {"X-Error-Code": header} if header else {}

    found = refusal(hub.url)

    assert "\n" not in found
    assert said in found


def test_a_repository_without_safetensors_is_refused(hub: Hub, refusal: Callable[..., str]) -> None:
    del hub.files["model.safetensors"]

    assert "PullFailed: owner/model holds no safetensors model" in refusal(hub.url)


def test_a_hub_that_cannot_be_reached_is_told_with_the_ways_out(refusal: Callable[..., str]) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # not listening, so a connection is refused

        said = refusal(f"http://127.0.0.1:{unheard.getsockname()[1]}")

    assert "\n" not in said
    assert re.search("HubUnreachable: the Hub, .*, cannot be reached: .*Connection refused; set HTTPS_PROXY", said)
    assert "HF_ENDPOINT to a mirror, or copy the model's folder" in said


def test_the_command_exits_with_3_when_the_hub_cannot_be_reached(hub: Hub, tmp_path: Path) -> None:
    hub.refusal = 503, {}
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", "from clients.cli import main; main()", "pull", str(ROOT / "serve_config.yaml")]

    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    assert result.returncode == 3, result.stderr
    assert "cannot be reached: it answers 503" in result.stderr


def test_offline_by_choice_is_told_so(hub: Hub, tmp_path: Path) -> None:
    code, said = _pull(hub.url, tmp_path, offline="1")

    assert (code, hub.requests) == (1, [])
    assert "HubUnreachable" in said
    assert "HF_HUB_OFFLINE" in said


def test_a_name_that_can_be_none_of_the_hub_is_refused() -> None:
    with pytest.raises(PullFailed, match="is no Hub id"):
        pull(ModelArgs(name="a b/c", revision=COMMIT), Console(file=io.StringIO()))


@pytest.mark.parametrize("name", ["embedded", "/models/mine"])
def test_what_is_not_of_the_hub_needs_no_fetching(name: str) -> None:
    console = Console(file=io.StringIO(), width=80)

    pull(ModelArgs(name=name), console)

    assert console.file.getvalue() == f"Nothing to fetch: {name} is not of the Hub.\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["silent", "trickles"])
def test_a_hub_that_never_answers_is_given_up_in_time(hub: Hub, tmp_path: Path, how: str) -> None:
    setattr(hub, how, True)

    code, said = _pull(hub.url, tmp_path, reach_s="0.5")

    assert code == 1
    assert "HubUnreachable" in said
    assert "no answer within 0.5 s" in said
