"""The import rules of docs/architecture.md, as data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Who may import what of ours, besides itself. `deployments` alone stands for its Ray files.
ALLOWED = {
    "deployments.contract": set(),
    "deployments.core": set(),
    "deployments.engines": {"deployments.contract", "deployments.core"},
    "deployments.web": {"deployments.contract", "deployments.core"},
    "deployments.runtime": {"deployments.contract", "deployments.core", "deployments.engines"},
    "deployments": {
        "deployments.contract",
        "deployments.core",
        "deployments.engines",
        "deployments.runtime",
        "deployments.web",
    },
    "clients": {"deployments.contract"},
    "clients.commands": {"deployments.contract", "deployments.engines"},
    "clients.examples": {"clients", "deployments.contract", "deployments.core", "deployments.engines"},
}
# What the pure parts never see.
FOREIGN = {
    "deployments.contract": {"ray", "torch", "transformers", "numpy", "starlette"},
    "deployments.core": {"ray", "torch", "transformers", "starlette", "pydantic", "time", "threading", "asyncio"},
    "deployments.engines": {"ray", "starlette"},
    "deployments.runtime": {"ray", "torch", "transformers", "starlette"},
    "deployments.web": {"ray", "torch", "transformers"},
    "clients": {"ray", "torch", "transformers", "numpy", "starlette", "yaml", "huggingface_hub"},  # the base install
    "clients.examples": {"torch", "transformers", "starlette"},
}
GRAPH = "deployments/graph.py"  # wires the Ray files, so it imports them
HANDLE = "clients/handle.py"  # the one file of the clients that may import Ray
CLI = "clients/cli.py"  # imports a command inside the function that is it
PACKAGES = {"deployments", "clients", *ALLOWED}  # what is imported from these may be a module
FILES = sorted(p.relative_to(ROOT) for top in ("deployments", "clients") for p in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_only_what_its_part_may_see(file: Path) -> None:
    part = _part(".".join(file.with_suffix("").parts))

    for module in _imports(file, top_level_only=str(file) == CLI):
        ours = module.split(".")[0] in ("deployments", "clients")
        if ours and _part(module) != part and str(file) != GRAPH:
            assert _part(module) in ALLOWED[part], f"{file} imports {module}"
        foreign = FOREIGN.get(part, set()) - ({"ray"} if str(file) == HANDLE else set())
        assert module.split(".")[0] not in foreign, f"{file} imports {module}"


def test_only_the_graph_imports_other_ray_files() -> None:
    ray_files = {f"deployments.{p.stem}" for p in (ROOT / "deployments").glob("*.py")} - {"deployments.__init__"}

    for file in (ROOT / "deployments").glob("*.py"):
        if file.name != "graph.py":
            assert not ray_files & set(_imports(file.relative_to(ROOT))), file


def test_the_command_line_imports_only_its_commands_inside_them() -> None:
    inside = set(_imports(Path(CLI))) - set(_imports(Path(CLI), top_level_only=True))

    assert inside
    for module in inside - {"yaml"}:
        assert _part(module) == "clients.commands", module


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from ..engines import run", "deployments.engines.run"),
        ("from .wire import Words", "deployments.contract.wire"),
        ("from . import wire", "deployments.contract.wire"),
        ("from ..engines.run import run", "deployments.engines.run"),
        ("from deployments import classifier", "deployments.classifier"),
        ("import deployments.web.app", "deployments.web.app"),
    ],
)
def test_every_way_to_import_is_seen(line: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deployments" / "contract" / "args.py"
    file.parent.mkdir(parents=True)
    file.write_text(line)
    monkeypatch.setattr("tests.test_imports.ROOT", tmp_path)

    assert list(_imports(file.relative_to(tmp_path))) == [module]


def _part(module: str) -> str:
    """`deployments.web.app` -> `deployments.web`; `deployments.ingress` -> `deployments`."""
    return next((part for part in ALLOWED if "." in part and f"{module}.".startswith(f"{part}.")), module.split(".")[0])


def _imports(file: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse((ROOT / file).read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = file.parts[: len(file.parts) - node.level]
                base = ".".join([*home, base] if base else home)
            yield from (f"{base}.{a.name}" if base in PACKAGES else base for a in node.names)
