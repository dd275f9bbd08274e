"""Stage 2: tokenises what stage 1 hands on, queues it, and gives the engine the next batch whenever one of its
streams is free.

All state is touched on the event loop alone; threads do the work that takes time, one tokenises and one for each of
the engine's streams runs batches. The decisions are those of `core/scheduler.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from deployments.contract.args import ClassifierConfig
from deployments.contract.errors import DeadlineExceeded, EngineFailed, ServiceError, Unavailable, to_wire
from deployments.core.batching import Err, Ok
from deployments.core.cache import Digests, PairCache, Scored
from deployments.core.scheduler import Cell, Job, Limits, Scheduler, Todo
from deployments.core.work import Outcome, Reply, Work
from deployments.engines.protocol import Engine, Pair
from deployments.engines.run import Run, run, tokenise

_log = logging.getLogger("ray.serve")

PIECE_CHARS = 50_000  # of texts tokenised at a time: some 50 ms
MAX_FAILED_RUNS = 20  # in a row, without one good pair: a device that is lost, and no poisoned text


class Unhealthy(Exception):
    """The replica cannot serve any more; Serve is to replace it."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request on its way through the replica; `reply` is cancelled when nobody waits for it any more."""

    work: Work
    arrived: float
    reply: asyncio.Future[Outcome]
    job: Job[Pair] | None = None

    @property
    def deadline(self) -> float:
        return self.arrived + self.work["deadline_s"]


@dataclass(eq=False, slots=True)
class _Arrival:
    """A request before it is queued: what is known of it from before, and what is to be tokenised."""

    ticket: Ticket
    keys: list[list[int]]
    known: dict[int, Scored]
    texts: list[str]
    """Those with a pair that is not known."""

    pairs: list[list[Pair]] = field(default_factory=list)
    """A row for each of `texts`, once they are tokenised."""

    def grid(self, cache: PairCache) -> list[list[Scored | Todo[Pair]]]:
        """One row per text of the request; the cache may know more by now."""
        pairs = dict(zip(self.texts, self.pairs, strict=True))
        return [
            [self.known.get(key) or cache.get(key) or _todo(key, pairs[text][i]) for i, key in enumerate(row)]
            for text, row in zip(self.ticket.work["texts"], self.keys, strict=True)
        ]


class Worker:
    """The queue and the engine of one replica.

    Args:
        secret: of the pair cache's digests; random, and of this process alone.
    """

    def __init__(
        self, engine: Engine, config: ClassifierConfig, secret: bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._digests = Digests(secret)
        self._cache = PairCache(config.max_cache_bytes)
        self._scheduler: Scheduler[Pair] = Scheduler(self._limits(config), self._cache, engine.streams)
        self._config = config
        self._tokeniser = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokeniser")
        self._threads = ThreadPoolExecutor(max_workers=engine.streams, thread_name_prefix="engine")
        self._tickets: dict[Job[Pair], Ticket] = {}
        self._work_waits = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []  # one for each stream
        self._runs_since: dict[int, float] = {}  # by stream
        self._tokenising_since: float | None = None
        self._failed_runs = 0
        self._admissions: set[asyncio.Task[None]] = set()
        self._by_id: dict[str, Ticket] = {}  # those without a reply

    def configure(self, config: ClassifierConfig) -> None:
        """Take other limits from now on; what waits stays."""
        self._config = config
        self._scheduler.limit(self._limits(config))
        self._cache.resize(config.max_cache_bytes)

    def _limits(self, config: ClassifierConfig) -> Limits:
        return Limits(max(1, config.max_batch_tokens // self._engine.streams), config.max_queued_tokens)

    def ticket(self, work: Work) -> Ticket:
        """For a request that has just arrived."""
        ticket = Ticket(work, self._clock(), asyncio.get_running_loop().create_future())
        if id := work.get("id"):
            self._by_id[id] = ticket
            ticket.reply.add_done_callback(lambda _: self._by_id.pop(id, None))
        return ticket

    def accept(self, tickets: Sequence[Ticket]) -> None:
        """Take requests over; each ticket's reply comes by itself. A large one keeps no other waiting."""
        large = [ticket for ticket in tickets if _n_chars(ticket.work) > PIECE_CHARS]
        small = [ticket for ticket in tickets if ticket not in large]
        for group in ([small] if small else []) + [[ticket] for ticket in large]:
            task = asyncio.create_task(self.admit(group))
            self._admissions.add(task)
            task.add_done_callback(self._admissions.discard)

    async def admit(self, tickets: Sequence[Ticket]) -> None:
        """Queue requests; what is wrong with one becomes its reply, and nobody else's."""
        self._start()
        arrivals = []
        for ticket in tickets:
            with _answering(ticket):
                if self._is_live(ticket):
                    arrivals.append(self._look_up(ticket))
        for piece in _pieces(arrivals):
            await self._tokenise([(arrival, texts) for arrival, texts in piece if self._is_live(arrival.ticket)])
        for arrival in arrivals:
            with _answering(arrival.ticket):
                if self._is_live(arrival.ticket):
                    self._enter(arrival)
        self._work_waits.set()
        if self._has_failed:
            self._turn_away()

    async def reply(self, ticket: Ticket) -> Reply:
        """What became of the request."""
        try:
            return {"outcome": await ticket.reply}
        except ServiceError as error:
            return {"error": to_wire(error)}

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these: what has not reached the engine never will, unless others wait for it too."""
        for ticket in tickets:
            ticket.reply.cancel()
            self._drop(ticket)

    def forget(self, ids: Sequence[str]) -> None:
        """As `cancel`, for requests of a call in which others still wait; unknown ids are none of ours."""
        for ticket in [self._by_id[one] for one in ids if one in self._by_id]:
            if not ticket.reply.done():
                ticket.reply.set_exception(Unavailable("nobody waited for this request any more"))
                self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        if ticket.job is not None and self._tickets.pop(ticket.job, None) is not None:
            self._scheduler.drop(ticket.job)

    def check(self) -> None:
        """Raise `Unhealthy` when the queue is not served any more."""
        if self._has_failed:
            raise Unhealthy("the loop that feeds the engine has ended")
        oldest = min(self._runs_since.values(), default=None)
        for since, what in ((oldest, "running one batch"), (self._tokenising_since, "tokenising one piece")):
            if since is not None and (ran_s := self._clock() - since) > self._config.max_batch_s:
                raise Unhealthy(f"the engine has been {what} for {ran_s:.0f} s")
        if self._failed_runs >= MAX_FAILED_RUNS:
            raise Unhealthy(f"the engine has failed on every pair of its last {self._failed_runs} batches")

    def _start(self) -> None:
        """On the first request, since only then there is a running loop."""
        if not self._loops:
            self._loops = [asyncio.create_task(self._serve(stream)) for stream in range(self._engine.streams)]
            for loop in self._loops:
                loop.add_done_callback(self._fail)

    @property
    def _has_failed(self) -> bool:
        return any(loop.done() for loop in self._loops)

    # From arrival to the queue.

    def _is_live(self, ticket: Ticket) -> bool:
        if ticket.deadline <= self._clock() and not ticket.reply.done():
            ticket.reply.set_exception(DeadlineExceeded())
        return not ticket.reply.done()

    def _look_up(self, ticket: Ticket) -> _Arrival:
        work = ticket.work
        scope = "" if self._config.share_cache else work["tenant"]
        keys = self._digests.grid(scope, work["texts"], work["hypotheses"])
        known = {key: scored for row in keys for key in row if (scored := self._cache.get(key))}
        rows = zip(work["texts"], keys, strict=True)
        texts = [text for text, row in rows if any(key not in known for key in row)]
        return _Arrival(ticket, keys, known, texts)

    async def _tokenise(self, piece: Sequence[tuple[_Arrival, list[str]]]) -> None:
        """Add the pairs of these texts to their arrivals."""

        def tokenise_all() -> list[Ok[list[list[Pair]]] | Err]:
            self._tokenising_since = self._clock()
            try:
                return [tokenise(self._engine, texts, one.ticket.work["hypotheses"]) for one, texts in piece]
            finally:
                self._tokenising_since = None

        if not piece:
            return
        found = await asyncio.get_running_loop().run_in_executor(self._tokeniser, tokenise_all)
        for (arrival, _), pairs in zip(piece, found, strict=True):
            if isinstance(pairs, Ok):
                arrival.pairs += pairs.value
            elif self._is_live(arrival.ticket):
                arrival.ticket.reply.set_exception(pairs.error)

    def _enter(self, arrival: _Arrival) -> None:
        ticket, grid = arrival.ticket, arrival.grid(self._cache)
        todos = [one for row in grid for one in row if isinstance(one, Todo)]
        now = self._clock()
        tenant, left_s = ticket.work["tenant"], ticket.deadline - now
        if self._scheduler.refusal(tenant, todos, left_s):
            self._expire(now)  # who waits in vain turns nobody away
        if refusal := self._scheduler.refusal(tenant, todos, left_s):
            raise Unavailable(f"{refusal.reason}; try again later", refusal.retry_after_s)
        job = self._scheduler.add(ticket.work["tenant"], grid, ticket.deadline, ticket.arrived)
        if job.unknown:
            ticket.job = job
            self._tickets[job] = ticket
        else:
            ticket.reply.set_result(_outcome(job, now))

    # From the queue to the reply.

    async def _serve(self, stream: int) -> None:
        while True:
            await self._work_waits.wait()
            self._work_waits.clear()  # the other streams have been woken, too
            while batch := self._next():
                self._hand_out(batch, await self._run(stream, batch))

    def _next(self) -> list[Cell[Pair]]:
        now = self._clock()
        self._expire(now)
        return self._scheduler.take(now)

    def _expire(self, now: float) -> None:
        for job in self._scheduler.expired(now):
            self._settle(job, DeadlineExceeded())

    async def _run(self, stream: int, batch: Sequence[Cell[Pair]]) -> Run:
        self._runs_since[stream] = self._clock()
        pairs = [cell.todo.pair for cell in batch]
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run, self._engine, pairs)
        finally:
            del self._runs_since[stream]

    def _hand_out(self, batch: Sequence[Cell[Pair]], ran: Run) -> None:
        if ran.out_of_memory:
            self._scheduler.shrink(batch)
            _log.warning("out of memory: batches of %d tokens from now on", self._scheduler.max_batch_tokens)
        self._failed_runs = 0 if any(isinstance(one, Scored) for one in ran.results) else self._failed_runs + 1
        now = self._clock()
        for job in self._scheduler.complete(batch, ran.results, ran.seconds, whole=ran.whole):
            self._settle(job, _outcome(job, now))

    def _settle(self, job: Job[Pair], result: Outcome | ServiceError) -> None:
        reply = self._tickets.pop(job).reply
        if reply.done():
            return
        if isinstance(result, ServiceError):
            reply.set_exception(result)
        else:
            reply.set_result(result)

    def _fail(self, loop: asyncio.Task[None]) -> None:
        if not loop.cancelled():
            _log.error("the loop that feeds the engine has ended", exc_info=loop.exception())
        for other in self._loops:
            other.cancel()
        self._turn_away()

    def _turn_away(self) -> None:
        for job in list(self._tickets):
            self._settle(job, Unavailable("this replica of the model has failed; try again"))


@contextmanager
def _answering(ticket: Ticket) -> Iterator[None]:
    """Whatever is raised is the reply to this request alone."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ServiceError):
            _log.exception("a request could not be queued")
            error = EngineFailed("the request could not be queued; the server's log says why")
        if not ticket.reply.done():
            ticket.reply.set_exception(error)


def _pieces(arrivals: Sequence[_Arrival]) -> Iterator[list[tuple[_Arrival, list[str]]]]:
    """What is tokenised at a time: between two pieces of a large request, others have their turn."""
    piece: list[tuple[_Arrival, list[str]]] = []
    n_chars = 0
    for arrival in arrivals:
        for text in arrival.texts:
            if n_chars > PIECE_CHARS:
                yield piece
                piece, n_chars = [], 0
            if not piece or piece[-1][0] is not arrival:
                piece.append((arrival, []))
            piece[-1][1].append(text)
            n_chars += len(text)
    if piece:
        yield piece


def _n_chars(work: Work) -> int:
    return sum(len(text) for text in work.get("texts", ()))


def _todo(key: int, pair: Pair) -> Todo[Pair]:
    return Todo(key, pair, pair.n_tokens, pair.truncated)


def _outcome(job: Job[Pair], now: float) -> Outcome:
    """The results of a job that is done, as its caller gets them."""
    rows = [[one if isinstance(one, Scored) else one.result for one in row] for row in job.grid]
    scored = [[one if isinstance(one, Scored) else None for one in row] for row in rows]
    started = now if job.started is None else job.started
    return {
        "logits": np.array(
            [[one[:2] if one else (np.nan, np.nan) for one in row] for row in scored], dtype=np.float32
        ).reshape(len(rows), -1, 2),
        "truncated": [any(one.truncated for one in row if one) for row in scored],
        "failed": [None in row for row in scored],
        "tokens": sum(one.n_tokens for row in scored for one in row if one),
        "queued_s": max(0.0, started - job.arrived) if job.started is not None else 0.0,
        "engine_s": now - started,
    }
