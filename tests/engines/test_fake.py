"""What the fake promises beyond the conformance suite."""

from __future__ import annotations

import pytest

from deployments.core.zeroshot import rank, scores
from deployments.engines.fake import FakeEngine


def test_it_gets_easy_examples_right() -> None:
    engine = FakeEngine()
    labels = ["billing", "repair", "holiday"]

    row = scores(engine.logits(engine.pairs(["please repair my phone"], labels)[0]), multi_label=True)

    assert rank(row, 1).tolist() == [1]
    assert row[1] > 0.9
    assert max(row[0], row[2]) < 0.5


def test_it_is_as_slow_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("deployments.engines.fake.time.sleep", slept.append)
    engine = FakeEngine(seconds_per_run=0.5, seconds_per_pair=0.25)

    engine.logits(engine.pairs(["a"], ["b", "c", "d"])[0])

    assert slept == [1.25]
