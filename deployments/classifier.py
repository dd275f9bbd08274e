"""The model deployment: gathers calls, and gives them to the worker that feeds the engine.

Stage 1, `@serve.batch`, only gathers what arrives together and hands it on. It waits for nothing and limits
nothing: it seals a batch before it may run, so any waiting there makes batches small (docs/adr/0002).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from deployments.contract.args import ClassifierConfig
from deployments.core.work import Reply, Work
from deployments.engines.protocol import Engine
from deployments.runtime.garbage import collect_rarely
from deployments.runtime.worker import Ticket, Unhealthy, Worker

LoadEngine = Callable[[float], Engine]
"""From the replica's share of a GPU (0: none) to its engine; raises when it cannot serve what was decided."""

UNLIMITED = 1_000_000  # batches of stage 1 at a time: `max_ongoing_requests` is the limit, not this


@serve.deployment
class Classifier:
    """One loaded model, and one queue."""

    def __init__(self, load: LoadEngine) -> None:
        self._worker = Worker(load(_gpu_fraction()), ClassifierConfig(), secret=os.urandom(16))
        collect_rarely()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:  # async: Serve runs others in a thread
        """Take a changed `user_config` without a restart; an unknown key is refused."""
        self._worker.configure(ClassifierConfig.model_validate(user_config))

    async def score(self, works: list[Work]) -> list[Reply]:
        """The logits of each request, or its own error, in the order given."""
        tickets = [self._worker.ticket(work) for work in works]
        try:
            await self._gather(tickets)
            return [await self._worker.reply(ticket) for ticket in tickets]
        except asyncio.CancelledError:
            self._worker.cancel(tickets)
            raise

    @serve.batch(max_batch_size=256, batch_wait_timeout_s=0, max_concurrent_batches=UNLIMITED)
    async def _gather(self, calls: list[list[Ticket]]) -> list[None]:
        self._worker.accept([ticket for tickets in calls for ticket in tickets])
        return [None] * len(calls)

    async def forget(self, ids: list[str]) -> None:
        """Nobody waits for these requests any more; an ingress tells all replicas, not knowing which has them."""
        self._worker.forget(ids)

    async def check_health(self) -> None:
        """Serve asks every `health_check_period_s`, and replaces the replica when this raises.

        Raises:
            Unhealthy: stage 1 or stage 2 has died, or the engine hangs.
        """
        if not await self._gather._is_batching_task_alive():  # type: ignore[attr-defined]
            raise Unhealthy("the task of @serve.batch has ended")
        self._worker.check()


def _gpu_fraction() -> float:
    context = ray.get_runtime_context()
    return float(context.get_assigned_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
