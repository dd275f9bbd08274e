"""Rows of real files: what is wrong with one stands in its place, and costs no other row anything."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.examples.bulk import formats
from clients.examples.bulk.formats import NOT_UTF8, Csv, JsonLines, Parquet, Table, Unreadable
from clients.examples.bulk.refusal import JobRefused

GOOD = b'{"text": "good"}'
NOT_CSV = """the row is not CSV: ',' expected after '"'"""


def _read(table: Table, n_rows: int = 1_000_000) -> list[object]:
    return [cell for piece in list(table.slices(n_rows)) for cell in table.cells(piece)]


def _jsonl(content: bytes) -> list[object]:
    return _read(JsonLines(BytesIO(content), "text"))


def _csv(content: bytes) -> list[object]:
    return _read(Csv(BytesIO(content), "text"))


def _parquet(columns: dict[str, Any], row_group_size: int = 100) -> BytesIO:
    file = BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=row_group_size)
    return file


@pytest.mark.parametrize(
    ("line", "cell"),
    [
        (b'{"text": "a\\nb", "id": 1}', "a\nb"),
        (b'{"text": "said twice", "text": "wins"}', "wins"),
        (b'{"text": null}', None),
        (b'{"text": 5}', 5),
        (b'{"text": ["a"]}', ["a"]),
        (b'{"text": "\\ud800"}', "\ud800"),
        (b'{"other": NaN, "text": "a"}', "a"),
        (b'{"text": "a"', Unreadable("the line is not JSON: Expecting ',' delimiter at character 15")),
        (b"secret", Unreadable("the line is not JSON: Expecting value at character 1")),
        (b'{"text": "a"} {}', Unreadable("the line is not JSON: Extra data at character 15")),
        (b'{"text": "secret\xff"}', Unreadable("the line is not UTF-8")),
        (b'["secret"]', Unreadable("the line is not a JSON object")),
        (b'{"Text": "secret"}', Unreadable("the object has no 'text'")),
        (b"[" * 100_000, Unreadable("the line is not JSON that can be read")),
        (b'{"text": ' + b"9" * 5_000 + b"}", Unreadable("the line is not JSON that can be read")),
    ],
)
def test_a_line_of_json_stands_between_its_neighbours(line: bytes, cell: object) -> None:
    assert _jsonl(GOOD + b"\n" + line + b"\r\n" + GOOD) == ["good", cell, "good"]


def test_a_line_that_is_too_long_is_one_bad_row_and_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 100)

    first, second = _jsonl(b'{"text": "' + b"a" * 1_000 + b'"}\n' + GOOD)

    assert isinstance(first, Unreadable)
    assert second == "good"


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        (b'2,"a ""b"", c"', ['a "b", c']),
        (b'2,"two\nlines"', ["two\nlines"]),
        (b"2,", [""]),
        (b"2,caf\xc3\xa9", ["café"]),
        (b"\xff,a", ["a"]),
        (b"2,secret\xff", [NOT_UTF8]),
        (b"2", [Unreadable("fields in the row: 1, in the header: 2")]),
        (b"2,secret,3", [Unreadable("fields in the row: 3, in the header: 2")]),
        (b'2,"secret" b', [Unreadable(NOT_CSV)]),
        (b'2,"secret', [Unreadable("the row is not CSV: unexpected end of data")]),
        (b'2,"secret\n3,"c"', [Unreadable(NOT_CSV), "c"]),
        (b"", []),
    ],
)
def test_a_row_of_csv_stands_between_its_neighbours(line: bytes, cells: list[object]) -> None:
    assert _csv(b"id,text\n1,good\n" + line + b"\r\n4,good\n") == ["good", *cells, "good"]


def test_what_excel_puts_before_the_header_is_no_part_of_it() -> None:
    assert _csv(b"\xef\xbb\xbftext,id\na,1\n") == ["a"]


def test_a_quote_that_is_never_closed_costs_its_own_row_alone_however_much_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 100)

    bad, *others = _csv(b'id,text\n0,"secret\n' + b"1,good\n" * 1_000)

    assert bad == Unreadable("the row is not CSV: field larger than field limit (100)")
    assert others == ["good"] * 1_000


def test_parquet_strings_that_are_not_utf8_stand_between_their_neighbours() -> None:
    raw = pa.array([b"good", b"secret\xff", None, b"good"], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 4, raw.buffers())

    assert _read(Parquet(_parquet({"text": strings}), "text")) == ["good", NOT_UTF8, None, "good"]


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array([1, None]), [1, None]),
        (pa.array([b"a"]), [b"a"]),
        (pa.array([{"text": "a"}]), [{"text": "a"}]),
    ],
)
def test_parquet_columns_of_any_type_can_be_read(values: Any, cells: list[object]) -> None:
    assert _read(Parquet(_parquet({"text": values, "other": values}), "text")) == cells


def test_a_column_may_have_a_dot_in_its_name() -> None:
    assert _read(Parquet(_parquet({"a.b": ["x"], "a": [1]}), "a.b")) == ["x"]


@pytest.mark.parametrize("row_group_size", [1, 3, 10])
@pytest.mark.parametrize("n_rows", [1, 4, 7, 100])
def test_slices_of_parquet_are_its_rows_whatever_its_row_groups(row_group_size: int, n_rows: int) -> None:
    values = [f"text {i}" for i in range(10)]

    assert _read(Parquet(_parquet({"text": values}, row_group_size), "text"), n_rows) == values


@pytest.mark.parametrize("kind", [Csv, JsonLines])
@given(
    lines=st.lists(st.text('a",\n {}:\udcff\0', max_size=12).map(lambda s: s.encode("utf-8", "surrogateescape"))),
    n_rows=st.integers(1, 5),
)
def test_cutting_changes_nothing(kind: type[Csv | JsonLines], lines: list[bytes], n_rows: int) -> None:
    content = b"id,text\n" + b"\n".join(lines)

    pieces = list(kind(BytesIO(content), "text").slices(n_rows))

    assert all(piece.n_rows == n_rows for piece in pieces[:-1])
    assert _read(kind(BytesIO(content), "text"), n_rows) == _read(kind(BytesIO(content), "text"))


@pytest.mark.parametrize(
    "table",
    [
        lambda: Csv(BytesIO(b"id,Text\n"), "text"),
        lambda: Csv(BytesIO(b"text,text\n"), "text"),
        lambda: Csv(BytesIO(b""), "text"),
        lambda: Csv(BytesIO(b'"id"x,text\n'), "text"),
        lambda: Parquet(_parquet({"Text": ["a"]}), "text"),
    ],
)
def test_a_file_without_the_column_is_refused(table: Any) -> None:
    with pytest.raises(JobRefused):
        table()


def test_no_reason_holds_anything_of_a_row() -> None:
    lines: Sequence[bytes] = [
        b'{"text": "secret"',
        b'["secret"]',
        b"secret",
        b'{"text": "secret\xff"}',
        b'{"secret": 1}',
    ]
    rows: Sequence[bytes] = [b"secret", b'"secret"x,1', b"secret\xff,secret\xff", b'1,"secret']

    bad = [*_jsonl(b"\n".join(lines)), *_csv(b"id,text\n" + b"\n".join(rows))]

    assert all(isinstance(one, Unreadable) and "secret" not in one.reason for one in bad)


def test_rows_are_numbered_as_pandas_numbers_them(tmp_path: Path) -> None:
    csv, jsonl = tmp_path / "a.csv", tmp_path / "a.jsonl"
    csv.write_bytes(b'id,text\n\n1,"a\nb"\n\n2,c\n')
    jsonl.write_bytes(b'\n{"text": "a\\nb"}\n \n{"text": "c"}\n\n')

    assert _csv(csv.read_bytes()) == pd.read_csv(csv)["text"].tolist()
    assert _jsonl(jsonl.read_bytes()) == pd.read_json(jsonl, lines=True)["text"].tolist()


def test_a_slice_can_be_read_alone() -> None:
    table = JsonLines(BytesIO(b"\n".join(b'{"text": "%d"}' % i for i in range(7))), "text")

    pieces = list(table.slices(3))

    assert [list(table.cells(piece)) for piece in reversed(pieces)] == [["6"], ["3", "4", "5"], ["0", "1", "2"]]
