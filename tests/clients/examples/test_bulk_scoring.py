"""Rows to answers: the service's labels and scores, and what is wrong with a row is its own answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from clients.examples.bulk import scoring
from clients.examples.bulk.formats import Unreadable
from clients.examples.bulk.question import question
from clients.examples.bulk.refusal import JobRefused
from clients.examples.bulk.scoring import FAILED, Answer, Scorer
from deployments.contract.args import CapsArgs
from deployments.contract.decode import decode
from deployments.contract.model import ServedModel
from deployments.core.work import Outcome
from deployments.core.zeroshot import hypotheses
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import Engine, FloatArray, OutOfMemory, Pair
from deployments.engines.torch import Device, TorchEngine
from deployments.web.answers import encode
from tests.meeting import Meeting
from tests.tiny import save_roberta

TEMPLATE = "This example is {}."
TEXTS = ["my card was charged twice, billing please", "repair my phone", "holiday " * 100, "nothing"]
LABELS = ["billing", "repair", "holiday"]


@pytest.fixture(scope="module", params=["fake", "torch"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "fake":
        yield FakeEngine()
        return
    before = torch.get_num_threads()
    yield TorchEngine(save_roberta(tmp_path_factory.mktemp("roberta")), "fp32", Device("cpu"))
    torch.set_num_threads(before)


def _scorer(engine: Engine, labels: object = LABELS, *, multi_label: bool = False, max_tokens: int = 100) -> Scorer:
    return Scorer(engine, question(labels, multi_label=multi_label, template=None), TEMPLATE, max_tokens)


def _refusal(reason: str, text: str | None = None) -> Answer:
    return {"text": text, "label": None, "score": None, "scores": None, "truncated": None, "error": reason}


def _of_the_service(engine: Engine, labels: object, multi_label: bool) -> list[dict[str, Any]]:
    """As deployments/web/answers.py makes them, each text by itself."""
    request = decode({"text": TEXTS, "labels": labels, "multi_label": multi_label}, CapsArgs())
    rows = engine.pairs(TEXTS, request.own_hypotheses or hypotheses(request.label_names, TEMPLATE))
    outcome: Outcome = {
        "logits": np.array([engine.logits(row) for row in rows]),
        "truncated": [any(pair.truncated for pair in row) for row in rows],
        "failed": [False] * len(rows),
        "tokens": 0,
        "queued_s": 0.0,
        "engine_s": 0.0,
    }
    model = ServedModel(name="fake", revision=None, engine="torch-fp32", fallback=False, template=TEMPLATE)
    return [dict(result) for result in encode(request, outcome, model, "", []).body["results"]]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [LABELS, ["billing"], {"money": "This is about billing.", "urgent": "It burns."}])
def test_labels_and_scores_are_those_of_the_service(engine: Engine, labels: object, multi_label: bool) -> None:
    answers = list(_scorer(engine, labels, multi_label=multi_label).answers(TEXTS))

    for text, answer, expected in zip(TEXTS, answers, _of_the_service(engine, labels, multi_label), strict=True):
        assert answer["scores"] is not None
        assert [one["label"] for one in answer["scores"]] == expected["labels"]
        assert [one["score"] for one in answer["scores"]] == pytest.approx(expected["scores"], abs=1e-5)
        assert (answer["text"], answer["truncated"], answer["error"]) == (text, expected["truncated"], None)
        assert (answer["label"], answer["score"]) == tuple(answer["scores"][0].values())


@pytest.mark.parametrize(
    ("cell", "reason", "text"),
    [
        (Unreadable("the line is not JSON"), "the line is not JSON", None),
        (None, "the text must be a valid string", None),
        (5, "the text must be a valid string", None),
        (["repair"], "the text must be a valid string", None),
        (b"repair", "the text must be a valid string", None),
        ("", "the text is blank; give it some text", ""),
        (" \t\n", "the text is blank; give it some text", " \t\n"),
        ("\ud800", "the text holds a lone surrogate, which is no valid Unicode; send UTF-8 text", None),
    ],
)
def test_a_bad_row_stands_between_its_neighbours(cell: object, reason: str, text: str | None) -> None:
    good = next(_scorer(FakeEngine()).answers(["repair it"]))

    assert list(_scorer(FakeEngine()).answers(["repair it", cell, "repair it"])) == [good, _refusal(reason, text), good]


def test_a_text_longer_than_any_request_may_have_is_classified() -> None:
    assert next(_scorer(FakeEngine()).answers(["repair " * 1_000_000]))["label"] == "repair"


class _Fragile(FakeEngine):
    """Cannot tokenise "surrogate", raises on "poison" and answers no number to "infinite"."""

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        if "surrogate" in texts:
            raise TypeError("no such string")
        return super().pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        poison, infinite = (FakeEngine().pairs([word], ["x"])[0][0].premise for word in ("poison", "infinite"))
        if any(pair.premise == poison for pair in pairs):
            raise RuntimeError("poison")
        table = super().logits(pairs)
        table[[pair.premise == infinite for pair in pairs]] = np.inf
        return table


@pytest.mark.parametrize("bad", ["surrogate", "poison", "infinite"])
def test_a_text_that_the_model_fails_on_stands_between_its_neighbours(bad: str) -> None:
    words = [f"word{i}" for i in range(20)]

    answers = list(_scorer(_Fragile()).answers([*words, bad, *words]))

    good = list(_scorer(FakeEngine()).answers(words))
    assert answers == [*good, _refusal(FAILED, bad), *good]


def test_a_model_that_fails_on_everything_stops_the_job_instead_of_spoiling_its_rows() -> None:
    engine = _Fragile()
    scorer = _scorer(engine)

    def lost(pairs: Sequence[Pair]) -> FloatArray:
        raise RuntimeError("the device is lost")

    engine.logits = lost  # type: ignore[method-assign]

    with pytest.raises(JobRefused, match="fails on every text"):
        list(scorer.answers(["repair"]))
    with pytest.raises(JobRefused, match="fails on every text"):
        _scorer(engine)


def test_batches_stay_below_the_limit_and_smaller_after_the_memory_was_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK_PAIRS", 30)

    sizes: list[int] = []

    class Small(FakeEngine):
        def logits(self, pairs: Sequence[Pair]) -> FloatArray:
            sizes.append(len(pairs) * max(pair.n_tokens for pair in pairs))
            if len(pairs) > 6:
                raise OutOfMemory("6 pairs at most")
            return super().logits(pairs)

    answers = list(_scorer(Small()).answers(f"repair {i}" for i in range(40)))

    assert {answer["label"] for answer in answers} == {"repair"}
    assert max(sizes) <= 100
    assert max(sizes[-12:]) <= 50


def test_rows_are_scored_on_all_streams_of_the_engine_with_the_same_answers() -> None:
    engine = Meeting()
    scorer = _scorer(engine, max_tokens=40)
    engine.expect()

    answers = list(scorer.answers(TEXTS))

    assert engine.met.is_set()
    assert answers == list(_scorer(FakeEngine()).answers(TEXTS))


def test_equal_texts_are_scored_once() -> None:
    class Counting(FakeEngine):
        n_pairs = 0

        def logits(self, pairs: Sequence[Pair]) -> FloatArray:
            self.n_pairs += len(pairs)
            return super().logits(pairs)

    engine = Counting()
    scorer = _scorer(engine)
    before = engine.n_pairs

    answers = list(scorer.answers(["repair", "thanks", "repair"] * 100))

    assert len(answers) == 300
    assert engine.n_pairs - before == 2 * len(LABELS)


def test_rows_are_taken_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK_PAIRS", 30)
    taken: list[int] = []

    answers = _scorer(FakeEngine()).answers(taken.append(i) or f"repair {i}" for i in range(1_000))  # type: ignore[func-returns-value]
    next(answers)

    assert len(taken) == 30 // len(LABELS)


def test_a_label_that_is_too_long_for_the_model_is_named() -> None:
    with pytest.raises(JobRefused, match=r"^/labels/1: the hypothesis has 103 tokens, the model takes at most 60"):
        _scorer(FakeEngine(), ["a", "b " * 100])
