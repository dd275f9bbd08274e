"""What both exports share: the pair that is followed through the model, and the comparison with torch afterwards.

Tracing follows one batch through the model's code, and what that code decides by the batch's shape would be
decided for all. So pairs of several lengths, alone and padded, must get torch's logits from the new graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from ..inputs import Inputs
from ..protocol import Engine
from ..refusal import StartRefused

TOLERANCE = 1e-4  # of a logit; a wrong graph is off by whole numbers
TEXTS = ["The parcel arrived broken.", "Yes", "We moved the meeting to Thursday, as two of us are away. " * 4]
HYPOTHESES = ["This example is delivery.", "No"]


def example(folder: Path) -> dict[str, torch.Tensor]:
    """Two pairs, one of them padded, since a mask without a zero may be left out of a trace."""
    inputs = Inputs(folder)
    pairs = [row[0] for row in inputs.pairs(TEXTS[:2], HYPOTHESES)]
    return {name: torch.from_numpy(rows) for name, rows in inputs.rows(pairs).items()}


@contextmanager
def tracing(library: str) -> Iterator[None]:
    """Without the warnings of every branch that cannot be followed; `compare` says whether that matters.

    Raises:
        StartRefused: in place of whatever tracing, the library and the model's own code raise.
    """
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise StartRefused(
            f"the model cannot be exported for {library}, {type(error).__name__}: {reason}; set model.engine: torch"
        ) from error
    finally:
        logging.set_verbosity(told)


def compare(library: str, reference: Engine, engine: Engine) -> None:
    """Let pass a graph that answers as torch does.

    Raises:
        StartRefused: it does not.
    """
    pairs = [pair for row in reference.pairs(TEXTS, HYPOTHESES) for pair in row]
    for batch in [pairs, *([pair] for pair in pairs)]:
        moved = float(np.abs(reference.logits(batch) - engine.logits(batch)).max())
        if not moved <= TOLERANCE:  # nor is "not a number" an answer
            raise StartRefused(
                f"exported for {library}, the model's logits differ from torch's by {moved:.2g}, more than "
                f"{TOLERANCE:g}; set model.engine: torch"
            )
