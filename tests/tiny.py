"""Tiny random models of the true architectures, built in memory: real loading code without a download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

MAX_TOKENS = 64  # of both tokenizers; short, so that tests reach it
C_E_N = {0: "contradiction", 1: "entailment", 2: "neutral"}

_CORPUS = [
    "My card was charged twice, please refund the second payment.",
    "The screen of my phone is cracked: can it be repaired?",
    "This example is billing. This text is about a holiday in the mountains.",
    "Größe, naïve café, 数学 と 言語, привет мир, emoji 🙂 and numbers 0 1 2 3 4 5 6 7 8 9.",
] * 4
_SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.5,  # so that logits spread
}


def save_roberta(folder: Path, id2label: Mapping[int, str] = C_E_N, seed: int = 0, **more: Any) -> Path:
    """A RoBERTa with byte-level BPE: two separators, no token types, positions from 2."""
    tokenizer = roberta_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        **_labels(id2label),
        **_SIZE | more,
    )
    return _save(folder, RobertaForSequenceClassification, config, tokenizer, seed)


def save_bert(folder: Path, id2label: Mapping[int, str] = C_E_N, seed: int = 0, **more: Any) -> Path:
    """A BERT with WordPiece: one separator, token types."""
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=0,
        **_labels(id2label),
        **_SIZE | more,
    )
    return _save(folder, BertForSequenceClassification, config, tokenizer, seed)


def save_tiny(
    folder: Path, model_class: Any, config_class: Any, tokenizer: PreTrainedTokenizerFast, **more: Any
) -> Path:
    """Any other family."""
    config = config_class(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **_labels(C_E_N), **_SIZE, **more
    )
    return _save(folder, model_class, config, tokenizer, seed=0)


def roberta_tokenizer(
    corpus: Sequence[str] = _CORPUS, vocab_size: int = 400, max_tokens: int = MAX_TOKENS, **options: Any
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on the corpus."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=max_tokens,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


def bert_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words, letters = _pieces(normalizer, splitter)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*specials, *letters, *(f"##{letter}" for letter in letters), *words])
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.add_special_tokens(specials)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **options,
    )


def xlmr_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """Unigram with Metaspace, joined as RoBERTa joins."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = _unigram(specials, "<unk>")
    backend.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


def deberta_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """Unigram with Metaspace, joined as BERT joins, token types given."""
    backend = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]")
    backend.post_processor = processors.TemplateProcessing(
        "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", [("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=MAX_TOKENS,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **options,
    )


def _unigram(specials: list[str], unknown: str) -> Tokenizer:
    normalizer, splitter = normalizers.NFKC(), pre_tokenizers.Metaspace()
    words, letters = _pieces(normalizer, splitter)
    scores = {**dict.fromkeys(specials, 0.0), **dict.fromkeys(words, -6.0), **dict.fromkeys(letters, -4.0)}
    backend = Tokenizer(models.Unigram(list(scores.items()), unk_id=specials.index(unknown), byte_fallback=False))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(specials)
    return backend


def _pieces(normalizer: Any, splitter: Any) -> tuple[list[str], list[str]]:
    """Every other word of the corpus, and every letter; training these kinds would end differently each time."""
    lines = [normalizer.normalize_str(line) for line in _CORPUS]
    words = sorted({word for line in lines for word, _ in splitter.pre_tokenize_str(line)})
    return words[::2], sorted({letter for word in words for letter in word})


def _labels(id2label: Mapping[int, str]) -> dict[str, Any]:
    return {
        "num_labels": len(id2label),
        "id2label": dict(id2label),
        "label2id": {label: i for i, label in id2label.items()},
    }


def _save(folder: Path, model_class: Any, config: Any, tokenizer: PreTrainedTokenizerFast, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        for layer in model.classifier.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.data *= 0.5  # scores between 0.001 and 0.999 rather than 0 and 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
