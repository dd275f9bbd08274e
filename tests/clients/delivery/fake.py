"""A service without Ray: it answers joined calls as the real one does, when a test wants, with what a test wants."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, MutableSequence, Sequence
from typing import Any

from clients.delivery.client import Client
from deployments.contract.errors import ServiceError, to_wire
from deployments.contract.wire import Ask, ClassifyResponse, QuotaState, Telling, Terms, Told

LABELS = ["yes", "no"]
Behaviour = Callable[[Ask], "Telling | ServiceError | float | None"]
"""What becomes of a request: something told, an error, seconds until its right answer, or None: nothing, ever."""


class Lost(Exception):
    """The call died with its replica."""


class FakeService:
    """A transport, and the service behind it; a test may turn its knobs from any thread.

    Attributes:
        behave: decides what becomes of each request; without it each is answered at once.
        granted: the terms, or what is raised instead.
        calls: what was sent.
        lost: as many calls die after they were sent.
        refused: as many calls cannot even be sent.
    """

    def __init__(self, quotas: Sequence[QuotaState] = (), max_concurrent: int = 1_000_000) -> None:
        self.behave: Behaviour = lambda _: 0.0
        self.granted: Terms | Exception = {
            "max_concurrent": max_concurrent,
            "max_deadline_s": 120.0,
            "quotas": list(quotas),
        }
        self.calls: MutableSequence[list[Ask]] = []
        self.forgotten: list[str] = []
        self.terms_asked = 0
        self.cancelled = 0
        self.lost = 0
        self.refused = 0
        self.held = Gate()
        self.terms_held = Gate()
        self._numbers = itertools.count()

    @property
    def asks(self) -> list[Ask]:
        return [ask for call in self.calls for ask in call]

    @property
    def texts(self) -> list[Any]:
        """Of all requests, in the order in which they were sent."""
        return [text_of(ask) for ask in self.asks]

    async def terms(self) -> Terms:
        self.terms_asked += 1
        await self.terms_held.wait("")
        if isinstance(self.granted, Exception):
            raise self.granted
        return self.granted

    def send(self, asks: Sequence[Ask]) -> FakeCall:
        if self.refused:
            self.refused -= 1
            raise Lost
        self.calls.append(list(asks))
        return FakeCall(self, asks)

    async def forget(self, ids: Sequence[str]) -> None:
        self.forgotten += ids

    def is_transient(self, error: Exception) -> bool:
        return isinstance(error, Lost)

    def answer(self, ask: Ask) -> ClassifyResponse:
        request: Any = ask["request"]
        texts = [request["text"]] if isinstance(request["text"], str) else request["text"]
        labels, scores = request["labels"], [1.0] + [0.0] * len(request["labels"])
        return {
            "model": "fake",
            "engine": "fake",
            "fallback": False,
            "results": [{"labels": [text, *labels], "scores": scores, "truncated": False} for text in texts],
            "usage": {"texts": len(texts), "pairs": len(labels) * len(texts), "tokens": 0},
            "request_id": f"r{next(self._numbers)}",
        }


class FakeCall:
    """A joined call: its best label is the text itself, so that a mixed-up answer shows."""

    def __init__(self, service: FakeService, asks: Sequence[Ask]) -> None:
        self._service = service
        self._asks = asks
        self._tasks: set[asyncio.Task[Told]] = set()
        self._gone = False

    def cancel(self) -> None:
        self._service.cancelled += 1
        self._gone = True
        for task in self._tasks:
            task.cancel()

    async def __aiter__(self) -> AsyncIterator[list[Told]]:
        if self._gone:
            return
        if self._service.lost:
            self._service.lost -= 1
            raise Lost
        if at_once := [told for i, ask in enumerate(self._asks) if (told := self._told_at_once(i, ask))]:
            yield at_once
        left = set(self._tasks)
        try:
            while left:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                if ended := [task.result() for task in done if not task.cancelled()]:
                    yield ended
        finally:
            for task in left:
                task.cancel()

    def _told_at_once(self, index: int, ask: Ask) -> Told | None:
        if self._service.held.is_open(text_of(ask)):
            found = self._service.behave(ask)
            if found is not None and not (isinstance(found, float) and found):
                return self._told(index, ask, found)
            later = self._told_later(index, ask, found)
        else:
            later = self._told_when_let_go(index, ask)
        self._tasks.add(asyncio.create_task(later))
        return None

    async def _told_later(self, index: int, ask: Ask, found: Telling | ServiceError | float | None) -> Told:
        if found is None:
            await asyncio.Event().wait()
        await asyncio.sleep(found if isinstance(found, float) else 0)
        return self._told(index, ask, found)

    async def _told_when_let_go(self, index: int, ask: Ask) -> Told:
        await self._service.held.wait(text_of(ask))
        return await self._told_later(index, ask, self._service.behave(ask))

    def _told(self, index: int, ask: Ask, found: Telling | ServiceError | float | None) -> Told:
        if isinstance(found, ServiceError):
            return {"index": index, "error": to_wire(found)}
        if isinstance(found, dict):
            return {**found, "index": index}
        return {"index": index, "answer": self._service.answer(ask), "timings": {"queue": 0.0}, "quotas": []}


class Gate:
    """Holds up what comes, by its name, until it is let go; open at first."""

    def __init__(self) -> None:
        self._closed = False
        self._let_go: set[Any] = set()
        self._waiting: list[tuple[Any, asyncio.AbstractEventLoop, asyncio.Event]] = []

    def close(self) -> None:
        self._closed = True

    def open(self, *names: Any) -> None:
        """For these; without names for all."""
        self._closed = self._closed and bool(names)
        self._let_go.update(names)
        for name, loop, event in list(self._waiting):
            if self.is_open(name):
                loop.call_soon_threadsafe(event.set)

    def is_open(self, name: Any) -> bool:
        return not self._closed or (isinstance(name, str) and name in self._let_go)

    async def wait(self, name: Any) -> None:
        event = asyncio.Event()
        entry = (name, asyncio.get_running_loop(), event)
        self._waiting.append(entry)
        try:
            if not self.is_open(name):
                await event.wait()
        finally:
            self._waiting.remove(entry)


def text_of(ask: Ask) -> Any:
    request: Any = ask["request"]
    return request["text"]


def client_of(service: FakeService, **options: Any) -> Client:
    return Client(lambda: service, **{"max_in_flight": 256, "deadline_s": 30.0, "callback_executor": None, **options})


def until(condition: Callable[[], object]) -> None:
    """Wait for it, from a thread of a test."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.0005)
