"""The real graph around engines that a test can rely on, or that fail as a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ray.serve import Application

from deployments.contract.args import AppArgs, ModelArgs
from deployments.contract.model import ServedModel
from deployments.engines.fake import FakeEngine
from deployments.engines.protocol import Engine, FloatArray, Pair
from deployments.engines.refusal import StartRefused
from deployments.graph import assemble
from deployments.graph import build as build_real

MODEL = ServedModel(name="fake", revision=None, engine="torch-fp32", fallback=False, template="This is {}.")


class PoisonedEngine(FakeEngine):
    """Raises on a text of 13 words."""

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if any(len(pair.premise) == 13 for pair in pairs):
            raise RuntimeError("poison")
        return super().logits(pairs)


class RefusingEngine(FakeEngine):
    """Does not start."""

    def __init__(self) -> None:
        raise StartRefused("no such weights on this machine")


def build(args: dict[str, Any]) -> Application:
    """`engine` names a class of this file, or a model folder for the service's own `build`."""
    engines = {engine.__name__: engine for engine in (FakeEngine, PoisonedEngine, RefusingEngine)}
    if args["engine"] not in engines:
        return build_real(AppArgs(auth="off", model=ModelArgs(name=args["engine"])))
    return assemble(AppArgs(auth="off"), MODEL, partial(_load, engines[args["engine"]], args["options"]))


def _load(engine: type[FakeEngine], options: dict[str, Any], gpu_fraction: float) -> Engine:
    return engine(**options)
