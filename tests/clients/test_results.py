from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures import Future as PlainFuture
from dataclasses import fields
from typing import Any

import pytest

from clients.delivery.callbacks import CallbackPool
from clients.delivery.future import Future
from clients.results import Classification, Delivered, Failed, Meta, classifications, delivered
from deployments.contract.errors import EngineFailed, InvalidRequest, QuotaExceeded
from deployments.contract.wire import ClassifyResponse

ANSWER: ClassifyResponse = {
    "model": "m",
    "engine": "e",
    "fallback": False,
    "results": [
        {"labels": ["billing", "repair"], "scores": [0.75, 0.25], "truncated": True},
        {
            "error": {
                "type": "about:blank",
                "title": "The model failed on this text",
                "status": 500,
                "code": "engine_failed",
                "detail": "the model gave no number",
                "request_id": "r",
            }
        },
    ],
    "usage": {"texts": 2, "pairs": 4, "tokens": 9},
    "request_id": "r",
}
META = Meta(request_id="r", model="m", timings={"total": 1.0}, retries=2)


@pytest.fixture
def future() -> Iterator[Future[Any]]:
    pool = CallbackPool()
    yield Future(pool, lambda _: None)
    pool.close(wait=True)


def test_an_answer_is_read_in_the_order_of_its_texts() -> None:
    good, bad = classifications(ANSWER)

    assert good == Classification({"billing": 0.75, "repair": 0.25}, truncated=True, index=0)
    assert (good.label, good.score, list(good.scores)) == ("billing", 0.75, ["billing", "repair"])
    assert isinstance(bad, Failed)
    assert (bad.index, type(bad.error), str(bad.error)) == (1, EngineFailed, "the model gave no number")


def test_whatever_is_read_of_one_that_failed_raises_its_error() -> None:
    failed = Failed(1, EngineFailed("no"))
    own = {field.name for field in fields(Failed)}
    readable = {name for name in dir(Classification) if not name.startswith("_")} - own

    assert readable == {"label", "score", "scores", "truncated"}
    for name in readable:
        with pytest.raises(EngineFailed, match="no"):
            getattr(failed, name)


def test_results_can_be_sent_to_other_processes() -> None:
    values = [Classification({"a": 1.0}, truncated=False, index=3), META, Delivered("it", None, META), Meta()]

    assert pickle.loads(pickle.dumps(values)) == values
    failed = pickle.loads(pickle.dumps(Failed(2, QuotaExceeded(["caller-requests"], 1.5))))
    assert (failed.index, failed.error.retry_after) == (2, 1.5)


def test_an_answered_future_is_delivered_with_its_meta(future: Future[Any]) -> None:
    future.settle("it", META)
    found = pickle.loads(pickle.dumps(delivered(future)))

    assert (found.result(), found.exception(), found.cancelled(), found.meta) == ("it", None, False, META)


def test_a_failed_one_raises_as_the_future_does(future: Future[Any]) -> None:
    future.settle(InvalidRequest([]), META)
    found = pickle.loads(pickle.dumps(delivered(future)))

    assert (type(found.exception()), found.cancelled(), found.meta) == (InvalidRequest, False, META)
    with pytest.raises(InvalidRequest):
        found.result()


def test_so_does_a_cancelled_one(future: Future[Any]) -> None:
    future.cancel()
    found = pickle.loads(pickle.dumps(delivered(future)))

    assert (found.cancelled(), found.meta) == (True, None)
    for read in (found.result, found.exception):
        with pytest.raises(CancelledError):
            read()


def test_a_plain_future_is_delivered_without_meta() -> None:
    future: PlainFuture[str] = PlainFuture()
    future.set_result("it")

    assert delivered(future) == Delivered("it", None, None)
