"""Which model really answers: decided once per deployment, before any replica starts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

EngineName = Literal[
    "torch-fp32",
    "torch-bf16",
    "torch-fp16",
    "onnx-fp32",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
    "embedding-fp32",
]
"""A library and a precision."""


class ServedModel(BaseModel):
    """The model behind every answer, as callers see it in `/v1/models`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """A Hub id, a folder, or `sentence-transformers/all-MiniLM-L6-v2` for the embedded model."""

    revision: str | None
    """The commit of a Hub id."""

    engine: EngineName
    """How it is computed."""

    fallback: bool
    """True when the configured model was not on this machine, and the embedded one answers for it."""

    template: str
    """The hypothesis template of requests that bring none."""
