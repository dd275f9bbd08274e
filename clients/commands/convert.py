"""What the configured engine reads beside the weights: made here, once, where somebody watches.

A replica would make it too, while its first callers wait.
"""

from __future__ import annotations

from rich.console import Console

from deployments.contract.args import ModelArgs
from deployments.contract.model import ServedModel
from deployments.engines.convert.graph import needs_graph
from deployments.engines.refusal import StartRefused
from deployments.engines.resolve import convert as make
from deployments.engines.resolve import resolve


class ConvertFailed(Exception):
    """Why the engine cannot be used; the message is for the user."""


def convert(model: ModelArgs, console: Console) -> None:
    """Export or quantise the model, unless its engine reads the weights themselves or the cache has it.

    Raises:
        ConvertFailed: it cannot be done here.
    """
    try:
        served: ServedModel = resolve(model)
        if needs_graph(served.engine):
            with console.status(f"Converting {served.name} for {served.engine}, once"):
                path = make(served, model)
            console.print(f"{served.engine} is ready: {path}", highlight=False, soft_wrap=True)
    except StartRefused as error:
        raise ConvertFailed(str(error)) from error
