"""A thread pool around one forward for each text and label, as scripts do it by hand; no HTTP.

A thread for each core, each computing on one: two on all cores would wait for each other.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.serving.cells import TEMPLATE, Request
from benchmarks.serving.expected import Answer


class ThreadPool:
    """torch in fp32."""

    name, precision = "thread pool, one forward a pair", "fp32"

    def __init__(self, device: str = "cpu") -> None:
        self._device = device

    def start(self, model: Path, scratch: Path) -> None:
        torch.set_num_threads(1)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._model: Any = AutoModelForSequenceClassification.from_pretrained(model).eval().to(self._device)
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def ask(self, request: Request) -> Answer:
        rows = [[self._pool.submit(self._forward, text, label) for label in request.labels] for text in request.texts]
        return [_scores(torch.stack([future.result() for future in row])) for row in rows]

    def stop(self) -> None:
        self._pool.shutdown()
        torch.set_num_threads(os.cpu_count() or 1)

    @torch.inference_mode()
    def _forward(self, text: str, label: str) -> torch.Tensor:
        inputs = self._tokenizer(text, TEMPLATE.format(label), truncation="only_first", return_tensors="pt").to(
            self._device
        )
        logits: torch.Tensor = self._model(**inputs).logits[0].cpu()
        return logits


def _scores(logits: torch.Tensor) -> list[float]:
    if len(logits) == 1:  # one label: against its contradiction
        return [float(logits[0, :2].softmax(0)[1])]
    return [float(score) for score in logits[:, 1].softmax(0)]
