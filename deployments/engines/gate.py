"""Whether a faster engine still answers as torch in fp32 does: what callers see of it, the scores.

Logits may move together without a score moving, so scores are compared, single label and multi label, and which
label comes first. The bounds are the project's: a caller who shows two digits sees no other answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.core.zeroshot import scores

from .protocol import Engine, FloatArray
from .samples import EVALUATION, Sample

LARGEST = 0.02  # change of one score
MEAN = 0.005  # change over all scores
MARGIN = 0.02  # between fp32's first and second label; nearer ones may change places


@dataclass(frozen=True, slots=True)
class Change:
    """How far an engine's scores are from the reference."""

    largest: float
    mean: float
    flips: int
    """Texts whose first label is another, though the reference had it ahead by more than `MARGIN`."""

    @property
    def passes(self) -> bool:
        return self.largest <= LARGEST and self.mean <= MEAN and self.flips == 0


def evaluate(engine: Engine, samples: Sequence[Sample] = EVALUATION) -> Iterator[FloatArray]:
    """The logits of each sample, (n_labels, 2), one sample after the other."""
    for sample in samples:
        yield engine.logits(engine.pairs([sample.text], sample.hypotheses)[0])


def change(reference: Sequence[FloatArray], got: Sequence[FloatArray]) -> Change:
    """Compare the logits of the same samples; what is no number has changed by 1."""
    moved, flips = [], 0
    for expected, actual in zip(reference, got, strict=True):
        single, multi = (_moved(expected, actual, multi_label=multi_label) for multi_label in (False, True))
        moved += [single, multi]
        flips += _flips(scores(expected, multi_label=False), scores(actual, multi_label=False))
    all_moved = np.concatenate(moved)
    return Change(float(all_moved.max()), float(all_moved.mean()), flips)


def _moved(expected: FloatArray, actual: FloatArray, *, multi_label: bool) -> NDArray[np.float64]:
    distance = np.abs(scores(expected, multi_label=multi_label) - scores(actual, multi_label=multi_label))
    return np.nan_to_num(distance, nan=1.0)


def _flips(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> bool:
    second, first = np.sort(expected)[-2:]
    return bool(first - second > MARGIN and expected.argmax() != actual.argmax())
