"""The kinds of input files: each can be cut into slices, and a slice can be read row by row.

A row that cannot be read is an `Unreadable` in its place, and costs no other row anything. Rows are what the usual
readers count: blank lines of JSON Lines and CSV are none, nor is the header of CSV. Only the text column is looked
at; no reason holds anything of a row.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow.parquet as pq

from .refusal import JobRefused

BUFFER_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20  # a longer line is cut, which breaks it; also the longest field of CSV, in characters
BOM = b"\xef\xbb\xbf"  # what Excel puts before UTF-8


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands where a text would stand."""

    reason: str
    text: str | None = None
    """The text, where there is one and only its content is wrong."""


NOT_UTF8 = Unreadable("the text is not UTF-8")


class Slice(NamedTuple):
    """Some rows of a file that follow each other."""

    start: int
    """The byte of a text file, the row of a Parquet file."""

    n_rows: int


class Table(Protocol):
    """An open input file, with one place where it is read: finish one iteration before the next."""

    def slices(self, n_rows: int) -> Iterator[Slice]:
        """The whole file in slices of so many rows; the last may be shorter."""
        ...

    def cells(self, piece: Slice) -> Iterator[object]:
        """What stands in the text column, a value of any type or an `Unreadable`."""
        ...


class JsonLines:
    """One JSON object a line; one without the column is an unreadable row, as each line may have other fields."""

    def __init__(self, file: Any, column: str) -> None:
        self._stream = io.BufferedReader(file, BUFFER_BYTES)
        self._column = column

    def slices(self, n_rows: int) -> Iterator[Slice]:
        lines = _Lines(self._stream, 0)
        return _slices(lines, _json_records(lines), n_rows)

    def cells(self, piece: Slice) -> Iterator[object]:
        records = _json_records(_Lines(self._stream, piece.start))
        return (self._cell(record) for record in itertools.islice(records, piece.n_rows))

    def _cell(self, record: bytes) -> object:
        try:
            value = json.loads(record.decode())
        except UnicodeDecodeError:
            return Unreadable("the line is not UTF-8")
        except json.JSONDecodeError as error:
            return Unreadable(f"the line is not JSON: {error.msg} at character {error.pos + 1}")
        except (ValueError, RecursionError):  # a number of thousands of digits; thousands of brackets
            return Unreadable("the line is not JSON that can be read")
        if not isinstance(value, dict):
            return Unreadable("the line is not a JSON object")
        if self._column not in value:
            return Unreadable(f"the object has no {self._column!r}")
        return value[self._column]


class Csv:
    """RFC 4180, with a header; a quote that is never closed breaks its own line alone."""

    def __init__(self, file: Any, column: str) -> None:
        self._stream = io.BufferedReader(file, BUFFER_BYTES)
        lines = _Lines(self._stream, 0)
        header = next(_csv_records(lines), [])
        if isinstance(header, Unreadable):
            raise JobRefused(f"the header cannot be read: {header.reason}")
        _check_column(header, column)
        self._first = lines.offset
        self._n_fields = len(header)
        self._index = header.index(column)

    def slices(self, n_rows: int) -> Iterator[Slice]:
        lines = _Lines(self._stream, self._first)
        return _slices(lines, _csv_records(lines), n_rows)

    def cells(self, piece: Slice) -> Iterator[object]:
        records = _csv_records(_Lines(self._stream, piece.start))
        return (self._cell(record) for record in itertools.islice(records, piece.n_rows))

    def _cell(self, record: list[str] | Unreadable) -> object:
        if isinstance(record, Unreadable):
            return record
        if len(record) != self._n_fields:
            return Unreadable(f"fields in the row: {len(record)}, in the header: {self._n_fields}")
        cell = record[self._index]
        return cell if _is_unicode(cell) else NOT_UTF8


class Parquet:
    """One column is read, in small batches; to reach a slice, the row group before it is decoded and dropped."""

    def __init__(self, file: Any, column: str) -> None:
        self._file = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES)
        self._column = column
        _check_column(self._file.schema_arrow.names, column)

    def slices(self, n_rows: int) -> Iterator[Slice]:
        n = self._file.metadata.num_rows
        return (Slice(first, min(n_rows, n - first)) for first in range(0, n, n_rows))

    def cells(self, piece: Slice) -> Iterator[object]:
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        ends = list(itertools.accumulate(sizes))
        groups = [i for i, end in enumerate(ends) if end > piece.start and end - sizes[i] < piece.start + piece.n_rows]
        before = piece.start - (ends[groups[0]] - sizes[groups[0]])
        return itertools.islice(self._values(groups, before), piece.n_rows)

    def _values(self, groups: list[int], to_skip: int) -> Iterator[object]:
        for batch in self._file.iter_batches(batch_size=1_024, row_groups=groups, columns=[self._column]):
            skipped = min(to_skip, len(batch))
            to_skip -= skipped
            yield from (_value(scalar) for scalar in batch.column(self._column)[skipped:])


FORMATS: Mapping[str, Callable[[Any, str], Table]] = {".parquet": Parquet, ".csv": Csv, ".jsonl": JsonLines}


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:  # Parquet takes a writer's word for it that its strings are UTF-8
        return NOT_UTF8


def _check_column(names: list[str], wanted: str) -> None:
    if (n := names.count(wanted)) != 1:
        raise JobRefused(f"of its {len(names)} columns {n} have the name {wanted!r}, not one; say --text-column")


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


class _Line(NamedTuple):
    start: int
    content: bytes


class _Lines:
    """The lines of a stream from a byte on; lines may be given back."""

    def __init__(self, stream: io.BufferedReader, start: int) -> None:
        stream.seek(start)
        self._stream = stream
        self._back: list[_Line] = []

    @property
    def offset(self) -> int:
        """Where the next line starts."""
        return self._back[-1].start if self._back else self._stream.tell()

    def give_back(self, lines: list[_Line]) -> None:
        self._back += reversed(lines)

    def __iter__(self) -> Iterator[_Line]:
        return self

    def __next__(self) -> _Line:
        if self._back:
            return self._back.pop()
        start = self._stream.tell()
        content = piece = self._stream.readline(MAX_LINE_BYTES)
        while len(piece) == MAX_LINE_BYTES and not piece.endswith(b"\n"):
            piece = self._stream.readline(MAX_LINE_BYTES)
        if not content:
            raise StopIteration
        return _Line(start, content.removeprefix(BOM) if start == 0 else content)


def _slices(lines: _Lines, records: Iterator[object], n_rows: int) -> Iterator[Slice]:
    while True:
        start = lines.offset
        n = sum(1 for _ in itertools.islice(records, n_rows))
        if n == 0:
            return
        yield Slice(start, n)


def _json_records(lines: _Lines) -> Iterator[bytes]:
    return (line.content for line in lines if line.content.strip())


def _csv_records(lines: _Lines) -> Iterator[list[str] | Unreadable]:
    """Records, each cut off its neighbours: after a broken one, reading goes on at the line after its first."""
    csv.field_size_limit(MAX_LINE_BYTES)
    taken: list[_Line] = []

    def decode(line: _Line) -> str:
        taken.append(line)
        return line.content.decode("utf-8", "surrogateescape")

    reader = csv.reader(map(decode, lines), strict=True)
    while True:
        taken.clear()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.give_back(taken[1:])
            yield Unreadable(f"the row is not CSV: {error}")
        else:
            if record:
                yield record
