"""The command line, `nli-serve`. The base install runs it; each command imports what of the server it needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from deployments.contract.args import ModelArgs

CONFIG = click.argument(
    "config", type=click.Path(path_type=Path, dir_okay=False), default=Path("serve_config.yaml"), required=False
)
KEY_ID = click.argument("id")
KEY_FILE = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key file; without it, args.keys_file of the config.",
)
KEY_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("serve_config.yaml"),
    show_default=True,
    help="The config that names it.",
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
    """Fetch the configured model, and convert it for its engine; exit 3 when the Hub cannot be reached."""
    with _server_install():
        _check(config)
        from .commands.service import read_service

        model = read_service(config).model
        sys.exit(_pull(model) or _convert(model))


@main.command()
@CONFIG
def tune(config: Path) -> None:
    """Measure every engine of this machine for the configured model; takes minutes, changes no file.

    Prints how many text-label pairs a second each computes and how far it moves scores, then what to configure.
    """
    with _server_install():
        _check(config)
        from .commands.service import read_service
        from .commands.tune import TuneRefused, tune

        try:
            tune(read_service(config).model, Console())
        except TuneRefused as error:
            _fail(str(error))


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
        if status := _convert(service.model):
            sys.exit(status)
        try:
            sys.exit(launch(service, plain=plain, console=console))
        except LaunchFailed as error:
            _fail(str(error))


@main.group()
def keys() -> None:
    """API keys: who may call the service.

    Running replicas follow the key file: a new key works, and a revoked one no longer does, within 5 seconds.
    """


@keys.command("create")
@click.option("--tenant", required=True, metavar="NAME", help="Whose key it is.")
@click.option("--tier", metavar="NAME", help="Which limits it has; without it, the default ones.")
@click.option("--expires", metavar="TIME", help="How long it works: 30m, 12h, 90d or 4w; without it, for ever.")
@KEY_FILE
@KEY_CONFIG
def keys_create(tenant: str, tier: str | None, expires: str | None, file: Path | None, config: Path) -> None:
    """Make a key and print it, once: KEY=$(nli-serve keys create --tenant NAME)."""
    with _keys_told():
        from .commands.keys import create

        path = _key_file(file, config)
        record, token = create(path, tenant, tier, expires, _now())
        _show(f"Key {record.id} of {record.tenant} is in {path}.", token)


@keys.command("list")
@KEY_FILE
@KEY_CONFIG
def keys_list(file: Path | None, config: Path) -> None:
    """Show the keys, without anything secret; times are in UTC."""
    with _keys_told():
        from .commands.keys import load, table

        click.echo(table(load(_key_file(file, config)), _now()))


@keys.command("revoke")
@KEY_ID
@KEY_FILE
@KEY_CONFIG
def keys_revoke(id: str, file: Path | None, config: Path) -> None:
    """Let a key open no door any more, for ever."""
    with _keys_told():
        from .commands.keys import revoke

        record = revoke(_key_file(file, config), id)
        console.print(f"Key {record.id} of {record.tenant} is revoked.", highlight=False, markup=False, soft_wrap=True)


@keys.command("rotate")
@KEY_ID
@KEY_FILE
@KEY_CONFIG
def keys_rotate(id: str, file: Path | None, config: Path) -> None:
    """Give a key another secret and print the key, once.

    The old secret stops working within 5 seconds. For a change without a gap, create a second key for the same
    tenant, hand it out, then revoke the first.
    """
    with _keys_told():
        from .commands.keys import rotate

        path = _key_file(file, config)
        record, token = rotate(path, id, _now())
        _show(f"Key {record.id} of {record.tenant} has a new secret in {path}.", token)


def _key_file(file: Path | None, config: Path) -> Path:
    from .commands.keys import configured

    return file or configured(config)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _show(what: str, token: str) -> None:
    """The token alone on stdout, so that a shell can take it."""
    told = f"{what} It is shown this once; callers send it as `Authorization: Bearer nli_...`:"
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    click.echo(token)


@contextmanager
def _keys_told() -> Iterator[None]:
    with _server_install():
        from .commands.keys import KeysRefused

        try:
            yield
        except KeysRefused as error:
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


def _convert(model: ModelArgs) -> int:
    """Make what the engine reads beside the weights, if anything, so that replicas need not; 0 or 1, told."""
    from .commands.convert import ConvertFailed, convert

    try:
        convert(model, console)
    except ConvertFailed as error:
        console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
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
