"""The embedded bi-encoder, all-MiniLM-L6-v2: cosine similarity in place of entailment.

Every text of a request is encoded once, however its pairs are cut into batches, so k labels cost one pass over
the text instead of k; labels, which callers repeat, are kept for later requests. It is no NLI model (it does not
see negation) and English only; it answers where no NLI weights can be had.

Logits are [threshold, cosine] / temperature, so that the scoring of NLI models serves it: single label
softmax(cosine / 0.05), the training scale of the model; multi label sigmoid((cosine - 0.22) / 0.05), where
0.22 is the threshold of best F1 on a set of eleven situation types.
Source: the model card's mean pooling and normalisation; max_length 256 of sentence_bert_config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from transformers import AutoModel, AutoTokenizer

from deployments.core.batching import plan

from .inputs import pad
from .protocol import FloatArray, Pair
from .tokens import Ids, Tokens
from .torch import Device, memory_watched, prepare

MAX_TOKENS = 256
THRESHOLD = 0.22
TEMPERATURE = 0.05
ENCODE_TOKENS = 4_096  # padded tokens in one pass of the encoder
KEPT_HYPOTHESES = 16_384  # vectors of 1.5 KB, and their ids: 254 at most, some 5 as a rule

Vectors = dict[Ids, torch.Tensor]
"""(384,) each, of unit length, on the CPU."""


@dataclass(frozen=True, slots=True)
class _Pair(Pair):
    texts: Vectors = field(compare=False, repr=False)
    """What is encoded of its request's texts so far; one dict for all pairs of the request, and gone with them."""


class EmbeddingEngine:
    """A premise and a hypothesis never meet in the model: each is a vector of its own."""

    streams = 1  # runs share what they have encoded

    def __init__(self, folder: Path, device: Device) -> None:
        self._device = prepare(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._tokens = Tokens(tokenizer, MAX_TOKENS)
        self._cls, self._sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
        self._model = model.eval().to(self._device)
        self._kept: Vectors = {}

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        room = MAX_TOKENS - 2
        ids = self._tokens.encode_request(texts, hypotheses, room)
        memo: Vectors = {}
        return [[self._pair(ids[text], ids[hypothesis], room, memo) for hypothesis in hypotheses] for text in texts]

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if not pairs:
            return torch.empty((0, 2)).numpy()
        premises, hypotheses = self._vectors(cast(Sequence[_Pair], pairs))  # (n_pairs, 384) each; `pairs` made them
        cosine = (premises * hypotheses).sum(-1)  # (n_pairs,)
        table: FloatArray = (torch.stack([torch.full_like(cosine, THRESHOLD), cosine], -1) / TEMPERATURE).numpy()
        return table

    def _pair(self, premise: Ids, hypothesis: Ids, room: int, memo: Vectors) -> Pair:
        cut = self._tokens.cut(premise, room)
        return _Pair(cut, hypothesis, len(cut) + len(hypothesis) + 4, len(cut) < len(premise), memo)

    def _vectors(self, pairs: Sequence[_Pair]) -> tuple[torch.Tensor, torch.Tensor]:
        known = {pair.hypothesis: self._kept[pair.hypothesis] for pair in pairs if pair.hypothesis in self._kept}
        known |= {pair.premise: pair.texts[pair.premise] for pair in pairs if pair.premise in pair.texts}
        wanted = dict.fromkeys(ids for pair in pairs for ids in (pair.premise, pair.hypothesis))
        missing = [ids for ids in wanted if ids not in known]
        known |= dict(zip(missing, self._encode(missing), strict=True))
        for pair in pairs:
            pair.texts[pair.premise] = known[pair.premise]
            if pair.hypothesis not in self._kept:
                self._kept[pair.hypothesis] = known[pair.hypothesis].clone()  # a view would keep its whole batch
        while len(self._kept) > KEPT_HYPOTHESES:
            del self._kept[next(iter(self._kept))]  # the oldest
        premises, hypotheses = zip(*((known[pair.premise], known[pair.hypothesis]) for pair in pairs), strict=True)
        return torch.stack(premises), torch.stack(hypotheses)

    @torch.inference_mode()
    def _encode(self, distinct: Sequence[Ids]) -> torch.Tensor:
        """(n, 384) unit vectors on the CPU, in the order given."""
        rows = [[self._cls, *ids, self._sep] for ids in distinct]
        vectors = torch.empty((len(rows), self._model.config.hidden_size))
        for batch in plan([len(row) for row in rows], ENCODE_TOKENS):
            ids = torch.from_numpy(pad([rows[i] for i in batch], 0)).to(self._device)
            mask = torch.from_numpy(pad([[1] * len(rows[i]) for i in batch], 0)).to(self._device)
            with memory_watched():
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, width, 384)
                weight = mask.unsqueeze(-1)
                pooled = (hidden * weight).sum(1) / weight.sum(1)
                vectors[batch] = torch.nn.functional.normalize(pooled, dim=-1).cpu()
        return vectors
