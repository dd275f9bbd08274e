"""What every engine does: tokenise once, then turn pairs into logits.

One thread calls `pairs` while up to `streams` others call `logits`. A pair's logits are the same alone, padded, and
beside any neighbour, within the precision's own rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """A premise (the text) and a hypothesis (what a label claims of it), tokenised, without special tokens."""

    premise: tuple[int, ...]
    """Token ids, cut to what the model takes beside the whole hypothesis."""

    hypothesis: tuple[int, ...]
    """Token ids, never cut."""

    n_tokens: int
    """Length of the joined pair, special tokens included: the work that it means for the engine."""

    truncated: bool
    """Whether the premise was cut."""


class OutOfMemory(Exception):
    """The batch did not fit into the device's memory; a smaller one may."""


class Engine(Protocol):
    """A loaded model."""

    streams: int
    """Calls of `logits` that may run at a time: to use the whole engine, so many must (streams.py)."""

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        """Tokenise each distinct text and hypothesis once, and pair each text with each hypothesis.

        Returns:
            One row per text, one `Pair` per hypothesis.

        Raises:
            HypothesisTooLong: a hypothesis leaves no room for even one token of text.
        """
        ...

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        """Run the model over one batch.

        Returns:
            (n_pairs, 2) float32: [contradiction, entailment].

        Raises:
            OutOfMemory: the device has not enough.
        """
        ...
