"""A service without Ray: it answers joined calls as the real one does, when a test wants, with what a test wants."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from clients.delivery.client import Client
from deployments.contract.errors import ServiceError, to_wire
from deployments.contract.wire import Ask, ClassifyResponse, QuotaState, Telling, Terms, Told

LABELS = ["yes", "no"]
Behaviour = Callable[[Ask], "Telling | ServiceError | float"]
"""What becomes of a request: something told, an error, or seconds until its right answer."""


class Lost(Exception):
    """The call died with its replica."""


class FakeService:
    """A transport, and the service behind it.

    Attributes:
        behave: decides what becomes of each request; without it each is answered at once.
        lost: as many calls die after they were sent.
        held: while it is cleared, nothing is answered.
    """

    def __init__(self, quotas: Sequence[QuotaState] = (), max_concurrent: int = 1_000_000) -> None:
        self.behave: Behaviour = lambda _: 0.0
        self.granted: Terms | Exception = {
            "max_concurrent": max_concurrent,
            "max_deadline_s": 120.0,
            "quotas": list(quotas),
        }
        self.calls: list[list[Ask]] = []
        self.forgotten: list[str] = []
        self.cancelled = 0
        self.lost = 0
        self.held = asyncio.Event()
        self.held.set()
        self._numbers = itertools.count()

    @property
    def asks(self) -> list[Ask]:
        return [ask for call in self.calls for ask in call]

    async def terms(self) -> Terms:
        if isinstance(self.granted, Exception):
            raise self.granted
        return self.granted

    def send(self, asks: Sequence[Ask]) -> FakeCall:
        self.calls.append(list(asks))
        return FakeCall(self, asks)

    async def forget(self, ids: Sequence[str]) -> None:
        self.forgotten += ids

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, Lost)

    def answer(self, ask: Ask) -> ClassifyResponse:
        request: Any = ask["request"]
        texts = [request["text"]] if isinstance(request["text"], str) else request["text"]
        return {
            "model": "fake",
            "engine": "fake",
            "fallback": False,
            "results": [
                {"labels": [text, *request["labels"]], "scores": [1.0, 0.0, 0.0], "truncated": False} for text in texts
            ],
            "usage": {"texts": len(texts), "pairs": 2 * len(texts), "tokens": 0},
            "request_id": f"r{next(self._numbers)}",
        }


class FakeCall:
    """A joined call: its best label is the text itself, so that a mixed-up answer shows."""

    def __init__(self, service: FakeService, asks: Sequence[Ask]) -> None:
        self._service = service
        self._asks = asks
        self._gone = asyncio.Event()

    def cancel(self) -> None:
        self._service.cancelled += 1
        self._gone.set()

    async def __aiter__(self) -> AsyncIterator[list[Told]]:
        tasks = [asyncio.create_task(self._told(i, ask)) for i, ask in enumerate(self._asks)]
        gone = asyncio.create_task(self._gone.wait())
        if self._service.lost:
            self._service.lost -= 1
            raise Lost
        left = set(tasks)
        while left:
            done, _ = await asyncio.wait({*left, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                return
            left -= done
            yield [task.result() for task in done]
        gone.cancel()

    async def _told(self, index: int, ask: Ask) -> Told:
        await self._service.held.wait()
        found = self._service.behave(ask)
        if isinstance(found, ServiceError):
            return {"index": index, "error": to_wire(found)}
        if isinstance(found, float):
            if found:
                await asyncio.sleep(found)
            return {"index": index, "answer": self._service.answer(ask), "timings": {"queue": 0.0}, "quotas": []}
        return {**found, "index": index}


def client_of(service: FakeService, **options: Any) -> Client:
    return Client(lambda: service, **{"max_in_flight": 256, "deadline_s": 30.0, "callback_executor": None, **options})
