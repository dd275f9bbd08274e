"""The files of a model's folder: which there must be, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

WHOLE = "model.safetensors"


def is_model(folder: Path) -> bool:
    """Whether everything that loading needs is there: a download may have been cut short."""
    return all((folder / name).is_file() for name in needed(folder))


def needed(folder: Path) -> list[str]:
    """The configuration, the tokenizer, and the weights."""
    return ["config.json", "tokenizer.json", *_weights(folder)]


def sha256(file: Path) -> str:
    """Of its content, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _weights(folder: Path) -> list[str]:
    """One file, which transformers prefers, or the shards that an index names."""
    index = folder / f"{WHOLE}.index.json"
    if (folder / WHOLE).is_file() or not index.is_file():
        return [WHOLE]
    try:
        return sorted({str(shard) for shard in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):  # cut short
        return [WHOLE]
