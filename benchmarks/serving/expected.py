"""Whether answers are right: torch's in fp32, computed once for all pairs, and how far from them a system may be.

Scores alone would not do: among 128 labels all are small, and a mix-up would pass as noise. So the logarithms of
scores are compared too, and must be at most half as far from the right ones as from those of other pairs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from deployments.core.zeroshot import scores
from deployments.engines.protocol import Engine, FloatArray, Pair

from .cells import TEMPLATE, Request

Answer = list[list[float]]
"""For each text of a request its scores, in the order of the labels."""

BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}  # in the engine at a time
_Key = tuple[str, str]  # text and label
SMALLEST = 1e-6  # scores below are equal


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a precision may change."""

    largest: float
    """Of one score."""

    mean_log: float
    """Of the logarithms of all scores, in the mean."""


BOUNDS = {
    "fp32": Bounds(0.001, 0.002),
    "bf16": Bounds(0.25, 0.2),
    "fp16": Bounds(0.05, 0.05),
    "int8": Bounds(0.9, 0.6),
}  # int8 is bad at random weights


class WrongAnswer(Exception):
    """A system's figures do not count: it computed something else."""


class Expected:
    """The right logits of every pair."""

    def __init__(self, logits: Mapping[tuple[str, str], FloatArray]) -> None:
        self._logits = logits

    def answer(self, request: Request) -> Answer:
        """As a perfect server would."""
        rows = ([self._logits[text, label] for label in request.labels] for text in request.texts)
        return [[float(x) for x in scores(np.stack(row), multi_label=False)] for row in rows]

    def check(self, precision: str, requests: Sequence[Request], answers: Sequence[Answer]) -> Bounds:
        """How far the answers are off.

        Raises:
            WrongAnswer: further than the precision explains, or not all are there.
        """
        all_right: list[float] = []
        all_got: list[float] = []
        for request, answer in zip(requests, answers, strict=True):
            right, got = np.array(self.answer(request)), np.array(answer, float)
            if right.shape != got.shape or not np.isfinite(got).all():
                raise WrongAnswer(f"{got.shape} scores, some perhaps no numbers, where {right.shape} were asked for")
            all_right += right.ravel().tolist()
            all_got += got.ravel().tolist()
        found, bounds = _distance(all_right, all_got), BOUNDS[precision]
        if found.largest > bounds.largest or found.mean_log > bounds.mean_log:
            raise WrongAnswer(f"{found} from torch in fp32, where {precision} may have {bounds}")
        others = _distance(random.Random(0).sample(all_right, len(all_right)), all_got)
        if found.mean_log > others.mean_log / 2:
            raise WrongAnswer(f"{found.mean_log:.3f} from their own pairs, {others.mean_log:.3f} from any others")
        return found


def _distance(right: Sequence[float], got: Sequence[float]) -> Bounds:
    tables = [np.array(values) for values in (right, got)]
    logs = [np.log(np.maximum(table, SMALLEST)) for table in tables]
    return Bounds(float(np.abs(tables[0] - tables[1]).max()), float(np.abs(logs[0] - logs[1]).mean()))


def expect(engine: Engine, requests: Iterable[Request]) -> Expected:
    """Ask torch in fp32 for every pair, each once."""
    asked = dict.fromkeys(pair for one in requests for pair in one.pairs)
    table = dict(zip(asked, logits(engine, list(asked)), strict=True))
    return Expected(table)


def logits(engine: Engine, asked: Sequence[tuple[str, str]], device: str = "cpu") -> list[FloatArray]:
    """Of (text, label) pairs, in batches of like length, as many at a time as the engine has streams."""
    by_text: dict[str, list[str]] = {}
    for text, label in asked:
        by_text.setdefault(text, []).append(label)
    pairs: dict[tuple[str, str], Pair] = {}
    for text, labels in by_text.items():
        row = engine.pairs([text], [TEMPLATE.replace("{}", label) for label in labels])[0]
        pairs |= {(text, label): pair for label, pair in zip(labels, row, strict=True)}
    ordered = sorted(asked, key=lambda key: -pairs[key].n_tokens)
    found: dict[tuple[str, str], FloatArray] = {}
    batches = list(_batches(ordered, [pairs[key].n_tokens for key in ordered], engine.streams, BATCH_TOKENS[device]))
    with ThreadPoolExecutor(engine.streams) as pool:
        tables = pool.map(lambda batch: engine.logits([pairs[key] for key in batch]), batches)
        for batch, table in zip(batches, tables, strict=True):
            found |= zip(batch, table, strict=True)
    return [found[key] for key in asked]


def _batches(keys: Sequence[_Key], lengths: Sequence[int], streams: int, max_tokens: int) -> Iterable[Sequence[_Key]]:
    """Cut what is sorted by length, the longest first: a part for each stream, of no more than its padded tokens."""
    size = math.ceil(len(keys) / streams)
    start = 0
    for i in range(len(keys)):
        if i > start and (i - start == size or (i + 1 - start) * lengths[start] > max_tokens // streams):
            yield keys[start:i]
            start = i
    yield keys[start:]
