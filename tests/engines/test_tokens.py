"""Pairs joined from ids made once, against the tokenizer's own encoding of each pair."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from deployments.contract.errors import HypothesisTooLong
from deployments.engines.protocol import Pair
from deployments.engines.refusal import StartRefused
from deployments.engines.tokens import Tokens, longest_input
from tests.tiny import MAX_TOKENS, bert_tokenizer, deberta_tokenizer, roberta_tokenizer, xlmr_tokenizer

BUILDERS: list[Callable[..., PreTrainedTokenizerFast]] = [
    roberta_tokenizer,
    bert_tokenizer,
    xlmr_tokenizer,
    deberta_tokenizer,
]
N_SPECIAL = {roberta_tokenizer: 4, bert_tokenizer: 3, xlmr_tokenizer: 4, deberta_tokenizer: 3}
# One tokenizer is taken apart by `Tokens`; the other one, untouched, says what is right.
JOINERS = {
    f"{build.__name__}-{side}": (Tokens(build(truncation_side=side), MAX_TOKENS), build(truncation_side=side))
    for build in BUILDERS
    for side in ("left", "right")
}
PIECES = st.sampled_from(
    ["card", "charged twice ", " refund", "</s>", "[SEP]", "<mask>", "数学", "🙂", "\n", "  ", "é"]
)
STRINGS = st.lists(st.text(max_size=4) | PIECES, max_size=12).map("".join)
TEXTS = STRINGS | st.builds(lambda string, n: string * n, STRINGS, st.integers(2, 30))  # beyond the limit


@pytest.mark.parametrize("name", JOINERS)
@given(text=TEXTS, hypothesis=STRINGS)
def test_a_pair_equals_the_tokenizers_own_id_for_id(name: str, text: str, hypothesis: str) -> None:
    tokens, reference = JOINERS[name]
    try:
        pair = tokens.pairs([text], [hypothesis])[0][0]
    except HypothesisTooLong:
        return  # the tokenizer refuses it too; the limit has a test of its own

    both = [[text, hypothesis]]  # a list of pairs, as the pipeline does: alone, "" would count as no hypothesis
    whole = reference(both, verbose=False)
    cut = reference(both, truncation="only_first", max_length=MAX_TOKENS, return_token_type_ids=True)

    assert tokens.frame.join(pair) == cut["input_ids"][0]
    assert tokens.frame.token_types(pair) == cut["token_type_ids"][0]
    assert pair.n_tokens == len(cut["input_ids"][0])
    assert pair.truncated == (len(whole["input_ids"][0]) > MAX_TOKENS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_only_the_text_is_cut_on_the_tokenizers_side(side: str) -> None:
    tokens = JOINERS[f"bert_tokenizer-{side}"][0]
    ids = tokens.encode(["a " * 70 + "refund", "holiday"])
    text, hypothesis = ids.values()

    pair = tokens.pairs(list(ids)[:1], list(ids)[1:])[0][0]

    room = MAX_TOKENS - 3 - len(hypothesis)
    assert pair == Pair(text[-room:] if side == "left" else text[:room], hypothesis, MAX_TOKENS, truncated=True)


@pytest.mark.parametrize("build", BUILDERS)
def test_the_longest_hypothesis_leaves_one_token_of_text(build: Callable[..., PreTrainedTokenizerFast]) -> None:
    tokens = Tokens(build(), MAX_TOKENS)
    longest = MAX_TOKENS - N_SPECIAL[build] - 1

    pair = tokens.pairs(["card card card"], [_sevens(tokens, longest)])[0][0]
    with pytest.raises(HypothesisTooLong) as caught:
        tokens.pairs(["card"], ["card", _sevens(tokens, longest + 1)])

    assert (len(pair.premise), len(pair.hypothesis), pair.n_tokens) == (1, longest, MAX_TOKENS)
    assert caught.value.args == (1, longest + 1, longest)


def _sevens(tokens: Tokens, n: int) -> str:
    """A string of n tokens; Metaspace puts one of its own before it."""
    return next(s for s in (" 7" * n, "7" * (n - 1)) if len(tokens.encode([s])[s]) == n)


class _Counted:
    """A backend that remembers what it was asked to tokenise."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.batches: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode_batch_fast(self, strings: list[str], **options: Any) -> Any:
        self.batches.append(strings)
        return self._backend.encode_batch_fast(strings, **options)


def test_each_distinct_string_is_tokenised_once_in_one_call() -> None:
    backend = _Counted(bert_tokenizer().backend_tokenizer)
    tokens = Tokens(SimpleNamespace(is_fast=True, backend_tokenizer=backend, truncation_side="right"), MAX_TOKENS)

    grid = tokens.pairs(["one", "two", "one"], ["two", "three", "three"])

    assert backend.batches == [["one", "two", "three"]]
    assert grid[0] == grid[2]
    assert [len(row) for row in grid] == [3, 3, 3]


def test_padding_and_truncation_of_the_tokenizer_file_are_ignored() -> None:
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=128)
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokens = Tokens(tokenizer, MAX_TOKENS)

    assert [len(ids) for ids in tokens.encode(["a", ". " * 50]).values()] == [1, 50]


def test_a_text_of_the_largest_size_is_tokenised_whole() -> None:
    text = "a " * 50_000

    pair = Tokens(bert_tokenizer(), MAX_TOKENS).pairs([text], ["a"])[0][0]

    assert (pair.n_tokens, pair.truncated) == (MAX_TOKENS, True)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(StartRefused, match=r"no tokenizer\.json"):
        Tokens(SimpleNamespace(is_fast=False), MAX_TOKENS)


@pytest.mark.parametrize("joins", ["[CLS] $B:1 [SEP] $A:0 [SEP]", "[CLS] $B [SEP] $A [SEP]"])
def test_a_tokenizer_that_puts_the_hypothesis_first_is_refused(joins: str) -> None:
    tokenizer = bert_tokenizer()
    specials = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", joins, specials)

    with pytest.raises(StartRefused, match="unusual order"):
        Tokens(tokenizer, MAX_TOKENS)


class _Single(_Counted):
    """Drops the second sequence."""

    def encode(self, text: str, *_: str, **options: Any) -> Any:
        return self._backend.encode(text, **options)


def test_a_tokenizer_that_takes_no_pairs_is_refused() -> None:
    backend = _Single(bert_tokenizer().backend_tokenizer)
    tokenizer = SimpleNamespace(is_fast=True, backend_tokenizer=backend, truncation_side="right")

    with pytest.raises(StartRefused, match="does not join pairs"):
        Tokens(tokenizer, MAX_TOKENS)


@pytest.mark.parametrize(
    ("model_type", "positions", "stated", "longest"),
    [
        ("roberta", 514, 512, 512),
        ("roberta", 514, int(1e30), 512),
        ("roberta", 130, 512, 128),
        ("xlm-roberta", 514, int(1e30), 512),
        ("bert", 512, int(1e30), 512),
        ("bert", 512, 128, 128),
        ("deberta-v2", 512, int(1e30), 512),
        ("bart", 1024, 1024, 1024),
        ("t5", None, int(1e30), 512),
        ("t5", None, 300, 300),
    ],
)
def test_the_longest_input(model_type: str, positions: int | None, stated: int, longest: int) -> None:
    config = SimpleNamespace(model_type=model_type, max_position_embeddings=positions, pad_token_id=1)

    assert longest_input(SimpleNamespace(model_max_length=stated), config) == longest
