"""Writes what a machine can say about the service: `make docs`. A test fails when the files are stale.

Between `<!-- NAME -->` and `<!-- /NAME -->` in docs/operations.md stands what the function of that name returns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner
from pydantic import BaseModel

from clients.cli import main
from deployments.contract.args import AppArgs, ClassifierConfig
from deployments.contract.limits import IngressConfig
from deployments.web.openapi import document

DOCS = Path(__file__).parent


def files() -> dict[Path, str]:
    """Every file with something generated in it, as it should be."""
    operations = DOCS / "operations.md"
    text = operations.read_text()
    for name, content in (("config", config()), ("commands", commands())):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        after = rest.partition(f"<!-- /{name} -->\n")[2]
        text = f"{before}<!-- {name} -->\n{content}\n<!-- /{name} -->\n{after}"
    openapi = json.dumps(document(AppArgs(auth="off")), indent=2, ensure_ascii=False)
    return {operations: text, DOCS / "openapi.json": openapi + "\n"}


def config() -> str:
    """A table of every field of `args` and `user_config`."""
    rows = [
        *_rows(AppArgs.model_construct(), "args"),  # as no file is complete without a key file, or `auth: off`
        *_rows(IngressConfig(), "Ingress.user_config"),
        *_rows(ClassifierConfig(), "Classifier.user_config"),
    ]
    return "\n".join(["| key | default | what |", "|---|---|---|", *rows])


def commands() -> str:
    """The help of each command, those inside a group after it."""
    return "\n\n".join(f"```\n{_help(words)}\n```" for words in _words(main, ["nli-serve"]))


def _rows(defaults: BaseModel, path: str) -> Iterator[str]:
    """One for each field, with what holds where the file leaves out all of it."""
    for name, field in type(defaults).model_fields.items():
        key, default = f"{path}.{name}", getattr(defaults, name)
        if not isinstance(default, BaseModel):
            yield f"| `{key}` | `{json.dumps(default)}` | {field.description} |"
            continue
        if not isinstance(field.annotation, type):  # what else may stand here, only its description says
            yield f"| `{key}` | as follows | {field.description} |"
        yield from _rows(default, key)


def _words(command: click.Command, words: list[str]) -> Iterator[list[str]]:
    yield words
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from _words(inner, [*words, name])


def _help(words: list[str]) -> str:
    result = CliRunner().invoke(main, [*words[1:], "--help"], prog_name=words[0], terminal_width=100)
    return f"$ {' '.join(words)} --help\n{result.output}".rstrip()


if __name__ == "__main__":
    for file, content in files().items():
        file.write_text(content)
