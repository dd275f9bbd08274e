"""The base install, without the server's extra: only what pyproject.toml's dependencies bring is importable."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the base dependencies, and our own packages, as links."""
    folder = tmp_path_factory.mktemp("base")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in _closure(project["dependencies"]):
        for file in distribution(name).files or ():
            top = file.parts[0]
            target = Path(str(distribution(name).locate_file(top)))
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(target)
    for ours in ("clients", "deployments"):
        (folder / ours).symlink_to(ROOT / ours)
    return folder


def _closure(requirements: list[str]) -> Iterator[str]:
    seen: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        if wanted.name in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(wanted.name)
        waiting += [Requirement(text) for text in distribution(wanted.name).requires or ()]
        yield wanted.name


def _run(base: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Without site-packages: -I ignores the environment, -S adds nothing to the path."""
    start = f"import sys; sys.path.insert(0, {str(base)!r}); "
    return subprocess.run([sys.executable, "-I", "-S", "-c", start + code], capture_output=True, text=True, timeout=60)


def test_nothing_of_the_server_is_there(base: Path) -> None:
    server = ["ray", "torch", "transformers", "numpy", "yaml", "starlette", "huggingface_hub"]
    found = _run(base, f"from importlib.util import find_spec; print([m for m in {server} if find_spec(m)])")

    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_the_clients_can_be_imported(base: Path) -> None:
    result = _run(base, "import clients, deployments.contract.wire, deployments.contract.decode")

    assert (result.returncode, result.stderr) == (0, "")


def test_the_command_line_helps(base: Path) -> None:
    result = _run(base, "from clients.cli import main; main(['--help'])")

    assert result.returncode == 0, result.stderr
    for command in ("check", "keys", "pull", "tune", "up"):
        assert f"  {command} " in result.stdout


@pytest.mark.parametrize("command", [[], ["create"], ["list"], ["revoke"], ["rotate"]], ids=str)
def test_the_commands_for_keys_help(base: Path, command: list[str]) -> None:
    result = _run(base, f"from clients.cli import main; main({['keys', *command, '--help']})")

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage:")


@pytest.mark.parametrize("command", ["check", "pull", "tune", "up"])
def test_a_command_of_the_server_says_what_to_install(base: Path, command: str) -> None:
    result = _run(base, f"from clients.cli import main; main([{command!r}, {str(ROOT / 'serve_config.yaml')!r}])")

    assert result.returncode == 1
    assert "pip install 'nli-serve[server]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_keys_say_what_to_install(base: Path) -> None:
    result = _run(base, "from clients.cli import main; main(['keys', 'list'])")

    assert result.returncode == 1
    assert "pip install 'nli-serve[server]'" in result.stderr
    assert "Traceback" not in result.stderr
