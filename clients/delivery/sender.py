"""Sending: requests that wait a moment travel together; each is answered, retried, expired and called off by itself.

All of it runs on one event loop, the client's own. What decides is elsewhere: `pacer.py` when to send, `budget.py`
whether once more.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from clients.results import Classification, Failed, Meta, classifications
from deployments.contract.errors import (
    DeadlineExceeded,
    QuotaExceeded,
    RateLimited,
    ServiceError,
    TooManyConcurrent,
    Unauthorized,
    Unavailable,
    from_wire,
)
from deployments.contract.wire import Ask, ClassifyResponse, Told

from .budget import RetryBudget
from .future import Future
from .pacer import Pacer
from .transport import Call, Transport

LEAST_RETRIES = 32  # that the budget holds at first, however small the window
MAX_ITEMS = 64  # of one call
MAX_BYTES = 1 << 20  # of one call, roughly: handles in throughput mode fail above 4 MiB
MIN_CALLS = 4  # that many may be under way before anything waits to be joined
HOLD_S = 0.002  # for which it waits then
FORGET_S = 0.02  # between two messages about requests that were called off
GRACE_S = 0.1  # past its deadline: the service's own word is better than the client's
TERMS_S = 5.0  # until the service is asked again what it grants, where it could not tell
FRESH_S = 60.0  # the same, where it could: limits change without a restart
BACKOFF_S, MAX_BACKOFF_S = 0.05, 1.0  # before a call is sent again that failed for no stated time

Result = Classification | list[Classification | Failed]


@dataclass(eq=False, slots=True)
class Item:
    """One request on its way; `future` is what its caller holds."""

    request: dict[str, Any]
    id: str
    pairs: int
    size: int
    """Bytes that travel, roughly."""

    asked: float
    deadline: float
    own_deadline: bool
    """Whether the caller chose it; else it is cut to what the service allows."""

    retry: bool
    future: Future[Any]
    retries: int = 0
    sent: bool = False
    """Whether it is in the service's hands."""

    call: _Call | None = None
    timer: asyncio.TimerHandle | None = field(default=None)


@dataclass(eq=False, slots=True)
class _Call:
    """A joined call; `left` are those of it that nobody has told of yet, and somebody waits for."""

    call: Call
    left: set[Item]


class Sender:
    """Carries requests to the service, and settles their futures.

    Args:
        max_in_flight: requests that may be outstanding; the measure of the retry budget.
    """

    def __init__(self, transport: Transport, max_in_flight: int) -> None:
        self._transport = transport
        self._budget = RetryBudget(max(max_in_flight, LEAST_RETRIES))
        self._pacer = Pacer()
        self._waiting: deque[Item] = deque()
        self._sent = 0
        """Requests in the service's hands."""

        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = float("inf")
        self._gone: list[str] = []
        self._forgets: asyncio.TimerHandle | None = None
        self._max_deadline_s = float("inf")
        self._asks_terms: asyncio.Task[None] | None = None
        self._next_terms = float("-inf")

    def accept(self, items: Iterable[Item]) -> None:
        """Take new requests over."""
        loop = asyncio.get_running_loop()
        for item in items:
            if not item.future.done():
                item.timer = loop.call_later(max(0.0, item.deadline - time.monotonic()) + GRACE_S, self._expire, item)
                self._waiting.append(item)
        self._wake(0.0 if self._calls < MIN_CALLS else HOLD_S)

    def ended(self, item: Item) -> None:
        """Its future has ended; where nobody waits any more, the service is told to drop the work."""
        if item.timer:
            item.timer.cancel()
        if (call := item.call) is not None:
            self._release(item)
            if call.left:
                self._call_off(item.id)
            else:
                call.call.cancel()
        elif self._waiting:  # perhaps for it, were it the first
            self._wake(0.0)

    async def close(self) -> None:
        """End what is under way; nobody waits for it."""
        self._waiting.clear()
        if self._forgets:
            self._forgets.cancel()
            await self._forget()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # From waiting to the service.

    def _wake(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if at < self._wakes_at:
            if self._timer:
                self._timer.cancel()
            self._wakes_at = at
            self._timer = loop.call_at(at, self._pump)

    def _pump(self) -> None:
        self._timer, self._wakes_at = None, float("inf")
        if self._waiting and self._knows_terms():
            for items in _cut(list(self._take())):
                self._start(self._call(items))

    def _take(self) -> Iterator[Item]:
        """Those whose turn it is, as far as the service grants it now."""
        now = time.monotonic()
        while self._waiting:
            item = self._waiting[0]
            if not item.future.done():
                if self._pacer.max_concurrent is not None and self._sent >= self._pacer.max_concurrent:
                    return  # an answer wakes
                if wait := self._pacer.wait_s(item.pairs, now):
                    self._wake(wait)
                    return
                self._pacer.take(item.pairs)
                self._sent += 1
                item.sent = True
                if item.retries == 0:
                    self._budget.earn()
                yield item
            self._waiting.popleft()

    def _knows_terms(self) -> bool:
        """Whether the service has said what it grants, or could not; what waits until then is woken."""
        if self._asks_terms is None and time.monotonic() >= self._next_terms:
            self._asks_terms = self._start(self._ask_terms())
        return self._next_terms > float("-inf")

    async def _ask_terms(self) -> None:
        try:
            async with asyncio.timeout(TERMS_S):
                terms = await self._transport.terms()
            self._pacer.learn(terms, time.monotonic())
            self._max_deadline_s = terms["max_deadline_s"]
            self._next_terms = time.monotonic() + FRESH_S
        except Unauthorized as error:  # so for all of them
            waiting, self._waiting = self._waiting, deque()
            for item in waiting:
                self._settle(item, error)
        except Exception:  # a service that cannot tell may answer all the same
            self._next_terms = time.monotonic() + TERMS_S
        finally:
            self._asks_terms = None
            self._wake(0.0)

    async def _call(self, items: list[Item]) -> None:
        now = time.monotonic()
        left = dict(enumerate(items))
        error: Exception = Unavailable("the service ended the call without an answer; try again")
        self._calls += 1
        try:
            call = self._transport.send([self._ask(item, now) for item in items])
            joined = _Call(call, set(items))
            for item in items:
                item.call = joined
                if item.future.done():  # meanwhile
                    self.ended(item)
            async for told in call:
                for one in told:
                    self._hear(left[one["index"]], one)
                    del left[one["index"]]
        except Exception as raised:
            error = raised
        except asyncio.CancelledError:  # the client closes, or Serve cancelled the call
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
        finally:
            self._calls -= 1
            for item in left.values():
                self._release(item)
        for item in left.values():
            self._fail(item, error)
        if self._waiting:
            self._wake(0.0)

    def _ask(self, item: Item, now: float) -> Ask:
        seconds = item.deadline - now
        wish = seconds if item.own_deadline else min(seconds, self._max_deadline_s)
        return {"request": item.request, "deadline_s": max(wish, 1e-3), "id": item.id}

    # From the service to the future.

    def _hear(self, item: Item, told: Told) -> None:
        self._release(item)
        if "answer" in told:
            self._pacer.passed()
            self._pacer.see(told.get("quotas", []), time.monotonic())
            self._settle(item, _result(item, told["answer"]), told)
        else:
            self._fail(item, from_wire(told["error"]))

    def _release(self, item: Item) -> None:
        """It is not in the service's hands any more."""
        if item.call is not None:
            item.call.left.discard(item)
            item.call = None
        if item.sent:
            item.sent = False
            self._sent -= 1
            if self._waiting:
                self._wake(0.0)

    def _fail(self, item: Item, error: Exception) -> None:
        """Settle it, or send it once more where that may help: classification is idempotent."""
        if item.future.done():
            return
        now = time.monotonic()
        if (wait_s := self._wait_before_retry(item, error, now)) is None:
            self._settle(item, self.in_our_words(error))
            return
        item.retries += 1
        self._start(self._again(item, wait_s))

    def _wait_before_retry(self, item: Item, error: Exception, now: float) -> float | None:
        """Seconds, as the service said or growing; None: it is not to be sent again."""
        if isinstance(error, QuotaExceeded):
            self._pacer.refused(error.retry_after_s, now)
        if isinstance(error, TooManyConcurrent):
            self._pacer.crowded(error.most)
        said: float | None = getattr(error, "retry_after_s", None)
        transient = isinstance(error, RateLimited | Unavailable) or self._transport.is_transient(error)
        grown = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(item.retries, 10)) * random.uniform(0.5, 1)
        wait_s = grown if said is None else said
        if not (item.retry and transient and now + wait_s < item.deadline and self._budget.spend()):
            return None
        return wait_s

    async def _again(self, item: Item, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        if not item.future.done():
            self._waiting.appendleft(item)
            self._wake(0.0)

    def in_our_words(self, error: Exception) -> Exception:
        """What a caller is told of an error of any kind."""
        if isinstance(error, ServiceError):
            return error
        if self._transport.is_transient(error):
            found = Unavailable("no replica of the service can take this request now; try again")
        else:
            found = ServiceError(f"the call failed, {type(error).__name__}: {error}")  # type: ignore[assignment]
        found.__cause__ = error
        return found

    def _expire(self, item: Item) -> None:
        if item.sent or self._next_terms == float("-inf"):
            why = "no answer within the deadline; is the application running?"
        else:
            why = (
                "it waited for its turn, by your quota, until its deadline, and was not sent; ask for fewer at a time, "
                "or give them a longer deadline_s"
            )
        self._settle(item, DeadlineExceeded(why))

    @property
    def max_deadline_s(self) -> float:
        """What the service allows; infinite: it has not said."""
        return self._max_deadline_s

    def _settle(self, item: Item, outcome: Result | Exception, told: Told | None = None) -> None:
        answer = told["answer"] if told else None
        item.future.settle(
            outcome,
            Meta(
                request_id=answer["request_id"] if answer else None,
                model=answer["model"] if answer else None,
                engine=answer["engine"] if answer else None,
                fallback=answer["fallback"] if answer else None,
                timings={**(told.get("timings", {}) if told else {}), "total": time.monotonic() - item.asked},
                quotas=tuple(told.get("quotas", ())) if told else (),
                retries=item.retries,
            ),
        )

    # Calling off.

    def _call_off(self, id: str) -> None:
        """Several at a time: to tell all replicas is dear."""
        self._gone.append(id)
        if len(self._gone) == 1:
            self._forgets = asyncio.get_running_loop().call_later(FORGET_S, lambda: self._start(self._forget()))

    async def _forget(self) -> None:
        gone, self._gone, self._forgets = self._gone, [], None
        with suppress(Exception):  # a hint, without which the deadline does the work
            await self._transport.forget(gone)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _result(item: Item, answer: ClassifyResponse) -> Result | Exception:
    found = classifications(answer)
    if not isinstance(item.request["text"], str):
        return found
    only = found[0]
    return only.error if isinstance(only, Failed) else only


def _cut(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Into calls within both limits, in order."""
    call: list[Item] = []
    size = 0
    for item in items:
        if call and (len(call) == MAX_ITEMS or size + item.size > MAX_BYTES):
            yield call
            call, size = [], 0
        call.append(item)
        size += item.size
    if call:
        yield call
