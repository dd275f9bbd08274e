"""What a launcher needs to know of a config file that `check` has passed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deployments.contract.args import AppArgs, ModelArgs


@dataclass(frozen=True, slots=True)
class Service:
    """The address, the application's name, the model, and whether callers need a key."""

    config: Path
    name: str
    host: str
    port: int
    model: ModelArgs
    needs_key: bool

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def read_service(config: Path) -> Service:
    """Read the file once more, for itself."""
    data: dict[str, Any] = yaml.safe_load(config.read_text())
    http = data.get("http_options") or {}
    application = data["applications"][0]
    args = AppArgs.model_validate(application["args"])
    return Service(
        config=config.resolve(),
        name=application.get("name", "default"),
        host=http.get("host", "0.0.0.0"),
        port=http.get("port", 8000),
        model=args.model,
        needs_key=args.auth == "required",
    )
