"""Requests that came in one call: each is answered by itself, and called off by itself.

Each has a task of its own; whatever is finished is told together, as soon as anything is. So what came together is
told together, yet a slow one holds up no other.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

from deployments.contract.errors import ServiceError, to_wire
from deployments.contract.wire import Ask, Telling, Told

Answer = Callable[[Ask], Awaitable[Telling]]

_log = logging.getLogger("ray.serve")


class Bundles:
    """All joined calls that are under way in this replica."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Told]] = {}

    async def tell(self, asks: Sequence[Ask], answer: Answer) -> AsyncIterator[list[Told]]:
        """What became of each, in the order in which they end; one that was called off is not told.

        Whoever stops iterating calls off what is left.
        """
        open_tasks: set[asyncio.Task[Told]] = set()
        try:
            for i, ask in enumerate(asks):
                open_tasks.add(self._start(i, ask, answer))
            while open_tasks:
                done, open_tasks = await asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)
                if told := [task.result() for task in done if not task.cancelled()]:
                    yield told
        finally:
            for task in open_tasks:
                task.cancel()

    def forget(self, ids: Sequence[str]) -> None:
        """Nobody waits for these any more; unknown ids are none of ours."""
        for id in ids:
            if task := self._tasks.get(id):
                task.cancel()

    def _start(self, index: int, ask: Ask, answer: Answer) -> asyncio.Task[Told]:
        """In a context of its own: Serve cancels all that was sent in the context of a call that is cancelled."""
        task = asyncio.create_task(_told(index, ask, answer), context=contextvars.Context())
        self._tasks[ask["id"]] = task  # of two with one id, the later: one that was sent once more
        task.add_done_callback(partial(self._drop, ask["id"]))
        return task

    def _drop(self, id: str, task: asyncio.Task[Told]) -> None:
        if self._tasks.get(id) is task:
            del self._tasks[id]


async def _told(index: int, ask: Ask, answer: Answer) -> Told:
    try:
        return {**await answer(ask), "index": index}
    except ServiceError as error:
        return {"index": index, "error": to_wire(error)}
    except Exception:
        _log.exception("a request of a joined call could not be answered")
        return {"index": index, "error": to_wire(ServiceError("an error in the server; its log says which"))}
