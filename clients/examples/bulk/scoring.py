"""Rows to answers, by the engine and the arithmetic of the service, in batches of pairs of similar length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

from deployments.contract.decode import label_pointer
from deployments.contract.errors import HypothesisTooLong
from deployments.contract.wire import ClassifyRequest
from deployments.core.batching import Err, Ok, isolate, plan
from deployments.core.cache import Scored
from deployments.core.zeroshot import hypotheses, rank, scores
from deployments.engines.protocol import Engine, Pair
from deployments.engines.run import run, tokenise

from .formats import Unreadable
from .question import text_of
from .refusal import JobRefused

CHUNK_PAIRS = 8_192  # planned together: more would save little padding, and cost memory
FAILED = "the model failed on this text, the other texts are not affected; the log of the job's worker says why"


class LabelScore(TypedDict):
    """One label, and its score in [0, 1]."""

    label: str
    score: float


class Answer(TypedDict):
    """One row of the output, less its number: a label, or an error."""

    text: str | None
    label: str | None
    score: float | None
    scores: list[LabelScore] | None
    truncated: bool | None
    error: str | None


class Scorer:
    """One engine and one question.

    Args:
        template: of the hypotheses, where the question has neither a template nor hypotheses of its own.
        max_tokens: padded tokens in the engine at a time; less after it ran out of memory.

    Raises:
        JobRefused: a label is too long for the model, or the engine fails on whatever it gets.
    """

    def __init__(self, engine: Engine, question: ClassifyRequest, template: str, max_tokens: int) -> None:
        self._engine = engine
        self._labels = question.label_names
        self._multi_label = question.multi_label
        self._hypotheses = question.own_hypotheses or hypotheses(self._labels, question.template or template)
        self._max_tokens = max_tokens
        self._probe = self._pairs_of_nothing(question)
        self._check_engine()

    def answers(self, cells: Iterable[object]) -> Iterator[Answer]:
        """One for each row, in order; what is wrong with one is its answer, and nobody else's.

        Raises:
            JobRefused: the engine has failed for good.
        """
        rows = iter(cells)
        while chunk := [text_of(cell) for cell in itertools.islice(rows, max(1, CHUNK_PAIRS // len(self._labels)))]:
            known = self._classify(list(dict.fromkeys(text for text in chunk if isinstance(text, str))))
            yield from (_refused(text) if isinstance(text, Unreadable) else known[text] for text in chunk)

    def _classify(self, texts: Sequence[str]) -> dict[str, Answer]:
        tokenised = isolate(self._tokenise, texts) if texts else []
        found = self._score([pair for row in tokenised if isinstance(row, Ok) for pair in row.value])
        return {
            text: self._answer(text, [next(found) for _ in row.value] if isinstance(row, Ok) else [row.error])
            for text, row in zip(texts, tokenised, strict=True)
        }

    def _tokenise(self, texts: Sequence[str]) -> list[list[Pair]]:
        result = tokenise(self._engine, texts, self._hypotheses)
        if isinstance(result, Err):
            raise result.error
        return result.value

    def _score(self, pairs: Sequence[Pair]) -> Iterator[Scored | Exception]:
        """In the order given."""
        results: dict[int, Scored | Exception] = {}
        streams = self._engine.streams
        batches = plan([pair.n_tokens for pair in pairs], max(1, self._max_tokens // streams))
        with ThreadPoolExecutor(streams) as pool:
            for first in range(0, len(batches), streams):
                together = batches[first : first + streams]
                runs = list(pool.map(lambda batch: run(self._engine, [pairs[i] for i in batch]), together))
                for batch, ran in zip(together, runs, strict=True):
                    results |= dict(zip(batch, ran.results, strict=True))
                    if ran.out_of_memory:
                        self._max_tokens = max(1, self._max_tokens // 2)  # from the next chunk on
                    if not any(isinstance(result, Scored) for result in ran.results):
                        self._check_engine()
        return (results[i] for i in range(len(pairs)))

    def _answer(self, text: str, row: Sequence[Scored | Exception]) -> Answer:
        good = [scored for scored in row if isinstance(scored, Scored)]
        if len(good) < len(row):
            return _refused(Unreadable(FAILED, text))
        table = scores([(one.contradiction, one.entailment) for one in good], multi_label=self._multi_label)
        best: list[LabelScore] = [{"label": self._labels[i], "score": float(table[i])} for i in rank(table, None)]
        return {
            "text": text,
            "label": best[0]["label"],
            "score": best[0]["score"],
            "scores": best,
            "truncated": any(one.truncated for one in good),
            "error": None,
        }

    def _pairs_of_nothing(self, question: ClassifyRequest) -> list[Pair]:
        result = tokenise(self._engine, ["-"], self._hypotheses)
        if isinstance(result, Ok):
            return result.value[0]
        if isinstance(result.error, HypothesisTooLong):
            raise JobRefused(f"{label_pointer(question, result.error.index)}: {result.error}")
        raise JobRefused(str(result.error))

    def _check_engine(self) -> None:
        """A device that is lost fails on everything; its rows are not bad, and are to be done by another run."""
        if not any(isinstance(result, Scored) for result in run(self._engine, self._probe).results):
            raise JobRefused("the model fails on every text; the log of the job's worker says why")


def _refused(row: Unreadable) -> Answer:
    return {"text": row.text, "label": None, "score": None, "scores": None, "truncated": None, "error": row.reason}
