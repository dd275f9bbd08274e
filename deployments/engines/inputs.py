"""What a cross-encoder reads, whatever library runs it: pairs as padded rows of token ids.

Made from the model's folder: its tokenizer, and of its config which columns of the output mean what.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer

from .nli_labels import nli_columns
from .protocol import FloatArray, Pair
from .tokens import Tokens, longest_input

IdArray = NDArray[np.int64]


class Inputs:
    """The tokenizer and the labels of one model.

    Raises:
        StartRefused: it is no NLI model, or its tokenizer cannot be served.
    """

    def __init__(self, folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.tokens = Tokens(tokenizer, longest_input(tokenizer, config))
        self._columns = list(nli_columns(config.id2label, config.label2id or {}))
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._has_types = "token_type_ids" in tokenizer.model_input_names

    @property
    def names(self) -> list[str]:
        """Of the model's inputs."""
        return ["input_ids", "attention_mask", *(["token_type_ids"] if self._has_types else [])]

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        """As `Engine.pairs`."""
        return self.tokens.pairs(texts, hypotheses)

    def rows(self, pairs: Sequence[Pair], shape: tuple[int, int] | None = None) -> dict[str, IdArray]:
        """The model's inputs by name, each (n_pairs, longest pair) or of `shape`.

        Args:
            shape: a larger one; beyond the pairs the last one is repeated, as a row that every model can compute.
        """
        frame = self.tokens.frame
        n_rows, width = shape or (len(pairs), None)
        filled = [*pairs, *[pairs[-1]] * (n_rows - len(pairs))]
        inputs = {
            "input_ids": pad([frame.join(pair) for pair in filled], self._pad_id, width),
            "attention_mask": pad([[1] * pair.n_tokens for pair in filled], 0, width),
        }
        if self._has_types:
            inputs["token_type_ids"] = pad([frame.token_types(pair) for pair in filled], 0, width)
        return inputs

    def table(self, raw: FloatArray) -> FloatArray:
        """(n_pairs, 2) [contradiction, entailment], a copy, from (n_pairs, n_classes)."""
        return raw[:, self._columns].astype(np.float32)


def pad(rows: Sequence[Sequence[int]], filler: int, width: int | None = None) -> IdArray:
    """(n_rows, width): short rows filled up on the right.

    Args:
        width: by default the longest row's.
    """
    lengths = np.array([len(row) for row in rows])
    there = np.arange(lengths.max() if width is None else width) < lengths[:, np.newaxis]
    padded = np.full(there.shape, filler, np.int64)
    padded[there] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
    return padded
