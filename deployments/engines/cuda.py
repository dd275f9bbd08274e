"""A model's forward on a GPU: small batches replay a CUDA graph, one launch instead of one for each of its kernels.

Launching a small encoder's kernels from Python takes 3 ms, however little there is to compute; a replay of the same
takes 0.4 ms (docs/bench.md). A graph has one shape, so a batch is padded to the next one there is. How large the
largest graph is depends on the GPU and the precision: each is timed when it is made. What is too large for any is
computed as usual.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .inputs import IdArray

MAX_TOKENS = 8_192  # padded, of a batch that is replayed; on an H200 a replay in fp16 gains 1.4 there, and less beyond
GAIN = 1.3  # times as fast as launching the smallest batch; a graph that takes longer is not worth its padding
SMALLEST = (8, 16)  # pairs, tokens; the next shape is twice as large in one of them
RUNS = 3  # that are timed
ALIGNED = 8  # tokens: torch copies the mask of any other width to one that this divides

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
            with torch.cuda.stream(torch.cuda.current_stream()):  # a capture that fails would leave another one set
                self._capture(names)
        except Exception as error:  # torch's own, of as many kinds as there are things that a graph cannot hold
            self._graphs.clear()  # where memory is too short for all, batches need what some would hold
            _log.warning("no CUDA graphs, so small batches take longer: %s", str(error.__context__ or error))
        else:
            largest = max((n_pairs * n_tokens for n_pairs, n_tokens in self._graphs), default=0)
            _log.info("%d CUDA graphs, the largest of %d tokens", len(self._graphs), largest)
        torch.cuda.empty_cache()  # of what was computed to make them

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
            there = {name: array.to(self._model.device, non_blocking=True) for name, array in pinned.items()}
            logits: torch.Tensor = self._model(**there).logits
            return logits
        for name, array in pinned.items():
            graph.inputs[name].copy_(array, non_blocking=True)
        graph.graph.replay()
        return graph.logits

    @torch.inference_mode()
    def _capture(self, names: Sequence[str]) -> None:
        """The smallest first, until one is too slow."""
        pool, longest_s = torch.cuda.graph_pool_handle(), 0.0
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # one for all: each has buffers of its own
        for shape in sorted(shapes(self._max_tokens), key=lambda shape: shape[0] * shape[1]):
            inputs = {name: torch.zeros(shape, dtype=torch.int64, device=self._model.device) for name in names}
            inputs["attention_mask"][:, :-1] = 1  # a mask without a zero may be left out
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # what libraries set up at the first run must not be captured
                self._model(**inputs)
                longest_s = longest_s or _seconds(lambda: self._model(**inputs)) / GAIN  # noqa: B023
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=beside):
                logits = self._model(**inputs).logits
            if _seconds(graph.replay) > longest_s:
                return
            self._graphs[shape] = _Graph(graph, inputs, logits)


def _seconds(run: Callable[[], object]) -> float:
    """The median of some runs, from an idle GPU to an idle GPU."""
    found = []
    for _ in range(RUNS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


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
