"""One batch through the engine: what fails, fails alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from deployments.contract.errors import EngineFailed, HypothesisTooLong
from deployments.core.batching import Err, Ok
from deployments.core.cache import Scored
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import FloatArray, OutOfMemory, Pair
from deployments.engines.run import run, tokenise


class _Fragile(FakeEngine):
    """Cannot tokenise "surrogate", raises on a premise of two words, and answers no number to one of three."""

    def __init__(self, number: float = np.nan) -> None:
        super().__init__()
        self._number = number
        self.sizes: list[int] = []

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        if "surrogate" in texts:
            raise TypeError("no such string")
        return super().pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        self.sizes.append(len(pairs))
        if any(len(pair.premise) == 2 for pair in pairs):
            raise RuntimeError("poison")
        table = super().logits(pairs)
        table[[len(pair.premise) == 3 for pair in pairs]] = self._number
        return table


def _pairs(engine: FakeEngine, *texts: str) -> list[Pair]:
    return [row[0] for row in engine.pairs(texts, ["refund"])]


def test_each_pair_gets_its_own_logits_and_equal_pairs_run_once() -> None:
    engine = _Fragile()
    pairs = _pairs(engine, "refund", "b c d e", "refund")

    ran = run(engine, pairs)

    assert engine.sizes == [2]
    assert ran.whole
    for pair, result in zip(pairs, ran.results, strict=True):
        contradiction, entailment = FakeEngine().logits([pair])[0].tolist()
        assert result == Scored(contradiction, entailment, pair.n_tokens, pair.truncated)


def test_one_poisoned_pair_among_63_good_ones_fails_alone() -> None:
    engine = _Fragile()
    texts = [f"word{i} {'x ' * (i % 5 + 3)}" for i in range(63)]

    ran = run(engine, _pairs(engine, *texts[:40], "two words", *texts[40:]))

    assert [isinstance(result, Exception) for result in ran.results] == [i == 40 for i in range(64)]
    assert not ran.whole
    assert len(engine.sizes) <= 2 * math.log2(64) + 3


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_a_failure(number: float) -> None:
    engine = _Fragile(number)

    ran = run(engine, _pairs(engine, "one", "now three words"))

    assert isinstance(ran.results[0], Scored)
    assert isinstance(ran.results[1], ArithmeticError)
    assert not ran.whole


def test_a_batch_that_does_not_fit_into_memory_runs_in_parts_and_says_so() -> None:
    class Small(FakeEngine):
        def logits(self, pairs: Sequence[Pair]) -> FloatArray:
            if len(pairs) > 3:
                raise OutOfMemory("3 pairs at most")
            return super().logits(pairs)

    engine = Small()

    ran = run(engine, _pairs(engine, *(f"word{i}" for i in range(10))))

    assert ran.out_of_memory
    assert all(isinstance(result, Scored) for result in ran.results)


def test_a_hypothesis_that_is_too_long_is_named_by_its_index() -> None:
    result = tokenise(_Fragile(), ["b"], ["refund", "too " * 61])

    assert isinstance(result, Err)
    assert isinstance(result.error, HypothesisTooLong)
    assert result.error.index == 1


def test_a_text_that_cannot_be_tokenised_is_an_error_of_its_request() -> None:
    result = tokenise(_Fragile(), ["surrogate"], ["refund"])

    assert isinstance(result, Err)
    assert isinstance(result.error, EngineFailed)
    assert isinstance(tokenise(_Fragile(), ["b"], ["refund"]), Ok)


def test_what_failed_is_logged_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    tokenise(_Fragile(), ["surrogate"], ["a hypothesis"])

    assert "failed to tokenise 1 texts" in caplog.text
    assert "a hypothesis" not in caplog.text
