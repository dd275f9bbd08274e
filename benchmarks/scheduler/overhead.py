"""Overhead: what queue, planning and scatter add to the engine's own time, at batches of 32 pairs of 32 tokens.

The engine is the true architecture of the default model, RoBERTa 6 x 768, with random weights. Its own time is
that inside `logits`; the overhead is what passes between two runs while work waits.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from deployments.contract.args import ClassifierConfig
from deployments.core.work import Work
from deployments.engines.protocol import Engine, FloatArray, Pair
from deployments.runtime.worker import Worker

N_CALLERS = 64
N_BATCHES = 12
PAIRS_PER_REQUEST = 4


class Timed:
    """An engine that adds up its own seconds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.streams = 1  # what passes between two runs is seen where they follow each other
        self.spans: list[tuple[float, float]] = []
        self.sizes: list[int] = []

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        return self._engine.pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        started = time.perf_counter()
        table = self._engine.logits(pairs)
        self.spans.append((started, time.perf_counter()))
        self.sizes.append(len(pairs))
        return table


def save_model(folder: Path) -> Path:
    """RoBERTa 6 x 768 with random weights and the tests' small tokenizer, whose ids are all it needs."""
    from tests.tiny import roberta_tokenizer

    tokenizer = roberta_tokenizer()
    torch.manual_seed(0)
    names = {0: "contradiction", 1: "entailment", 2: "neutral"}
    config = RobertaConfig(
        vocab_size=50_265,
        num_hidden_layers=6,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def overhead(engine: Engine) -> tuple[float, float]:
    """(seconds between runs as a share of seconds in runs, mean pairs in a batch)."""
    timed = Timed(engine)
    asyncio.run(_saturate(timed))
    spans = timed.spans[1:-2]  # the first warms up, the last ones find the queue empty
    inside = sum(end - start for start, end in spans)
    between = sum(start - end for (_, end), (start, _) in itertools.pairwise(spans))
    return between / inside, sum(timed.sizes[1:-2]) / len(spans)


async def _saturate(engine: Timed) -> None:
    worker = Worker(engine, ClassifierConfig(max_batch_tokens=1_024, max_cache_bytes=67_108_864), secret=b"bench")
    numbers = iter(range(1_000_000))

    async def caller() -> None:
        while len(engine.spans) < N_BATCHES:
            ticket = worker.ticket(_work(next(numbers)))
            await worker.admit([ticket])
            await worker.reply(ticket)

    await asyncio.gather(*(caller() for _ in range(N_CALLERS)))


def _work(number: int) -> Work:
    """4 pairs of 32 tokens: digits are one token each."""
    text = f"{number:020d}"
    hypotheses = [f"{number % 7}{i}{'7' * 6}" for i in range(PAIRS_PER_REQUEST)]
    return {"texts": [text], "hypotheses": hypotheses, "tenant": "bench", "deadline_s": 600}
