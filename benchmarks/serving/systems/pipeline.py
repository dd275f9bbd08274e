"""transformers' zero-shot pipeline, as the peers wrap it."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import pipeline

BATCH_SIZES = {"cpu": (1, 8, 16, 64), "cuda": (1, 16, 64, 256)}
ROUNDS = 3


class Setting(NamedTuple):
    """How the pipeline is run."""

    batch_size: int
    threads: int
    at_a_time: int
    """Requests in it; 0: as many as come."""

    device: str = "cpu"
    precision: str = "fp32"
    processes: int = 1


def load(folder: str, setting: Setting) -> Any:
    """The pipeline."""
    torch.set_num_threads(setting.threads)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[setting.precision]
    return pipeline("zero-shot-classification", model=folder, device=setting.device, dtype=dtype)


def ask(pipe: Any, texts: list[str], labels: list[str], batch_size: int) -> list[list[float]]:
    """For each text its scores in the order of the labels; the pipeline sorts them by size."""
    found = pipe(texts, labels, batch_size=batch_size)
    by_label = (dict(zip(one["labels"], one["scores"], strict=True)) for one in found)
    return [[scores[label] for label in labels] for scores in by_label]


def cores() -> int:
    return os.cpu_count() or 1


def best(
    folder: Path, texts: Sequence[str], labels: Sequence[str], device: str
) -> tuple[Setting, dict[Setting, float]]:
    """The fastest of several batch sizes, one request at a time on all cores or one for each core; and all rates.

    In pairs/s, medians of some rounds in which they take turns: one look was decided by noise. On a GPU in fp16, and
    two requests at a time.
    """
    found = defaultdict[Setting, list[float]](list)
    ways = {"cpu": ((cores(), 1), (1, cores())), "cuda": ((1, 1), (1, 2))}[device]
    precision = "fp16" if device == "cuda" else "fp32"
    settings = [Setting(size, *way, device, precision) for way in ways for size in BATCH_SIZES[device]]
    pipe = load(str(folder), settings[0])
    ask(pipe, list(texts), list(labels), settings[-1].batch_size)
    for setting in settings * ROUNDS:
        torch.set_num_threads(setting.threads)
        parts = [list(texts[i :: setting.at_a_time]) for i in range(setting.at_a_time)]
        with ThreadPoolExecutor(setting.at_a_time) as pool:  # its threads take over the number that was set
            started = time.perf_counter()
            list(pool.map(lambda part: ask(pipe, part, list(labels), setting.batch_size), parts))  # noqa: B023
            found[setting].append(len(texts) * len(labels) / (time.perf_counter() - started))
    torch.set_num_threads(cores())
    rates = {setting: statistics.median(some) for setting, some in found.items()}
    return max(rates, key=lambda setting: rates[setting]), rates
