from __future__ import annotations

import numpy as np
import pytest

from deployments.engines.fake import FakeEngine
from deployments.engines.gate import Change, change, evaluate
from deployments.engines.protocol import FloatArray
from deployments.engines.samples import CALIBRATION, EVALUATION


def _logits(*entailments: float) -> list[FloatArray]:
    return [np.array([[0.0, x] for x in entailments], np.float32)]


def test_an_engine_that_answers_alike_passes() -> None:
    reference = list(evaluate(FakeEngine()))

    assert change(reference, list(evaluate(FakeEngine()))) == Change(0.0, 0.0, 0)
    assert change(reference, reference).passes
    assert [len(table) for table in reference] == [len(sample.labels) for sample in EVALUATION]


def test_logits_that_move_together_move_the_multi_label_scores_only() -> None:
    moved = change(_logits(0.0, 1.0), _logits(1.0, 2.0))

    assert moved.largest == pytest.approx(1 / (1 + np.exp(-1)) - 0.5)
    assert moved.flips == 0


@pytest.mark.parametrize(
    ("expected", "actual", "flips"),
    [
        ((0.0, 0.1, -9.0), (0.1, 0.0, -9.0), 1),  # 0.475 and 0.525: ahead by 0.05
        ((0.0, 0.03, -9.0), (0.03, 0.0, -9.0), 0),  # by 0.015: too near to matter
        ((0.0, 0.1, -9.0), (0.0, 0.2, -9.0), 0),
    ],
)
def test_another_first_label_counts_where_it_was_clearly_ahead(
    expected: tuple[float, ...], actual: tuple[float, ...], flips: int
) -> None:
    assert change(_logits(*expected), _logits(*actual)).flips == flips


@pytest.mark.parametrize(
    ("largest", "mean", "flips", "passes"),
    [(0.02, 0.005, 0, True), (0.021, 0.001, 0, False), (0.01, 0.0051, 0, False), (0.01, 0.001, 1, False)],
)
def test_each_bound_counts(largest: float, mean: float, flips: int, passes: bool) -> None:
    assert Change(largest, mean, flips).passes is passes


def test_what_is_no_number_never_passes() -> None:
    assert not change(_logits(0.0, 1.0), _logits(0.0, float("nan"))).passes


def test_engines_are_judged_on_texts_that_no_scale_was_fixed_on() -> None:
    calibrated = [sample.text for sample in CALIBRATION]
    judged = [sample.text for sample in EVALUATION]

    assert set(calibrated).isdisjoint(judged)
    assert len(set(calibrated)) == len(calibrated) >= 50
    assert len(set(judged)) == len(judged) >= 25
