"""`nli-serve up` without its check and its pull, so that it takes a graph around an engine of a test."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from clients.commands.launch import launch
from clients.commands.service import Service
from deployments.contract.args import EMBEDDED, ModelArgs


def main(config: str, port: str) -> int:
    """Serve the config, on the port that it names, until a signal; the exit code."""
    model = ModelArgs(name=EMBEDDED)  # is always there; which one answers is for the config to say
    service = Service(Path(config), "nli", "127.0.0.1", int(port), model, needs_key=False)
    return launch(service, plain=False, console=Console(stderr=True))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
