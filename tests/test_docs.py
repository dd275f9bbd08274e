"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployments.contract.args import DEFAULT_REVISION
from docs.generate import config, files

ROOT = Path(__file__).parent.parent
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("k8s/*.md")])


@pytest.mark.parametrize("file", files(), ids=lambda file: file.name)
def test_what_is_generated_is_fresh(file: Path) -> None:
    assert file.read_text() == files()[file], "run `make docs`"


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("args.auth", '"required"'),
        ("args.model.revision", f'"{DEFAULT_REVISION}"'),
        ("Ingress.user_config.caller.requests.limit", "20"),
        ("Ingress.user_config.caller.requests.window_s", "1"),
        ("Ingress.user_config.caller.pairs.burst", "8192"),
        ("Ingress.user_config.service.pairs", "null"),
        ("Ingress.user_config.tiers", "{}"),
    ],
)
def test_the_default_of_a_key_is_what_holds_without_it(key: str, default: str) -> None:
    assert f"| `{key}` | `{default}` |" in config()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_path_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text)]
    paths = re.findall(r"`((?:docs|tests|deployments|clients|benchmarks|k8s)/[\w./-]+)`", text)

    assert [link for link in links if link and not (page.parent / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_command_of_the_makefile_is_in_the_readme() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {target for target in targets if f"make {target}" not in (ROOT / "README.md").read_text()} == set()


def test_every_promise_to_python_callers_names_a_test_that_is_there() -> None:
    named = re.findall(r"`(tests/[\w/.]+)` `(test_\w+)` \|", (ROOT / "docs" / "python.md").read_text())

    assert len(named) > 20
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text()] == []
