"""The queue over a simulated clock: who is served when, and that everybody is answered once, with his own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.cache import ENTRY_BYTES, PairCache, Scored
from deployments.core.scheduler import Cell, Job, Limits, Scheduler, Todo, padded_tokens

Queue = Scheduler[int]  # a pair is a number here, its length and its result follow from it
BUDGET = 100


def _queue(cache: int = 0, budget: int = BUDGET, bound: int = 1_000_000, streams: int = 1) -> Queue:
    return Scheduler(Limits(budget, bound), PairCache(cache * ENTRY_BYTES), streams)


def _todo(pair: int, n_tokens: int | None = None) -> Todo[int]:
    return Todo(pair, pair, n_tokens or pair % 30 + 5, False)


def _scored(cell: Cell[int]) -> Scored:
    return Scored(-float(cell.todo.pair), float(cell.todo.pair), cell.todo.n_tokens, False)


def _add(queue: Queue, pairs: Sequence[int], tenant: str = "a", deadline: float = 1e9, n_tokens: int = 10) -> Job[int]:
    return queue.add(tenant, [[_todo(pair, n_tokens) for pair in pairs]], deadline, now=0)


def _run(queue: Queue, seconds: float = 1.0) -> tuple[list[int], list[Job[int]]]:
    """One batch: its pairs, and the jobs that are done by it."""
    batch = queue.take(now=0)
    done = queue.complete(batch, [_scored(cell) for cell in batch], seconds, whole=True)
    return [cell.todo.pair for cell in batch], done


def _batches_until_done(queue: Queue, job: Job[int]) -> int:
    for n in range(1, 1_000):
        if job in _run(queue)[1]:
            return n
    raise AssertionError("never")


def _results(job: Job[int]) -> list[list[float]]:
    found = [[one if isinstance(one, Scored) else one.result for one in row] for row in job.grid]
    return [[one.entailment if isinstance(one, Scored) else -1 for one in row] for row in found]


def test_a_job_is_done_with_its_own_results_in_its_own_order() -> None:
    queue = _queue()
    job = queue.add("a", [[_todo(3, 9), _todo(1, 9)], [_todo(2, 9), _todo(3, 9)]], deadline=1, now=0)

    _, done = _run(queue)

    assert done == [job]
    assert _results(job) == [[3, 1], [2, 3]]
    assert queue.take(now=0) == []
    assert queue.waiting_tokens == 0


@pytest.mark.parametrize("tenant", ["a", "b"])
def test_a_short_request_behind_a_long_list_waits_for_one_batch_at_most(tenant: str) -> None:
    queue = _queue()
    _add(queue, range(4_096))
    for _ in range(5):
        _run(queue)
    running = queue.take(now=0)  # when the short one arrives

    short = _add(queue, range(5_000, 5_003), tenant)
    queue.complete(running, [_scored(cell) for cell in running], 1, whole=True)

    assert _batches_until_done(queue, short) == 1


def test_a_short_request_of_another_length_comes_next_too() -> None:
    queue = _queue()
    _add(queue, range(4_096), n_tokens=50)
    _run(queue)

    short = _add(queue, range(5_000, 5_003), n_tokens=9)

    assert _batches_until_done(queue, short) == 1


def test_two_lists_of_two_tenants_share_the_engine_by_cost() -> None:
    queue = _queue()
    _add(queue, range(1_000), "a", n_tokens=10)
    _add(queue, range(1_000, 2_000), "b", n_tokens=20)

    pairs = [pair for _ in range(60) for pair in _run(queue)[0]]

    tokens = [sum(10 for pair in pairs if pair < 1_000), sum(20 for pair in pairs if pair >= 1_000)]
    assert abs(tokens[0] - tokens[1]) <= 2 * BUDGET


def test_many_requests_of_one_tenant_do_not_delay_another() -> None:
    queue = _queue()
    for i in range(200):
        _add(queue, [i], "a")
    _run(queue)

    assert _batches_until_done(queue, _add(queue, [999], "b")) == 1


def test_equal_requests_are_done_in_the_order_of_arrival() -> None:
    queue = _queue()
    jobs = [_add(queue, range(4 * i, 4 * i + 4)) for i in range(20)]

    done = [job for _ in range(20) for job in _run(queue)[1]]

    assert done == jobs


def test_a_list_runs_with_little_padding_though_its_lengths_are_mixed() -> None:
    queue, rng = _queue(budget=1_024), random.Random(1)
    for tenant in "abc":
        queue.add(tenant, [[_todo(rng.getrandbits(60), rng.randint(10, 300)) for _ in range(300)]], 1e9, 0)

    padded = real = 0
    while batch := queue.take(now=0):
        padded += padded_tokens(batch)
        real += sum(cell.todo.n_tokens for cell in batch)
        queue.complete(batch, [_scored(cell) for cell in batch], 1, whole=True)

    assert real / padded >= 0.95


def test_equal_pairs_in_flight_run_once_and_the_first_to_leave_takes_nothing_away() -> None:
    queue = _queue()
    first, second = _add(queue, [1, 2]), _add(queue, [2, 3])
    queue.drop(first)

    pairs, done = _run(queue)

    assert sorted(pairs) == [2, 3]
    assert done == [second]
    assert _results(second) == [[2, 3]]


def test_who_joins_a_pair_that_runs_is_answered_with_it() -> None:
    queue = _queue()
    first = _add(queue, [1, 2])
    batch = queue.take(now=0)

    second = _add(queue, [2, 1])
    queue.drop(first)
    done = queue.complete(batch, [_scored(cell) for cell in batch], 1, whole=True)

    assert done == [second]
    assert _results(second) == [[2, 1]]
    assert queue.take(now=0) == []


def test_a_pair_that_somebody_left_while_it_ran_is_computed_again_for_a_newcomer() -> None:
    queue = _queue()
    first = _add(queue, [1])
    batch = queue.take(now=0)
    queue.drop(first)
    second = _add(queue, [1])

    assert queue.complete(batch, [_scored(cell) for cell in batch], 1, whole=True) == []
    assert _run(queue) == ([1], [second])


def test_what_nobody_waits_for_is_never_taken() -> None:
    queue = _queue()
    gone, late, kept = _add(queue, [1]), _add(queue, [2], deadline=5), _add(queue, [3])

    queue.drop(gone)

    assert queue.expired(now=4.9) == []
    assert queue.expired(now=5) == [late]
    assert _run(queue) == ([3], [kept])


def test_results_of_a_whole_batch_are_remembered_and_those_of_a_failed_one_are_not() -> None:
    queue = _queue(cache=10)
    _add(queue, [1, 2])
    batch = queue.take(now=0)
    queue.complete(batch, [_scored(batch[0]), RuntimeError("poison")], 1, whole=False)
    assert len(queue._cache) == 0

    _add(queue, [3, 4])
    _run(queue)

    assert [queue._cache.get(pair) is not None for pair in (1, 2, 3, 4)] == [False, False, True, True]


def test_a_job_of_known_pairs_is_done_when_it_comes() -> None:
    queue = _queue()

    job = queue.add("a", [[Scored(0, 7, 10, False)]], deadline=1, now=0)

    assert not job.unknown
    assert queue.take(now=0) == []


def test_beyond_the_bound_nobody_is_let_in() -> None:
    queue = _queue(bound=100)
    _add(queue, range(8))

    full = queue.refusal("b", [_todo(i, 10) for i in range(3)], left_s=1e9)

    assert full is not None
    assert "80 tokens are waiting already, at most 100" in full.reason
    assert queue.refusal("b", [_todo(i, 10) for i in range(2)], left_s=1e9) is None


def test_a_request_larger_than_the_bound_is_let_in_alone() -> None:
    queue = _queue(bound=100)

    assert queue.refusal("a", [_todo(i, 10) for i in range(20)], left_s=1e9) is None


def _measured(seconds_per_batch: float = 1.0, streams: int = 1) -> Queue:
    """An empty queue whose engine runs a batch of 100 tokens in that time."""
    queue = _queue(streams=streams)
    _add(queue, range(10 * streams))
    for _ in range(streams):
        _run(queue, seconds_per_batch)
    return queue


def _todos(n: int) -> list[Todo[int]]:
    return [_todo(i, 10) for i in range(5_000, 5_000 + n)]


def test_who_could_not_be_answered_in_time_is_told_so_at_once() -> None:
    queue = _measured()
    _add(queue, range(1_000), "a")
    _add(queue, range(2_000, 2_100), "b")

    # of a's list as much as the newcomer brings, and of b's as much as both will have had by then, then its own
    assert queue.refusal("a", _todos(50), left_s=19.9) is not None
    assert queue.refusal("a", _todos(50), left_s=20) is None
    assert queue.refusal("c", _todos(1), left_s=0.4) is None, "c waits for a turn of each, not for all that waits"


def test_the_running_batch_counts_in_the_prediction() -> None:
    queue = _measured()
    _add(queue, range(10))

    queue.take(now=0)

    assert queue.refusal("b", _todos(1), left_s=1.0) is not None
    assert queue.refusal("b", _todos(1), left_s=1.1) is None


def test_two_streams_are_expected_to_be_twice_as_fast_and_each_batch_counts_until_it_ends() -> None:
    queue = _measured(streams=2)
    _add(queue, range(20))
    first, second = queue.take(now=0), queue.take(now=0)

    assert queue.refusal("b", _todos(1), left_s=1.0) is not None
    assert queue.refusal("b", _todos(1), left_s=1.1) is None
    queue.complete(second, [_scored(cell) for cell in second], 1, whole=True)
    assert queue.refusal("b", _todos(1), left_s=0.5) is not None
    assert queue.refusal("b", _todos(1), left_s=0.6) is None
    assert [len(first), len(second)] == [10, 10]


def test_pairs_that_wait_are_shared_by_the_streams_that_are_free() -> None:
    queue = _queue(streams=2)
    queue.add("a", [[_todo(i, 10 - i // 4) for i in range(5)]], deadline=1e9, now=0)

    first, second = queue.take(now=0), queue.take(now=0)
    queue.complete(first, [_scored(cell) for cell in first], 1, whole=True)
    _add(queue, range(10, 15))
    third = queue.take(now=0)
    for batch in (second, third):
        queue.complete(batch, [_scored(cell) for cell in batch], 1, whole=True)
    _add(queue, range(20, 25))

    assert [len(first), len(second)] == [3, 2]
    assert len(third) == 5, "none is free beside the one that is to have them"
    assert [len(queue.take(now=0)) for _ in range(2)] == [3, 2]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=6), st.integers(1, 60), st.floats(0.1, 20))
def test_who_comes_back_when_told_is_let_in_within_a_turn_of_each_list(lists: list[int], n: int, left_s: float) -> None:
    queue = _measured()
    for i, pairs in enumerate(lists):
        _add(queue, range(10_000 * i, 10_000 * i + pairs), f"tenant{i % 3}")
    refusal = queue.refusal("tenant0", _todos(n), left_s)
    if refusal is None:
        return
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s > 0

    now = 0.0
    while now < refusal.retry_after_s + len(lists):  # a turn is a second here, and comes whole
        batch = queue.take(now)
        if not batch:
            break
        seconds = padded_tokens(batch) / 100
        now += seconds
        queue.complete(batch, [_scored(cell) for cell in batch], seconds, whole=True)

    assert queue.refusal("tenant0", _todos(n), left_s) is None


def test_an_empty_queue_lets_in_whatever_it_measured_before() -> None:
    queue = _queue()
    _add(queue, [1])
    _run(queue, seconds=1_000)

    assert queue.refusal("a", [_todo(i, 10) for i in range(100)], left_s=1) is None


def test_after_a_batch_that_did_not_fit_the_next_is_half_of_it_and_then_slowly_more() -> None:
    queue = _queue()
    _add(queue, range(3_000))
    batch = queue.take(now=0)
    queue.shrink(batch)
    queue.complete(batch, [_scored(cell) for cell in batch], 1, whole=False)

    sizes = [len(_run(queue)[0]) for _ in range(80)]

    assert (len(batch), sizes[0]) == (10, 5)
    assert sizes == sorted(sizes)
    assert sizes[-1] == 10


def test_of_two_batches_that_did_not_fit_the_smaller_one_decides() -> None:
    queue = _queue(streams=2)
    _add(queue, range(4))
    small = [*queue.take(now=0), *queue.take(now=0)][:2]
    _add(queue, range(100, 200))
    large = queue.take(now=0)

    queue.shrink(small)
    queue.shrink(large)

    assert (padded_tokens(small), padded_tokens(large)) == (20, 100)
    assert queue.max_batch_tokens == 10


def test_other_limits_take_effect_and_forget_what_memory_taught() -> None:
    queue = _queue()
    _add(queue, range(100))
    queue.shrink(queue.take(now=0))

    queue.limit(Limits(80, 1_000))

    assert queue.max_batch_tokens == 80


def test_only_whole_batches_tell_the_speed() -> None:
    queue = _queue()
    _add(queue, range(100))
    batch = queue.take(now=0)

    queue.complete(batch, [_scored(cell) for cell in batch], 1_000, whole=False)

    assert queue.speed.tokens_per_s is None


def test_a_turn_of_a_list_is_a_batch_at_most() -> None:
    queue = _queue()
    _add(queue, range(1_000), "a")
    _add(queue, [2_000], "b")

    window = [cell.todo.pair for _, cell in queue._window()]

    assert window.index(2_000) == 10
    assert len(window) == 8 * 10 + 1


def test_two_streams_look_twice_as_far_for_companions() -> None:
    queue = _queue(streams=2)
    _add(queue, range(1_000), n_tokens=10)

    assert len(list(queue._window())) == 2 * 8 * 10


def test_waiting_and_running_are_timed_from_the_first_batch_with_a_pair_of_the_job() -> None:
    queue = _queue()
    job = queue.add("a", [[_todo(pair, 10) for pair in range(20)]], deadline=1e9, now=3)

    first = queue.take(now=5)
    joined = queue.add("a", [[_todo(first[0].todo.pair, 10)]], deadline=1e9, now=6)
    queue.complete(first, [_scored(cell) for cell in first], 1, whole=True)
    queue.take(now=7)

    assert (job.arrived, job.started) == (3, 5)
    assert (joined.arrived, joined.started) == (6, 6)


@dataclass
class _World:
    """A queue, a clock, and what became of each job."""

    queue: Queue
    now: float = 0.0
    jobs: dict[Job[int], list[list[int]]] = field(default_factory=dict)
    ends: dict[Job[int], list[str]] = field(default_factory=dict)
    poisoned: set[int] = field(default_factory=set)
    batch: list[Cell[int]] = field(default_factory=list)

    def end(self, job: Job[int], how: str) -> None:
        self.ends[job].append(how)

    def arrive(self, rows: list[list[int]], tenant: str, patience: float) -> None:
        known = [[self.queue._cache.get(pair) or _todo(pair) for pair in row] for row in rows]
        job = self.queue.add(tenant, known, self.now + patience, self.now)
        self.jobs[job], self.ends[job] = rows, []
        if not job.unknown:
            self.end(job, "done")

    def leave(self, place: int) -> None:
        open_jobs = [job for job in self.jobs if not self.ends[job]]
        if open_jobs:
            job = open_jobs[place % len(open_jobs)]
            self.queue.drop(job)
            self.end(job, "left")

    def engine_takes(self) -> None:
        if self.batch:
            return
        for job in self.queue.expired(self.now):
            self.end(job, "late")
        self.batch = self.queue.take(self.now)
        for cell in self.batch:
            assert [job for job in cell.jobs if not self.ends[job] and job.deadline > self.now], "nobody waits for it"
        assert len(self.batch) <= 1 or padded_tokens(self.batch) <= self.queue.max_batch_tokens
        assert len({cell.todo.pair for cell in self.batch}) == len(self.batch)

    def memory_ends(self) -> None:
        if self.batch:
            self.queue.shrink(self.batch)

    def limits_change(self, budget: int) -> None:
        self.queue.limit(Limits(budget, 1_000_000))

    def engine_is_done(self, bad: int) -> None:
        results = [
            RuntimeError("poison") if bad and cell.todo.pair % bad == 0 else _scored(cell) for cell in self.batch
        ]
        whole = not any(isinstance(result, Exception) for result in results)
        self.poisoned |= {c.todo.pair for c, r in zip(self.batch, results, strict=True) if isinstance(r, Exception)}
        for job in self.queue.complete(self.batch, results, 1.0, whole=whole):
            self.end(job, "done")
        self.batch = []


PAIRS = st.integers(0, 25)
STEPS = st.one_of(
    st.tuples(
        st.just("arrive"),
        st.lists(st.lists(PAIRS, min_size=1, max_size=8), min_size=1, max_size=4),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([1.0, 5.0, 100.0]),
    ),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("engine_takes")),
    st.tuples(st.just("engine_is_done"), st.sampled_from([0, 3, 7])),
    st.tuples(st.just("memory_ends")),
    st.tuples(st.just("limits_change"), st.sampled_from([20, 100, 400])),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0])),
)


@settings(max_examples=300)
@given(st.lists(STEPS, max_size=60), st.sampled_from([0, 5, 1_000]))
def test_everybody_is_answered_once_with_his_own_whatever_happens(steps: list[tuple[object, ...]], cache: int) -> None:
    world = _World(_queue(cache))
    for name, *arguments in steps:
        if name == "wait":
            world.now += float(str(arguments[0]))
        else:
            getattr(world, str(name))(*arguments)

    for _ in range(1_000):  # drain
        world.engine_takes()
        if not world.batch:
            break
        world.engine_is_done(0)
    for job in world.queue.expired(now=1e12):
        world.end(job, "late")

    assert [ends for ends in world.ends.values() if len(ends) != 1] == []
    assert (world.queue.waiting_tokens, world.queue._cells, world.queue._jobs, world.queue._live) == (0, {}, {}, {})
    for job, rows in world.jobs.items():
        if world.ends[job] == ["done"]:
            for row, want in zip(_results(job), rows, strict=True):
                for got, pair in zip(row, want, strict=True):
                    assert got == pair or (got == -1 and pair in world.poisoned)
