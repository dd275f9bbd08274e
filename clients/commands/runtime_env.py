"""What is wrong with the `runtime_env` of the application or of a deployment.

Ray looks at it only when a replica is about to start, and then waits or tries again; here Ray's own check runs
beforehand, option by option. It lets a misspelt variable pass, so those that the service reads are checked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ray.runtime_env import RuntimeEnv, RuntimeEnvConfig

from clients.commands.document import KeyPath, Problem
from clients.commands.parts import APP, application, deployments, options
from clients.commands.spelling import Level, close, unknown_keys

ENV_VARS = ("HF_HUB_OFFLINE", "FORWARDED_ALLOW_IPS")  # free names, but nothing else says that one of these is misspelt
# As ray/_private/runtime_env/validation.py spells them out.
PIP = ("packages", "pip_check", "pip_install_options", "pip_version")
UV = ("packages", "uv_check", "uv_pip_install_options", "uv_version")

LEVEL = Level(
    {name: None for name in sorted(RuntimeEnv.known_fields) if not name.startswith("_")}
    | {
        "pip": Level(dict.fromkeys(PIP), or_other=True),
        "uv": Level(dict.fromkeys(UV), or_other=True),
        "config": Level(dict.fromkeys(sorted(RuntimeEnvConfig.known_fields))),
    }
)


def wrong_runtime_envs(data: object) -> Iterator[Problem]:
    """What Ray would refuse later, and variables that nothing reads."""
    holders = [((*APP, 0), application(data))]
    holders += [((*path, "ray_actor_options"), options(deployment)) for path, deployment in deployments(data)]
    for path, holder in holders:
        env = holder.get("runtime_env")
        if isinstance(env, dict):
            yield from _wrong_options(env, (*path, "runtime_env"))
            yield from _wrong_env_vars(env.get("env_vars", {}), (*path, "runtime_env", "env_vars"))


def _wrong_options(env: Mapping[str, Any], path: KeyPath) -> Iterator[Problem]:
    known = {option: value for option, value in env.items() if option in LEVEL.keys and option != "env_vars"}
    refused = {option: what for option, value in known.items() if (what := _refusal({option: value}))}
    for option, what in refused.items():
        if not any(unknown_keys({option: known[option]}, LEVEL)):  # spelling.py says that better
            yield Problem((*path, option), what)
    if not refused and (what := _refusal(known)):
        yield Problem(path, what)


def _refusal(env: Mapping[str, Any]) -> str | None:
    """What Ray says against it, in one line."""
    try:
        RuntimeEnv(**env)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def _wrong_env_vars(env_vars: object, path: KeyPath) -> Iterator[Problem]:
    if not isinstance(env_vars, dict):
        yield Problem(path, f"expected a mapping of names to strings, got {env_vars!r}; remove it or set {{}}")
        return
    for name, value in env_vars.items():
        near = close(str(name), ENV_VARS, cutoff=0.85)
        if near not in (None, name):
            yield Problem((*path, str(name)), f"nothing reads this variable; did you mean {near}?")
        elif not isinstance(value, str):
            yield Problem((*path, str(name)), f"should be a string, got {value!r}; put it in quotes")
