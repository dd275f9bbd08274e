"""A model's forward on a GPU: small batches replay a CUDA graph, one launch instead of one for each of its kernels.

Launching a small encoder's kernels from Python takes 3 ms, however little there is to compute; a replay of the same
takes 0.4 ms, and holds Python's lock for none of it (docs/bench.md). A graph has one shape, so a batch is padded to
the next one there is. What is too large for any is computed as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .inputs import IdArray

MAX_TOKENS = 8_192  # padded, of a batch that is replayed; there a replay is still 1.4 times as fast
SMALLEST = (8, 16)  # pairs, tokens; the next shape is twice as large in one of them
ALIGNED = 8  # tokens: kernels of attention are fast for widths that this divides

Shape = tuple[int, int]
"""Pairs, tokens of each."""

_log = logging.getLogger("ray.serve")


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, torch.Tensor]
    logits: torch.Tensor


class Forward:
    """Calls of one thread at a time: a graph has one place for its inputs.

    Args:
        model: on the GPU, in evaluation mode.
        names: of its inputs.
        max_tokens: of a pair.
    """

    def __init__(self, model: Any, names: Sequence[str], max_tokens: int) -> None:
        self._model, self._max_tokens = model, max_tokens
        self._graphs: dict[Shape, _Graph] = {}
        try:
            self._capture(names)
        except Exception as error:  # torch's own, of as many kinds as there are things that a graph cannot hold
            _log.warning("the model runs without CUDA graphs, so small batches take longer: %s", error)
            self._graphs.clear()

    def shape(self, n_pairs: int, longest: int) -> Shape:
        """What a batch is to be padded to."""
        small = next_shape(n_pairs, longest, self._max_tokens)
        if small in self._graphs:
            return small
        return n_pairs, min(self._max_tokens, -(-longest // ALIGNED) * ALIGNED)

    @torch.inference_mode()
    def __call__(self, rows: Mapping[str, IdArray]) -> torch.Tensor:
        """(n_pairs, n_classes) on the GPU, from rows of a `shape`; to be read before the next call."""
        pinned = {name: torch.from_numpy(array).pin_memory() for name, array in rows.items()}
        graph = self._graphs.get(rows["input_ids"].shape)
        if graph is None:
            there = {name: array.to("cuda", non_blocking=True) for name, array in pinned.items()}
            logits: torch.Tensor = self._model(**there).logits
            return logits
        for name, array in pinned.items():
            graph.inputs[name].copy_(array, non_blocking=True)
        graph.graph.replay()
        return graph.logits

    @torch.inference_mode()
    def _capture(self, names: Sequence[str]) -> None:
        """The largest first, so that the others find room in its memory, which all share."""
        pool = torch.cuda.graph_pool_handle()
        for shape in sorted(shapes(self._max_tokens), key=lambda shape: -shape[0] * shape[1]):
            inputs = {name: torch.zeros(shape, dtype=torch.int64, device="cuda") for name in names}
            inputs["attention_mask"][:, :-1] = 1  # a mask without a zero may be left out
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                self._model(**inputs)  # what libraries set up at the first run must not be captured
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = self._model(**inputs).logits
            self._graphs[shape] = _Graph(graph, inputs, logits)


def next_shape(n_pairs: int, longest: int, max_tokens: int) -> Shape:
    """The smallest shape of powers of two that a batch fits into; the widest is of `max_tokens`."""
    pairs, tokens = SMALLEST
    while pairs < n_pairs:
        pairs *= 2
    while tokens < longest:
        tokens *= 2
    return pairs, min(tokens, max_tokens)


def shapes(max_tokens: int) -> list[Shape]:
    """Every shape of at most `MAX_TOKENS`."""
    found = []
    width = min(SMALLEST[1], max_tokens)
    while True:
        pairs = SMALLEST[0]
        while pairs * width <= MAX_TOKENS:
            found.append((pairs, width))
            pairs *= 2
        if width == max_tokens:
            return found
        width = min(2 * width, max_tokens)
