"""Padding: tokens that the engine computes for nothing, in a queue that never empties.

Simulated time: requests of 1 to 10 labels over texts of log-normal length arrive faster than the engine serves,
among two long lists. The engine's seconds are a line over padded tokens, measured on a CPU and on a GPU.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from deployments.core.cache import PairCache, Scored
from deployments.core.scheduler import Limits, Scheduler, Todo, padded_tokens

N_REQUESTS = 2_000
LOAD = 1.2  # of what the engine serves


@dataclass(frozen=True, slots=True)
class Machine:
    """An engine's price, and the budget that its configuration gives it."""

    name: str
    run_s: float
    token_s: float
    max_batch_tokens: int


CPU = Machine("2 cores, fp32", run_s=0.014, token_s=0.00065, max_batch_tokens=1_024)
GPU = Machine("an H200, fp16", run_s=0.001, token_s=2.4e-7, max_batch_tokens=16_384)  # from 16,384 tokens up


def waste(machine: Machine, seed: int = 0) -> tuple[float, float]:
    """(share of computed tokens that are padding, mean pairs in a batch)."""
    rng = random.Random(seed)
    queue: Scheduler[int] = Scheduler(Limits(machine.max_batch_tokens, 1 << 40), PairCache(0))
    for tenant in ("list one", "list two"):
        _arrive(queue, rng, tenant, [_length(rng) for _ in range(64)], n_labels=32, now=0.0)
    now = 0.0
    arrivals = 0
    next_arrival = 0.0
    real = padded = batches = pairs = 0
    while arrivals < N_REQUESTS:
        while next_arrival <= now:
            length = _length(rng)
            n_labels = rng.randint(1, 10)
            _arrive(queue, rng, f"tenant {rng.randint(0, 20)}", [length], n_labels, now)
            next_arrival += rng.expovariate(LOAD) * (length + 8) * n_labels * machine.token_s
            arrivals += 1
        batch = queue.take(now)
        seconds = machine.run_s + machine.token_s * padded_tokens(batch)
        now += seconds
        queue.complete(batch, [Scored(0, 0, 1, False)] * len(batch), seconds, whole=True)
        real += sum(cell.todo.n_tokens for cell in batch)
        padded += padded_tokens(batch)
        batches, pairs = batches + 1, pairs + len(batch)
    return 1 - real / padded, pairs / batches


def _length(rng: random.Random) -> int:
    """Tokens of a text: half of them under 30, one in twenty over 150, 500 at most."""
    return min(500, max(3, round(math.exp(rng.gauss(3.4, 1.0)))))


def _arrive(
    queue: Scheduler[int], rng: random.Random, tenant: str, lengths: list[int], n_labels: int, now: float
) -> None:
    labels = [rng.randint(6, 12) for _ in range(n_labels)]
    keys = iter(lambda: rng.getrandbits(62), None)
    grid = [[Todo(next(keys), 0, min(512, text + label), False) for label in labels] for text in lengths]
    queue.add(tenant, grid, math.inf, now)
