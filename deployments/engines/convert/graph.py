"""The file that an engine of another library reads: made of the model's folder once, then taken from the cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from huggingface_hub import constants

from deployments.contract.model import EngineName

from ..samples import digest
from .cache import converted, key

EXPORTED_BY = ("torch", "transformers")
QUANTISED_BY = ("openvino", "nncf")
ONNX = "model.onnx"
OPENVINO = "model.xml"  # and model.bin, its weights
RECIPE = "1"  # counted up when a change of this folder makes other graphs


def default_cache() -> Path:
    """Beside what huggingface_hub keeps."""
    return Path(constants.HF_HOME, "nli-serve")


def needs_graph(engine: EngineName) -> bool:
    """Whether the engine reads anything but the model's own files."""
    return engine.startswith(("onnx", "openvino"))


def graph(engine: EngineName, folder: Path, threads: int, cache: Path) -> Path:
    """The file to load, made now if the cache does not have it.

    Args:
        engine: one that `needs_graph`.
        folder: the model's.
        threads: CPU threads to make it with.
        cache: may be deleted at any time.

    Raises:
        StartRefused: it cannot be made, or not be written.
    """
    if engine == "onnx-fp32":
        name = key(folder, f"onnx-{RECIPE}", EXPORTED_BY)
        return converted(cache, name, partial(_export_onnx, folder, threads)) / ONNX
    name = key(folder, f"openvino-{RECIPE}", (*EXPORTED_BY, "openvino"))
    exported = converted(cache, name, partial(_export_openvino, folder, threads)) / OPENVINO
    if engine != "openvino-int8":
        return exported
    name = key(folder, f"openvino-int8-{RECIPE}-{digest()}", (*EXPORTED_BY, *QUANTISED_BY))
    return converted(cache, name, partial(_quantise, folder, exported)) / OPENVINO


# Each imports what it needs, as a machine may have one of the libraries only.


def _export_onnx(folder: Path, threads: int, into: Path) -> None:
    from .onnx import export

    export(folder, threads, into / ONNX)


def _export_openvino(folder: Path, threads: int, into: Path) -> None:
    from .openvino import export

    export(folder, threads, into / OPENVINO)


def _quantise(folder: Path, exported: Path, into: Path) -> None:
    from .int8 import quantise

    quantise(folder, exported, into / OPENVINO)
