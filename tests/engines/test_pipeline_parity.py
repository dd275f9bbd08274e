"""Scores against transformers' own ZeroShotClassificationPipeline, through the path that requests take."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from deployments.contract.args import ClassifierConfig, ModelArgs
from deployments.core.work import Work
from deployments.core.zeroshot import hypotheses, rank, scores
from deployments.engines.resolve import load, resolve
from deployments.runtime.worker import Worker
from tests.asking import ask, outcome, work, worker
from tests.tiny import save_bert, save_roberta

CASES = 50  # per model
TOLERANCE = 1e-5
C, E, N = "contradiction", "entailment", "neutral"
ORDERS = {
    "C-E-N": {0: C, 1: E, 2: N},
    "C-N-E": {0: C, 1: N, 2: E},
    "E-N-C": {0: E, 1: N, 2: C},
    "E-notE": {0: E, 1: "not_entailment"},
    "notE-E": {0: "not_entailment", 1: E},
}
WORDS = ["card", "charged", "twice", "refund", "screen", "phone", "cracked", "repair", "holiday", "is", "42", ".", ","]
WORDS += ["Größe", "数学", "🙂", "привет", "naïve\tx", "\n", "\u00a0", "ﬁ"]


@dataclass(frozen=True)
class Case:
    """What a caller asks."""

    text: str
    labels: list[str]
    template: str
    multi_label: bool

    @property
    def work(self) -> Work:
        return work(self.text, hypotheses=hypotheses(self.labels, self.template))


def _case(rng: random.Random) -> Case:
    text = " ".join(rng.choices(WORDS, k=rng.choice([1, 2, 5, 15, 40, 80])))
    names = [" ".join(rng.choices(WORDS, k=rng.randint(1, 2))) for _ in range(rng.choice([1, 2, 3, 3, 6]))]
    labels = list(dict.fromkeys(name if name.strip() else "a" for name in names))
    around = [" ".join(rng.choices(WORDS, k=rng.randint(0, 2))) for _ in range(2)]
    template = rng.choice(["{}", "This example is {}.", "{}".join(around), " {} ".join(around)])
    return Case(text if text.strip() else "a", labels, template, rng.random() < 0.5)


async def _ours(service: Worker, case: Case, rng: random.Random) -> dict[str, float]:
    """Its scores, run among strangers' work and cut by a random budget, with a cache that now and then helps."""
    company = [_case(rng).work for _ in range(rng.randint(0, 2))]
    place = rng.randint(0, len(company))
    service.configure(ClassifierConfig(max_batch_tokens=rng.choice([1, 200, 1024, 1024, 4096])))
    replies = await ask(service, *company[:place], case.work, *company[place:])
    row = scores(outcome(replies[place])["logits"], multi_label=case.multi_label)[0]
    return {case.labels[i]: float(row[i]) for i in rank(row, None)}


def _theirs(classify: Any, case: Case) -> dict[str, float]:
    answer = classify(
        case.text, candidate_labels=case.labels, hypothesis_template=case.template, multi_label=case.multi_label
    )
    return dict(zip(answer["labels"], answer["scores"], strict=True))


MODELS = [(save, order) for save in (save_roberta, save_bert) for order in ORDERS]
assert CASES * len(MODELS) >= 500, "too few cases to speak of equal scores"


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: f"{model[0].__name__}-{model[1]}")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save, order = request.param
    folder: Path = save(tmp_path_factory.mktemp("model"), ORDERS[order])
    return folder


async def test_scores_equal_the_pipelines_whoever_shares_the_batch(folder: Path) -> None:
    args = ModelArgs(name=str(folder))
    service = worker(load(resolve(args), args, 0.0))
    theirs = pipeline(
        "zero-shot-classification",
        model=AutoModelForSequenceClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )
    rng = random.Random(11)
    spreads = []

    for _ in range(CASES):
        case = _case(rng)
        expected, got = _theirs(theirs, case), await _ours(service, case, rng)
        assert expected.keys() == got.keys()
        assert max(abs(expected[label] - got[label]) for label in expected) <= TOLERANCE, case
        first, *rest = expected.values()
        if rest and first - rest[0] > TOLERANCE:
            assert next(iter(got)) == next(iter(expected)), case
        spreads.append(max(expected.values()) - min(expected.values()))

    assert statistics.median(spreads) > 0.05, "a model whose scores are all alike proves nothing"


async def test_what_a_caller_gets_never_depends_on_who_shares_the_batch(folder: Path) -> None:
    args = ModelArgs(name=str(folder))
    service = worker(load(resolve(args), args, 0.0), max_cache_bytes=0)
    rng = random.Random(7)

    for _ in range(4):
        tenants = [f"tenant{i}" for i in range(rng.randint(2, 12))]
        works: list[Work] = [{**_case(rng).work, "tenant": tenant} for tenant in tenants]
        service.configure(ClassifierConfig(max_batch_tokens=4096, max_cache_bytes=0))
        alone = [outcome((await ask(service, one))[0]) for one in works]
        service.configure(ClassifierConfig(max_batch_tokens=rng.choice([64, 500, 4096]), max_cache_bytes=0))
        together = [outcome(reply) for reply in await ask(service, *works)]

        for one, other in zip(alone, together, strict=True):
            for multi_label in (False, True):
                got = scores(other["logits"], multi_label=multi_label)
                np.testing.assert_allclose(got, scores(one["logits"], multi_label=multi_label), rtol=0, atol=TOLERANCE)
            assert (other["truncated"], other["failed"], other["tokens"]) == (
                one["truncated"],
                one["failed"],
                one["tokens"],
            )
