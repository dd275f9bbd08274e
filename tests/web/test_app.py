"""The HTTP app, without Ray: a stand-in for the classifier behind it, everything before it real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import httpx2
import numpy as np
import pytest

from deployments.contract.args import AppArgs, CapsArgs
from deployments.contract.decode import decode
from deployments.contract.errors import DeadlineExceeded, ServiceError, Unavailable
from deployments.contract.model import ServedModel
from deployments.core.quota import Quota
from deployments.core.work import Outcome
from deployments.web.answers import Answer, encode
from deployments.web.app import Read, create_app
from deployments.web.body import DRAIN_BYTES
from deployments.web.visitor import Visitor

ARGS = AppArgs.model_validate({"auth": "off", "allowed_hosts": ["nli.example.org"], "caps": {"max_body_bytes": 2_000}})
MODEL = ServedModel(name="owner/model", revision=None, engine="torch-fp32", fallback=False, template="It is {}.")
GOOD: dict[str, Any] = {"text": "My card was charged twice", "labels": ["delivery", "billing"]}


class Backend:
    """Scores label i of every text with entailment i; raises what it is told to."""

    def __init__(self, caps: CapsArgs = ARGS.caps) -> None:
        self.caps = caps
        self.error: Exception | None = None
        self.failed: set[int] = set()
        self.quotas: list[Quota] = []
        self.visitors: list[Visitor] = []
        self.seconds: list[float] = []

    async def classify(self, visitor: Visitor, read: Read) -> Answer:
        payload, seconds = await read()
        if self.error is not None:
            raise self.error
        self.visitors.append(visitor)
        self.seconds.append(seconds)
        request = decode(payload, self.caps)
        n_texts, n_labels = len(request.texts), len(request.label_names)
        logits = np.zeros((n_texts, n_labels, 2), np.float32)
        logits[:, :, 1] = np.arange(n_labels)
        outcome: Outcome = {
            "logits": logits,
            "truncated": [False] * n_texts,
            "failed": [i in self.failed for i in range(n_texts)],
            "tokens": 31,
            "queued_s": 0.001,
            "engine_s": 0.02,
        }
        return encode(request, outcome, MODEL, visitor.request_id, self.quotas)

    async def probe(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def backend() -> Backend:
    return Backend()


def _client(backend: Backend, peer: str = "127.0.0.1", base_url: str = "http://localhost:8000") -> httpx2.AsyncClient:
    app = create_app(ARGS, MODEL, classify=backend.classify, probe=backend.probe)
    transport = httpx2.ASGITransport(app, client=(peer, 1234), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url=base_url)


@pytest.fixture
async def client(backend: Backend) -> AsyncIterator[httpx2.AsyncClient]:
    async with _client(backend) as client:
        yield client


def _assert_problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["title"]
    assert body["detail"]
    assert body["request_id"]
    return body


async def test_answers_with_labels_best_first_and_the_model_that_answered(client: httpx2.AsyncClient) -> None:
    response = await client.post("/v1/classify", json=GOOD, headers={"X-Request-ID": "abc-1"})

    score = 1 / (1 + np.exp(-1.0))
    assert response.status_code == 200
    assert response.json() == {
        "model": "owner/model",
        "engine": "torch-fp32",
        "fallback": False,
        "results": [
            {
                "labels": ["billing", "delivery"],
                "scores": [pytest.approx(score), pytest.approx(1 - score)],
                "truncated": False,
            }
        ],
        "usage": {"texts": 1, "pairs": 2, "tokens": 31},
        "request_id": "abc-1",
    }
    assert response.headers["server-timing"].startswith("queue;dur=1.0, engine;dur=20.0, total;dur=")


async def test_results_stand_in_the_order_of_the_texts_and_one_failure_in_its_place(
    client: httpx2.AsyncClient, backend: Backend
) -> None:
    backend.failed = {1}

    response = await client.post("/v1/classify", json={**GOOD, "text": ["a", "b", "c"], "top_k": 1})

    results = response.json()["results"]
    assert response.status_code == 200
    assert [r.get("labels") for r in results] == [["billing"], None, ["billing"]]
    assert (results[1]["error"]["status"], results[1]["error"]["code"]) == (500, "engine_failed")


async def test_when_every_text_failed_the_whole_request_did(client: httpx2.AsyncClient, backend: Backend) -> None:
    backend.failed = {0}

    _assert_problem(await client.post("/v1/classify", json=GOOD), 500, "engine_failed")


async def test_a_wrong_field_is_a_422_that_points_at_it(client: httpx2.AsyncClient) -> None:
    response = await client.post("/v1/classify", json={**GOOD, "labels": ["a", "a"]})

    body = _assert_problem(response, 422, "invalid_request")
    assert body["errors"] == [{"pointer": "/labels/1", "detail": "repeats label 0, 'a'; labels must differ"}]


@pytest.mark.parametrize("body", [b"", b"{", b'{"text": NaN}', b"[" * 1_900, b'{"text": "\xff"}'])
async def test_broken_json_is_a_400(client: httpx2.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})

    _assert_problem(response, 400, "malformed_json")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_any_other_media_type_is_a_415(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.post("/v1/classify", content=json.dumps(GOOD), headers=headers)

    _assert_problem(response, 415, "unsupported_media_type")


async def test_a_charset_beside_json_is_fine(client: httpx2.AsyncClient) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}

    assert (await client.post("/v1/classify", content=json.dumps(GOOD), headers=headers)).status_code == 200


async def test_a_body_over_the_cap_is_a_413_declared_or_not(client: httpx2.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 1_000

    headers = {"Content-Type": "application/json"}
    declared = await client.post("/v1/classify", content=b" " * 2_001, headers=headers)
    chunked = await client.post("/v1/classify", content=chunks(), headers=headers)

    assert "content-length" not in chunked.request.headers
    assert "2,000 bytes" in _assert_problem(declared, 413, "body_too_large")["detail"]
    _assert_problem(chunked, 413, "body_too_large")


async def test_an_endless_body_is_not_read_for_ever(client: httpx2.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield b" " * (1 << 20)

    response = await client.post("/v1/classify", content=endless(), headers={"Content-Type": "application/json"})

    _assert_problem(response, 413, "body_too_large")
    assert sent <= DRAIN_BYTES + (2 << 20)


async def test_a_body_that_does_not_arrive_is_a_504_at_the_deadline(client: httpx2.AsyncClient) -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    headers = {"Content-Type": "application/json", "X-Deadline-Seconds": "0.05"}

    _assert_problem(await client.post("/v1/classify", content=stalls(), headers=headers), 504, "deadline_exceeded")


async def test_the_deadline_reaches_the_model(client: httpx2.AsyncClient, backend: Backend) -> None:
    await client.post("/v1/classify", json=GOOD, headers={"X-Deadline-Seconds": "7"})
    await client.post("/v1/classify", json=GOOD)

    assert backend.seconds == [pytest.approx(7, abs=1), pytest.approx(30, abs=1)]
    assert {visitor.address for visitor in backend.visitors} == {"address 127.0.0.1"}


async def test_a_tenant_is_an_address_that_a_trusted_proxy_vouches_for(backend: Backend) -> None:
    args = ARGS.model_copy(update={"trusted_proxies": [ip_network("127.0.0.1")]})
    forwarded = {"X-Forwarded-For": "198.51.100.1, 2001:db8::7"}

    for believing in (ARGS, args):
        app = create_app(believing, MODEL, classify=backend.classify, probe=backend.probe)
        transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1234))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.post("/v1/classify", json=GOOD, headers=forwarded)

    assert [one.address for one in backend.visitors] == ["address 127.0.0.1", "address 2001:db8::/64"]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "121", "soon", ""])
async def test_a_deadline_out_of_range_is_a_422(client: httpx2.AsyncClient, value: str) -> None:
    response = await client.post("/v1/classify", json=GOOD, headers={"X-Deadline-Seconds": value})

    assert "X-Deadline-Seconds" in _assert_problem(response, 422, "invalid_request")["detail"]


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), Unavailable("gone")])
async def test_errors_of_the_model_side_keep_their_status(
    client: httpx2.AsyncClient, backend: Backend, error: ServiceError
) -> None:
    backend.error = error

    _assert_problem(await client.post("/v1/classify", json=GOOD), error.status, error.code)
    _assert_problem(await client.get("/readyz"), error.status, error.code)
    assert (await client.get("/healthz")).json() == {"status": "alive"}


async def test_a_refusal_says_when_to_come_back(client: httpx2.AsyncClient, backend: Backend) -> None:
    backend.error = Unavailable("full", retry_after_s=1.2)

    response = await client.post("/v1/classify", json=GOOD)

    _assert_problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "2"


async def test_a_bug_is_a_500_without_its_message(client: httpx2.AsyncClient, backend: Backend) -> None:
    backend.error = RuntimeError("the text was: my secret")

    body = _assert_problem(await client.post("/v1/classify", json=GOOD), 500, "internal")

    assert "secret" not in json.dumps(body)


async def test_says_which_model_answers(client: httpx2.AsyncClient) -> None:
    ready = {"status": "ready", "model": "owner/model", "engine": "torch-fp32", "fallback": False}

    assert (await client.get("/v1/models")).json() == {"models": [MODEL.model_dump()]}
    assert (await client.get("/readyz")).json() == ready


async def test_unknown_paths_and_methods_are_problems(client: httpx2.AsyncClient) -> None:
    wrong_method = await client.get("/v1/classify")

    _assert_problem(await client.get("/v1/clasify"), 404, "not_found")
    _assert_problem(await client.post("/v1/classify/", json=GOOD), 404, "not_found")
    _assert_problem(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "host", ["evil.example.com", "localhost.evil.com", "127.0.0.1.nip.io", "10.0.0.1", "", "a@localhost", "[::1", "x/y"]
)
async def test_a_foreign_host_is_a_403(client: httpx2.AsyncClient, host: str) -> None:
    response = await client.post("/v1/classify", json=GOOD, headers={"Host": host})

    _assert_problem(response, 403, "host_not_allowed")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "nli.example.org:443"]
)
async def test_loopback_and_allowed_hosts_are_let_in(client: httpx2.AsyncClient, host: str) -> None:
    assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::1", "testclient"])
async def test_a_caller_from_another_machine_is_a_403_whatever_it_claims(backend: Backend, peer: str) -> None:
    async with _client(backend, peer) as client:
        response = await client.get("/healthz", headers={"X-Forwarded-For": "127.0.0.1"})

    _assert_problem(response, 403, "peer_not_allowed")


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_a_caller_on_this_machine_is_let_in(backend: Backend, peer: str) -> None:
    async with _client(backend, peer) as client:
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("sent", ["a\tb", "x" * 129, "ünï", "id with spaces", '{"json": 1}'])
async def test_a_request_id_that_could_not_stand_in_a_log_is_replaced(client: httpx2.AsyncClient, sent: str) -> None:
    response = await client.get("/nowhere", headers=[(b"X-Request-ID", sent.encode("latin-1"))])

    assert response.json()["request_id"] != sent
