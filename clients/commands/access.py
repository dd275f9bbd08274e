"""Who is let in, and for how much: the key file and the limits held against the rest of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from clients.commands.document import KeyPath, Problem
from clients.commands.parts import APP, args, mapping, named, number
from deployments.contract.args import CapsArgs
from deployments.contract.keys import KeyFile, parse
from deployments.contract.limits import IngressConfig

_Model = TypeVar("_Model", bound=BaseModel)


def contradictions(data: object, now: datetime) -> Iterator[Problem]:
    """What cannot be used, or never comes to bear.

    Args:
        now: keys that open no door any more need no tier.
    """
    path, ingress = named("Ingress", data)
    path = (*path, "user_config")
    caps = mapping(args(data), "caps")
    yield from _out_of_reach(mapping(ingress, "user_config"), path, caps)
    config = _sound(IngressConfig, ingress.get("user_config") or {})
    if config:
        yield from _too_small(config, path, _sound(CapsArgs, caps))
    if file := _keys_file(data):
        yield from _wrong_keys(file, config, path, now)


def _too_small(config: IngressConfig, path: KeyPath, caps: CapsArgs | None) -> Iterator[Problem]:
    if caps and (found := config.too_small(caps)):
        field, what = found
        yield Problem((*path, *field.split(".")), what)


def _out_of_reach(config: Mapping[str, Any], path: KeyPath, caps: Mapping[str, Any]) -> Iterator[Problem]:
    """What the file says, sound or not; the default is no promise, so a low cap need not change it."""
    most = number(caps.get("max_in_flight"), default=CapsArgs().max_in_flight)
    for level in (("caller",), *(("tiers", str(name)) for name in mapping(config, "tiers"))):
        asked = number(mapping(config, *level).get("max_concurrent"), default=0)
        if asked > most:
            yield Problem(
                (*path, *level, "max_concurrent"),
                f"{asked}, but args.caps.max_in_flight is {most} for all callers together, so nobody gets that far;"
                f" set {most} or less, or raise the cap",
            )


def _keys_file(data: object) -> Path | None:
    """The one that replicas will read."""
    file = args(data).get("keys_file")
    required = args(data).get("auth", "required") == "required"
    return Path(file) if required and isinstance(file, str) and file.startswith("/") else None


def _wrong_keys(file: Path, config: IngressConfig | None, path: KeyPath, now: datetime) -> Iterator[Problem]:
    try:
        keys = parse(file.read_bytes())
    except (OSError, ValueError) as error:
        yield Problem((*APP, 0, "args", "keys_file"), _unusable(file, error))
        return
    for tier, ids in _missing_tiers(keys, config, now).items() if config else ():
        yield Problem(
            (*path, "tiers", tier),
            f"not there, but {file} has it as the tier of {', '.join(ids)}; add it, or revoke the key and make another:"
            " until then the limits of `caller` hold for it",
        )


def _unusable(file: Path, error: OSError | ValueError) -> str:
    make = f"`nli-serve keys create --file {file} --tenant NAME`"
    if isinstance(error, FileNotFoundError):
        return f"there is no {file}; make it with {make}"
    why = error.strerror if isinstance(error, OSError) else error
    return f"{file} cannot be used: {why}; mend it, or move it away and make a new one with {make}"


def _missing_tiers(keys: KeyFile, config: IngressConfig, now: datetime) -> dict[str, list[str]]:
    """And the ids of the keys that name them."""
    missing: dict[str, list[str]] = {}
    for key in keys.keys:
        if key.tier is not None and key.tier not in config.tiers and key.refusal(now) is None:
            missing.setdefault(key.tier, []).append(key.id)
    return missing


def _sound(model: type[_Model], value: object) -> _Model | None:
    """None: another question says what is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError:
        return None
