"""A deterministic stand-in for a model: no torch, no weights, instant or as slow as a test wants.

It judges by shared words, so that it gets easy examples right, and it keeps every promise of the protocol:
the conformance suite that the real engines pass is run over it too.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Sequence

import numpy as np

from deployments.contract.errors import HypothesisTooLong

from .protocol import FloatArray, Pair

SPECIAL_TOKENS = 3  # as BERT: [CLS] premise [SEP] hypothesis [SEP]


class FakeEngine:
    """One token per word; entailment grows with the share of the hypothesis' words found in the premise."""

    def __init__(
        self, *, max_tokens: int = 64, seconds_per_run: float = 0.0, seconds_per_pair: float = 0.0, streams: int = 1
    ) -> None:
        self.streams = streams
        self._max_tokens = max_tokens
        self._seconds_per_run = seconds_per_run
        self._seconds_per_pair = seconds_per_pair

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        premises = {text: _words(text) for text in texts}
        claims = [_words(hypothesis) for hypothesis in hypotheses]
        longest = self._max_tokens - SPECIAL_TOKENS - 1
        for i, claim in enumerate(claims):
            if len(claim) > longest:
                raise HypothesisTooLong(i, len(claim), longest)
        return [[self._pair(premises[text], claim) for claim in claims] for text in texts]

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        time.sleep(self._seconds_per_run + self._seconds_per_pair * len(pairs))
        table = np.array([_judge(pair) for pair in pairs], np.float32)
        return table.reshape(-1, 2)

    def _pair(self, premise: tuple[int, ...], claim: tuple[int, ...]) -> Pair:
        room = self._max_tokens - SPECIAL_TOKENS - len(claim)
        cut = premise[:room]
        return Pair(cut, claim, len(cut) + len(claim) + SPECIAL_TOKENS, len(cut) < len(premise))


def _words(text: str) -> tuple[int, ...]:
    return tuple(zlib.crc32(word.encode()) for word in re.findall(r"\w+", text.lower()))


def _judge(pair: Pair) -> tuple[float, float]:
    shared = len(set(pair.premise) & set(pair.hypothesis)) / max(1, len(set(pair.hypothesis)))
    noise = zlib.crc32(repr((pair.premise, pair.hypothesis)).encode()) / 2**32  # so that no two pairs tie
    entailment = 4 * shared - 2 + noise  # below 0 without a shared word, above with all
    return -entailment, entailment
