"""Everyone's pairs in one queue that knows: who waits for each, until when, and whose turn it is.

A `Job` is one request; a `Cell` is one pair that somebody waits for. Equal pairs of one scope are one cell, so
they are computed once, and a cell lives as long as any of its jobs does. Whenever a stream of the engine is free,
`take` gives it the pair whose turn it is with companions of its length; what nobody waits for any more is not there
to be taken.

No clock, no lock, no I/O: times come in as arguments, in seconds of any monotonic clock; costs are tokens.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from .batching import companions
from .cache import PairCache, Scored
from .fairness import Turns
from .speed import Speed

P = TypeVar("P")

REGROWTH = 1.02  # of the budget after each batch that did fit into memory
WINDOW = 8  # batches of every stream: among that much, in the order of turns, a batch finds companions of its length


@dataclass(frozen=True, slots=True)
class Limits:
    """What may change while work waits."""

    max_batch_tokens: int
    """Padded tokens in one run of the engine, which may round up."""

    max_queued_tokens: int
    """Tokens of all waiting pairs."""


class Todo(NamedTuple, Generic[P]):  # there are thousands a second: a frozen dataclass takes three times as long
    """A pair that is not known yet."""

    key: int
    pair: P
    n_tokens: int
    truncated: bool


@dataclass(eq=False, slots=True)
class Cell(Generic[P]):
    """A pair on its way through the engine."""

    todo: Todo[P]
    jobs: dict[Job[P], None] = field(default_factory=dict)
    running: bool = False
    result: Scored | Exception | None = None


@dataclass(eq=False, slots=True)
class Job(Generic[P]):
    """A request in the scheduler."""

    tenant: str
    arrived: float
    deadline: float
    grid: list[list[Cell[P] | Scored]] = field(default_factory=list)
    waiting: dict[Cell[P], None] = field(default_factory=dict)
    """Not taken by the engine yet, the longest first."""

    unknown: dict[Cell[P], None] = field(default_factory=dict)
    """Without a result yet."""

    tokens: int = 0
    """Of all that waited when it came."""

    waiting_tokens: int = 0
    started: float | None = None
    """When the engine took its first pair."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not let in, and in how many seconds it would be; None: not by waiting."""

    reason: str
    retry_after_s: float | None


class Scheduler(Generic[P]):
    """Holds all jobs between arrival and answer."""

    def __init__(self, limits: Limits, cache: PairCache, streams: int = 1) -> None:
        """
        Args:
            streams: batches that the engine runs at a time.
        """
        self.limits = limits
        self._streams = streams
        self.speed = Speed()
        self._cache = cache
        self._cells: dict[int, Cell[P]] = {}  # by key, those that a new job can join
        self._tenants: Turns[str] = Turns()
        self._jobs: dict[str, Turns[Job[P]]] = {}  # by tenant, those with something waiting
        self._waiting_tokens: defaultdict[str, int] = defaultdict(int)  # by tenant
        self._live: dict[Job[P], None] = {}  # those with something unknown
        self._numbers = itertools.count()  # of batches
        self._running_tokens = 0
        self._n_running = 0  # batches
        self._memory_tokens = math.inf  # what a batch may have since one did not fit into memory

    @property
    def waiting_tokens(self) -> int:
        return sum(self._waiting_tokens.values())

    @property
    def max_batch_tokens(self) -> int:
        return int(min(self.limits.max_batch_tokens, self._memory_tokens))

    @property
    def _tokens_per_s(self) -> float | None:
        """Of all streams together."""
        per_stream = self.speed.tokens_per_s
        return None if per_stream is None else per_stream * self._streams

    def _budget(self, lengths: Sequence[int]) -> int:
        """Padded tokens in the next batch: streams that are free share the pairs that wait."""
        free = self._streams - self._n_running
        if free <= 1:
            return self.max_batch_tokens
        return min(self.max_batch_tokens, math.ceil(len(lengths) / free) * max(lengths))

    def limit(self, limits: Limits) -> None:
        """Take other limits from now on; what memory has taught is forgotten, since it may be what was changed."""
        self.limits = limits
        self._memory_tokens = math.inf

    def refusal(self, tenant: str, todos: Sequence[Todo[P]], left_s: float) -> Refusal | None:
        """Whether to let in a job with this much to do and this much time; None: yes.

        An empty queue lets in everything: what was measured before must not turn away for ever.
        """
        cost = sum(todo.n_tokens for todo in todos)
        rate = self._tokens_per_s
        if (waiting := self.waiting_tokens) and waiting + cost > self.limits.max_queued_tokens:
            excess = waiting + cost - self.limits.max_queued_tokens
            return Refusal(
                f"{waiting:,} tokens are waiting already, at most {self.limits.max_queued_tokens:,}",
                excess / rate if rate and cost <= self.limits.max_queued_tokens else None,
            )
        if rate is None or self._running_tokens + waiting + cost <= left_s * rate:
            return None  # in time even as the last of all, which is quicker to see than whose turn comes before
        before = self._before(tenant, cost)
        if before == 0 or before + cost <= left_s * rate:
            return None
        wait_s, own_s = before / rate, cost / rate
        return Refusal(
            f"the answer would take {wait_s + own_s:.1f} s, the deadline is in {left_s:.1f} s",
            self._served_until(tenant, cost, max(0.0, left_s * rate - cost)) / rate,
        )

    def add(self, tenant: str, grid: Sequence[Sequence[Todo[P] | Scored]], deadline: float, now: float) -> Job[P]:
        """Let a job in; it may be done at once, when everything is known."""
        job: Job[P] = Job(tenant, now, deadline)
        job.grid = [[self._join(job, one) if isinstance(one, Todo) else one for one in row] for row in grid]
        waiting = [cell for cell in job.unknown if not cell.running]
        for cell in sorted(waiting, key=lambda cell: -cell.todo.n_tokens):
            job.waiting[cell] = None
        job.tokens = job.waiting_tokens = sum(cell.todo.n_tokens for cell in waiting)
        if job.waiting:
            self._waiting_tokens[tenant] += job.waiting_tokens
            self._tenants.join(tenant)
            self._jobs.setdefault(tenant, Turns()).join(job)
        if job.unknown:
            self._live[job] = None
        return job

    def drop(self, job: Job[P]) -> None:
        """Nobody waits for it any more; what others wait for as well goes on."""
        self._live.pop(job, None)
        for cell in list(job.waiting):
            self._unqueue(job, cell)
        for cell in job.unknown:
            del cell.jobs[job]
            if not cell.jobs:
                self._close(cell)
        job.unknown.clear()

    def expired(self, now: float) -> list[Job[P]]:
        """The jobs whose deadline has passed, which are dropped."""
        late = [job for job in self._live if job.deadline <= now]
        for job in late:
            self.drop(job)
        return late

    def take(self, now: float) -> list[Cell[P]]:
        """The next batch for the engine, the longest first; empty when nothing waits."""
        window = list(self._window())
        if not window:
            return []
        number = next(self._numbers)
        lengths = [cell.todo.n_tokens for _, cell in window]
        chosen = [window[i] for i in companions(lengths, self._budget(lengths), self.speed.run_tokens)]
        for job, cell in chosen:
            self._tenants.charge(job.tenant, cell.todo.n_tokens, number)
            is_small = job.tokens <= self.max_batch_tokens  # one turn, even where a batch ends in it
            self._jobs[job.tenant].charge(job, cell.todo.n_tokens, number, keeps_turn=is_small)
        batch = [cell for _, cell in chosen]
        for cell in batch:
            cell.running = True
            for job in cell.jobs:
                job.started = now if job.started is None else job.started
                self._unqueue(job, cell)
        self._running_tokens += padded_tokens(batch)
        self._n_running += 1
        return batch

    def complete(
        self, batch: Sequence[Cell[P]], results: Sequence[Scored | Exception], seconds: float, *, whole: bool
    ) -> list[Job[P]]:
        """Hand out the results of a batch.

        Args:
            results: one for each cell, in the order of `batch`.
            seconds: that the engine took.
            whole: the batch ran at once; nothing is remembered of one that failed and was cut.

        Returns:
            The jobs that are done by it.
        """
        self._running_tokens -= padded_tokens(batch)
        self._n_running -= 1
        if whole:
            self.speed = self.speed.after(padded_tokens(batch), seconds)
            self._memory_tokens *= REGROWTH
        done = []
        for cell, result in zip(batch, results, strict=True):
            cell.result = result
            self._close(cell)
            if whole and isinstance(result, Scored):
                self._cache.put(cell.todo.key, result)
            for job in cell.jobs:
                del job.unknown[cell]
                if not job.unknown:
                    del self._live[job]
                    done.append(job)
            cell.jobs.clear()
        return done

    def shrink(self, batch: Sequence[Cell[P]]) -> None:
        """The batch did not fit into memory: take half as much, and then slowly more again."""
        self._memory_tokens = min(self._memory_tokens, max(1, padded_tokens(batch) // 2))

    def _join(self, job: Job[P], todo: Todo[P]) -> Cell[P]:
        cell = self._cells.setdefault(todo.key, Cell(todo))
        cell.jobs[job] = None
        job.unknown[cell] = None
        if cell.running and job.started is None:
            job.started = job.arrived
        return cell

    def _close(self, cell: Cell[P]) -> None:
        """No new job can join it."""
        if self._cells.get(cell.todo.key) is cell:
            del self._cells[cell.todo.key]

    def _unqueue(self, job: Job[P], cell: Cell[P]) -> None:
        if cell not in job.waiting:
            return
        del job.waiting[cell]
        job.waiting_tokens -= cell.todo.n_tokens
        self._waiting_tokens[job.tenant] -= cell.todo.n_tokens
        if job.waiting:
            return
        self._jobs[job.tenant].leave(job)
        if not self._jobs[job.tenant]:
            del self._jobs[job.tenant], self._waiting_tokens[job.tenant]
            self._tenants.leave(job.tenant)

    def _window(self) -> Iterator[tuple[Job[P], Cell[P]]]:
        """The first of what waits, in the order of turns, as much as `WINDOW` says; a turn is a batch at most."""
        quantum = self.max_batch_tokens
        seen: set[Cell[P]] = set()
        pairs: dict[Job[P], Iterator[Cell[P]]] = {}

        def turn(job: Job[P]) -> tuple[list[tuple[Job[P], Cell[P]]], int] | None:
            cells, cost = [], 0
            for cell in pairs.setdefault(job, iter(job.waiting)):
                if cell not in seen:
                    seen.add(cell)
                    cells.append((job, cell))
                    cost += cell.todo.n_tokens
                if cost >= quantum:
                    break
            return (cells, cost) if cells else None

        orders = {tenant: jobs.order(turn) for tenant, jobs in self._jobs.items()}
        total = 0
        for cells, cost in self._tenants.order(lambda tenant: next(orders[tenant], None)):
            yield from cells
            total += cost
            if total >= WINDOW * quantum * self._streams:
                return

    def _before(self, tenant: str, cost: int, served: float = 0.0) -> float:
        """Tokens that go before a new job of this cost, by turns, once so many more of those here are served."""
        share = max(cost, self.max_batch_tokens)
        level = _level([self._running_tokens, *self._waiting_tokens.values()], served)
        jobs = [job.waiting_tokens for job in self._jobs.get(tenant, ())]
        own_level = _level(jobs, min(level, sum(jobs)))
        own = sum(min(max(0.0, tokens - own_level), share) for tokens in jobs)
        others = sum(
            min(max(0.0, tokens - level), own + cost) for name, tokens in self._waiting_tokens.items() if name != tenant
        )
        return max(0.0, self._running_tokens - level) + own + others

    def _served_until(self, tenant: str, cost: int, before: float) -> float:
        """Tokens to be served until no more than this goes before a new job; by bisection, to a thousandth."""
        low, high = 0.0, float(self._running_tokens + self.waiting_tokens)
        while high - low > max(1.0, high / 1_000):
            middle = (low + high) / 2
            low, high = (low, middle) if self._before(tenant, cost, middle) <= before else (middle, high)
        return high


def _level(tokens: Sequence[float], served: float) -> float:
    """How much each of these has had, when so much was served in equal shares to those that still wait."""
    level = 0.0
    ordered = sorted(tokens)
    for i, have in enumerate(ordered):
        step = (have - level) * (len(ordered) - i)
        if step >= served:
            return level + served / (len(ordered) - i)
        served -= step
        level = have
    return level


def padded_tokens(cells: Sequence[Cell[P]]) -> int:
    """What a batch costs: its pairs times its longest."""
    return len(cells) * max((cell.todo.n_tokens for cell in cells), default=0)
