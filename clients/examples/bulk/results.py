"""The output folder: one Parquet file a shard, and a manifest of what they are the results of.

    OUTPUT/_manifest.json                      the settings of the job, and what its input was
    OUTPUT/file=tickets.csv/00000.parquet      the first shard of tickets.csv, in the order of its rows

A shard's file is written under a hidden name and then renamed, so what has its name is whole. pandas, DuckDB, Spark
and others read the folder as one table, with a column `file` from the folders' names, and leave out what begins with
a dot or an underscore.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from .refusal import JobRefused
from .scoring import Answer
from .source import Shard, Source, first_line, resolve

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # in its input file, from 0
        ("text", pa.string()),
        ("label", pa.string()),  # the best one
        ("score", pa.float64()),
        # Best first. A list of structs, since any label can be a value, but not a column's name; typed, unlike JSON.
        ("scores", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))),
        ("truncated", pa.bool_()),
        ("error", pa.string()),
    ]
)
MANIFEST = "_manifest.json"
HALF_WRITTEN = ".tmp"
ERRORS = b"nli-serve.errors"  # in the footer: how many rows have an error


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows, and how many of them have an error."""

    rows: int = 0
    errors: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.rows + other.rows, self.errors + other.errors)


class Results:
    """The results of one job in one folder; may be copied to other processes."""

    def __init__(self, place: str) -> None:
        self._filesystem, self._path = resolve(place)

    def claim(self, settings: Mapping[str, Any], source: Source) -> None:
        """Take the folder for a job with these settings, or go on with it.

        Raises:
            JobRefused: the folder is part of the input, cannot be written, or holds something else, or results of
                other settings.
        """
        if source.holds(self._path):
            raise JobRefused(f"the output {self._path} lies in the input, and would be read the next time")
        settings = json.loads(json.dumps(settings))
        try:
            self._filesystem.create_dir(self._path, recursive=True)
            found = self._manifest()
            if found != settings and self._is_in_use():
                raise JobRefused(
                    f"{self._path} {_objection(found, settings)}; choose another folder, or empty this one"
                )
            if found != settings:
                self._put(f"{self._path}/{MANIFEST}", json.dumps(settings, indent=1, ensure_ascii=False).encode())
        except OSError as error:
            raise JobRefused(f"{self._path} cannot be written: {first_line(error)}") from error

    def finished(self, shard: Shard) -> Counts | None:
        """What is in the shard's file; None: it is still to be made."""
        path = self._file(shard)
        if self._filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return None
        try:
            with self._filesystem.open_input_file(path) as file:
                footer = pq.read_metadata(file)
            return Counts(footer.num_rows, int(footer.metadata[ERRORS]))
        except (pa.ArrowException, OSError, KeyError, TypeError):  # lost by the disk: it is made anew
            return None

    def write(self, shard: Shard, answers: Iterable[Answer]) -> Counts:
        """Make the shard's file, all of it or nothing.

        Raises:
            JobRefused: it cannot be written.
        """
        rows = [{"row": row, **answer} for row, answer in enumerate(answers, shard.first_row)]
        counts = Counts(len(rows), sum(row["error"] is not None for row in rows))
        table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({ERRORS: str(counts.errors)}))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        path = self._file(shard)
        try:
            self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            self._put(path, sink.getvalue())
        except OSError as error:
            raise JobRefused(f"{path} cannot be written: {first_line(error)}") from error
        return counts

    def sweep(self) -> None:
        """Remove what killed runs left half-written; for the end, when nobody writes any more."""
        for entry in self._filesystem.get_file_info(fs.FileSelector(self._path, recursive=True)):
            if entry.base_name.endswith(HALF_WRITTEN):
                self._filesystem.delete_file(entry.path)

    def _file(self, shard: Shard) -> str:
        return f"{self._path}/file={quote(shard.file, safe='')}/{shard.number:05d}.parquet"

    def _put(self, path: str, content: Any) -> None:
        folder, _, name = path.rpartition("/")
        hidden = (
            f"{folder}/.{name}.{uuid.uuid4().hex}{HALF_WRITTEN}"  # Ray may try a shard again while one still writes
        )
        with self._filesystem.open_output_stream(hidden) as stream:
            stream.write(content)
        self._filesystem.move(hidden, path)

    def _manifest(self) -> dict[str, Any] | None:
        path = f"{self._path}/{MANIFEST}"
        if self._filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return None
        try:
            with self._filesystem.open_input_stream(path) as stream:
                return dict(json.loads(stream.read()))
        except ValueError:
            return {}

    def _is_in_use(self) -> bool:
        entries = self._filesystem.get_file_info(fs.FileSelector(self._path, recursive=True))
        return any(entry.type == fs.FileType.File and entry.base_name[0] not in "._" for entry in entries)


def _objection(found: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> str:
    if found is None:
        return "is not empty, and holds no results of such a job"
    changed = [name for name in settings if found.get(name) != settings[name]]
    return f"holds results of another job; what differs: {', '.join(changed)}"
