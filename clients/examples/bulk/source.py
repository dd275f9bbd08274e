"""The input: which files it is, the shards that they are cut into, and the rows of a shard.

A shard is a slice of one file: what one task works on, what one output file holds, and what a kill costs at most.
The same files are always cut into the same shards. A place is a path or a URI (`s3://...`) that every machine of the
cluster can reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from .formats import FORMATS, Slice, Table
from .refusal import JobRefused

Fingerprint = dict[str, list[int]]
"""Of files by their names: bytes, and when last changed, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `first_row` to `first_row + n_rows` of a file, counted from 0; `start` is where they are found in it."""

    path: str
    number: int
    first_row: int
    n_rows: int
    start: int

    @property
    def file(self) -> str:
        return _name(self.path)


class _File(NamedTuple):
    path: str
    size: int
    mtime_ns: int


class Source:
    """An input file, or the files of an input folder, and the column that holds the texts.

    Raises:
        JobRefused: nothing is there, or something that is no Parquet, CSV or JSON Lines.
    """

    def __init__(self, place: str, column: str) -> None:
        self._filesystem, self._path = resolve(place)
        self.column = column
        self._files = _files(self._filesystem, self._path)

    def fingerprint(self) -> Fingerprint:
        """By which a change of the input is noticed, without reading it."""
        return _fingerprint(self._files)

    def holds(self, path: str) -> bool:
        """Whether a path is in the input, and what is written there would be input the next time."""
        return path == self._path or path.startswith(f"{self._path}/")

    def shards(self, n_rows: int) -> Iterator[Shard]:
        """All of the input. Reads text files once, to find their rows, and only the footers of Parquet files.

        Raises:
            JobRefused: a file cannot be read, or has no such column.
        """
        for file in self._files:
            with self._open(file.path) as table:
                first_row = 0
                for number, piece in enumerate(table.slices(n_rows)):
                    yield Shard(file.path, number, first_row, piece.n_rows, piece.start)
                    first_row += piece.n_rows

    def cells(self, shard: Shard) -> Iterator[object]:
        """What stands in the text column of each row, or an `Unreadable`.

        Raises:
            JobRefused: the file cannot be read.
        """
        with self._open(shard.path) as table:
            yield from table.cells(Slice(shard.start, shard.n_rows))

    @contextmanager
    def _open(self, path: str) -> Iterator[Table]:
        name = _name(path)
        try:
            with self._filesystem.open_input_file(path) as file:
                yield FORMATS[_suffix(name)](file, self.column)
        except JobRefused as error:
            raise JobRefused(f"{name}: {error}") from None
        except (OSError, pa.ArrowException) as error:
            raise JobRefused(f"{name} cannot be read: {first_line(error)}") from error


def resolve(place: str) -> tuple[Any, str]:
    """The file system of a path or URI, and the path in it."""
    try:
        filesystem, path = fs.FileSystem.from_uri(place if "://" in place else str(Path(place).resolve()))
    except (OSError, pa.ArrowException) as error:
        raise JobRefused(f"{place} is no path and no URI of a known kind: {first_line(error)}") from error
    return filesystem, path


def fingerprint(folder: str) -> Fingerprint:
    """By which a change of the files in a local folder is noticed."""
    return _fingerprint(_plain(fs.LocalFileSystem().get_file_info(fs.FileSelector(folder))))


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _files(filesystem: Any, path: str) -> list[_File]:
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise JobRefused(f"there is no {path}")
        inside = filesystem.get_file_info(fs.FileSelector(path)) if info.type == fs.FileType.Directory else []
    except OSError as error:
        raise JobRefused(f"{path} cannot be read: {first_line(error)}") from error
    visible = [info] if info.type == fs.FileType.File else [one for one in inside if one.base_name[0] not in "._"]
    known = ", ".join(FORMATS)
    for one in visible:
        if one.type != fs.FileType.File or _suffix(one.base_name) not in FORMATS:
            raise JobRefused(f"{one.path} is no file that can be read; expected {known}, or a folder of such files")
    if not visible:
        raise JobRefused(f"{path} holds no file; expected {known}")
    return sorted(_plain(visible))


def _plain(found: Iterable[Any]) -> Iterator[_File]:
    return (_File(one.path, one.size, one.mtime_ns) for one in found if one.type == fs.FileType.File)


def _fingerprint(files: Iterable[_File]) -> Fingerprint:
    return {_name(path): [size, mtime_ns] for path, size, mtime_ns in files}


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
