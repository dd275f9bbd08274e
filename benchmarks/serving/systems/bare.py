"""The engine alone, in this process: all pairs at hand, tokenised, sorted by length. No server can do better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.serving.cells import Request
from benchmarks.serving.expected import Answer, logits
from deployments.contract.args import ModelArgs
from deployments.core.zeroshot import scores
from deployments.engines.protocol import Engine, FloatArray
from deployments.engines.resolve import load, resolve


class Bare:
    """As many threads as cores, or a whole GPU; no cache, no HTTP."""

    def __init__(self, engine: str, precision: str, device: str = "cpu") -> None:
        self.name, self.precision = f"bare engine, {engine}-{precision}", precision
        self._choice = {"engine": engine, "precision": precision, "device": device}
        self.engine: Engine | None = None

    def start(self, model: Path, scratch: Path) -> None:
        args = ModelArgs.model_validate({"name": str(model), **self._choice})
        self.engine = load(resolve(args), args, 1.0 if args.device == "cuda" else 0.0)

    def ask(self, request: Request) -> Answer:
        return self.ask_all([request])[0]

    def ask_all(self, requests: Sequence[Request]) -> list[Answer]:
        assert self.engine is not None
        found = iter(
            logits(
                self.engine,
                [pair for request in requests for pair in request.pairs],
                self._choice["device"],
            )
        )
        return [[_scores([next(found) for _ in r.labels]) for _ in r.texts] for r in requests]

    def stop(self) -> None:
        self.engine = None


def _scores(rows: list[FloatArray]) -> list[float]:
    return [float(x) for x in scores(np.stack(rows), multi_label=False)]
