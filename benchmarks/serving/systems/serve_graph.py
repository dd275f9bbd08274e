"""The plain Ray Serve graph that is measured: `@serve.batch` around the pipeline.

Source: Ray Serve's tutorial on batching, with JSON bodies, and a batch size for the pipeline, which it leaves at 1.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request

from benchmarks.serving.systems.pipeline import ask, cores, load

BATCH = 16  # requests that @serve.batch joins, and the batch size of the pipeline


@serve.deployment(max_ongoing_requests=128, ray_actor_options={"num_cpus": cores()})
class PlainModel:
    """On all cores; by default Ray would give it one, and torch one thread."""

    def __init__(self, folder: str, batch_size: int) -> None:
        self._pipe, self._batch_size = load(folder, cores()), batch_size

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.005)
    async def classify(self, bodies: list[dict[str, Any]]) -> list[list[list[float]]]:
        """Texts with the same labels go through the pipeline together."""
        by_labels: dict[tuple[str, ...], list[str]] = {}
        for body in bodies:
            by_labels.setdefault(tuple(body["labels"]), []).extend(body["texts"])
        found = {
            labels: iter(ask(self._pipe, texts, list(labels), self._batch_size)) for labels, texts in by_labels.items()
        }
        return [[next(found[tuple(body["labels"])]) for _ in body["texts"]] for body in bodies]

    async def __call__(self, request: Request) -> list[list[float]]:
        scores: list[list[float]] = await self.classify(await request.json())
        return scores


def build(args: dict[str, Any]) -> Application:
    graph: Application = PlainModel.bind(args["model"], int(args["batch_size"]))  # type: ignore[attr-defined]
    return graph
