"""Tokenising each distinct string once, and joining the ids into pairs as the tokenizer itself would.

A request of k labels makes k pairs of one text; transformers tokenises that text k times. Here ids are made
once without special tokens, and a pair is a concatenation: before + premise + between + hypothesis + after.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.contract.errors import HypothesisTooLong

from .protocol import Pair
from .refusal import StartRefused

Ids = tuple[int, ...]
KEPT_HYPOTHESES = 4_096  # of a kilobyte or so, with their ids; those not used for longest go first
MAX_IDS = 8_192  # of one string; no hypothesis has more, and no model takes as many


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens of a pair, and the token types of its five sections."""

    before: Ids
    between: Ids
    after: Ids
    types: Ids

    @property
    def n_special(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def join(self, pair: Pair) -> list[int]:
        """Token ids of the whole pair."""
        return [*self.before, *pair.premise, *self.between, *pair.hypothesis, *self.after]

    def token_types(self, pair: Pair) -> list[int]:
        """Token type ids of the whole pair."""
        sections = (self.before, pair.premise, self.between, pair.hypothesis, self.after)
        return [kind for kind, ids in zip(self.types, sections, strict=True) for _ in ids]


class Tokens:
    """A fast tokenizer, without its own padding, truncation and special tokens.

    Args:
        tokenizer: a transformers tokenizer with a `backend_tokenizer`.
        max_tokens: the longest sequence that the model takes, special tokens included.

    Raises:
        StartRefused: the tokenizer has no backend, or joins pairs in no order of ours.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise StartRefused("the model's tokenizer has no tokenizer.json; only fast tokenizers are served")
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()  # a tokenizer.json may carry both, and would apply them in silence
        self._cut_left = tokenizer.truncation_side == "left"
        self._kept: dict[str, Ids] = {}
        self.max_tokens = max_tokens
        self.frame = _probe(self._backend)

    def encode(self, strings: Sequence[str]) -> dict[str, Ids]:
        """Ids of each distinct string, without special tokens; of a very long one, more than the model takes."""
        distinct = list(dict.fromkeys(strings))
        encodings = self._backend.encode_batch_fast(distinct, add_special_tokens=False)
        for encoding in encodings:  # before the ids become Python objects, under Python's lock
            encoding.truncate(max(MAX_IDS, self.max_tokens + 1), direction="left" if self._cut_left else "right")
        return {string: tuple(encoding.ids) for string, encoding in zip(distinct, encodings, strict=True)}

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        """As `Engine.pairs`: only the premise is cut, as the pipeline's `truncation="only_first"` does."""
        ids = self.encode_request(texts, hypotheses, self.max_tokens - self.frame.n_special - 1)
        return [[self._pair(ids[text], ids[hypothesis]) for hypothesis in hypotheses] for text in texts]

    def encode_request(self, texts: Sequence[str], hypotheses: Sequence[str], longest: int) -> dict[str, Ids]:
        """Ids of each distinct string; hypotheses, which callers repeat, are kept for later requests.

        Raises:
            HypothesisTooLong: one has more than `longest` tokens.
        """
        known = {hypothesis: self._kept.pop(hypothesis) for hypothesis in hypotheses if hypothesis in self._kept}
        ids = self.encode([string for string in (*texts, *hypotheses) if string not in known]) | known
        for i, hypothesis in enumerate(hypotheses):
            if len(ids[hypothesis]) > longest:
                raise HypothesisTooLong(i, len(ids[hypothesis]), longest)
        self._kept |= {hypothesis: ids[hypothesis] for hypothesis in hypotheses}
        while len(self._kept) > KEPT_HYPOTHESES:
            del self._kept[next(iter(self._kept))]  # the oldest
        return ids

    def _pair(self, premise: Ids, hypothesis: Ids) -> Pair:
        n_special = self.frame.n_special
        cut = self.cut(premise, self.max_tokens - n_special - len(hypothesis))
        return Pair(cut, hypothesis, len(cut) + len(hypothesis) + n_special, len(cut) < len(premise))

    def cut(self, ids: Ids, room: int) -> Ids:
        """The beginning that fits, or the end where the tokenizer cuts on the left."""
        if len(ids) <= room:
            return ids
        return ids[-room:] if self._cut_left else ids[:room]


# These number their positions from `pad_token_id + 1`, so they take that many fewer than they have.
_OFFSET_POSITIONS = {"camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm"}
_OFFSET_POSITIONS |= {"xlm-roberta", "xlm-roberta-xl", "xmod"}
_UNSTATED = 1_000_000  # transformers writes 1e30 for a tokenizer that states no length
_DEFAULT_LENGTH = 512  # what nearly every encoder was trained on


def longest_input(tokenizer: Any, config: Any) -> int:
    """The longest sequence that both tokenizer and model take, special tokens included."""
    positions = getattr(config, "max_position_embeddings", None) or _UNSTATED
    if config.model_type in _OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    longest = int(min(tokenizer.model_max_length, positions))
    return longest if longest < _UNSTATED else _DEFAULT_LENGTH


def _probe(backend: Any) -> Frame:
    """Read the frame off a pair of short sequences, joined by the tokenizer itself."""
    one = backend.encode("a", add_special_tokens=False)
    joined = backend.encode("a", "a")
    n, marks = len(one.ids), joined.sequence_ids  # None for a special token, 0 and 1 for the two sequences
    if n == 0 or 0 not in marks or 1 not in marks:
        raise StartRefused("the model's tokenizer does not join pairs; choose an NLI cross-encoder")
    first, second = marks.index(0), marks.index(1)
    ends = (0, first, first + n, second, second + n, len(marks))
    sections = [(joined.ids[a:b], joined.type_ids[a:b]) for a, b in itertools.pairwise(ends)]
    kinds = [section[1][0] if section[1] else 0 for section in sections]
    before, _, between, _, after = (tuple(section[0]) for section in sections)
    frame = Frame(before, between, after, tuple(kinds))
    again = Pair(tuple(one.ids), tuple(one.ids), len(marks), False)
    if frame.join(again) != joined.ids or frame.token_types(again) != joined.type_ids:
        raise StartRefused("the model's tokenizer joins pairs in an unusual order, which is not served")
    return frame
