"""One batch through the engine, and one request through the tokenizer: what fails, fails alone.

Nothing here knows a caller; failures are logged without the text.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.contract.errors import EngineFailed, ServiceError
from deployments.core.batching import Err, Ok, isolate
from deployments.core.cache import Scored

from .protocol import Engine, OutOfMemory, Pair

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a batch."""

    results: list[Scored | Exception]
    """One for each pair, in the order given."""

    whole: bool
    """The engine took the batch as it was, and every number is one."""

    out_of_memory: bool
    seconds: float


def tokenise(engine: Engine, texts: Sequence[str], hypotheses: Sequence[str]) -> Ok[list[list[Pair]]] | Err:
    """`Engine.pairs`; whatever it raises is this request's `ServiceError` alone."""
    try:
        return Ok(engine.pairs(texts, hypotheses))
    except ServiceError as error:
        return Err(error)
    except Exception:
        _log.exception("the engine failed to tokenise %d texts and %d hypotheses", len(texts), len(hypotheses))
        return Err(EngineFailed("the model failed on this request; the server's log says why"))


def run(engine: Engine, pairs: Sequence[Pair]) -> Run:
    """Run a batch, equal pairs once; where it fails, halve it until the bad pairs stand alone."""
    started = time.perf_counter()
    whole, out_of_memory = True, False

    def logits(batch: Sequence[Pair]) -> list[list[float]]:
        nonlocal whole, out_of_memory
        try:
            rows: list[list[float]] = engine.logits(batch).tolist()
            return rows
        except Exception as error:
            whole, out_of_memory = False, out_of_memory or isinstance(error, OutOfMemory)
            raise

    distinct = list(dict.fromkeys(pairs))
    found = dict(zip(distinct, isolate(logits, distinct), strict=True))
    results = [_scored(pair, found[pair]) for pair in pairs]
    bad = [result for result in results if isinstance(result, Exception)]
    if bad:
        _log.error("the engine failed on %d of %d pairs", len(bad), len(pairs), exc_info=bad[0])
    return Run(
        results=results,
        whole=whole and not bad,
        out_of_memory=out_of_memory,
        seconds=time.perf_counter() - started,
    )


def _scored(pair: Pair, result: Ok[list[float]] | Err) -> Scored | Exception:
    if isinstance(result, Err):
        return result.error
    contradiction, entailment = result.value
    if not (math.isfinite(contradiction) and math.isfinite(entailment)):
        return ArithmeticError("the engine's answer is not a finite number")
    return Scored(contradiction, entailment, pair.n_tokens, pair.truncated)
