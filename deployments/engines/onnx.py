"""The NLI cross-encoder on ONNX Runtime: fp32 on the CPU, its logits those of torch within rounding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from .inputs import Inputs
from .protocol import FloatArray, Pair
from .streams import streams


class OnnxEngine:
    """Pads a batch to its longest pair and runs it once."""

    def __init__(self, folder: Path, graph: Path, threads: int) -> None:
        """
        Args:
            folder: the model's, for its tokenizer and labels.
            graph: its export (export.py).
            threads: CPU threads, which its streams share.
        """
        self.streams = streams(threads)
        self._inputs = Inputs(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads - self.streams + 1  # a pool for all streams, beside the callers
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it plans memory for one shape, and no two batches have the same
        options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave others the cores
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        return self._inputs.pairs(texts, hypotheses)

    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if not pairs:
            return np.empty((0, 2), np.float32)
        (raw,) = self._session.run(["logits"], self._inputs.rows(pairs))
        return self._inputs.table(raw)
