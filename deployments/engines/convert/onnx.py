"""The export that ONNX Runtime reads."""

from __future__ import annotations

from pathlib import Path

import torch

from ..onnx import OnnxEngine
from ..torch import Device, TorchEngine
from .traced import compare, example, tracing

OPSET = 17  # the first with LayerNormalization as one operator


def export(folder: Path, threads: int, file: Path) -> None:
    """Write the graph of the model in a folder.

    Raises:
        StartRefused: the model cannot be exported, or the graph's logits are not torch's.
    """
    reference = TorchEngine(folder, "fp32", Device("cpu", threads=threads))
    inputs = example(folder)
    with tracing("onnx"):
        torch.onnx.export(
            reference.model,
            (),
            file,
            kwargs=inputs,
            dynamo=False,  # torch's newer exporter needs two more packages
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={name: {0: "pair", 1: "token"} for name in inputs},
        )
        engine = OnnxEngine(folder, file, threads)
    compare("onnx", reference, engine)
