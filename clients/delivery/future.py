"""A future that stays PENDING until its answer is here, and whose callbacks run where they do no harm.

It keeps the contract of `concurrent.futures.Future` state by state, with two differences that its users want: it can
be cancelled until the answer arrives, and callbacks never run in the thread that delivers or cancels.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from clients.errors import Forked
from clients.results import Meta

from .blocking import refuse_in_event_loop
from .callbacks import CallbackPool

T = TypeVar("T")


class Future(concurrent.futures.Future[T], Generic[T]):
    """One answer that is to come; made by a client.

    Args:
        pool: runs the callbacks.
        ended: called once, in whatever thread ends the future, when its callbacks are on their way; it must not block.
    """

    def __init__(self, pool: CallbackPool, ended: Callable[[Future[T]], None]) -> None:
        super().__init__()
        self._pool = pool
        self._ended = ended
        self._mutex = threading.RLock()  # a finaliser that runs in the midst may cancel: that of an abandoned `map`
        self._settled = False
        self._callbacks: deque[Callable[[Any], object]] = deque()
        self._calling = False
        self._pid = os.getpid()
        self.item: Any = None
        """For the client: the request whose answer this is."""

        self.meta: Meta | None = None
        """How the answer came about; None until the future has ended, and when it was cancelled."""

    def cancel(self) -> bool:
        """Give up the answer, and ask the server not to compute it.

        Returns:
            Whether the future is cancelled: true until its answer has arrived.
        """
        with self._mutex:
            if first := not self.running() and not self._settled:
                self._settled = True
                super().cancel()
                super().set_running_or_notify_cancel()  # so that `concurrent.futures.wait` sees it
        if first:
            self._after()
        return self.cancelled()

    def settle(self, outcome: T | Exception, meta: Meta) -> bool:
        """For the client: the answer, or why there is none; False: it was cancelled before."""
        if isinstance(outcome, Exception):
            return self._end(partial(super().set_exception, outcome), meta)
        return self._end(partial(super().set_result, outcome), meta)

    def set_result(self, result: T) -> None:
        """As of any future: what the service says later is dropped."""
        if not self._end(partial(super().set_result, result), Meta()):
            raise concurrent.futures.InvalidStateError(repr(self))

    def set_exception(self, exception: BaseException | None) -> None:
        if not self._end(partial(super().set_exception, exception), Meta()):
            raise concurrent.futures.InvalidStateError(repr(self))

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(future)` once it has ended, after those registered before, on the client's callback pool."""
        with self._mutex:
            self._callbacks.append(self._pool.adapt(fn))
        self._call_back()

    def on_end(self, wake: Callable[[], object]) -> None:
        """As `add_done_callback`, for what only wakes a waiter: in the thread that ends the future, at once."""
        super().add_done_callback(lambda _: wake())

    def result(self, timeout: float | None = None) -> T:
        """Wait for the answer; the timeout ends the waiting, and nothing else."""
        self._check_wait(timeout)
        try:
            return super().result(timeout)
        finally:
            del self  # as the standard one: else an error that is raised and its future keep each other

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._check_wait(timeout)
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, T]:
        """As `asyncio.wrap_future`: cancelling the task that awaits cancels the future."""
        self._check_process()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake_from_outside() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self.on_end(wake_from_outside)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.cancelled():
            raise asyncio.CancelledError
        return self.result(0)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a future belongs to the process that submitted; send its result(), or use submit_ref, whose ObjectRef "
            "any task can take"
        )

    def _end(self, settle: Callable[[], None], meta: Meta) -> bool:
        """Unless it has ended."""
        with self._mutex:
            if self._settled:
                return False
            self._settled = True
            self.meta = meta
            settle()
        self._after()
        return True

    def _after(self) -> None:
        self._call_back()
        self._ended(self)

    def _call_back(self) -> None:
        with self._mutex:
            if self._calling or not self._settled or not self._callbacks:
                return
            self._calling = True
        self._pool.start(self._run_callbacks)

    def _run_callbacks(self) -> None:
        """One after the other; whoever registers one meanwhile has it run here as well."""
        while True:
            with self._mutex:
                if not self._callbacks:
                    self._calling = False
                    return
                callback = self._callbacks.popleft()
            self._pool.call(callback, self)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise Forked(self._pid, os.getpid())

    def _check_wait(self, timeout: float | None) -> None:
        self._check_process()
        if timeout != 0 and not self.done():
            refuse_in_event_loop("waiting for a future", "await it instead")
