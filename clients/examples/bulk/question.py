"""What is asked of every text, and of which model: the service's own rules for labels, template, text and config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.contract.args import CapsArgs, ModelArgs
from deployments.contract.decode import decode, parse_json
from deployments.contract.errors import InvalidRequest, ServiceError
from deployments.contract.wire import ClassifyRequest

from .formats import Unreadable
from .refusal import JobRefused

CAPS = CapsArgs(max_text_chars=sys.maxsize, max_body_bytes=sys.maxsize)  # of labels the service's, of texts none


def question(labels: object, *, multi_label: bool, template: str | None) -> ClassifyRequest:
    """A request about a text that is still to come.

    Raises:
        JobRefused: the service would refuse it, and in the same words.
    """
    options = {"labels": labels, "multi_label": multi_label, "template": template}
    try:
        return decode({"text": "-", **options}, CAPS)
    except ServiceError as error:
        raise JobRefused(str(error)) from None


def labels_of(listed: str | None, file: Path | None) -> object:
    """The labels of `--labels a,b` or of `--labels-file`, JSON as in a request, still to be checked."""
    if (listed is None) == (file is None):
        raise JobRefused("say either --labels or --labels-file")
    if file is None:
        return [label.strip() for label in (listed or "").split(",")]
    try:
        return parse_json(file.read_bytes())
    except (OSError, ServiceError) as error:
        raise JobRefused(f"{file} cannot be read: {error}") from None


def text_of(cell: object) -> str | Unreadable:
    """The text, where the service would take it."""
    if isinstance(cell, Unreadable):
        return cell
    try:
        return decode({"text": [cell], "labels": ["-"]}, CAPS).texts[0]
    except InvalidRequest as error:
        text = cell if isinstance(cell, str) and not cell.strip() else None
        return Unreadable(f"the text {error.errors[0].detail}", text)


def model_args(config: Path | None) -> ModelArgs:
    """`applications[0].args.model` of a config file of the service; without a file the defaults.

    Raises:
        JobRefused: the file cannot be read, or its model is none.
    """
    if config is None:
        return ModelArgs()
    try:
        data: Any = yaml.safe_load(config.read_text())
        return ModelArgs.model_validate(data["applications"][0].get("args", {}).get("model", {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise JobRefused(f"{config}, args.model: {'.'.join(map(str, first['loc']))} {first['msg']}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JobRefused(f"{config} cannot be read: {' '.join(str(error).split())}") from None
    except (LookupError, TypeError, AttributeError):
        raise JobRefused(f"{config} has no applications[0].args.model; `nli-serve check` says more") from None
