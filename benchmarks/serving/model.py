"""The one model folder that every system loads: RoBERTa 6 x 768, as cross-encoder/nli-MiniLM2-L6-H768, untrained.

The weights are random and wider than usual, so that texts and labels move the logits by more than bf16 rounds;
the head is then scaled so that scores spread. Speed depends on neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

from deployments.engines.samples import CALIBRATION, EVALUATION
from tests.tiny import roberta_tokenizer

from .cells import TEMPLATE, cells

NAMES = {0: "contradiction", 1: "entailment", 2: "neutral"}
HIGHEST = 0.95  # score; the lowest are about 0.01 then
MAX_TOKENS, VOCABULARY = 512, 50_265
RECIPE = "3"  # counted up when this file makes another model


def model_folder(root: Path) -> Path:
    """The model below `root`, made if it is not there."""
    folder = root / f"model-{RECIPE}"
    if not (folder / "whole").is_file():
        _make(folder)
        (folder / "whole").touch()
    return folder


def _make(folder: Path) -> None:
    tokenizer = _tokenizer()
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=6,
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        initializer_range=0.06,
        pad_token_id=tokenizer.pad_token_id,
        id2label=NAMES,
        label2id={name: i for i, name in NAMES.items()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = RobertaForSequenceClassification(config)
    model.eval()
    _spread(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.inference_mode()
def _spread(model: Any, tokenizer: Any) -> None:
    """Scale the head until the highest score of the base cell's first request is `HIGHEST`; centre single labels."""
    request = cells()[0].requests[0]
    pairs = [(text, TEMPLATE.replace("{}", label)) for text in request.texts for label in request.labels]
    logits = torch.cat([_logits(model, tokenizer, pairs[i : i + 16]) for i in range(0, len(pairs), 16)])
    entailment = logits[:, 1].view(len(request.texts), len(request.labels))
    low, high = 0.0, 1_000.0
    for _ in range(50):
        factor = (low + high) / 2
        low, high = (low, factor) if (factor * entailment).softmax(1).max() > HIGHEST else (factor, high)
    head = model.classifier.out_proj
    head.weight *= factor
    head.bias *= factor
    head.bias[1] -= factor * (logits[:, 1] - logits[:, 0]).median()


def _logits(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> torch.Tensor:
    texts, hypotheses = zip(*pairs, strict=True)
    inputs = tokenizer(list(texts), list(hypotheses), truncation="only_first", padding=True, return_tensors="pt")
    logits: torch.Tensor = model(**inputs).logits
    return logits


def _tokenizer() -> PreTrainedTokenizerFast:
    """Trained on the built-in texts, so that a word is about one token, as with RoBERTa's own."""
    samples = (*CALIBRATION, *EVALUATION)
    corpus = [line for sample in samples for line in (sample.text, *sample.hypotheses)] * 2
    return roberta_tokenizer(corpus, VOCABULARY, MAX_TOKENS)
