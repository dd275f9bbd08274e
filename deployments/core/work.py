"""What the ingress asks of the classifier, and what comes back.

Plain dicts of plain values, since the two meet across versions in every roll-out: a reader takes the keys
that it knows, and a new key is optional for one version.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class Work(TypedDict):
    """Every text is to be paired with every hypothesis."""

    texts: list[str]
    hypotheses: list[str]


class Outcome(TypedDict):
    """The logits of one `Work`."""

    logits: NDArray[np.float32]
    """(n_texts, n_hypotheses, 2), columns [contradiction, entailment]; NaN where `failed`."""

    truncated: list[bool]
    """Per text: whether the model saw only its beginning."""

    failed: list[bool]
    """Per text: whether the engine raised on it."""

    tokens: int
    """Tokens of all pairs."""

    queued_s: float
    """From arrival in the replica to the start of the engine."""

    engine_s: float
    """Of the engine runs that the work took part in."""
