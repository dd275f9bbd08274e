"""The export that OpenVINO reads, in fp32: it rounds to bf16 itself, when it loads."""

from __future__ import annotations

from pathlib import Path

from ..openvino import OpenVinoEngine
from ..quiet import import_openvino
from ..torch import Device, TorchEngine
from .traced import compare, example, tracing


def export(folder: Path, threads: int, file: Path) -> None:
    """Write the graph of the model in a folder.

    Raises:
        StartRefused: the model cannot be exported, or the graph's logits are not torch's.
    """
    reference = TorchEngine(folder, "fp32", Device("cpu", threads=threads))
    openvino = import_openvino()
    with tracing("openvino"):
        graph = openvino.convert_model(reference.model, example_input=example(folder))
        openvino.save_model(graph, file, compress_to_fp16=False)
        engine = OpenVinoEngine(folder, file, "fp32", threads)
    compare("openvino", reference, engine)
