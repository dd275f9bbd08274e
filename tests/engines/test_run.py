"""Several callers' work in one run: nobody pays for another's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.contract.errors import EngineFailed, HypothesisTooLong
from deployments.core.batching import Err, Ok
from deployments.core.work import Outcome, Work
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import FloatArray, Pair
from deployments.engines.run import run


class _Fragile(FakeEngine):
    """Cannot tokenise "surrogate", and raises on a premise of two words."""

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        if "surrogate" in texts:
            raise TypeError("no such string")
        return super().pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if any(len(pair.premise) == 2 for pair in pairs):
            raise RuntimeError("poison")
        return super().logits(pairs)


def _work(*texts: str, hypotheses: Sequence[str] = ("refund", "repair")) -> Work:
    return {"texts": list(texts), "hypotheses": list(hypotheses)}


def _outcome(result: Ok[Outcome] | Err) -> Outcome:
    assert isinstance(result, Ok)
    return result.value


def _error(result: Ok[Outcome] | Err) -> Exception:
    assert isinstance(result, Err)
    return result.error


def test_each_work_gets_its_own_logits_in_the_shape_of_its_request() -> None:
    engine = FakeEngine()
    works = [_work("a", "b c d"), _work("e f g", hypotheses=["one"])]

    results = [_outcome(result) for result in run(engine, works, max_tokens=1)]

    assert [result["logits"].shape for result in results] == [(2, 2, 2), (1, 1, 2)]
    assert [result["truncated"] for result in results] == [[False, False], [False]]
    for work, result in zip(works, results, strict=True):
        for text, rows in zip(work["texts"], result["logits"], strict=True):
            np.testing.assert_array_equal(rows, engine.logits(engine.pairs([text], work["hypotheses"])[0]))


def test_a_hypothesis_that_is_too_long_is_the_error_of_its_work_alone() -> None:
    works = [_work("a"), _work("b", hypotheses=["refund", "too " * 61]), _work("c")]

    first, second, third = run(_Fragile(), works, max_tokens=4096)

    assert isinstance(first, Ok)
    assert isinstance(third, Ok)
    error = _error(second)
    assert isinstance(error, HypothesisTooLong)
    assert error.index == 1


def test_a_text_that_cannot_be_tokenised_is_the_error_of_its_work_alone() -> None:
    first, second = run(_Fragile(), [_work("surrogate"), _work("b")], max_tokens=4096)

    assert isinstance(_error(first), EngineFailed)
    assert _outcome(second)["failed"] == [False]


def test_a_text_that_the_model_fails_on_fails_alone_within_its_own_work() -> None:
    first, second = run(_Fragile(), [_work("a", "two words"), _work("c")], max_tokens=4096)

    assert _outcome(first)["failed"] == [False, True]
    assert _outcome(second)["failed"] == [False]
    assert np.isfinite(_outcome(second)["logits"]).all()
