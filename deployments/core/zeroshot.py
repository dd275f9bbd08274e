"""Zero-shot classification by natural-language inference, the arithmetic of it.

A label becomes a hypothesis, the model says how far the text entails and contradicts it, and the logits
become one score per label.
Source: Yin et al. 2019, as in transformers' ZeroShotClassificationPipeline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def hypotheses(labels: Sequence[str], template: str) -> list[str]:
    """Put each label in the place of the template's one `{}`; `contract/wire.py` has seen to it that there is one.

    Differs from the pipeline: `str.replace`, never `str.format`, whose format specs are code in a
    stranger's hand.
    """
    return [template.replace("{}", label) for label in labels]


def scores(logits: ArrayLike, *, multi_label: bool) -> NDArray[np.float64]:
    """Turn logits into one score per label.

    Args:
        logits: (..., n_labels, 2), columns [contradiction, entailment].
        multi_label: score each label by itself instead of against the others.

    Returns:
        (..., n_labels) in [0, 1]: softmax of the entailments, which sums to 1 over the labels; with
        `multi_label` or a single label, sigmoid(entailment - contradiction).

    Differs from the pipeline: subtracts the maximum first, so that large logits do not overflow.
    """
    table = np.asarray(logits, np.float64)
    if multi_label or table.shape[-2] == 1:
        return _softmax(table)[..., 1]
    return _softmax(table[..., 1])


def rank(table: NDArray[np.float64], top_k: int | None) -> NDArray[np.intp]:
    """The indices of each text's scores, best first, ties in the caller's order, at most `top_k`.

    Args:
        table: (..., n_labels), all texts at once: one by one costs five times as much.
    """
    return np.argsort(-table, axis=-1, kind="stable")[..., :top_k]


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
