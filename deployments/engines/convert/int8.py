"""The exported model with int8 weights and activations, by scales that are fixed here, once.

A static scale is taken over the calibration pairs of samples.py, and holds for every pair to come: a pair's logits
do not depend on its neighbours. NNCF leaves out what a transformer cannot do in int8 (softmax, norms, the mask).
Source: NNCF, `nncf.quantize` with `ModelType.TRANSFORMER`: SmoothQuant, and bias correction.
"""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path

from .. import samples
from ..inputs import Inputs
from ..quiet import import_nncf, import_openvino


def quantise(folder: Path, graph: Path, file: Path) -> None:
    """Write the quantised graph.

    Args:
        folder: the model's, for its tokenizer.
        graph: its export for OpenVINO, in fp32.
    """
    openvino, nncf = import_openvino(), import_nncf()
    inputs = Inputs(folder)
    pairs = [pair for sample in samples.CALIBRATION for pair in inputs.pairs([sample.text], sample.hypotheses)[0]]
    data = nncf.Dataset([inputs.rows([pair]) for pair in pairs])  # one by one: padding would count as text
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it draws bars, into a replica's log too
        warnings.simplefilter("ignore")
        model = nncf.quantize(
            openvino.Core().read_model(graph),
            data,
            model_type=nncf.ModelType.TRANSFORMER,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(pairs),
        )
    openvino.save_model(model, file, compress_to_fp16=False)
