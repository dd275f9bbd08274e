"""The model deployment: collects calls, runs them through the engine on a thread of its own.

Stage 1, `@serve.batch`, only gathers what arrives together and hands it on. It waits for nothing and limits
nothing: it seals a batch before it may run, so any waiting there makes batches small (docs/adr/0002).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve

from deployments.contract.args import ClassifierConfig
from deployments.core.batching import Err, Ok
from deployments.core.work import Outcome, Work
from deployments.engines.protocol import Engine
from deployments.engines.run import run

LoadEngine = Callable[[float], Engine]
"""From the replica's share of a GPU (0: none) to its engine; raises when it cannot serve what was decided."""

UNLIMITED = 1_000_000  # batches of stage 1 at a time: `max_ongoing_requests` is the limit, not this


@serve.deployment
class Classifier:
    """One loaded model, one engine thread."""

    def __init__(self, load: LoadEngine) -> None:
        self._engine = load(_gpu_fraction())
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._config = ClassifierConfig()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take a changed `user_config` without a restart; an unknown key is refused."""
        self._config = ClassifierConfig.model_validate(user_config)

    async def score(self, work: Work) -> Outcome:
        """Logits for every text and hypothesis.

        Raises:
            HypothesisTooLong: naming the hypothesis by its index.
        """
        result = await self._collect(_Arrival(work, time.perf_counter()))
        if isinstance(result, Err):
            raise result.error
        return result.value

    @serve.batch(max_batch_size=256, batch_wait_timeout_s=0, max_concurrent_batches=UNLIMITED)
    async def _collect(self, arrivals: list[_Arrival]) -> list[Ok[Outcome] | Err]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, arrivals)

    def _run(self, arrivals: list[_Arrival]) -> list[Ok[Outcome] | Err]:
        """On the engine's thread: the seam that a scheduler fills."""
        started = time.perf_counter()
        results = run(self._engine, [arrival.work for arrival in arrivals], self._config.max_batch_tokens)
        for arrival, result in zip(arrivals, results, strict=True):
            if isinstance(result, Ok):
                result.value["queued_s"] = started - arrival.at
        return results


@dataclass(frozen=True, slots=True)
class _Arrival:
    work: Work
    at: float  # seconds of time.perf_counter


def _gpu_fraction() -> float:
    context = ray.get_runtime_context()
    return float(context.get_assigned_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
