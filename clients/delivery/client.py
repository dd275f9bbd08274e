"""A client over any transport: what a caller can ask, and the promises that docs/python.md makes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, get_args, overload

from clients.errors import Forked
from clients.results import Classification, Failed, Meta
from deployments.contract.args import DeadlineArgs
from deployments.contract.decode import deadline_s as decode_deadline
from deployments.contract.errors import ServiceError

from .blocking import in_event_loop, refuse_in_event_loop
from .callbacks import Callback, CallbackPool
from .completed import Completed
from .future import Future
from .loop import LoopThread
from .mapping import Mapping, OnError, handled, shown
from .question import Asking, Labels, Question, question
from .sender import Item, Sender
from .transport import Transport
from .window import Window

T = TypeVar("T")
CLOSE_S = 5.0  # for what is under way without anybody waiting to end

Several = list[Classification | Failed]


class Client:
    """Every method may be called from any thread.

    Args:
        connect: makes the transport; called once, on the client's own thread.
        max_in_flight: requests that may be outstanding; `submit` waits beyond that.
        deadline_s: of a request that brings none, in seconds; cut to what the service allows.
        callback_executor: runs the callbacks instead of four threads of the client's own; it is not shut down.
    """

    def __init__(
        self,
        connect: Callable[[], Transport],
        *,
        max_in_flight: int,
        deadline_s: float,
        callback_executor: Executor | None,
    ) -> None:
        self._pid = os.getpid()
        self._deadline = DeadlineArgs(default_s=deadline_s, max_s=threading.TIMEOUT_MAX)
        self._window = Window(max_in_flight)
        self._pool = CallbackPool(callback_executor, self._callback)
        self._thread = LoopThread("nli-delivery")
        self._accepting: list[Item] = []
        self._accepting_lock = threading.Lock()
        self._finishing = threading.Lock()
        try:
            self._sender = self._thread.run(self._start(connect), timeout=None)
        except BaseException:
            self._thread.stop()
            self._pool.close(wait=False)
            raise

    @property
    def callback_errors(self) -> int:
        """How many callbacks have raised so far."""
        return self._pool.errors

    @overload
    def classify(self, text: str, labels: Labels, *, retry: bool = ..., **asking: Unpack[Asking]) -> Classification: ...
    @overload
    def classify(
        self, text: list[str] | tuple[str, ...], labels: Labels, *, retry: bool = ..., **asking: Unpack[Asking]
    ) -> Several: ...
    def classify(self, text: Any, labels: Labels, *, retry: bool = True, **asking: Unpack[Asking]) -> Any:
        """Wait for the answer.

        Returns:
            One `Classification` for a string; for a list a list, with `Failed` where the model failed on that text.

        Raises:
            ServiceError: the classes of deployments/contract/errors.py.
            InEventLoop: there is an event loop in this thread; `await client.submit(...)` there.
        """
        refuse_in_event_loop("classify()", "await submit(...) instead")
        return self.submit(text, labels, retry=retry, **asking).result()

    @overload
    def submit(
        self,
        text: str,
        labels: Labels,
        *,
        callback: Callback | None = ...,
        block: bool = ...,
        retry: bool = ...,
        **asking: Unpack[Asking],
    ) -> Future[Classification]: ...
    @overload
    def submit(
        self,
        text: list[str] | tuple[str, ...],
        labels: Labels,
        *,
        callback: Callback | None = ...,
        block: bool = ...,
        retry: bool = ...,
        **asking: Unpack[Asking],
    ) -> Future[Several]: ...
    def submit(
        self,
        text: Any,
        labels: Labels,
        *,
        callback: Callback | None = None,
        block: bool = True,
        retry: bool = True,
        **asking: Unpack[Asking],
    ) -> Future[Any]:
        """Ask, and go on: the answer, or the error, arrives in the future.

        Args:
            text: one text, or several.
            labels: the candidates; as a mapping, each brings its own hypothesis.
            callback: as `add_done_callback`, registered before anything is sent.
            block: wait while `max_in_flight` requests are outstanding, rather than raise; and while the callbacks of
                as many have not run, but for those of a `callback_executor`.
            retry: send once more what was refused by a limit, or lost with a replica.
            **asking: see `Asking`.

        Raises:
            WindowFull: `block` is false, or waiting would stop an event loop.
            ClientClosed, Forked: this client does not work here any more.
        """
        self._check_process()
        future: Future[Any] = Future(self._pool, self._ended)
        if callback:
            future.add_done_callback(callback)
        try:
            asked, deadline_s = self._question(text, labels, asking)
        except ServiceError as error:
            self._window.check()
            future.settle(error, Meta())
            return future
        self._send(
            future, asked, deadline_s, own_deadline=asking.get("deadline_s") is not None, block=block, retry=retry
        )
        return future

    def map(
        self,
        texts: Iterable[str],
        labels: Labels,
        *,
        ordered: bool = True,
        on_error: OnError = "raise",
        progress: bool = False,
        **asking: Unpack[Asking],
    ) -> Iterator[Classification | Failed]:
        """Classify any iterable, however long: it is read as the results are, at most 16 requests of 64 texts ahead.

        Several texts travel as one request, which costs fewer requests of a quota; each row's `index` is the place
        of its text. Leaving the loop calls off what is under way.

        Args:
            ordered: yield in the order of the texts, rather than as they are answered.
            on_error: "raise" the first error, "yield" a `Failed` in its place, or "skip" it.
            progress: show a bar on stderr.
            **asking: see `Asking`; the deadline is that of each request, which holds up to 64 texts.

        Raises:
            InvalidRequest: the labels or an option of the request are wrong; at once.
            SourceFailed: while iterating, the iterable raised; what it gave before has been yielded.
        """
        self._check_process()
        if isinstance(texts, str | bytes):
            raise TypeError("map takes an iterable of texts; one text is for classify or submit")
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error is {on_error!r}; allowed: {', '.join(get_args(OnError))}")
        n_labels = self._question("x", labels, asking)[0].pairs

        def submit(part: list[Any]) -> Future[Any]:
            return self.submit(part, labels, **asking)

        mapping = Mapping(submit, texts, n_labels, ordered=ordered, max_parts=self._window.most)
        rows = handled(mapping.rows(), on_error)
        return shown(rows, len(texts) if isinstance(texts, Sized) else None) if progress else rows

    def as_completed(self, futures: Iterable[Future[T]], timeout: float | None = None) -> Completed[T]:
        """The futures in the order in which they end; `add` takes more while it is iterated.

        Raises:
            TimeoutError: while iterating, after so many seconds.
        """
        self._check_process()
        return Completed(futures, timeout)

    def close(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown`: no new requests; the outstanding ones go on, or are cancelled.

        Args:
            wait: until all have ended and their callbacks have run; else that happens in the background. An executor
                of the caller's own runs them when it comes to that.
        """
        self._check_process()
        here = wait and not self._pool.is_here()
        if here and not cancel_futures and self._window.waits():
            refuse_in_event_loop("closing a client that waits for answers", "use `async with`")
        outstanding = self._window.close()
        if cancel_futures:
            for future in outstanding:
                future.cancel()
        if here:
            self._finish()
        else:
            threading.Thread(target=self._finish, name="nli-close", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def __reduce__(self) -> Any:
        raise TypeError("a client has threads of its own and does not travel; make one where it is used")

    def _callback(self, callback: Callback) -> Callback:
        return callback

    def _question(self, text: Any, labels: Labels, asking: Asking) -> tuple[Question, float]:
        """What to ask, and the seconds until its deadline.

        Raises:
            InvalidRequest: naming each wrong field.
        """
        options: Any = {name: value for name, value in asking.items() if name != "deadline_s"}
        return question(text, labels, **options), decode_deadline(asking.get("deadline_s"), self._deadline)

    async def _start(self, connect: Callable[[], Transport]) -> Sender:
        return Sender(connect(), self._window.most)

    def _send(
        self, future: Future[Any], asked: Question, deadline_s: float, *, own_deadline: bool, block: bool, retry: bool
    ) -> None:
        self._window.check()
        if block and not in_event_loop():
            self._pool.wait_below(self._window.most)
        self._window.enter(future, block=block)
        try:
            self._hand_over(future, asked, deadline_s, own_deadline=own_deadline, retry=retry)
        except BaseException:  # Ctrl-C: nobody has this future, and what others submitted waits to be accepted
            future.cancel()
            self._thread.do(self._accept)
            raise

    def _hand_over(
        self, future: Future[Any], asked: Question, deadline_s: float, *, own_deadline: bool, retry: bool
    ) -> None:
        now = time.monotonic()
        item = Item(
            request=asked.request,
            id=uuid.uuid4().hex,
            pairs=asked.pairs,
            size=asked.size,
            asked=now,
            deadline=now + deadline_s,
            own_deadline=own_deadline,
            retry=retry,
            future=future,
        )
        future.item = item
        with self._accepting_lock:
            self._accepting.append(item)
            if len(self._accepting) > 1:
                return
        self._thread.do(self._accept)

    def _accept(self) -> None:
        with self._accepting_lock:
            items, self._accepting = self._accepting, []
        self._sender.accept(items)

    def _ended(self, future: Future[Any]) -> None:
        self._window.leave(future)
        item, future.item = future.item, None
        if item is not None:
            self._thread.do(self._sender.ended, item)

    def _finish(self) -> None:
        self._window.wait_until_empty()
        self._pool.close(wait=True)
        with self._finishing:  # whoever closes once more waits for the first
            if not self._thread.has_ended:
                with suppress(TimeoutError):  # what does not end now ends with its thread
                    self._thread.run(self._sender.close(), CLOSE_S)
                self._thread.stop()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise Forked(self._pid, os.getpid())
