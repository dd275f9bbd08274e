"""From logits to the answer that HTTP and handle callers get."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.contract.errors import EngineFailed
from deployments.contract.model import ServedModel
from deployments.contract.wire import ClassifyRequest, ClassifyResponse, Failure, Result
from deployments.core.quota import Quota
from deployments.core.work import Outcome
from deployments.core.zeroshot import rank, scores

from .problems import problem


@dataclass(frozen=True, slots=True)
class Answer:
    """The body, where the time went, in seconds by stage, and what is left of the caller's quotas."""

    body: ClassifyResponse
    timings: dict[str, float]
    quotas: list[Quota]


def encode(
    request: ClassifyRequest, outcome: Outcome, model: ServedModel, request_id: str, quotas: list[Quota]
) -> Answer:
    """Score and sort each text's labels.

    Raises:
        EngineFailed: the model failed on every text.
    """
    if all(outcome["failed"]):
        raise EngineFailed("the model failed on every text of this request; the server's log says why")
    body: ClassifyResponse = {
        "model": model.name,
        "engine": model.engine,
        "fallback": model.fallback,
        "results": _results(request, outcome, request_id),
        "usage": {
            "texts": len(request.texts),
            "pairs": len(request.texts) * len(request.labels),
            "tokens": outcome["tokens"],
        },
        "request_id": request_id,
    }
    return Answer(body, {"queue": outcome["queued_s"], "engine": outcome["engine_s"]}, quotas)


def _results(request: ClassifyRequest, outcome: Outcome, request_id: str) -> list[Result | Failure]:
    labels = request.label_names
    table = scores(outcome["logits"], multi_label=request.multi_label)
    ranked = zip(
        table.tolist(), rank(table, request.top_k).tolist(), outcome["truncated"], outcome["failed"], strict=True
    )
    return [
        _failure(request_id) if failed else _result(labels, row, best, truncated)
        for row, best, truncated, failed in ranked
    ]


def _result(labels: list[str], row: list[float], best: list[int], truncated: bool) -> Result:
    return {"labels": [labels[i] for i in best], "scores": [row[i] for i in best], "truncated": truncated}


def _failure(request_id: str) -> Failure:
    error = EngineFailed("the model failed on this text, the other texts are not affected; the server's log says why")
    return {"error": problem(error, request_id)}
