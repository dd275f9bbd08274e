"""A config file as written: its data, the line of every key, and what is wrong with the YAML itself.

PyYAML keeps the last of two equal keys without a word, so the node tree is read as well as the data.
A path is the tuple of keys and indices that leads to a value: `("applications", 0, "name")`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One reason to refuse the file; `path` is the value that it is about, () the whole file."""

    path: KeyPath
    what: str


@dataclass(frozen=True)
class Document:
    """A config file after reading; `data` is None where the YAML could not be read."""

    name: str
    data: object = None
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    problems: Sequence[Problem] = ()

    def line(self, path: KeyPath) -> int:
        """The line, from 1, of the nearest key on the way to `path` that the file has."""
        known = (path[:length] for length in range(len(path), 0, -1) if path[:length] in self.lines)
        return self.lines[next(known, ())]

    def describe(self, problem: Problem) -> str:
        """One line: file, line, path, what is wrong."""
        where = [f"{self.name}:{self.line(problem.path)}"] if self.lines else [self.name]
        where += [dotted(problem.path)] if problem.path else []
        return ": ".join([*where, problem.what])


def dotted(path: KeyPath) -> str:
    """`applications[0].deployments[1].name`, as Serve and jq write it."""
    written = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return written.removeprefix(".")


def read(file: Path) -> Document:
    """Read a config file; what is wrong with its YAML is in `problems`, never raised.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return _parse(file.name, file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        return _unreadable(file.name, mark.line + 1 if mark else 1, what)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return _unreadable(file.name, 1, " ".join(str(error).split()))
    except RecursionError:
        return _unreadable(file.name, 1, "nested too deeply, or an alias that contains itself")


def _parse(name: str, text: str) -> Document:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            return _unreadable(name, 1, "expected a mapping of keys to values, as in `applications: [...]`")
        nodes = list(_nodes(root))
        return Document(
            name=name,
            data=loader.construct_document(root),
            lines={(): 1} | {path: key.start_mark.line + 1 for path, key in nodes},
            problems=list(_duplicates(nodes)),
        )
    finally:
        loader.dispose()


def _unreadable(name: str, line: int, what: str) -> Document:
    return Document(name, lines={(): line}, problems=[Problem((), what)])


def _nodes(node: yaml.Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, yaml.Node]]:
    """Every key of every mapping and every item of every list, in the order of the file."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key
            yield from _nodes(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item
            yield from _nodes(item, (*path, index))


def _duplicates(nodes: Sequence[tuple[KeyPath, yaml.Node]]) -> Iterator[Problem]:
    first: dict[KeyPath, int] = {}
    twice: set[KeyPath] = set()
    for path, node in nodes:
        line = node.start_mark.line + 1
        if path not in first:
            first[path] = line
        elif not any(path[:length] in twice for length in range(len(path) + 1)):  # nor what is inside it
            twice.add(path)
            yield Problem(path, f"written twice, in lines {first[path]} and {line}; keep one")
