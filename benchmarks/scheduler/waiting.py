"""Waiting: how many engine batches a short request sees go by when somebody's 4,096 pairs are in the queue."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence

from deployments.contract.args import ClassifierConfig
from deployments.core.work import Work
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import FloatArray, Pair
from deployments.runtime.worker import Worker

N_SHORT = 40


class _Counting(FakeEngine):
    batches = 0

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        self.batches += 1
        return super().logits(pairs)


def batches_waited(*, same_tenant: bool) -> list[int]:
    """Of each short request: engine batches that ended between its arrival and its answer."""
    return asyncio.run(_measure(same_tenant))


async def _measure(same_tenant: bool) -> list[int]:
    engine = _Counting(seconds_per_run=0.02, seconds_per_pair=0.0002)
    worker = Worker(engine, ClassifierConfig(max_batch_tokens=256), secret=b"bench")
    rng = random.Random(0)
    long_list = worker.ticket(_work("list", [f"text {i} {'word ' * (i % 20)}" for i in range(256)], 16))
    await worker.admit([long_list])
    waited = []
    for i in range(N_SHORT):
        await asyncio.sleep(rng.random() * 0.03)
        before = engine.batches
        ticket = worker.ticket(_work("list" if same_tenant else "other", [f"short {i}"], 2))
        await worker.admit([ticket])
        await worker.reply(ticket)
        waited.append(engine.batches - before)
    assert not long_list.reply.done(), "the list was too short"
    worker.cancel([long_list])
    return waited


def p95(numbers: Sequence[float]) -> float:
    return statistics.quantiles(numbers, n=20)[-1]


def _work(tenant: str, texts: list[str], n_labels: int) -> Work:
    return {"texts": texts, "hypotheses": [f"label {i}" for i in range(n_labels)], "tenant": tenant, "deadline_s": 600}
