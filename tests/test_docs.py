"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import files

ROOT = Path(__file__).parent.parent
PAGES = sorted(page for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("file", files(), ids=lambda file: file.name)
def test_what_is_generated_is_fresh(file: Path) -> None:
    assert file.read_text() == files()[file], "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_path_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text)]
    paths = re.findall(r"`((?:docs|tests|deployments|clients|benchmarks)/[\w./-]+)`", text)

    assert [link for link in links if link and not (page.parent / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_command_of_the_makefile_is_in_the_readme() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {target for target in targets if f"make {target}" not in (ROOT / "README.md").read_text()} == set()
