"""One engine, measured: how fast it is, how much memory it takes, and what it answers."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deployments.contract.args import ModelArgs
from deployments.contract.model import ServedModel
from deployments.engines.convert.graph import graph, needs_graph
from deployments.engines.gate import evaluate
from deployments.engines.protocol import Engine, FloatArray, Pair
from deployments.engines.resolve import load, locate, threads
from deployments.engines.samples import EVALUATION

SECONDS = 2.0  # of runs for each shape; more where two runs take longer
LONG_TEXT = " ".join(sample.text for sample in EVALUATION)


@dataclass(frozen=True, slots=True)
class Shape:
    """One run of an engine."""

    n_pairs: int
    n_tokens: int
    """Of each pair, or as many as the model takes."""


SHAPES = (Shape(1, 32), Shape(8, 32), Shape(32, 32), Shape(32, 128))


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be measured."""

    served: ServedModel
    args: ModelArgs
    cache: Path
    """Of converted models."""

    seconds: float = SECONDS

    @property
    def on_gpu(self) -> bool:
        return self.args.device == "cuda"

    @property
    def name(self) -> str:
        """The engine's, and where it computes if that is not the CPU."""
        return f"{self.served.engine}{', GPU' if self.on_gpu else ''}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it."""

    rates: tuple[float, ...]
    """Pairs a second in each of `SHAPES`."""

    memory: int
    """Bytes by which the process grew, from before the engine was loaded to after its last run; on a GPU, what torch
    took of it at most."""

    logits: list[FloatArray]
    """Of each evaluation sample, as `gate.evaluate` gives them."""


def sees_gpu() -> bool:
    """Whether torch has one to compute on."""
    import torch

    return torch.cuda.is_available()


STEPS = len(SHAPES) + 2  # that `measure` tells of


def prepare(job: Job) -> Iterator[str]:
    """Convert the model, if the engine needs that; apart from `measure`, whose memory it would swell."""
    if needs_graph(job.served.engine):
        yield "converting"
        graph(job.served.engine, locate(job.served), threads(job.args), job.cache)


def measure(job: Job) -> Iterator[str | Measured]:
    """What it does next, `STEPS` times, then the result."""
    before = _resident()
    yield "loading"
    engine = load(job.served, job.args, 1.0 if job.on_gpu else 0.0, job.cache)
    rates = []
    for shape in SHAPES:
        yield f"{shape.n_pairs} x {shape.n_tokens} tokens"
        rates.append(_rate(engine, _pairs(engine, shape), job.seconds))
    yield "real texts"
    logits = list(evaluate(engine))
    yield Measured(tuple(rates), _reserved() if job.on_gpu else _resident() - before, logits)


def _rate(engine: Engine, pairs: list[Pair], seconds: float) -> float:
    """Pairs a second in the median turn, of a run on every stream; the first, which sets things up, does not count."""
    batches = [pairs] * engine.streams
    turns: list[float] = []
    with ThreadPoolExecutor(engine.streams) as pool:
        list(pool.map(engine.logits, batches))
        while len(turns) < 2 or sum(turns) < seconds:
            started = time.perf_counter()
            list(pool.map(engine.logits, batches))
            turns.append(time.perf_counter() - started)
    return len(batches) * len(pairs) / statistics.median(turns)


def _pairs(engine: Engine, shape: Shape) -> list[Pair]:
    """The same pair again and again, of the length that is wanted."""
    whole = engine.pairs([LONG_TEXT], ["This text is about delivery."])[0][0]
    surplus = max(0, whole.n_tokens - shape.n_tokens)
    premise = whole.premise[: len(whole.premise) - surplus]
    return [Pair(premise, whole.hypothesis, whole.n_tokens - surplus, True)] * shape.n_pairs


def _reserved() -> int:
    """Bytes that torch has taken of the GPU, at most."""
    import torch

    return torch.cuda.max_memory_reserved()


def _resident() -> int:
    """Bytes of memory that this process has. Source: man 5 proc, statm."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
