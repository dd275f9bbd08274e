"""Joined sending: small requests that arrive together travel to the classifier in one call.

A call costs the ingress more than a small request costs the engine. Joining is for the sending only: what waits,
waits in the classifier, where it is known whose turn it is, so nothing is held here for more than `HOLD_S`. A call
returns with its slowest item, hence who has much under way does not travel with who has little.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from deployments.contract.errors import Unavailable, from_wire
from deployments.core.work import Outcome, Reply, Work

MAX_ITEMS = 64  # of one call
MAX_BYTES = 1 << 20  # of one call, as UTF-8: handles in throughput mode fail above 4 MiB
MAX_TOKENS = 1_024  # of one call, estimated: a batch as it is configured for a CPU; a larger request travels alone
BYTES_PER_TOKEN = 4  # of English text, roughly
MIN_CALLS = 4  # that many may be under way before anything is held: with one the engine starves
HOLD_S = 0.002
FORGET_S = 0.02  # between two messages about requests whose callers are gone


class Call(Protocol):
    """A call under way, as Serve's `DeploymentResponse`."""

    def __await__(self) -> Generator[Any, None, list[Reply]]: ...

    def cancel(self) -> None: ...


@dataclass(eq=False, slots=True)
class _Item:
    work: Work
    deadline: float
    reply: asyncio.Future[Outcome]
    size: int
    """Bytes that travel."""

    tokens: int
    """Estimated work."""

    tried: bool = False


class Joiner:
    """Sends requests to the classifier and hands out the replies.

    Args:
        send: starts a call with several requests.
        forget: tells the classifier by their ids which requests nobody waits for any more.
        dead: what a call raises when its replica has died; its requests are sent once more.
    """

    def __init__(
        self,
        send: Callable[[list[Work]], Call],
        forget: Callable[[list[str]], Awaitable[object]],
        dead: type[Exception],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._forget = forget
        self._gone: list[str] = []  # ids to be forgotten
        self._dead = dead
        self._clock = clock
        self._held: defaultdict[str, list[_Item]] = defaultdict(list)  # by group
        self._under_way: Counter[str] = Counter()  # tokens by tenant
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, work: Work) -> Outcome:
        """The classifier's outcome.

        Raises:
            ServiceError: the classifier's, for this request.
            Exception: whatever the call raised.
        """
        item = self._item(work)
        group = work["tenant"] if self._under_way[work["tenant"]] >= MAX_TOKENS else ""
        self._under_way[work["tenant"]] += item.tokens
        try:
            self._hold(item, group)
            return await item.reply
        finally:
            self._under_way[work["tenant"]] -= item.tokens
            if not self._under_way[work["tenant"]]:
                del self._under_way[work["tenant"]]

    def _item(self, work: Work) -> _Item:
        texts, hypotheses = (sum(len(s.encode()) for s in work[key]) for key in ("texts", "hypotheses"))
        pairs_bytes = texts * len(work["hypotheses"]) + hypotheses * len(work["texts"])
        return _Item(
            work={**work, "id": uuid.uuid4().hex},
            deadline=self._clock() + work["deadline_s"],
            reply=asyncio.get_running_loop().create_future(),
            size=texts + hypotheses,
            tokens=pairs_bytes // BYTES_PER_TOKEN + 1,
        )

    def _hold(self, item: _Item, group: str) -> None:
        if item.tokens > MAX_TOKENS:
            self._start([item])
            return
        self._held[group].append(item)
        if self._timer is None:
            wait = 0.0 if len(self._calls) < MIN_CALLS else HOLD_S
            self._timer = asyncio.get_running_loop().call_later(wait, self._release)

    def _release(self) -> None:
        """Send all that is held."""
        self._timer = None
        held, self._held = self._held, defaultdict(list)
        for items in held.values():
            for call in _cut([item for item in items if not item.reply.done()]):
                self._start(call)

    def _start(self, items: list[_Item]) -> None:
        task = _apart(self._call(items))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, items: list[_Item]) -> None:
        now = self._clock()
        try:
            call = self._send([{**item.work, "deadline_s": item.deadline - now} for item in items])
            self._follow(call, items)
            replies = await call
            for item, reply in zip(items, replies, strict=True):
                _settle(item, from_wire(reply["error"]) if "error" in reply else reply["outcome"])
        except self._dead as error:
            self._again(items, error)
        except asyncio.CancelledError:
            self._again(items, Unavailable("the call to the model was cancelled; try again"))
            raise
        except Exception as error:
            for item in items:
                _settle(item, error)

    def _follow(self, call: Call, items: Sequence[_Item]) -> None:
        """Call off what nobody waits for: the whole call once all of it are gone, which default mode would not."""
        waiting = len(items)

        def leave(item: _Item, reply: asyncio.Future[Outcome]) -> None:
            nonlocal waiting
            if not reply.cancelled():
                return
            waiting -= 1
            if waiting == 0:
                call.cancel()
            else:
                self._call_off(item.work["id"])

        for item in items:
            item.reply.add_done_callback(partial(leave, item))

    def _call_off(self, id: str) -> None:
        """Several at a time: to tell all replicas is dear."""
        self._gone.append(id)
        if len(self._gone) == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(FORGET_S, lambda: _apart(self._tell()), context=contextvars.Context())

    async def _tell(self) -> None:
        gone, self._gone = self._gone, []
        with suppress(Exception):  # a hint, without which the deadline does the work
            await self._forget(gone)

    def _again(self, items: list[_Item], error: Exception) -> None:
        """Classification is idempotent: ask once more, each alone, so that what kills a replica does so alone."""
        for item in items:
            if item.tried:
                _settle(item, error)
            elif not item.reply.done():  # somebody waits for it still
                item.tried = True
                self._start([item])


def _cut(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    """Into calls within the three limits, in order."""
    call: list[_Item] = []
    size = tokens = 0
    for item in items:
        size, tokens = size + item.size, tokens + item.tokens
        if call and (len(call) == MAX_ITEMS or size > MAX_BYTES or tokens > MAX_TOKENS):
            yield call
            call, size, tokens = [], item.size, item.tokens
        call.append(item)
    if call:
        yield call


def _apart(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """In a context of its own: Serve cancels all that was sent in the context of a caller who hangs up."""
    return asyncio.create_task(coroutine, context=contextvars.Context())


def _settle(item: _Item, result: Outcome | Exception) -> None:
    if item.reply.done():
        return
    if isinstance(result, Exception):
        item.reply.set_exception(result)
    else:
        item.reply.set_result(result)
