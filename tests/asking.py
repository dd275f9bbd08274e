"""Requests to a worker, as the classifier makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from deployments.contract.args import ClassifierConfig
from deployments.core.work import Outcome, Reply, Work
from deployments.engines.protocol import Engine
from deployments.runtime.worker import Worker


def work(
    *texts: str, hypotheses: Sequence[str] = ("refund", "repair"), tenant: str = "a", deadline_s: float = 30
) -> Work:
    return {"texts": list(texts), "hypotheses": list(hypotheses), "tenant": tenant, "deadline_s": deadline_s}


def worker(engine: Engine, **config: Any) -> Worker:
    return Worker(engine, ClassifierConfig(**config), secret=b"a secret of tests")


async def ask(worker: Worker, *works: Work) -> list[Reply]:
    """The replies to requests that arrive together."""
    tickets = [worker.ticket(one) for one in works]
    await worker.admit(tickets)
    return list(await asyncio.gather(*(worker.reply(ticket) for ticket in tickets)))


def outcome(reply: Reply) -> Outcome:
    assert "outcome" in reply, reply
    return reply["outcome"]
