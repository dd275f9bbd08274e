"""The NLI cross-encoder on OpenVINO: fp32, bf16 or int8 on the CPU.

In bf16 the weights stay fp32 in the file and are rounded when they are loaded. In int8 the weights and the inputs
of the large products are integers, by scales that were fixed when the model was quantised (quantise.py); the
rest is computed in fp32. No scale is taken over a batch, so no pair moves another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np

from .inputs import Inputs
from .protocol import FloatArray, Pair
from .quiet import import_openvino
from .shapes import recurring
from .streams import streams

_ROUNDS_TO = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoEngine:
    """Pads a batch to a shape that comes again (shapes.py) and runs it once."""

    def __init__(self, folder: Path, graph: Path, precision: Literal["fp32", "bf16", "int8"], threads: int) -> None:
        """
        Args:
            folder: the model's, for its tokenizer and labels.
            graph: its export (export.py), or for int8 what quantise.py made of that.
            threads: CPU threads, which its streams share.
        """
        self.streams = streams(threads)
        self._inputs = Inputs(folder)
        model = _compile(graph, precision, threads, self.streams)
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.streams):
            self._idle.put(model.create_infer_request())

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        return self._inputs.pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if not pairs:
            return np.empty((0, 2), np.float32)
        longest = max(pair.n_tokens for pair in pairs)
        shape = recurring(len(pairs), longest, self._inputs.tokens.max_tokens)
        request = self._idle.get()
        try:
            request.infer(self._inputs.rows(pairs, shape), share_inputs=True)
            return self._inputs.table(request.get_output_tensor(0).data[: len(pairs)])
        finally:
            self._idle.put(request)


def _compile(graph: Path, precision: str, threads: int, streams: int) -> Any:
    core = import_openvino().Core()
    options = {
        "INFERENCE_PRECISION_HINT": _ROUNDS_TO[precision],  # else bf16 wherever the CPU has it, unasked
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # no scales that are found while it runs
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # replicas on one machine would all pin themselves to its first cores
    }
    return core.compile_model(core.read_model(graph), "CPU", options)
