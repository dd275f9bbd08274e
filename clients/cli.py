"""The command line, `nli-serve`. The base install runs it; each command imports what of the server it needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from deployments.contract.args import ModelArgs

CONFIG = click.argument(
    "config", type=click.Path(path_type=Path, dir_okay=False), default=Path("serve_config.yaml"), required=False
)
SERVER = {"filelock", "huggingface_hub", "numpy", "ray", "starlette", "torch", "transformers", "yaml"}
UNREACHABLE = 3  # exit code of `pull`: the Hub, not the request, is the reason

console = Console(stderr=True)


@click.group()
@click.version_option(package_name="nli-serve")
def main() -> None:
    """Self-hosted zero-shot text classification on Ray Serve."""


@main.command()
@CONFIG
def check(config: Path) -> None:
    """Refuse a config file that would not do what it says."""
    with _server_install():
        _check(config)
    console.print(f"{config} is sound", highlight=False, markup=False)


@main.command()
@CONFIG
def pull(config: Path) -> None:
    """Fetch the configured model; exit 3 when the Hub cannot be reached."""
    with _server_install():
        _check(config)
        from .commands.service import read_service

        sys.exit(_pull(read_service(config).model))


@main.command()
@CONFIG
@click.option("--plain", is_flag=True, help="Serve's own proxy instead of HAProxy.")
def up(config: Path, plain: bool) -> None:
    """Check, fetch, serve, and say how to call it; Ctrl-C stops."""
    with _server_install():
        _check(config)
        from .commands.launch import launch
        from .commands.readiness import LaunchFailed
        from .commands.service import read_service

        service = read_service(config)
        _pull_or_fall_back(service.model)
        try:
            sys.exit(launch(service, plain=plain, console=console))
        except LaunchFailed as error:
            _fail(str(error))


def _check(config: Path) -> None:
    from .commands.capacity import supply
    from .commands.check import check

    try:
        problems = check(config, supply)
    except OSError as error:
        _fail(f"{config} cannot be read: {error.strerror}")
    if problems:
        _fail("\n".join(problems))


def _pull_or_fall_back(model: ModelArgs) -> None:
    if _pull(model) == 0:
        return
    if model.fallback is None:
        _fail("model.fallback is null, so nothing can answer without the model")
    console.print(f"Going on with the fallback, model.fallback: {model.fallback}.", style="yellow")


def _pull(model: ModelArgs) -> int:
    """0, or the exit code of what went wrong, which has been told."""
    from .commands.pull import HubUnreachable, PullFailed, pull

    try:
        pull(model, console)
    except PullFailed as error:
        console.print(str(error), style="yellow", highlight=False, markup=False, soft_wrap=True)
        return UNREACHABLE if isinstance(error, HubUnreachable) else 1
    return 0


@contextmanager
def _server_install() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in SERVER:
            raise
        _fail(f"this command needs the server ({error.name} is missing): pip install 'nli-serve[server]'")


def _fail(message: str) -> None:
    console.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
