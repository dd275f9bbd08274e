"""The NLI cross-encoder on PyTorch: any sequence classifier of transformers, CPU or CUDA."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from .cuda import Forward
from .inputs import Inputs
from .protocol import FloatArray, OutOfMemory, Pair
from .refusal import SHARE, StartRefused
from .streams import streams

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Device:
    """Where an engine computes."""

    kind: Literal["cpu", "cuda"]
    gpu_fraction: float = 0.0
    """Of the GPU's memory that this process may take; 1 or more: all of it."""

    threads: int = 1
    """CPU threads; Ray would set one, from the replica's num_cpus."""


def prepare(device: Device, streams: int = 1) -> torch.device:
    """Hold the process to its share of the machine.

    Args:
        streams: runs at a time, which share the threads.

    Raises:
        StartRefused: CUDA is wanted and not there.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(device.threads // streams)
    if device.kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StartRefused(
            f"{SHARE} asks for a part of a GPU, but torch finds no CUDA on this machine; set it to 0, or install a "
            "CUDA build of torch (TORCH_PIP_ARGS) and the NVIDIA driver"
        )
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans 8 ms for each new shape, and nearly every batch has one
    if device.gpu_fraction < 1:
        torch.cuda.set_per_process_memory_fraction(device.gpu_fraction)
    return torch.device("cuda")


class TorchEngine:
    """Runs a batch once, padded to its longest pair, or on a GPU to what `cuda.py` says."""

    def __init__(self, folder: Path, precision: Precision, device: Device) -> None:
        self.streams = streams(device.threads) if device.kind == "cpu" else 1
        self._device = prepare(device, self.streams)
        self._inputs = Inputs(folder)
        self.model = _load(folder, _DTYPES[precision]).to(self._device)
        self._cuda: Forward | None = None
        if self._device.type == "cuda":
            self._cuda = Forward(self.model, self._inputs.names, self._inputs.tokens.max_tokens)

    def pairs(self, texts: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
        return self._inputs.pairs(texts, hypotheses)

    @torch.inference_mode()
    def logits(self, pairs: Sequence[Pair]) -> FloatArray:
        if not pairs:
            return torch.empty((0, 2)).numpy()
        with memory_watched():
            table = self._inputs.table(self._raw(pairs)[: len(pairs)].float().cpu().numpy())
        return table

    def _raw(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """(n_pairs or more, n_classes), on the device."""
        if self._cuda is not None:
            shape = self._cuda.shape(len(pairs), max(pair.n_tokens for pair in pairs))
            return self._cuda(self._inputs.rows(pairs, shape))
        rows = {name: torch.from_numpy(array) for name, array in self._inputs.rows(pairs).items()}
        raw: torch.Tensor = self.model(**rows).logits
        return raw


@contextmanager
def memory_watched() -> Iterator[None]:
    """Torch's word for a full device is ours; what the failed run held is given back before the next one."""
    message = None
    try:
        yield
    except torch.OutOfMemoryError as error:
        message = str(error)
        traceback.clear_frames(error.__traceback__)  # its frames hold the activations
    if message is not None:  # outside the handler, so that no traceback hangs on what is raised
        torch.cuda.empty_cache()
        raise OutOfMemory(message)


def _load(folder: Path, dtype: torch.dtype) -> Any:
    """The model in evaluation mode; never from a pickle, never with weights made up for missing ones.

    `trust_remote_code=False` must be said: left open, transformers asks on the terminal and waits.
    """
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=dtype,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise StartRefused(
            f"{folder} lacks {len(missing)} weights, e.g. {missing[0]}: it is no trained classifier, and would score "
            "at random; choose an NLI sequence classifier"
        )
    return model.eval()
