"""Several callers' work through one engine: tokenise, cut, run, scatter.

Runs on the engine's thread, without a clock of Ray's or a lock. Each work gets its own outcome or its own
error, whoever shares the batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from deployments.contract.errors import EngineFailed, ServiceError
from deployments.core.batching import Err, Ok, isolate, plan
from deployments.core.work import Outcome, Work

from .protocol import Engine, FloatArray, Pair

_log = logging.getLogger("ray.serve")


def run(engine: Engine, works: Sequence[Work], max_tokens: int) -> list[Ok[Outcome] | Err]:
    """Score all works together.

    Args:
        max_tokens: padded tokens in one run of the engine.

    Returns:
        In the order of `works`; an `Err` holds a `ServiceError` of that work alone.
    """
    started = time.perf_counter()
    grids = [_pairs(engine, work) for work in works]
    pairs = [pair for grid in grids if isinstance(grid, Ok) for row in grid.value for pair in row]
    logits = _logits(engine, pairs, max_tokens)
    engine_s = time.perf_counter() - started
    outcomes: list[Ok[Outcome] | Err] = []
    at = 0
    for grid in grids:
        if isinstance(grid, Err):
            outcomes.append(grid)
            continue
        n_pairs = sum(len(row) for row in grid.value)
        outcomes.append(Ok(_outcome(grid.value, logits[at : at + n_pairs], engine_s)))
        at += n_pairs
    return outcomes


def _pairs(engine: Engine, work: Work) -> Ok[list[list[Pair]]] | Err:
    try:
        return Ok(engine.pairs(work["texts"], work["hypotheses"]))
    except ServiceError as error:
        return Err(error)
    except Exception:  # one caller's text that the tokenizer cannot take is not the neighbours' loss
        _log.exception("the engine failed to tokenise a work of %d texts", len(work["texts"]))
        return Err(EngineFailed("the model failed on this request; the server's log says why"))


def _logits(engine: Engine, pairs: Sequence[Pair], max_tokens: int) -> FloatArray:
    """(n_pairs, 2), NaN for the pairs that the engine failed on."""
    logits = np.full((len(pairs), 2), np.nan, np.float32)
    for batch in plan([pair.n_tokens for pair in pairs], max_tokens):
        results: list[Ok[FloatArray] | Err] = isolate(lambda ps: list(engine.logits(ps)), [pairs[i] for i in batch])
        for i, result in zip(batch, results, strict=True):
            if isinstance(result, Ok):
                logits[i] = result.value
            else:
                _log.error("the engine failed on a pair of %d tokens", pairs[i].n_tokens, exc_info=result.error)
    return logits


def _outcome(grid: list[list[Pair]], logits: FloatArray, engine_s: float) -> Outcome:
    table = logits.reshape(len(grid), -1, 2)
    return {
        "logits": table,
        "truncated": [any(pair.truncated for pair in row) for row in grid],
        "failed": [bool(np.isnan(rows).any()) for rows in table],
        "tokens": sum(pair.n_tokens for row in grid for pair in row),
        "queued_s": 0.0,
        "engine_s": engine_s,
    }
