"""Two graphs around a model that does nothing: ours with everything on, and Ray Serve's as its tutorial builds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from deployments.contract.args import AppArgs
from deployments.contract.model import ServedModel
from deployments.engines.protocol import Engine, FloatArray, Pair
from deployments.graph import assemble

MODEL = ServedModel(name="no-op", revision=None, engine="torch-fp32", fallback=False, template="{}")


class NoOp:
    """Every pair is 8 tokens and scores the same."""

    streams = 1

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        return [[Pair((hash(text),), (hash(claim),), 8, False) for claim in hypotheses] for text in texts]

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        return np.zeros((len(pairs), 2), np.float32)


def ours(args: dict[str, Any]) -> Application:
    """The service's own graph, validation, scheduler, cache and all."""
    return assemble(AppArgs.model_validate(args), MODEL, _load)


def _load(_gpu_fraction: float) -> Engine:
    return NoOp()


@serve.deployment(max_ongoing_requests=1024)
class _PlainModel:
    async def __call__(self, text: str, labels: list[str]) -> list[float]:
        return [1 / len(labels)] * len(labels)


@serve.deployment(max_ongoing_requests=1024)
class _PlainIngress:
    def __init__(self, model: DeploymentHandle[Any]) -> None:
        self._model = model

    async def __call__(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        scores = await self._model.remote(body["text"], body["labels"])
        return {"labels": body["labels"], "scores": scores}


def plain(_args: dict[str, Any]) -> Application:
    """An ingress that reads JSON and calls a model through a handle; nothing else."""
    graph: Application = _PlainIngress.bind(_PlainModel.bind())  # type: ignore[attr-defined]
    return graph
