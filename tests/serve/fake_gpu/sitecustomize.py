"""On the path of a node that offers GPUs which are none: there the engine's CUDA device is the CPU.

Python imports this by itself at the start of each process, so it must be quick, and import no torch.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

PATCHED = "deployments.engines.torch"


class Finder:
    """Finds the true module, and changes one function once it is loaded."""

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name != PATCHED:
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            module.prepare = _prepare  # type: ignore[attr-defined]

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def _prepare(device: object, streams: int = 1) -> object:
    import torch

    return torch.device("cpu")


sys.meta_path.insert(0, Finder)
