"""Futures in the order in which they end, more of which may be added meanwhile."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

from .blocking import refuse_in_event_loop
from .future import Future

T = TypeVar("T")


class Completed(Generic[T], Iterator[Future[T]]):
    """Iterates over futures as they end, each once.

    Args:
        timeout: seconds from now, after which `TimeoutError` is raised; None: never.
    """

    def __init__(self, futures: Iterable[Future[T]], timeout: float | None = None) -> None:
        self._ended: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()
        self._outstanding: set[Future[T]] = set()
        self._end = None if timeout is None else time.monotonic() + timeout
        for future in futures:
            self.add(future)

    def add(self, future: Future[T]) -> None:
        """One more; a future that is among them already is not yielded twice."""
        if not isinstance(future, Future):
            raise TypeError("as_completed takes a client's own futures; for others: concurrent.futures.as_completed")
        if future not in self._outstanding:
            self._outstanding.add(future)
            future.on_end(partial(self._ended.put, future))

    def __next__(self) -> Future[T]:
        if not self._outstanding:
            raise StopIteration
        refuse_in_event_loop("as_completed()", "await the futures instead: they are awaitable")
        left = None if self._end is None else max(0.0, self._end - time.monotonic())
        try:
            future = self._ended.get(timeout=left)
        except queue.Empty:
            raise TimeoutError(f"{len(self._outstanding):,} futures have not ended yet") from None
        self._outstanding.discard(future)
        return future
