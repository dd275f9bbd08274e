"""The plain Ray Serve graph that is measured: `@serve.batch` around the pipeline.

Source: Ray Serve's tutorial on batching, with JSON bodies, and the pipeline's best setting, of which it says nothing.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request

from benchmarks.serving.systems.pipeline import Setting, ask, load

MAX_REQUESTS = 16  # that @serve.batch joins


@serve.deployment(max_ongoing_requests=128)
class PlainModel:
    """On as many cores as it is told; by default Ray would give it one, and torch one thread."""

    def __init__(self, folder: str, setting: Setting) -> None:
        self._pipe, self._batch_size = load(folder, setting), setting.batch_size

    @serve.batch(max_batch_size=MAX_REQUESTS, batch_wait_timeout_s=0.005)
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
    """A replica for each request that the pipeline is to have at a time."""
    setting = Setting(**args["setting"])
    resources: dict[str, float] = {"num_cpus": setting.threads}
    n_replicas = setting.at_a_time * setting.processes
    if setting.device == "cuda":
        resources["num_gpus"] = 1 / n_replicas
    options = {"num_replicas": n_replicas, "ray_actor_options": resources}
    model = PlainModel.options(**options)  # type: ignore[attr-defined]
    graph: Application = model.bind(args["model"], setting)
    return graph
