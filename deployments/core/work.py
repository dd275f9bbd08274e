"""What the ingress asks of the classifier, and what comes back.

Plain dicts of plain values, since the two meet across versions in every roll-out: a reader takes the keys
that it knows, and a new key is optional for one version.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray


class Work(TypedDict):
    """One request: every text is to be paired with every hypothesis."""

    texts: list[str]
    hypotheses: list[str]
    tenant: str
    """Whose it is: requests take turns by tenant."""

    deadline_s: float
    """Seconds left when it was sent; after that nobody waits for it."""

    id: NotRequired[str]
    """By which it can be called off while it waits."""


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
    """From arrival in the replica to the first engine run with one of its pairs; 0 when all were known."""

    engine_s: float
    """From then to the last result."""


class Reply(TypedDict):
    """What became of one `Work`: one of the two keys."""

    outcome: NotRequired[Outcome]
    error: NotRequired[dict[str, Any]]
    """As `contract.errors.to_wire` writes it."""
